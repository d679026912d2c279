"""The service in this process: its ASGI app on a loop in a thread, asked as werkzeug's test client asks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from werkzeug.test import EnvironBuilder, TestResponse

from chatbot_llm.server.door import Door

T = TypeVar("T")
#: No answer in these tests takes longer, seconds.
LIMIT_S = 30.0


class App:
    """A door on a loop of its own. `close` ends its engine and its loop."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.service = door.service
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="app", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], limit_s: float = LIMIT_S) -> T:
        """Run a coroutine on the app's loop and return what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(limit_s)

    def begin(self) -> None:
        async def begin() -> None:
            self.service.begin()

        self.run(begin())

    def wait_ready(self) -> None:
        """Return once loading is over, well or badly."""
        self.run(self.service.engine.wait(10))

    def test_client(self) -> Client:
        return Client(self)

    def close(self) -> None:
        async def end() -> None:
            await self.service.close()
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
            await self._loop.shutdown_asyncgens()

        self.run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT_S)
        self._loop.close()
        self.door.close()


class Client:
    """`get` and `post` take what werkzeug's EnvironBuilder takes: json, data, headers, ..."""

    def __init__(self, app: App) -> None:
        self._app = app

    def open(self, path: str, method: str = "GET", **how: Any) -> TestResponse:
        builder = EnvironBuilder(path=path, method=method, **how)
        request = builder.get_request()
        scope = {
            "type": "http",
            "method": method,
            "http_version": "1.1",
            "path": request.path,
            "query_string": request.query_string,
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in request.headers],
            "client": (request.environ.get("REMOTE_ADDR", "127.0.0.1"), 1),
        }
        status, headers, body = self._app.run(_ask(self._app.door, scope, request.get_data()))
        return TestResponse([body], str(status), headers, request)

    def get(self, path: str, **how: Any) -> TestResponse:
        return self.open(path, "GET", **how)

    def post(self, path: str, **how: Any) -> TestResponse:
        return self.open(path, "POST", **how)

    def options(self, path: str, **how: Any) -> TestResponse:
        return self.open(path, "OPTIONS", **how)

    def delete(self, path: str, **how: Any) -> TestResponse:
        return self.open(path, "DELETE", **how)

    def head(self, path: str, **how: Any) -> TestResponse:
        return self.open(path, "HEAD", **how)


async def _ask(door: Door, scope: dict[str, Any], body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    """One request of a client that stays until it has its whole answer."""
    to_come = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []
    forever = asyncio.Event()

    async def receive() -> Any:
        if not to_come:
            await forever.wait()
        return to_come.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    await door(scope, receive, send)
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in sent[0]["headers"]]
    return sent[0]["status"], headers, b"".join(message["body"] for message in sent[1:])


Make = Callable[..., App]
