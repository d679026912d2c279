"""A response that a view cannot give at once: the door awaits `produce` on the event loop and sends what it returns."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from flask import Response


class Streamed(Protocol):
    """A body in pieces. `aclose` is called whatever happens, however far it was read."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class Deferred(Response):
    """`produce(response)` may set the response's headers, and raises ApiError. If the client goes, it is cancelled."""

    def __init__(self, produce: "Callable[[Deferred], Awaitable[bytes | Streamed]]") -> None:
        super().__init__(mimetype="application/json")
        self.produce = produce
