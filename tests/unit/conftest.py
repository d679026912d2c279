"""Fast tests: the Flask app in this process, over the scripted engine."""

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app_types import Make


@pytest.fixture
def app(make_app: Make) -> Flask:
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()
