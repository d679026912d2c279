"""What is seen from outside: one line per request, times in a header, ids that come back, exceptions without text."""

import json
import logging
import re
from typing import Any

import pytest

from chatbot_llm.observability import logs
from in_process import Client, Make

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Capital of France?"}], "max_tokens": 3}
#: Where FC's `logBeginRule: DefaultRegex` begins a new log entry (fc-docs 04/043).
DEFAULT_REGEX = re.compile(r"^.{0,2}\d{4}-\d{2}-\d{2}")


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The request lines written so far, as they are printed."""
    found = []
    for record in caplog.records:
        if record.name == "chatbot_llm.request":
            printed = logs.DateFirst().format(record)
            assert DEFAULT_REGEX.match(printed) and "\n" not in printed
            found.append(json.loads(printed.split(" ", 1)[1]))
    return found


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_a_request_is_one_line_with_everything_in_it(
    make_app: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FC_FUNCTION_NAME", "chatbot-llm")
    monkeypatch.setenv("FC_INSTANCE_ID", "c-1")
    client = make_app({"first_s": 0.01}).test_client()
    headers = {"x-request-id": "r-1", "x-fc-request-id": "fc-1", "x-fc-control-path": "/http-invoke"}
    for stream in (False, True):
        with client.post("/chat", json={**CHAT, "stream": stream}, headers=headers) as answer:
            assert answer.get_data()
    whole, streamed = lines(caplog)
    for line in (whole, streamed):
        assert line["route"] == "/chat" and line["model"] == "scripted" and line["outcome"] == "ok"
        assert line["request_id"] == "r-1" and line["fc_request_id"] == "fc-1"
        assert line["prompt_tokens"] == 3 and line["completion_tokens"] == 3
        assert line["queue_ms"] >= 0 and line["total_ms"] >= 10
    assert streamed["stream"] and streamed["ttft_ms"] + streamed["decode_ms"] >= 10
    assert (whole["cold"], streamed["cold"]) == (True, False)


@pytest.mark.parametrize(
    ("body", "outcome"), [({**CHAT, "max_tokens": 0}, "400"), ({**CHAT, "script": {"first_s": 9}}, "deadline")]
)
def test_a_request_that_fails_has_its_line_too(
    client: Client, caplog: pytest.LogCaptureFixture, body: dict[str, Any], outcome: str
) -> None:
    client.post("/chat", json=body, headers={"x-request-timeout": "0.1"})
    assert [line["outcome"] for line in lines(caplog)] == [outcome]


def test_elsewhere_the_platforms_headers_are_not_logged(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    client.post("/chat", json=CHAT, headers={"x-fc-request-id": "spoofed"})
    assert "spoofed" not in json.dumps(lines(caplog))


def test_an_answer_names_its_times_and_its_request(client: Client) -> None:
    answer = client.post("/chat", json=CHAT, headers={"x-request-id": "r-1"})
    spans = dict(span.split(";dur=") for span in answer.headers["Server-Timing"].split(", "))
    assert float(spans["queue"]) <= float(spans["total"])
    assert answer.headers["x-request-id"] == "r-1"
    assert client.post("/chat", json=CHAT).headers["x-request-id"]


@pytest.mark.parametrize("path", ["/nowhere", "/chat"])
def test_an_error_names_its_request_too(client: Client, path: str) -> None:
    answer = client.post(path, json={}, headers={"x-request-id": "r-2"})
    assert answer.status_code >= 400 and answer.headers["x-request-id"] == "r-2"


@pytest.mark.parametrize("given", ["a b", "x\ty", "a" * 129, "{}", "é"])
def test_an_id_that_could_forge_a_line_is_replaced(client: Client, given: str) -> None:
    answer = client.post("/chat", json=CHAT, headers={"x-request-id": given})
    assert re.fullmatch(r"[0-9a-f]{12}", answer.headers["x-request-id"])


def formatted(name: str) -> str:
    try:
        try:
            int("secret-1")
        except ValueError as error:
            raise KeyError("secret-2") from error
    except KeyError as error:
        record = logging.LogRecord(
            name, logging.ERROR, "", 0, "it failed", None, (KeyError, error, error.__traceback__)
        )
    return logs.DateFirst().format(record)


def test_an_exception_of_a_request_is_logged_without_its_text() -> None:
    for name in ("chatbot_llm.app", "gunicorn.error", "vllm.entrypoints.openai.serving", "vllm.v1.structured_output"):
        said = formatted(name)
        assert "secret" not in said.replace('int(\\"secret-1\\")', "").replace('KeyError(\\"secret-2\\")', "")
        assert "KeyError" in said and "ValueError" in said and "test_logs.py" in said
    assert "secret-2" in formatted("vllm.v1.engine.core"), "why an engine does not start must be told"


def test_a_long_line_stays_one_json_object_the_platform_does_not_cut() -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 0, "é" * 100_000, None, None)
    said = logs.DateFirst().format(record)
    assert len(said.encode()) < 32 * 1024  # FC quota page
    assert json.loads(said.split(" ", 1)[1])["level"] == "error"
