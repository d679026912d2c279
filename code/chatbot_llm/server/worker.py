"""uvicorn's worker under gunicorn: one per instance, because it holds the engine; a dead engine ends it."""

import asyncio
import logging
import os
import sys
import threading
import time
from typing import Any

from uvicorn import Server
from uvicorn_worker import UvicornWorker

from chatbot_llm.engine.base import State
from chatbot_llm.engine.supervisor import kill_children
from chatbot_llm.server.connection import Connection
from chatbot_llm.server.door import Door

log = logging.getLogger(__name__)

#: Exit status of a worker whose engine is dead (sysexits.h, EX_SOFTWARE); the master then ends too (`child_exit`).
HALT = 70
#: How long answers to requests in flight may take after the engine has died, seconds.
LAST_WORDS_S = 2.0


class DrainingServer(Server):
    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: nothing new is begun from this moment on; uvicorn itself looks every tenth of a second."""
        door: Door = self.config.app  # type: ignore[assignment]
        door.service.admission.drain()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: Any = None) -> None:
        door: Door = self.config.app  # type: ignore[assignment]
        draining = asyncio.ensure_future(door.service.drain())
        await super().shutdown(sockets)
        draining.cancel()


class Worker(UvicornWorker):  # type: ignore[misc]
    CONFIG_KWARGS = {
        "loop": "uvloop",
        "http": Connection,
        "ws": "none",
        "interface": "asgi3",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config.timeout_graceful_shutdown = self.cfg.graceful_timeout
        # What clients send that is not HTTP is no warning; the connection reports it.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

    async def _serve(self) -> None:
        """uvicorn-worker's own, but for the server's class."""
        self.config.app = self.wsgi
        self._install_sigquit_handler()
        await DrainingServer(self.config).serve(sockets=self.sockets)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGQUIT: a second SIGTERM, SIGINT or the master's death. Ends at once; SIGTERM alone is uvicorn's."""
        kill_children()
        os._exit(0)


def end_with_engine(door: Door) -> None:
    """A dead engine ends the process, so that FC replaces the instance."""
    was_ready = threading.Event()
    endings: set[asyncio.Task[None]] = set()

    def engine_changed(state: State) -> None:
        if state is State.READY:
            was_ready.set()
        if state is State.FAILED:
            wait_s = 0.2 if was_ready.is_set() else LAST_WORDS_S  # FC may be about to call /initialize
            endings.add(asyncio.get_running_loop().create_task(_give_up(door, wait_s)))

    door.service.engine.on_change(engine_changed)


async def _give_up(door: Door, wait_s: float) -> None:
    """End the process once everybody has been answered why."""
    end = time.monotonic() + LAST_WORDS_S
    await asyncio.sleep(wait_s)
    while door.answering and time.monotonic() < end:
        await asyncio.sleep(0.02)
    reason = door.service.engine.status().reason
    log.critical("ending this process: %s", reason)
    print(f"chatbot-llm: {reason}", file=sys.stderr, flush=True)
    kill_children()
    os._exit(HALT)
