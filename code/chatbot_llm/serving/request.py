"""One request to the engine, as an object every room can hold.

A `Call` has one inbox. Whoever has news for the request puts it there, from any thread: admission grants a slot, the
engine puts chunks or a result, the watcher puts an end. One thread, the request's own, reads. Ending a request early
is one act everywhere: `abort(cause)`.
"""

import queue
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from chatbot_llm.wire import Rest, Wire

Kind = Literal["chat", "completion", "tokenize", "detokenize"]


class Cause(StrEnum):
    """Why a request ended before the model was done."""

    DEADLINE = "deadline"
    DISCONNECT = "disconnect"
    DRAIN = "drain"


class Signal(StrEnum):
    GRANTED = "granted"
    END = "end"


@dataclass(frozen=True)
class Result:
    """A whole answer: HTTP status and JSON body."""

    status: int
    body: bytes


Item = Result | bytes | Signal | Cause | Rest


@dataclass(eq=False)
class Call:
    """A request on its way. `deadline` is on the clock of `time.monotonic`, in seconds."""

    kind: Kind
    body: dict[str, Any]
    deadline: float
    request_id: str = ""
    trace: dict[str, str] = field(default_factory=dict)
    id: str = ""
    #: The engine's own: the parsed body, and whatever it wants to find again.
    prepared: Any = None
    context: Any = None
    arrived: float = field(default_factory=time.monotonic)
    granted_at: float | None = None
    first_at: float | None = None
    cause: Cause | None = None
    usage: dict[str, int] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)
    inbox: "queue.SimpleQueue[Item]" = field(default_factory=queue.SimpleQueue)
    on_abort: Callable[[Cause], None] | None = None
    #: How the engine's loop is asked to call something soon, and the short way to the client, if there is one.
    soon: Callable[[Callable[[], None]], object] | None = None
    wire: Wire | None = None
    #: The engine broke off an answer that had begun; its status was 200.
    failed: bool = False
    #: The engine has said all of a streamed answer: whoever leaves now has missed nothing.
    whole: bool = False
    done: bool = False

    def __post_init__(self) -> None:
        # Two callers may send the same x-request-id: the engine must still tell them apart.
        suffix = uuid.uuid4().hex[:12]
        self.id = f"{self.request_id}-{suffix}" if self.request_id else suffix

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    def put(self, item: Item) -> None:
        """News for this request. Chunks come from the engine's loop only."""
        if self.wire is not None:
            if isinstance(item, bytes):
                if self.wire.take(item):
                    return
            else:
                self.wire.flush()
        self.inbox.put(item)

    def abort(self, cause: Cause) -> None:
        """End the request early. The first cause counts; the engine answers with what it has."""
        if self.done or self.cause is not None:
            return
        self.cause = cause
        if self.on_abort is not None:
            self.on_abort(cause)
        else:
            self.put(cause)

    def thawed(self, gap: float) -> None:
        """The process was frozen for `gap` seconds: none of this call's times shall have seen it."""
        self.deadline += gap
        self.arrived += gap
        if self.granted_at is not None:
            self.granted_at += gap
        if self.first_at is not None:
            self.first_at += gap

    def next(self) -> Item:
        """Block for the next item. The watcher guarantees that one comes."""
        return self.inbox.get()

    def more(self, first: bytes) -> tuple[bytes, Item | None]:
        """Join to `first` every chunk that is already here; also the item that ended the joining, if any."""
        chunks = [first]
        while True:
            try:
                item = self.inbox.get_nowait()
            except queue.Empty:
                return b"".join(chunks), None
            if not isinstance(item, bytes):
                return b"".join(chunks), item
            chunks.append(item)
