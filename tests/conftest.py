"""What several groups of tests share: apps over the scripted engine, one real-engine service for the run, figures."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from chatbot_llm.app import create_app
from chatbot_llm.engine.scripted import ScriptedEngine
from chatbot_llm.observability.metrics import Metrics
from chatbot_llm.server.door import Door
from chatbot_llm.settings import Settings
from figures import MEASURING, Figure, Figures
from in_process import App, Client, Make
from launcher import Service

#: The longest a start may take on two busy cores, seconds; unpacking the bundled model included.
START_LIMIT_S = 300

# `make` runs the tests, and some tests run `make`: what the outer one was told is not for the inner one.
for _name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES"):
    os.environ.pop(_name, None)

_figures = Figures()
#: Fixtures that start processes: the service, the real `s`, a browser, environments of clients.
PROCESSES = {"start", "start_once", "server", "service", "deploy", "props", "render", "browser", "page"}


def pytest_configure(config: pytest.Config) -> None:
    """Real engines side by side have cores of their own: threads that share some wait for one another in every step."""
    if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and config.option.markexpr == "engine":
        cores = sorted(os.sched_getaffinity(0))
        own = cores[int(worker.removeprefix("gw")) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]
        os.sched_setaffinity(0, own or cores)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what starts a process; where figures are asked for, run only the tests that measure any."""
    for item in items:
        if PROCESSES & set(getattr(item, "fixturenames", ())):
            item.add_marker("process")
    if MEASURING:
        silent = [item for item in items if "figure" not in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=silent)
        items[:] = [item for item in items if item not in silent]


def pytest_sessionfinish(exitstatus: int) -> None:
    if MEASURING and exitstatus == pytest.ExitCode.OK:
        _figures.write()


@pytest.fixture(scope="session")
def figure() -> Figure:
    """`figure(name, value, unit)`: tell what was measured; see figures.py."""
    return _figures


@pytest.fixture
def make_app() -> Iterator[Make]:
    """Make apps in this process, with settings and a script; their engines are stopped afterwards."""
    made: list[App] = []

    def make(script: dict[str, Any] | None = None, wait: bool = True, **settings: Any) -> App:
        current = Settings(engine="scripted", script=json.dumps(script or {}), **settings)
        app = App(Door(create_app(current, ScriptedEngine(current), Metrics(CollectorRegistry()))))
        made.append(app)
        app.begin()
        if wait:
            app.wait_ready()
        return app

    yield make
    for app in made:
        app.close()


@pytest.fixture
def app(make_app: Make) -> App:
    return make_app()


@pytest.fixture
def client(app: App) -> Client:
    return app.test_client()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The real service: gunicorn, vLLM's CPU build, the bundled model; started once for the whole run."""
    log: Path = tmp_path_factory.mktemp("server") / "log.txt"
    service = Service(log, engine="vllm", profile="cpu")
    try:
        yield service.wait_ready(START_LIMIT_S)
        service.terminate()
        assert service.wait_exit() == 0, "SIGTERM must end the service with status 0"
    finally:
        service.close()
