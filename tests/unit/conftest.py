"""Fast tests: the Flask app in this process, over the scripted engine."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest_types import Make
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry

from chatbot_llm.app import create_app, service_of
from chatbot_llm.engine.scripted import ScriptedEngine
from chatbot_llm.settings import Settings
from chatbot_llm.telemetry import Metrics


@pytest.fixture
def make_app() -> Iterator[Make]:
    """Make apps with settings and a script; their engines are stopped afterwards."""
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
        service_of(app).engine.stop()


@pytest.fixture
def app(make_app: Make) -> Flask:
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()
