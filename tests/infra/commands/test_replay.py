"""replay: a log's requests come again, as long as they were, as alike as they were, when they came."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.__main__ import main
from infra.commands import replay, request_log, smoke
from launcher import ServiceProcess
from log_lines import line
from service_double import ServiceDouble


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    one = ServiceProcess(tmp_path_factory.mktemp("service") / "log", script={"loop": True, "token_s": 0.002})
    try:
        yield one.wait_ready()
    finally:
        one.close()


def heard(service: ServiceProcess, since: int) -> list[dict[str, Any]]:
    """The service's own lines, from number `since` on."""
    lines = [text for text in service.log().splitlines() if '"msg": "request"' in text]
    return [json.loads(text.split(" ", 1)[1]) | {"ended": text[:23]} for text in lines[since:]]


def test_requests_come_again_with_their_lengths_beginnings_and_times(
    service: ServiceProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    a, b, c = "aaaaaaaa", "bbbbbbbb", "cccccccc"
    log = tmp_path / "log"
    lines = [
        line(10, prompt_tokens=150, completion_tokens=7, prompt_blocks=f"{a}.{b}", stream=True),
        line(11, prompt_tokens=150, completion_tokens=9, prompt_blocks=f"{a}.{b}", stream=False),
        line(12, prompt_tokens=140, completion_tokens=3, prompt_blocks=f"{a}.{c}", stream=True, route="/generate"),
        line(13, prompt_tokens=20, completion_tokens=3, prompt_blocks="", stream=False, route="/v1/messages"),
        line(14, prompt_tokens=None, completion_tokens=None, outcome="overloaded"),
        line(15, msg="ready", start_s=3.0),
    ]
    log.write_text("".join(f"{one}\n" for one in lines))
    before = len(heard(service, 0))
    began = time.monotonic()
    assert main(["replay", str(log), service.url, "--speed", "2"]) == 0
    assert 1.5 <= time.monotonic() - began < 8, "three seconds of the log in half the time"
    came = heard(service, before + 4)  # behind the questions about overhead
    assert [one["route"] for one in came] == ["/chat", "/chat", "/generate", "/v1/chat/completions"]
    assert [(one["prompt_tokens"], one["completion_tokens"]) for one in came] == [(150, 7), (150, 9), (140, 3), (20, 3)]
    assert [one["stream"] for one in came] == [True, False, True, False]
    blocks = [one.get("prompt_blocks", "").split(".") for one in came]
    assert blocks[0] == blocks[1] and blocks[0][0] == blocks[2][0] and blocks[0][1] != blocks[2][1]
    out = capsys.readouterr().out
    assert "1 requests of the log had no tokens and were left out" in out
    rows = {cells[0].strip(): cells[1].split() for text in out.splitlines() if len(cells := text.split("  ", 2)) > 1}
    assert "TTFT p95, ms" in out and "ITL p50, ms" in out and rows


def test_prompts_of_one_request_alone_differ(service: ServiceProcess) -> None:
    client = replay.Client(smoke.Deployment(service.url))
    row = {"prompt": 100, "blocks": "aaaaaaaa"}
    first, second = (client.prompt(row, number, True).split() for number in (1, 2))
    assert len(first) == len(second) == 100 and first[:64] == second[:64] and first != second


def test_what_fails_is_told_as_what_it_was(service: ServiceProcess, tmp_path: Path) -> None:
    client = replay.Client(smoke.Deployment(service.url))
    row = {"prompt": 9000, "completion": 10, "stream": True, "route": "/chat", "blocks": None}
    text, _ = client.send(row, 1, time.monotonic())
    assert json.loads(text.split(" ", 1)[1])["outcome"] == "context_length_exceeded"
    log = tmp_path / "log"
    log.write_text(text + "\n")
    (found,) = request_log.query([str(log)], "SELECT outcome FROM entries")
    assert found["outcome"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["LOG", "http://127.0.0.1:1", "--until", "2000-01-01"], 2, "there is nothing to send"),
        (["LOG", "http://127.0.0.1:1"], 1, "no connection"),
    ],
)
def test_wrong_words_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, text: str
) -> None:
    log = tmp_path / "log"
    log.write_text(line() + "\n")
    assert main(["replay", *(word.replace("LOG", str(log)) for word in words)]) == status
    assert text in capsys.readouterr().err


def test_a_service_whose_tokens_are_other_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    log.write_text(line() + "\n")
    with ServiceDouble() as double:  # it counts no prompt tokens
        assert main(["replay", str(log), double.url]) == 1
    assert "no prompt can be made" in capsys.readouterr().err
