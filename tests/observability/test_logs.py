"""What is seen from outside: one line per request, times in a header, ids that come back, exceptions without text."""

import hashlib
import json
import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from chatbot_llm.observability import logs, prefix
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
        logged = formatted(name)
        assert "secret" not in logged.replace('int(\\"secret-1\\")', "").replace('KeyError(\\"secret-2\\")', "")
        assert "KeyError" in logged and "ValueError" in logged and "test_logs.py" in logged
    assert "secret-2" in formatted("vllm.v1.engine.core"), "why an engine does not start must be told"


def test_a_long_line_stays_one_json_object_the_platform_does_not_cut() -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 0, "é" * 100_000, None, None)
    logged = logs.DateFirst().format(record)
    assert len(logged.encode()) < 32 * 1024  # FC quota page
    assert json.loads(logged.split(" ", 1)[1])["level"] == "error"


KEYS = "first-key-0123456789,other-key-0123456789"
WORDS = " ".join(f"secretword{at}" for at in range(200))


def logged(caplog: pytest.LogCaptureFixture, client: Client, prompt: str, key: str = "first-key-0123456789") -> Any:
    """The line of one request, its hashes as a list."""
    body = {**CHAT, "messages": [{"role": "user", "content": prompt}]}
    assert client.post("/chat", json=body, headers={"api-key": key}).status_code == 200
    line = lines(caplog)[-1]
    return line | {"prompt_blocks": line["prompt_blocks"].split(".")}


def test_prompts_that_begin_alike_have_the_same_first_hashes_in_every_instance_of_a_deployment(
    make_app: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = (make_app(api_keys=KEYS).test_client() for _ in range(2))
    first, second = logged(caplog, one, WORDS), logged(caplog, other, WORDS + " and more")
    assert len(first["prompt_blocks"]) == 200 // prefix.BLOCK and first["prompt_blocks"] == second["prompt_blocks"]
    changed = logged(caplog, one, WORDS.replace("secretword100 ", "another "))["prompt_blocks"]
    assert [a == b for a, b in zip(first["prompt_blocks"], changed, strict=True)] == [True, False, False]
    elsewhere = logged(caplog, make_app(api_keys=KEYS + "3").test_client(), WORDS, "first-key-0123456789")
    assert not set(elsewhere["prompt_blocks"]) & set(first["prompt_blocks"]), "another deployment has another salt"
    assert "secretword" not in caplog.text
    open_ones = [make_app().test_client() for _ in range(2)]
    assert logged(caplog, open_ones[0], WORDS)["prompt_blocks"] != logged(caplog, open_ones[1], WORDS)["prompt_blocks"]


def test_a_key_is_named_by_its_digest_and_never_written(make_app: Make, caplog: pytest.LogCaptureFixture) -> None:
    client = make_app(api_keys=KEYS).test_client()
    names = [logged(caplog, client, "Hi", key)["key"] for key in [*KEYS.split(","), KEYS.split(",")[0]]]
    assert names[0] == names[2] == hashlib.sha256(b"first-key-0123456789").hexdigest()[:12] != names[1]
    assert "key-0123456789" not in caplog.text and "key-0123456789" not in json.dumps(lines(caplog))
    open_one = make_app().test_client()
    open_one.post("/chat", json=CHAT, headers={"api-key": "somebody-elses-key-at-all"})
    assert "key" not in lines(caplog)[-1], "what nobody has checked is nobody's name"


def test_the_shares_of_the_card_add_up_to_the_time_it_was_busy(
    make_app: Make, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_app({"first_s": 0.3}).test_client()
    with ThreadPoolExecutor(3) as callers:
        began = time.monotonic()
        list(callers.map(lambda _: client.post("/chat", json=CHAT), range(3)))
        took_ms = 1000 * (time.monotonic() - began)
    time.sleep(0.3)  # the card is idle: nobody's time
    began = time.monotonic()
    client.post("/chat", json=CHAT)
    took_ms += 1000 * (time.monotonic() - began)
    found = lines(caplog)
    assert sorted(line["running"] for line in found) == [1, 1, 2, 3]
    assert 550 <= sum(line["card_ms"] for line in found) <= took_ms + 1
    alone = found[-1]
    assert alone["card_ms"] == pytest.approx(alone["total_ms"] - alone["queue_ms"], abs=5)
    assert all(line["card_ms"] < 0.6 * line["total_ms"] for line in found[:3]), "three shared one card"


def test_every_field_of_a_line_is_documented_and_the_longest_line_is_far_from_being_cut(
    make_app: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FC_FUNCTION_NAME", "chatbot-llm")
    monkeypatch.setenv("FC_INSTANCE_ID", "c-" + "1" * 60)
    client = make_app(api_keys=KEYS).test_client()
    ids = {"x-request-id": "r" * 128, "x-fc-request-id": "f" * 128, "x-fc-control-path": "/" + "i" * 127}
    body = {**CHAT, "stream": True, "messages": [{"role": "user", "content": "word " * 7000}]}
    client.post("/chat", json=body, headers={**ids, "api-key": "first-key-0123456789"})
    record = next(record for record in caplog.records if record.name == "chatbot_llm.request")
    printed = logs.DateFirst().format(record)
    assert len(printed.encode()) < 3200
    line = json.loads(printed.split(" ", 1)[1])
    assert line["instance"] == "c-" + "1" * 60 and line["v"] == logs.VERSION
    assert len(line["prompt_blocks"].split(".")) == prefix.MOST
    page = (Path(__file__).parents[2] / "code" / "README.md").read_text(encoding="utf-8")
    table = page.split("### The request log")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", "".join(row.split(" | ")[0] for row in table.splitlines() if row[:3] == "| `")))
    assert set(line) <= named and f"({logs.VERSION};" in table
    ready = next(record for record in caplog.records if getattr(record, "fields", {}).get("msg") == "ready")
    assert set(json.loads(logs.DateFirst().format(ready).split(" ", 1)[1])) <= set(re.findall(r"`(\w+)`", table))
