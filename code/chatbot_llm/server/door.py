"""The ASGI app: read a request whole, let Flask decide, carry out what takes time, send.

Deciding (who may, what route, what is asked, is it allowed) is quick and never waits, so Flask does it on the event
loop; only large bodies are judged in a small thread pool. A view that needs time returns a `Deferred`, which is awaited
here: a connection costs no thread, whatever its client does, and a slow reader slows only itself.
"""

import asyncio
import contextlib
import io
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flask import Flask, Request, Response

from chatbot_llm.app import ADMITTED, REFUSAL
from chatbot_llm.errors import ApiError, Overloaded
from chatbot_llm.routes import auth
from chatbot_llm.routes.deferred import Deferred
from chatbot_llm.serving.service import Service

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Environ = dict[str, Any]

#: Bodies from this size on are judged in a thread, bytes: parsing 64 KiB of JSON takes about a millisecond.
LARGE = 1 << 16
#: Threads for them.
JUDGES = 2
#: Most bytes of all bodies that are being read or judged; sixteen of the largest that are allowed.
BODIES = 16
#: How long a client may go on sending a body that was refused unread, seconds: else it would not read the answer.
LINGER_S = 2.0


class ClientGone(Exception):
    """There is nobody to answer."""


class Door:
    """One per process."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.service: Service = app.extensions["chatbot_llm"]
        #: Requests whose answer is not out yet.
        self.answering = 0
        self._bodies = 0
        self._most_body = self.service.settings.max_body_bytes
        self._judges = ThreadPoolExecutor(JUDGES, thread_name_prefix="judge")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        assert scope["type"] == "http", "the server has websockets switched off"
        self.answering += 1
        try:
            await self._respond(environ_of(scope), receive, send)
        except (ClientGone, asyncio.CancelledError):
            pass  # what was begun has been given back on the way here
        finally:
            self.answering -= 1

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self.service.begin()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.service.close()
        self.close()
        await send({"type": "lifespan.shutdown.complete"})

    def close(self) -> None:
        """Let the threads go."""
        self._judges.shutdown(wait=False)

    async def _respond(self, environ: Environ, receive: Receive, send: Send) -> None:
        try:
            response = await self._decide(environ, receive)
        except ApiError as error:
            await _send_unread(self._refuse(environ, error), environ, receive, send)
            return
        if not isinstance(response, Deferred):
            await _send(response, environ, send)
            return
        task = asyncio.current_task()
        assert task is not None
        watch = asyncio.create_task(_cancel_when_gone(task, receive))
        try:
            await self._carry_out(response, environ, send)
        finally:
            watch.cancel()

    async def _decide(self, environ: Environ, receive: Receive) -> Response:
        """Read the body and have Flask dispatch the request. Raises ApiError for what is refused before it is read."""
        length = _length(environ)
        if length > self._most_body:
            raise self._too_large()
        body = bytearray()
        try:
            if length:
                auth.check(Request(environ), self.service.settings)
                environ[ADMITTED] = True
                await self._read(body, receive)
            environ["wsgi.input"] = io.BytesIO(body)
            environ["CONTENT_LENGTH"] = str(len(body))
            if len(body) < LARGE:
                return self._dispatch(environ)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._judges, self._dispatch, environ)
        finally:
            self._bodies -= len(body)

    async def _read(self, body: bytearray, receive: Receive) -> None:
        """Read into `body`, bounded alone and together with all other bodies; how long, the connection decides."""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise ClientGone
            piece, more = message.get("body", b""), message.get("more_body", False)
            body += piece
            self._bodies += len(piece)
            if len(body) > self._most_body:
                raise self._too_large()
            if self._bodies > BODIES * self._most_body:
                raise Overloaded("too many bodies are being sent at once", code="overloaded", retry_after=1)

    def _too_large(self) -> ApiError:
        return ApiError(f"the body is larger than {self._most_body} bytes", status=413)

    def _dispatch(self, environ: Environ) -> Response:
        with self.app.request_context(environ):
            return self.app.full_dispatch_request()

    def _refuse(self, environ: Environ, error: Exception) -> Response:
        """The error as Flask would answer it, with every header that an answer of this route has."""
        environ[REFUSAL] = error
        return self._dispatch(environ)

    async def _carry_out(self, response: Deferred, environ: Environ, send: Send) -> None:
        try:
            answer = await response.produce(response)
        except Exception as error:
            await _send(self._refuse(environ, error), environ, send)
            return
        if isinstance(answer, bytes):
            response.set_data(answer)
            await _send(response, environ, send)
            return
        async with contextlib.aclosing(answer):
            await send(_start(response))
            async for piece in answer:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


async def _cancel_when_gone(task: "asyncio.Task[Any]", receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


def environ_of(scope: Scope) -> Environ:
    """The WSGI environment (PEP 3333) of an ASGI scope, its body left out.

    A header whose name holds an underscore is dropped: as a variable it could not be told from one with a dash, which
    only the platform may set.
    """
    environ: Environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": scope["path"].encode().decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "SERVER_NAME": "chatbot-llm",
        "SERVER_PORT": "0",
        "REMOTE_ADDR": (scope.get("client") or ("",))[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": None,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    for raw, value in scope["headers"]:
        if b"_" in raw:
            continue
        name = raw.decode("latin-1").upper().replace("-", "_")
        if name not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            name = f"HTTP_{name}"
        text = value.decode("latin-1")
        environ[name] = f"{environ[name]},{text}" if name in environ else text
    return environ


def _length(environ: Environ) -> int:
    """Bytes of body to come, 1 where only its chunks will tell. Raises ApiError for an expectation nobody meets."""
    expected = environ.get("HTTP_EXPECT")
    if expected is not None and expected.lower() != "100-continue":
        raise ApiError("Expect: only 100-continue is understood", status=417)
    if "HTTP_TRANSFER_ENCODING" in environ:
        return 1
    return int(environ.get("CONTENT_LENGTH") or 0)


def _start(response: Response) -> Message:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    return {"type": "http.response.start", "status": response.status_code, "headers": headers}


async def _send(response: Response, environ: Environ, send: Send, *, more: bool = False) -> None:
    pieces, _, headers = response.get_wsgi_response(environ)
    response.headers.clear()
    response.headers.extend(headers)
    await send(_start(response))
    await send({"type": "http.response.body", "body": b"".join(pieces), "more_body": more})


async def _send_unread(response: Response, environ: Environ, receive: Receive, send: Send) -> None:
    """Answer a request whose body was not read, and let the client notice before the connection is closed."""
    response.headers["Connection"] = "close"
    await _send(response, environ, send, more=True)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while (await receive()).get("more_body"):
                pass
    await send({"type": "http.response.body", "body": b""})
