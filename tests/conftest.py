"""What several groups of tests share: apps over the scripted engine, one real-engine service for the run, figures."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry

from app_types import Make
from chatbot_llm.app import create_app, service_of
from chatbot_llm.engine.scripted import ScriptedEngine
from chatbot_llm.observability.telemetry import Metrics
from chatbot_llm.settings import Settings
from figures import MEASURING, Figure, Figures
from launcher import Service

#: The longest a start may take on two busy cores, seconds; unpacking the bundled model included.
START_LIMIT_S = 300

# `make` runs the tests, and some tests run `make`: what the outer one was told is not for the inner one.
for _name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES"):
    os.environ.pop(_name, None)

_figures = Figures()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where figures are asked for, only the tests that measure any are run."""
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
    made: list[Flask] = []

    def make(script: dict[str, Any] | None = None, start: bool = True, wait: bool = True, **settings: Any) -> Flask:
        current = Settings(engine="scripted", script=json.dumps(script or {}), **settings)
        app = create_app(current, ScriptedEngine(current), Metrics(CollectorRegistry()))
        made.append(app)
        if start:
            service_of(app).begin()
            if wait:
                service_of(app).engine.wait(10)
        return app

    yield make
    for app in made:
        service_of(app).close()


@pytest.fixture
def app(make_app: Make) -> Flask:
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
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
