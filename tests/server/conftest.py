"""A fixture for tests against the real process: one service that all tests of a file share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from launcher import Service


@pytest.fixture(scope="module")
def start_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Service]]:
    """Start a service that stays for the whole file; the arguments are those of launcher.Service."""
    begun: list[Service] = []

    def start(**options: object) -> Service:
        begun.append(Service(tmp_path_factory.mktemp("service") / "log.txt", **options))  # type: ignore[arg-type]
        return begun[-1]

    yield start
    for service in begun:
        service.close()
