"""The way of one token through vLLM's serving code, shortened where it is long. No answer changes by a byte.

At one stream a service does nothing for a step's time and then everything with cold caches, so what counts is how much
code runs. Of vLLM's, four parts run for every token and cost more than they do: three validated pydantic models to
write one line of JSON; a tool parser although no tool was asked for; statistics; and asyncio's way round a ZeroMQ
socket. BENCHMARKS.md has the sum, NOTES.md the parts. Nothing here imports vllm: `vllm_engine` hands over what it has.
"""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
import zmq
from msgspec import UNSET, UnsetType

#: Seconds by which statistics may lag behind while requests run; the end of a request is counted at once.
STATISTICS_LAG_S = 0.25

# --- one line of JSON ---------------------------------------------------------------------------------------------


class Delta(msgspec.Struct, kw_only=True):
    """A `DeltaMessage` that is nothing but text."""

    role: str | UnsetType = UNSET
    content: str
    tool_calls: ClassVar[tuple[Any, ...]] = ()
    reasoning: ClassVar[None] = None


class Choice(msgspec.Struct):
    """A `ChatCompletionResponseStreamChoice` around a `Delta`."""

    index: int
    delta: Delta
    logprobs: Any = UNSET
    finish_reason: str | None | UnsetType = UNSET
    stop_reason: int | str | None | UnsetType = UNSET
    token_ids: list[int] | None | UnsetType = UNSET
    #: vLLM takes what is no choice of its own for a delta when it looks for tool calls to drop.
    tool_calls: ClassVar[tuple[Any, ...]] = ()


class Chunk(msgspec.Struct):
    """A `ChatCompletionStreamResponse`; what is in it and not plain stays pydantic's to write."""

    id: str
    object: str
    created: int
    model: str
    choices: list[Any]
    usage: Any = UNSET
    system_fingerprint: str | None | UnsetType = UNSET
    prompt_token_ids: list[int] | None | UnsetType = UNSET
    prompt_text: str | None | UnsetType = UNSET

    def model_dump_json(self, *, exclude_unset: bool) -> str:
        assert exclude_unset
        return _encode(self).decode()


def _pydantic(part: Any) -> msgspec.Raw:
    return msgspec.Raw(part.model_dump_json(exclude_unset=True).encode())


_encode = msgspec.json.Encoder(enc_hook=_pydantic).encode


def models(serving: Any) -> dict[str, Callable[..., Any]]:
    """Stand-ins for three names of vLLM's module `serving`: the light form where the content is plain, else vLLM's."""
    delta_model, choice_model = serving.DeltaMessage, serving.ChatCompletionResponseStreamChoice
    chunk_model = serving.ChatCompletionStreamResponse

    def delta(**fields: Any) -> Any:
        return (Delta if type(fields.get("content")) is str else delta_model)(**fields)

    def choice(**fields: Any) -> Any:
        return (Choice if type(fields["delta"]) is Delta else choice_model)(**fields)

    def chunk(**fields: Any) -> Any:  # without choices it is the last, of usage
        return (Chunk if fields["choices"] else chunk_model)(**fields)

    return {
        "DeltaMessage": delta,
        "ChatCompletionResponseStreamChoice": choice,
        "ChatCompletionStreamResponse": chunk,
    }


# --- no tools, no parser ------------------------------------------------------------------------------------------


def _plain(delta_text: str, **_context: Any) -> Delta | None:
    return Delta(content=delta_text) if delta_text else None


def parser_for(usual: Callable[..., Any]) -> Callable[..., Any]:
    """`OpenAIServingChat._make_parser`; its parser does not look where the request rules out what it looks for."""

    def make(request: Any, *rest: Any) -> Any:
        parser = usual(request, *rest)
        if (
            request.tool_choice == "none"
            and request.include_reasoning
            and parser.reasoning_parser is None
            and not parser._engine_based
        ):
            parser.parse_delta = _plain
        return parser

    return make


# --- statistics ---------------------------------------------------------------------------------------------------


class Statistics:
    """`StatLoggerManager.record` for several steps at a time: the same calls in the same order, a little later."""

    def __init__(self, record: Callable[..., None]) -> None:
        self._record = record
        self._loop = asyncio.get_running_loop()
        self._steps: list[dict[str, Any]] = []
        self._timer: asyncio.TimerHandle | None = None

    def record(self, **step: Any) -> None:
        self._steps.append(step)
        if (iteration := step["iteration_stats"]) is not None and iteration.finished_requests:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(STATISTICS_LAG_S, self.flush)

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        steps, self._steps = self._steps, []
        for step in steps:
            self._record(**step)


# --- the socket ---------------------------------------------------------------------------------------------------


class Inlet:
    """The engine's messages from a ZeroMQ socket, on uvloop or asyncio: read first, wait only when there is nothing.

    ZeroMQ's descriptor tells of changes, not of a state, so it may be waited for only after a read has found nothing.
    """

    def __init__(self, socket: Any) -> None:  # a zmq.asyncio.Socket, whose types do not know `_get_loop`
        self._socket: zmq.Socket[bytes] = zmq.Socket.shadow(socket.underlying)
        self._loop: asyncio.AbstractEventLoop = socket._get_loop()  # from here on its close() ends the watch
        self._waiter: asyncio.Future[None] | None = None
        self._loop.add_reader(self._socket.FD, self._wake)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def recv_multipart(self, copy: bool = False) -> list[Any]:
        """The next message's frames."""
        while True:
            try:
                return self._socket.recv_multipart(zmq.DONTWAIT, copy=copy)
            except zmq.Again:
                self._waiter = self._loop.create_future()
                await self._waiter


def reading(usual: Callable[[Any], None]) -> Callable[[Any], None]:
    """`AsyncMPClient._ensure_output_queue_task`, but that its task reads through an `Inlet`."""

    def ensure(client: Any) -> None:
        resources = client.resources
        if resources.output_queue_task is not None:
            return
        socket = resources.output_socket
        resources.output_socket = Inlet(socket)
        try:
            usual(client)
        finally:
            resources.output_socket = socket

    return ensure
