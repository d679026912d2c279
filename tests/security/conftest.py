"""Fixtures for attacks: the Flask app in this process where that is enough, the real process where it is not."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from in_process import Client, Make
from launcher import ServiceProcess


@pytest.fixture
def client_of(make_app: Make) -> Callable[..., Client]:
    """A test client of a ready app with the given settings."""
    return lambda *script, **settings: make_app(*script, **settings).test_client()


@pytest.fixture
def client(client_of: Callable[..., Client]) -> Client:
    return client_of()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ServiceProcess]]:
    """Start the real process; the keyword arguments are those of launcher.ServiceProcess."""
    begun: list[ServiceProcess] = []

    def begin(**options: Any) -> ServiceProcess:
        begun.append(ServiceProcess(tmp_path / f"service-{len(begun)}.log", **options))
        return begun[-1].wait_ready(300)  # the real engine needs a minute, on a busy machine some

    yield begin
    for service in begun:
        service.close()
