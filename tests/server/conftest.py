"""A fixture for tests against the real process: one service that all tests of a file share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from launcher import ServiceProcess


@pytest.fixture(scope="module")
def start_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ServiceProcess]]:
    """Start a service that stays for the whole file; the arguments are those of launcher.ServiceProcess."""
    begun: list[ServiceProcess] = []

    def start(**options: object) -> ServiceProcess:
        begun.append(ServiceProcess(tmp_path_factory.mktemp("service") / "log.txt", **options))  # type: ignore[arg-type]
        return begun[-1]

    yield start
    for service in begun:
        service.close()
