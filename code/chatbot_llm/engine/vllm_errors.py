"""The engine's own words about a request, as errors of this service. Nothing here imports vllm.

What vLLM says may repeat the request, so it is redacted here, where it comes in. Places are named as the caller wrote
them: `messages[0].content`, not by the classes of a library's models.
"""

from typing import Any

from chatbot_llm.errors import ApiError, BadRequest
from chatbot_llm.observability.redaction import withhold

#: Longest message about a refused request, characters: pydantic repeats what it was given.
MAX_MESSAGE = 1000


def api_error(status: int, message: str, param: str | None, body: Any) -> ApiError:
    """vLLM's error about `body` as ours; OpenAI clients look for `context_length_exceeded` to shorten and try again."""
    too_long = (
        param in ("input_tokens", "input_text")
        or "maximum context length" in message
        or (
            param in ("max_tokens", "max_completion_tokens", "max_output_tokens", "input")
            and "max_model_len" in message
        )
    )
    code = "context_length_exceeded" if too_long else ("engine_error" if status >= 500 else None)
    return ApiError(
        withhold(message, body)[:MAX_MESSAGE], status=int(status), param=param and withhold(param, body), code=code
    )


def refusal(error: Any, body: Any) -> BadRequest:
    """What pydantic found wrong with `body`, as a sentence.

    Where a value may be of several types it tells a problem for each; the one that lies deepest in the body counts.
    """
    problems = error.errors(include_url=False, include_input=False)
    problem = max(problems, key=lambda found: len(_steps(found, body)))
    cause = problem.get("ctx", {}).get("error")
    message = withhold(str(cause or problem["msg"]).removeprefix("Value error, "), body)
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in _steps(problem, body))
    param = getattr(cause, "parameter", None) or path.lstrip(".") or None
    param = param and withhold(param, body)
    return BadRequest(f"{param}: {message}"[:MAX_MESSAGE] if path else message[:MAX_MESSAGE], param=param)


def _steps(problem: Any, body: Any) -> list[str | int]:
    """The steps to a problem that are the body's own: names of a library's classes and types lead nowhere in it."""
    steps: list[str | int] = []
    here, location = body, problem["loc"]
    for number, step in enumerate(location):
        if isinstance(here, dict) and step in here or isinstance(here, list) and isinstance(step, int):
            here = here[step]
        elif not (isinstance(here, dict) and number == len(location) - 1 and problem["type"] == "missing"):
            continue  # neither there nor what is missing there
        steps.append(step)
    return steps
