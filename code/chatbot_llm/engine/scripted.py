"""An engine that answers from a script: the double for tests that need no model.

It shares loading, watching and cutting short with the real engine; only the words are made up. A test in `tests/engine`
asks both the same and compares the shapes. The script is JSON (`CHATBOT_SCRIPT`); a request may bring its own under
the key `script`, which wins:

    text     the words of every answer, one word a token (repeated up to max_tokens when `loop` is true)
    load_s   seconds of loading          fail_load  a reason: loading fails
    first_s  seconds to the first token  token_s    seconds between tokens
    burst    tokens put per turn of the loop (1)
    die_s    the engine dies this long after it became ready
    hang_s   the engine's loop stops this long after it became ready
"""

import asyncio
import contextlib
import json
import time
import zlib
from collections.abc import AsyncGenerator
from typing import Any

from chatbot_llm.engine.base import Phase
from chatbot_llm.engine.protocols.base import EngineRequest
from chatbot_llm.engine.scripted_shapes import SHAPES, Shape, counted
from chatbot_llm.engine.supervisor import Engine
from chatbot_llm.errors import ApiError, BadRequest, UsageError, require
from chatbot_llm.observability import prefix
from chatbot_llm.settings import Settings

NAME = "scripted"
CONTEXT_TOKENS = 8192
TOKENS = ("<|im_start|>", "<|im_end|>")
_TEXT = "The capital of France is Paris. This answer was written in a script and not by a model."


class ScriptedEngine(Engine):
    """Answers in the shapes of vLLM's own server."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        try:
            self._script: dict[str, Any] = json.loads(settings.script)
        except ValueError as error:
            raise UsageError(f"CHATBOT_SCRIPT is not JSON: {error}") from error
        self._salt = prefix.salt(settings.keys)
        self._ready_at = 0.0
        self._cuts: dict[str, asyncio.Event] = {}

    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        for phase in (Phase.IMPORT, Phase.CONFIG, Phase.WEIGHTS, Phase.KV_CACHE, Phase.WARM_UP):
            self._enter(phase)
            await asyncio.sleep(self._script.get("load_s", 0) / 5)
        if reason := self._script.get("fail_load"):
            raise RuntimeError(reason)
        self._ready_at = time.monotonic()

    def models(self) -> list[dict[str, Any]]:
        return [
            {"id": NAME, "object": "model", "created": 0, "owned_by": "chatbot-llm", "max_model_len": CONTEXT_TOKENS}
        ]

    def version(self) -> dict[str, str]:
        return {"engine": "scripted"}

    def prepare(self, request: EngineRequest) -> None:
        body, kind = request.chat, request.protocol.kind
        if "messages" in body or request.protocol.prompt == "messages":
            messages = body.get("messages", [])
            require(messages, "messages", "must be a list with at least one message")
            first = request.body.get("system") or request.body.get("instructions") or ""
            prompt = " ".join([_text(first), *(_text(message.get("content")) for message in messages)])
        else:
            given = body.get("tokens" if kind == "detokenize" else "prompt")
            require(isinstance(given, str | list), "prompt", "must be a string")
            prompt = str(given)
        limit = body.get("max_completion_tokens", body.get("max_tokens", 16))
        require(type(limit) is int and limit >= 1, "max_tokens", "must be an integer of at least 1")
        words = prompt.split()  # the double's tokens
        tokens = len(words)
        if request.protocol.generates and tokens + limit > CONTEXT_TOKENS:
            raise BadRequest(
                f"This model's maximum context length is {CONTEXT_TOKENS} tokens; this asks for {tokens + limit}",
                param="max_tokens",
                code="context_length_exceeded",
            )
        request.prefix["prompt_blocks"] = prefix.blocks([zlib.crc32(word.encode()) for word in words], self._salt)
        request.prepared = {"limit": limit, "prompt_tokens": tokens, **self._script, **(body.get("script") or {})}

    async def _answer(self, request: EngineRequest) -> str | AsyncGenerator[str, None]:
        if not request.protocol.generates:
            return counted(request)
        shape = SHAPES[request.protocol.kind](request, NAME)
        if request.stream:
            return self._events(request, shape)
        async with contextlib.aclosing(self._words(request)) as bursts:
            words = [word async for burst in bursts for word in burst]
        return json.dumps(shape.whole("".join(words), self._end(request)))

    async def _words(self, request: EngineRequest) -> AsyncGenerator[list[str], None]:
        """Bursts of tokens until the script, max_tokens or an abort ends them."""
        script, cut = request.prepared, asyncio.Event()
        self._cuts[request.id] = cut
        words = str(script.get("text", _TEXT)).split(" ")
        total = script["limit"] if script.get("loop") else min(script["limit"], len(words))
        burst, wait = int(script.get("burst", 1)), script.get("first_s", 0)
        try:
            for start in range(0, total, burst):
                if wait:
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(cut.wait(), wait)
                elif start % 256 == 0:
                    await asyncio.sleep(0)
                if cut.is_set():
                    return
                wait = script.get("token_s", 0)
                span = range(start, min(start + burst, total))
                request.usage = {"prompt_tokens": script["prompt_tokens"], "completion_tokens": span.stop}
                yield [(" " if at else "") + words[at % len(words)] for at in span]
        finally:
            self._cuts.pop(request.id, None)

    async def _events(self, request: EngineRequest, shape: Shape) -> AsyncGenerator[str, None]:
        for event in shape.opening():
            yield event
        async with contextlib.aclosing(self._words(request)) as bursts:
            async for burst in bursts:
                for word in burst:
                    for event in shape.word(word):
                        yield event
        for event in shape.closing(self._end(request)):
            yield event

    def _end(self, request: EngineRequest) -> str:
        """As vLLM says why an answer ended."""
        script = request.prepared
        if request.cut:
            return "abort"
        ended = script.get("loop") or len(str(script.get("text", _TEXT)).split(" ")) > script["limit"]
        return "length" if ended else "stop"

    async def cut_short(self, request: EngineRequest) -> None:
        if event := self._cuts.get(request.id):
            event.set()

    def template(self) -> tuple[str, tuple[str, ...]]:
        return "", TOKENS

    def text_of(self, tokens: list[int]) -> str:
        return "".join(f"<{token}>" for token in tokens)

    def _death(self) -> str:
        after = self._script.get("die_s")
        return "the script says so" if after is not None and time.monotonic() - self._ready_at > after else ""

    async def _ping(self) -> None:
        after = self._script.get("hang_s")
        if after is not None and time.monotonic() - self._ready_at > after:
            await asyncio.sleep(3600)

    def _kill(self) -> None:
        """It has started none."""

    def _explain(self, error: Exception, body: Any) -> ApiError:
        return ApiError("the engine could not answer this request", code="engine_error")


def _text(content: Any) -> str:
    """The text of a message's content, in parts or not."""
    parts = content if isinstance(content, list) else [content]
    return " ".join(str(part.get("text") if isinstance(part, dict) else part) for part in parts)
