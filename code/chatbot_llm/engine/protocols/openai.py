"""OpenAI's chat completions and completions, and vLLM's counting of tokens: vLLM writes them as they are read."""

import time
from collections.abc import Mapping
from typing import Any

from chatbot_llm.engine.protocols.base import EngineRequest, Protocol
from chatbot_llm.errors import ApiError
from chatbot_llm.sse import framed

#: The last event of every stream.
DONE = "data: [DONE]\n\n"


class Chat(Protocol):
    kind = "chat"
    paths = ("/chat", "/v1/chat/completions")
    parsed_by = "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionRequest"
    serving = "openai_serving_chat.create_chat_completion"
    finish = '"finish_reason":"'
    last = (DONE.strip().encode(),)
    #: How its ids begin, the name of its events, and a choice that says nothing.
    prefix, chunk = "chatcmpl", "chat.completion.chunk"
    empty: Mapping[str, Any] = {"delta": {}}

    def engine_ids(self, request: EngineRequest) -> list[str]:
        return [f"{self.prefix}-{request.id}"]

    def reworded(self, request: EngineRequest, event: str) -> str:
        # Quotes inside generated text are escaped, so this matches the field alone.
        return event.replace('"finish_reason":"abort"', '"finish_reason":"length"') if request.cut else event

    def unbegun(self, request: EngineRequest, model: str) -> str:
        choices = range(int(request.body.get("n") or 1))
        event = {
            "id": f"{self.prefix}-{request.id}",
            "object": self.chunk,
            "created": int(time.time()),
            "model": model,
            "choices": [{"index": at, **self.empty, "logprobs": None, "finish_reason": "length"} for at in choices],
        }
        return framed(event)

    def failure(self, request: EngineRequest, error: ApiError) -> bytes:
        return (framed(self.envelope(error)) + DONE).encode()


class Completion(Chat):
    kind = "completion"
    paths = ("/generate", "/v1/completions")
    parsed_by = "vllm.entrypoints.openai.completion.protocol:CompletionRequest"
    serving = "openai_serving_completion.create_completion"
    prompt = "prompt"
    prefix, chunk = "cmpl", "text_completion"
    empty: Mapping[str, Any] = {"text": ""}

    def engine_ids(self, request: EngineRequest) -> list[str]:
        prompts = request.prepared.prompt
        many = len(prompts) if isinstance(prompts, list) else 1
        return [f"{self.prefix}-{request.id}-{index}" for index in range(many)]


class Tokenize(Protocol):
    kind = "tokenize"
    paths = ("/tokenize",)
    serving = "serving_tokenization.create_tokenize"
    generates = False
    prompt = "prompt"

    def model(self, body: Mapping[str, Any]) -> str:
        shape = "TokenizeChatRequest" if "messages" in body else "TokenizeCompletionRequest"
        return f"vllm.entrypoints.serve.tokenize.protocol:{shape}"


class Detokenize(Protocol):
    kind = "detokenize"
    paths = ("/detokenize",)
    parsed_by = "vllm.entrypoints.serve.tokenize.protocol:DetokenizeRequest"
    serving = "serving_tokenization.create_detokenize"
    generates = False
    prompt = "tokens"
