"""The phases of a start that happen in vLLM's own processes, learned from its log.

vLLM loads weights, sizes the KV cache and captures graphs in a child process and tells its parent nothing but the end.
Its log does tell, so every vLLM process gets a logging configuration (`VLLM_LOGGING_CONFIG_PATH`) whose handler sends
the phase each milestone opens to this process over a datagram socket. A test with the real engine fails when a
milestone's text changes. The same configuration gives vLLM's lines their leading date.
"""

import json
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from chatbot_llm.engine.base import Phase

#: Start of a log message -> the phase that begins there.
MILESTONES: tuple[tuple[str, Phase], ...] = (
    ("Starting to load model", Phase.WEIGHTS),
    ("Loading weights took", Phase.KV_CACHE),
    ("GPU KV cache size", Phase.COMPILE),
    ("CPU KV cache size", Phase.COMPILE),
    ("init engine (profile", Phase.WARM_UP),
)
_ADDRESS = "CHATBOT_PHASE_SOCKET"


class Reporter(logging.Handler):
    """Runs in vLLM's processes: passes milestones on."""

    def __init__(self) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        address = os.environ.get(_ADDRESS)
        if not address:
            return
        message = record.getMessage()
        for text, phase in MILESTONES:
            if message.startswith(text):
                with suppress(OSError):
                    self._socket.sendto(phase.encode(), address)


class Listener:
    """Runs in the service's process: calls `enter(phase)` for every milestone until closed."""

    def __init__(self, enter: Callable[[Phase], None], level: str) -> None:
        self._enter = enter
        self._folder = tempfile.TemporaryDirectory(prefix="chatbot-")
        address = Path(self._folder.name, "phases").as_posix()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        config = Path(self._folder.name, "logging.json")
        config.write_text(json.dumps(logging_config(level)))
        os.environ[_ADDRESS] = address
        os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(config)
        os.environ["VLLM_RPC_BASE_PATH"] = self._folder.name  # vLLM leaves its sockets where they are
        threading.Thread(target=self._run, name="phases", daemon=True).start()

    def _run(self) -> None:
        with suppress(OSError):
            while word := self._socket.recv(64).decode():
                self._enter(Phase(word))

    def close(self) -> None:
        """Stop listening, when vLLM's processes have ended: the files go too."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._folder.cleanup()


def logging_config(level: str) -> dict[str, object]:
    """A `dictConfig` for vLLM's processes: dated JSON lines on stdout, milestones to us."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"dated": {"()": "chatbot_llm.observability.logs.DateFirst"}},
        "handlers": {
            "out": {"class": "logging.StreamHandler", "formatter": "dated", "stream": "ext://sys.stdout"},
            "phases": {"class": "chatbot_llm.engine.startup_phases.Reporter"},
        },
        "loggers": {
            "vllm": {"level": level.upper(), "handlers": ["out", "phases"], "propagate": False},
            # Warns of each tensor that `--dtype` rounds: 122 lines a start where a CPU computes in bfloat16.
            "vllm.model_executor.models.utils": {"level": "ERROR"},
        },
    }
