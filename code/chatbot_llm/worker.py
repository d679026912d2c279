"""gunicorn's threaded worker, held to two more promises: nobody holds a thread without sending, SIGTERM drains.

Bound to gunicorn 27: `handle`, `handle_exit` and `handle_quit` are its extension points; a test with the real gunicorn
covers each.
"""

import logging
import os
import sys
import threading
import time
from typing import Any

from gunicorn.workers.gthread import _DEFER, TConn, ThreadWorker

from chatbot_llm.app import service_of
from chatbot_llm.engine.base import State
from chatbot_llm.service import Service

log = logging.getLogger(__name__)

#: gunicorn's master stops with this status, instead of starting another worker, when a worker exits with it.
HALT = 3
#: How long answers to in-flight calls may take after the engine has died, seconds.
LAST_WORDS_S = 2.0


class Worker(ThreadWorker):  # type: ignore[misc]
    """One per instance: it holds the engine."""

    @property
    def service(self) -> Service:
        return service_of(self.wsgi)

    def handle(self, conn: TConn) -> Any:
        if not conn.initialized and not conn.data_ready and not conn.wait_for_data(0):
            return _DEFER  # no thread waits for a client that has only connected
        watcher = self.service.watcher
        sock = conn.sock
        watcher.reading(sock, time.monotonic() + self.service.settings.read_timeout_s)
        try:
            return super().handle(conn)
        finally:
            watcher.reading(sock, None)

    def handle_exit(self, sig: int, frame: Any) -> None:
        threading.Thread(target=self._drain, name="drain", daemon=True).start()
        super().handle_exit(sig, frame)

    def _drain(self) -> None:
        self.service.drain(self.service.settings.drain_s)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """SIGQUIT, SIGINT, a second SIGTERM: end at once."""
        self.service.engine.stop(timeout=0.5)
        os._exit(0)


def begin(worker: Worker) -> None:
    """Load behind the open port; a dead engine ends the process, so that FC replaces the instance."""

    def engine_changed(state: State) -> None:
        if state is State.FAILED:
            threading.Thread(target=_give_up, args=(worker.service,), name="give-up").start()

    worker.service.engine.on_change(engine_changed)
    worker.service.begin()


def _give_up(service: Service) -> None:
    from chatbot_llm.engine.loop_engine import kill_children

    time.sleep(0.2)  # let /initialize and the callers in flight read the reason
    service.wait_answered(LAST_WORDS_S)
    reason = service.engine.status().reason
    log.critical("ending this process: %s", reason)
    print(f"chatbot-llm: {reason}", file=sys.stderr, flush=True)
    kill_children()
    os._exit(HALT)
