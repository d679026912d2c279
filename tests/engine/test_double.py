"""The scripted engine answers in the shapes of the real one: what the fast tests prove holds for vLLM too."""

import json
from typing import Any

import pytest
import requests

from in_process import Client, Make
from launcher import ServiceProcess
from speakers import events

pytestmark = pytest.mark.engine

CHAT = {"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 3, "temperature": 0}
RAW = {"prompt": "The colour of the sky is", "max_tokens": 3, "temperature": 0}
RESPONSE = {"input": "Name a colour.", "max_output_tokens": 3, "temperature": 0}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
REQUESTS: list[tuple[str, Any]] = [
    ("/chat", CHAT),
    ("/generate", RAW),
    ("/v1/completions", RAW),
    ("/chat", {**CHAT, **USAGE}),
    ("/v1/completions", {**RAW, **USAGE}),
    ("/generate", {**RAW, **USAGE}),
    ("/chat", {"messages": []}),
    ("/chat", {**CHAT, "model": "other"}),
    ("/chat", {"messages": [{"role": "user", "content": "word " * 9000}]}),
    ("/generate", {**RAW, "max_tokens": 0}),
    ("/generate", {"max_tokens": 3}),
    ("/tokenize", RAW),
    ("/v1/responses", RESPONSE),
    ("/v1/responses", {**RESPONSE, "stream": True}),
    ("/v1/responses", {**RESPONSE, "input": "word " * 9000}),
    ("/v1/responses", {**RESPONSE, "max_output_tokens": 0}),
    ("/v1/messages", CHAT),
    ("/v1/messages", {**CHAT, "stream": True}),
    ("/v1/messages", {**CHAT, "model": "other"}),
    ("/v1/messages/count_tokens", {"messages": CHAT["messages"]}),
]


@pytest.fixture
def double(make_app: Make) -> Client:
    return make_app().test_client()


def parts(text: str) -> list[Any]:
    """An answer as a list: one JSON object, or every event of a stream."""
    return [data for _, data in events(text)] if text.startswith(("data: ", "event: ")) else [json.loads(text)]


def misfits(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Places where the double's answer has something that the real one has not, or of another type."""
    if ours is None or theirs is None:
        return []
    if isinstance(ours, dict) and isinstance(theirs, dict):
        missing = [f"{where}.{key}" for key in ours if key not in theirs]
        return missing + [m for k in ours if k in theirs for m in misfits(ours[k], theirs[k], f"{where}.{k}")]
    if isinstance(ours, list) and isinstance(theirs, list):
        return misfits(ours[0], theirs[0], f"{where}[0]") if ours and theirs else []
    return [] if type(ours) is type(theirs) else [f"{where}: {type(ours).__name__} for {type(theirs).__name__}"]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_the_double_has_the_real_shape(server: ServiceProcess, double: Client, path: str, body: Any) -> None:
    real = requests.post(f"{server.url}{path}", json=body, timeout=120)
    ours = double.post(path, json=body)
    assert ours.status_code == real.status_code
    assert ours.mimetype == real.headers["Content-Type"].split(";")[0]
    mine, theirs = parts(ours.get_data(as_text=True)), parts(real.text)
    for place in {0, 1, len(mine) - 1} & set(range(len(mine))):
        assert misfits(mine[place], theirs[place if place < 2 else -1 - (len(mine) - 1 - place)]) == []
    if theirs[0].get("error"):
        assert mine[0]["error"].get("code") == theirs[0]["error"].get("code")
        assert mine[0]["error"]["type"] == theirs[0]["error"]["type"]
