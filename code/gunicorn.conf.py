"""gunicorn's configuration: one worker, signals, and the time-outs FC needs. Read by `python -m chatbot_llm`."""

import ctypes
import os
import resource
import signal
from typing import Any

from gunicorn.errors import HaltServer

from chatbot_llm import settings as _settings
from chatbot_llm.engine.supervisor import kill_children
from chatbot_llm.server import worker as _worker

_set = _settings.load()

# The engine exists once; vLLM batches across requests.
workers = 1
worker_class = "chatbot_llm.server.worker.Worker"
# Every connection is a file; the soft limit is often 1024. The engine needs some hundred of its own.
_hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (65536 if _hard == resource.RLIM_INFINITY else min(_hard, 65536), _hard))
backlog = 2048
# FC keeps connections open and does not repeat a POST on a closed one: at least 15 minutes (fc-docs 04/126), and a
# frozen instance's clock goes on. An instance lives 36 hours (fc-docs 06/017), so this means never.
keepalive = 36 * 3600
# A frozen instance must not be taken for a hung worker; the engine has a watchdog of its own.
timeout = 0
# Beyond our own drain limit, which cuts requests short in good order.
graceful_timeout = int(_set.drain_s) + 8
# Nobody in front of us may set SCRIPT_NAME or the scheme.
forwarded_allow_ips = ""
control_socket_disable = True
loglevel = _set.log_level
accesslog = None
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"dated": {"()": "chatbot_llm.observability.logs.DateFirst"}},
    "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "dated", "stream": "ext://sys.stdout"}},
    "root": {"level": _set.log_level.upper(), "handlers": ["out"]},
    "loggers": {"gunicorn.error": {"level": _set.log_level.upper(), "handlers": ["out"], "propagate": False}},
}

# prctl(2), Linux
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def when_ready(server: Any) -> None:
    """One worker and no other; a second SIGTERM, while the first is draining, ends at once."""
    for number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # each would start a second engine beside the first, or leave none
    terminated = False

    def terminate(sig: int, frame: Any) -> None:
        nonlocal terminated
        if os.getpid() != server.pid:
            os._exit(0)  # a worker that has not begun: it would take the signal for the master's and go on
        server.signal(signal.SIGQUIT if terminated else signal.SIGTERM, frame)
        terminated = True

    signal.signal(signal.SIGTERM, terminate)
    # The engine's processes become the master's when a worker is killed, so that it can end them.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def post_fork(server: Any, worker: Any) -> None:
    """No worker outlives its master, kill -9 of the master included; SIGQUIT, because it must end its engine first."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def post_worker_init(worker: Any) -> None:
    _worker.end_with_engine(worker.wsgi)


def child_exit(server: Any, worker: Any) -> None:
    """A worker that was killed, or whose engine died, is not replaced: a fresh instance has no remains of this one."""
    if server.LISTENERS:  # the master is not stopping
        raise HaltServer("the worker is gone", 1)


def on_exit(server: Any) -> None:
    kill_children()
