"""Signals to the master, against the real process: there is one engine, whatever an operator's habits are."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import psutil
import pytest

from callers import chat
from launcher import ServiceProcess


@pytest.mark.parametrize("number", [signal.SIGTTIN, signal.SIGTTOU, signal.SIGHUP, signal.SIGUSR2, signal.SIGWINCH])
def test_no_signal_makes_a_second_engine_or_takes_the_first(
    start_once: Callable[..., ServiceProcess], number: signal.Signals
) -> None:
    service = start_once().wait_ready()
    worker = service.worker.pid
    service.process.send_signal(number)
    time.sleep(1.5)  # gunicorn would have begun or ended a worker by now
    assert [child.pid for child in psutil.Process(service.process.pid).children()] == [worker]
    assert chat(service.port, 3).status == 200
