"""Fixtures for attacks: the Flask app in this process where that is enough, the real process where it is not."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

from launcher import Service  # noqa: E402

from chatbot_llm.app import create_app, service_of  # noqa: E402
from chatbot_llm.engine.scripted import ScriptedEngine  # noqa: E402
from chatbot_llm.settings import Settings  # noqa: E402
from chatbot_llm.telemetry import Metrics  # noqa: E402


@pytest.fixture
def client_of() -> Iterator[Callable[..., FlaskClient]]:
    """A test client of a ready app with the given settings."""
    made: list[Flask] = []

    def make(script: dict[str, Any] | None = None, **settings: Any) -> FlaskClient:
        current = Settings(engine="scripted", script=json.dumps(script or {}), **settings)
        app = create_app(current, ScriptedEngine(current), Metrics(CollectorRegistry()))
        made.append(app)
        service_of(app).begin()
        service_of(app).engine.wait(10)
        return app.test_client()

    yield make
    for app in made:
        service_of(app).engine.stop()


@pytest.fixture
def client(client_of: Callable[..., FlaskClient]) -> FlaskClient:
    return client_of()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start the real process; the keyword arguments are those of launcher.Service."""
    begun: list[Service] = []

    def begin(**options: Any) -> Service:
        begun.append(Service(tmp_path / f"service-{len(begun)}.log", **options))
        return begun[-1].wait_ready(300)  # the real engine needs a minute, on a busy machine some

    yield begin
    for service in begun:
        service.close()
