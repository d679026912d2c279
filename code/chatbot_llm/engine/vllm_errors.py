"""The engine's own words about a request, as errors of this service. Nothing here imports vllm."""

from typing import Any

from chatbot_llm.errors import ApiError, BadRequest

#: Longest message about a refused request, characters: pydantic repeats what it was given.
MAX_MESSAGE = 1000


def told(status: int, message: str, param: str | None) -> ApiError:
    """vLLM's error as ours; OpenAI clients look for `context_length_exceeded` to shorten and try again."""
    too_long = (
        param in ("input_tokens", "input_text")
        or "maximum context length" in message
        or (param in ("max_tokens", "max_completion_tokens") and "max_model_len" in message)
    )
    code = "context_length_exceeded" if too_long else ("engine_error" if status >= 500 else None)
    return ApiError(message[:MAX_MESSAGE], status=int(status), param=param, code=code)


def refusal(error: Any) -> BadRequest:
    """The first problem pydantic found, as a sentence."""
    problem = error.errors(include_url=False, include_input=False)[0]
    cause = problem.get("ctx", {}).get("error")
    message = str(cause or problem["msg"]).removeprefix("Value error, ")
    path = ".".join(str(part) for part in problem["loc"] if "[" not in str(part))
    param = getattr(cause, "parameter", None) or path or None
    return BadRequest(f"{param}: {message}"[:MAX_MESSAGE] if path else message[:MAX_MESSAGE], param=param)
