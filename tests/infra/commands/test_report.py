"""report: a page from the request log, checked against arithmetic done by hand and against what the service wrote."""

from __future__ import annotations

import gzip
import json
import random
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import pytest

from callers import chat
from infra import ROOT
from infra.__main__ import main
from infra.commands import report, request_log
from infra.fc import template
from infra.fc.prices import CU_PER_REQUEST, Size
from launcher import ServiceProcess
from log_lines import line

T4 = Size(4, 16384, 16384, 10240)
PROPS = {
    "cpu": 4,
    "memorySize": 16384,
    "diskSize": 10240,
    "gpuConfig": {"gpuMemorySize": 16384},
    "provisionConfig": {"defaultTarget": 1},
}


@pytest.fixture(autouse=True)
def _of_s_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "render_any", lambda: PROPS)
    monkeypatch.setenv("COLUMNS", "140")


def made(tmp_path: Path, *lines: str, least: int = 0, **how: Any) -> report.Report:
    log = tmp_path / "log"
    log.write_text("".join(f"{one}\n" for one in lines))
    return report.make([str(log)], T4, least, "CNY", **how)


def test_requests_outcomes_tokens_and_starts_are_counted(tmp_path: Path) -> None:
    page = made(
        tmp_path,
        line(msg="ready", start_s=61.5),
        line(1, cold=True, queue_ms=60_000, cached_tokens=25, key="abc"),
        line(2, instance="c-2", route="/generate", cached_tokens=75, completion_tokens=21),
        line(3, outcome="overloaded", prompt_tokens=None, completion_tokens=None, running=0, card_ms=0.0),
        line(4, outcome="disconnect"),
    )
    assert set(page.everything["instances"]) == {"c-1", "c-2"}
    found = page.everything
    assert (found["requests"], found["failed"], found["refused"]) == (4, 2, 1)
    assert (found["starts"], found["longest_start_s"], found["waited"]) == (1, 61.5, 1)
    assert (found["prompt"], found["completion"]) == (300, 43)
    assert found["cached"] / found["cacheable"] == 0.5, "only of requests that say so"


def test_percentiles_are_those_of_what_ended_well(tmp_path: Path) -> None:
    chance = random.Random(5)
    took = [chance.lognormvariate(7, 0.8) for _ in range(2000)]
    lines = [line(at, total_ms=ms, queue_ms=ms / 10, ttft_ms=ms / 5, decode_ms=ms / 2) for at, ms in enumerate(took)]
    lines.append(line(1, outcome="deadline", total_ms=9e9))
    found = made(tmp_path, *lines).everything
    cuts = statistics.quantiles(took, n=100)
    for name, share in (("total", 1.0), ("TTFT", 0.3), ("ITL", 0.5 / 10)):
        for at, quantile in ((0, 50), (1, 95), (2, 99)):
            assert found[name][at] == pytest.approx(share * cuts[quantile - 1], rel=0.03), (name, quantile)


def test_the_bill_is_prices_arithmetic_and_its_shares_add_up_to_it(tmp_path: Path) -> None:
    """Two days; a start; minimum instances asleep in between."""
    hour = 3600.0
    lines = [line(0, msg="ready", start_s=90.0)]
    lines += [line(60 * at, key="abc" if at % 2 else None, card_ms=30_000.0) for at in range(240)]
    found = made(tmp_path, *lines, least=1)
    span_s = 60 * 239
    active_s = 240 * (30 + report.ROUNDED_S) + 90
    expected = T4.cu(active_s / hour, (span_s - active_s) / hour, 240)
    assert found.cu == pytest.approx(expected)
    assert found.paid == pytest.approx(expected * 0.00011)
    assert [day["day"].day for day in found.rows["day"]] == [31, 1]
    for label in ("day", "route", "who"):
        shares = [found.cost(row) for row in found.rows[label]]
        used = (240 * 30 * T4.cu_per_second("active") + 240 * CU_PER_REQUEST) * 0.00011
        assert sum(shares) == pytest.approx(used)
    keys = {row["who"]: found.cost(row) for row in found.rows["who"]}
    assert keys["abc"] == pytest.approx(keys[""]) or len(keys) == 2
    cells = "".join(f"{row}" for row in report.shares(found, "who", "").columns[6].cells)
    assert f"{found.paid - used:,.2f}" in cells


@pytest.mark.parametrize("form", ["plain", "gzip", "sls", "compose", "stdin"])
def test_a_log_is_read_in_the_forms_it_comes_in(tmp_path: Path, form: str) -> None:
    lines = ["Traceback (most recent call last):", "  File, with 'quotes\" and \t tabs", "", line(1), line(2)]
    lines += [line(3)[:-9], line(4).replace("request", "other"), '{"level": "not JSON', "\x01\x02", line(5)]
    text = "".join(f"{one}\n" for one in lines)
    path = tmp_path / "log"
    if form == "gzip":
        path = tmp_path / "log.gz"
        path.write_bytes(gzip.compress(text.encode()))
    elif form == "sls":
        path.write_text("".join(json.dumps({"functionName": "x", "message": one + "\n"}) + "\n" for one in lines))
    elif form == "compose":
        path.write_text("".join(f"chatbot-1  | {one}\n" for one in lines))
    else:
        path.write_text(text)
    if form == "stdin":
        code = "from infra.commands.request_log import query; print(query(['-'], 'SELECT count(msg) n FROM entries'))"
        command = [sys.executable, "-c", code]
        with path.open() as given:
            done = subprocess.run(command, stdin=given, capture_output=True, text=True, cwd=ROOT, check=True)
        assert done.stdout.strip() == "[{'n': 3}]"
        return
    assert request_log.query([str(path)], "SELECT count(msg) AS n FROM entries") == [{"n": 3}]


@pytest.mark.parametrize(
    "junk",
    [
        *(
            b"a\rb",
            b"\r",
            b" 50% |##  |\r100% |####|\r",
            b"\0",
            b"\x01\x01",
            b"\xff\xfe",
            b'"',
            b"'",
            b"\\",
            b"\x0b\x0c",
        ),
        *(
            "\u2028".encode(),
            b"\xef\xbb\xbf",
            b"\x1b[31m",
            b"{",
            b"x" * (1 << 19),
            b'{"message": null}',
            bytes(range(256)),
        ),
        random.Random(1).randbytes(20_000),
    ],
    ids=lambda junk: repr(junk[:12]),
)
def test_no_line_of_others_costs_one_of_ours(tmp_path: Path, junk: bytes) -> None:
    ours = [line(at).encode() for at in range(6)]
    log = tmp_path / "log"
    for end in (b"\n", b"\r\n"):
        log.write_bytes(end.join([junk, *ours[:3], junk, junk, *ours[3:], junk]))
        assert request_log.query([str(log)], "SELECT count(msg) AS n FROM entries") == [{"n": 6}]


def test_a_span_can_be_chosen(tmp_path: Path) -> None:
    lines = [line(3600 * at) for at in range(5)]
    assert made(tmp_path, *lines, span=("2027-02-01", "2027-02-01T02:00Z")).everything["requests"] == 2


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["/nowhere/log"], 2, "there is no /nowhere/log"),
        (["LOG", "--since", "yesterday"], 2, "write a day or a time"),
        (["LOG", "--until", "2027-01-01"], 1, "no request of the service stands in this log"),
        (["LOG", "--since", "2027-13-41"], 2, "write a day or a time"),
        (["LOG", "--since", "2027-02-30T08:00Z"], 2, "write a day or a time"),
        (["LOG", "--since", "0001-01-01T00:00+08:00"], 2, "write a day or a time"),
    ],
)
def test_wrong_words_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, text: str
) -> None:
    log = tmp_path / "log"
    log.write_text(line() + "\n")
    assert main(["report", *(word.replace("LOG", str(log)) for word in words)]) == status
    assert text in capsys.readouterr().err


def test_the_page_is_printed_and_written_with_its_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, page = tmp_path / "log", tmp_path / "page.html"
    log.write_text("".join(line(600 * at, key="<b>") + "\n" for at in range(10)))
    assert main(["report", str(log), "--html", str(page), "--step", "10"]) == 0
    out, html = capsys.readouterr().out, page.read_text()
    for words in ("TTFT", "by route", "by key", "cold starts", "1,000 tokens, CNY", "no key", "nobody's"):
        assert words.replace("no key", "<b>") in out
        assert escape(words.replace("no key", "<b>")) in html
    assert "<svg" in html and "http://" not in re.sub(
        r'(xmlns[:\w]*|resource)="[^"]*"|<dc:.*?>|<!DOCTYPE.*?>', "", html
    )


# what the service itself writes


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The log of the real service, scripted engine, under bursts of requests with pauses in between."""
    folder = tmp_path_factory.mktemp("written")
    service = ServiceProcess(folder / "log", script={"token_s": 0.02}, max_running=4, max_waiting=4)
    try:
        service.wait_ready()
        chance = random.Random(2)
        with ThreadPoolExecutor(12) as callers:
            for size in (1, 3, 12, 1, 5, 2):
                list(callers.map(lambda words: chat(service.port, words), [chance.randint(5, 60) for _ in range(size)]))
                service.wait_idle()
                subprocess.run(["sleep", "0.4"], check=True)
        service.terminate()
        service.wait_exit()
        yield folder / "log"
    finally:
        service.close()


@pytest.mark.process
def test_shares_of_the_card_are_the_bills_arithmetic_within_two_percent(written: Path) -> None:
    """The union of all requests' spans on the instance, worked out from their ends and times."""
    spans = []
    for text in written.read_text().splitlines():
        if '"msg": "request"' in text:
            when, _, rest = text.partition(" ")
            fields = json.loads(rest)
            ended = datetime.fromisoformat(when).timestamp()
            spans.append((ended - fields["total_ms"] / 1000, ended))
    busy, until = 0.0, 0.0
    for begin, end in sorted(spans):
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    found = report.make([str(written)], T4, 0, "CNY").everything
    assert found["requests"] == len(spans) == 24 and found["refused"] == 4 and found["starts"] == 1
    assert found["card_s"] == pytest.approx(busy, rel=0.02)
    assert found["spans"] == 6, "each burst began on an idle card"
