"""In which shapes the scripted engine says its words: those of vLLM 0.32, before the protocols reword them.

A test in `tests/engine` asks both engines the same and compares.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

from chatbot_llm.engine.protocols.base import EngineRequest
from chatbot_llm.sse import framed


class Shape:
    """One answer: streamed as `opening`, `word` for each token and `closing`, or `whole`."""

    def __init__(self, request: EngineRequest, model: str) -> None:
        self.request = request
        self.model = model

    def opening(self) -> Iterator[str]:
        yield from ()

    def word(self, word: str) -> Iterator[str]:
        raise NotImplementedError

    def closing(self, end: str) -> Iterator[str]:
        raise NotImplementedError

    def whole(self, text: str, end: str) -> dict[str, Any]:
        raise NotImplementedError

    def usage(self) -> dict[str, int]:
        usage = self.request.usage or {
            "prompt_tokens": self.request.prepared["prompt_tokens"],
            "completion_tokens": 0,
        }
        return {**usage, "total_tokens": sum(usage.values())}


class ChatShape(Shape):
    kind, prefix = "chat.completion", "chatcmpl"

    def __init__(self, request: EngineRequest, model: str) -> None:
        super().__init__(request, model)
        self._head = {"id": f"{self.prefix}-{request.id}", "created": int(time.time()), "model": model}

    def _event(self, choice: dict[str, Any]) -> str:
        kind = "chat.completion.chunk" if self.kind == "chat.completion" else self.kind
        return framed({**self._head, "object": kind, "choices": [{"index": 0, "logprobs": None, **choice}]})

    def opening(self) -> Iterator[str]:
        yield self._event({"delta": {"role": "assistant", "content": ""}, "finish_reason": None})

    def word(self, word: str) -> Iterator[str]:
        yield self._event({"delta": {"content": word}, "finish_reason": None})

    def _last(self, end: str) -> str:
        return self._event({"delta": {}, "finish_reason": end})

    def closing(self, end: str) -> Iterator[str]:
        yield self._last(end)
        if (self.request.body.get("stream_options") or {}).get("include_usage"):
            yield framed({**self._head, "object": self.kind, "choices": [], "usage": self.usage()})
        yield "data: [DONE]\n\n"

    def _content(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}}

    def whole(self, text: str, end: str) -> dict[str, Any]:
        reason = "length" if end == "abort" else end
        choice = {"index": 0, "logprobs": None, "finish_reason": reason, **self._content(text)}
        return {**self._head, "object": self.kind, "choices": [choice], "usage": self.usage()}


class CompletionShape(ChatShape):
    kind, prefix = "text_completion", "cmpl"

    def opening(self) -> Iterator[str]:
        yield from ()

    def word(self, word: str) -> Iterator[str]:
        yield self._event({"text": word})

    def _last(self, end: str) -> str:
        return self._event({"text": "", "finish_reason": end})

    def _content(self, text: str) -> dict[str, Any]:
        return {"text": text}


class ResponsesShape(Shape):
    def __init__(self, request: EngineRequest, model: str) -> None:
        super().__init__(request, model)
        self._text: list[str] = []
        self._number = 0
        self._item = f"msg_{request.id}"
        self._created = int(time.time())

    def _event(self, kind: str, **more: Any) -> str:
        self._number += 1
        return framed({"type": kind, "sequence_number": self._number - 1, **more}, kind)

    def _object(self, status: str, output: list[Any], usage: dict[str, Any] | None = None) -> dict[str, Any]:
        body = self.request.body
        return {
            "id": f"resp_{self.request.id}",
            "object": "response",
            "created_at": self._created,
            "model": self.model,
            "status": status,
            "output": output,
            "usage": usage,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.get("instructions"),
            "metadata": body.get("metadata"),
            "parallel_tool_calls": body.get("parallel_tool_calls", True),
            "temperature": float(body.get("temperature", 1.0)),
            "top_p": float(body.get("top_p", 1.0)),
            "tool_choice": body.get("tool_choice", "none"),
            "tools": body.get("tools", []),
            "background": False,
            "previous_response_id": None,
        }

    def _message(self, status: str, *content: Any) -> dict[str, Any]:
        return {"type": "message", "id": self._item, "role": "assistant", "status": status, "content": list(content)}

    def _part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": "".join(self._text), "annotations": []}

    def opening(self) -> Iterator[str]:
        yield self._event("response.created", response=self._object("in_progress", []))
        yield self._event("response.in_progress", response=self._object("in_progress", []))

    def _at(self) -> dict[str, Any]:
        return {"item_id": self._item, "output_index": 0, "content_index": 0}

    def word(self, word: str) -> Iterator[str]:
        if not self._text:
            item = self._message("in_progress")
            yield self._event("response.output_item.added", output_index=0, item=item)
            yield self._event("response.content_part.added", **self._at(), part=self._part())
        self._text.append(word)
        yield self._event("response.output_text.delta", **self._at(), delta=word, logprobs=[])

    def closing(self, end: str) -> Iterator[str]:
        if self._text:
            part = self._part()
            yield self._event("response.output_text.done", **self._at(), text=part["text"], logprobs=[])
            yield self._event("response.content_part.done", **self._at(), part=part)
            item = self._message("completed", part)
            yield self._event("response.output_item.done", output_index=0, item=item)
        yield self._event("response.completed", response=self.whole("".join(self._text), end))

    def whole(self, text: str, end: str) -> dict[str, Any]:
        self._text = [text] if text else []
        used = self.usage()
        usage = {
            "input_tokens": used["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": used["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": used["total_tokens"],
        }
        status = "incomplete" if end == "length" else "completed"  # vLLM calls what was aborted so
        return self._object(status, [self._message("completed", self._part())] if text else [], usage)


class MessagesShape(Shape):
    def __init__(self, request: EngineRequest, model: str) -> None:
        super().__init__(request, model)
        self._begun = False

    def _object(self, content: list[Any], reason: str | None) -> dict[str, Any]:
        used = self.usage()
        return {
            "id": f"chatcmpl-{self.request.id}",
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": {"input_tokens": used["prompt_tokens"], "output_tokens": used["completion_tokens"]},
        }

    def opening(self) -> Iterator[str]:
        yield framed({"type": "message_start", "message": self._object([], None)}, "message_start")

    def word(self, word: str) -> Iterator[str]:
        if not self._begun:
            self._begun = True
            start = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
            yield framed(start, "content_block_start")
        delta = {"type": "text_delta", "text": word}
        yield framed({"type": "content_block_delta", "index": 0, "delta": delta}, "content_block_delta")

    def closing(self, end: str) -> Iterator[str]:
        if self._begun:
            yield framed({"type": "content_block_stop", "index": 0}, "content_block_stop")
        reason = {"stop": "end_turn", "length": "max_tokens", "abort": None}[end]
        delta = {"stop_reason": reason, "stop_sequence": None}
        usage = self._object([], None)["usage"]
        yield framed({"type": "message_delta", "delta": delta, "usage": usage}, "message_delta")
        yield framed({"type": "message_stop"}, "message_stop")

    def whole(self, text: str, end: str) -> dict[str, Any]:
        return self._object([{"type": "text", "text": text}], "end_turn" if end == "stop" else "max_tokens")


def counted(request: EngineRequest) -> str:
    """The answer to what only counts."""
    count = request.prepared["prompt_tokens"]
    return json.dumps({"input_tokens": count} if request.protocol.kind == "count" else {"count": count, "tokens": []})


SHAPES: dict[str, type[Shape]] = {
    "chat": ChatShape,
    "completion": CompletionShape,
    "responses": ResponsesShape,
    "messages": MessagesShape,
}
