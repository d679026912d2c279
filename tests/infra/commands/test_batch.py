"""batch: every line answered exactly once, whatever goes wrong, and nobody else notices."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from callers import Answer, chat
from infra import ROOT
from infra.__main__ import main
from infra.commands import batch, smoke
from infra.fc import template
from launcher import ServiceProcess

#: Lines of the long run; CHANGELOG's figure is from BATCH_LINES=10000.
LINES = int(os.environ.get("BATCH_LINES", "400"))
KINDS = ("429", "503", "500", "502", "reset", "half")
PROPS = {"cpu": 4, "memorySize": 16384, "diskSize": 10240, "gpuConfig": {"gpuMemorySize": 16384}}


class Faults:
    """Stands before a service and spoils some answers: refuses, breaks off before or inside one. `url` is its own."""

    def __init__(self, behind: str, share: float, retry_after: str = "1") -> None:
        chance, lock = random.Random(3), threading.Lock()
        self.done: Counter[str] = Counter()
        faults = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with lock:
                    kind = chance.choice(KINDS) if chance.random() < share else ""
                    faults.done[kind] += 1
                if kind == "reset":
                    self.close_connection = True
                elif kind.isdigit():
                    body = json.dumps({"error": {"message": "on purpose"}}).encode()
                    self.reply(int(kind), body, {"retry-after": retry_after} if kind in ("429", "503") else {})
                else:
                    headers = {"content-type": "application/json"}
                    reply = requests.post(behind + self.path, data=body, headers=headers, timeout=60)
                    kept = {
                        name: reply.headers[name]
                        for name in ("server-timing", "x-request-id", "retry-after")
                        if name in reply.headers
                    }
                    self.reply(reply.status_code, reply.content, kept, half=kind == "half")

            def reply(self, status: int, body: bytes, headers: dict[str, str], half: bool = False) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if half else body)
                self.close_connection |= half

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):  # its client was killed
                    super().handle()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(autouse=True)
def _of_s_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "render_any", lambda: PROPS)
    monkeypatch.setattr(batch, "WAITS_S", (0.05,))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    one = ServiceProcess(tmp_path_factory.mktemp("service") / "log", max_running=10)
    try:
        yield one.wait_ready()
    finally:
        one.close()


@pytest.fixture
def faults(service: ServiceProcess) -> Iterator[Faults]:
    one = Faults(service.url, share=0.05)
    yield one
    one.close()


def request(at: int, **script: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": f"number {at}"}], "max_tokens": 8}
    body["script"] = {"text": f"this is {at}", **script}
    return {"custom_id": f"line-{at}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def written(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
    return path


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The answers by custom_id; each stands once, on a whole line, and is the answer to its own request."""
    raw = path.read_bytes()
    assert not raw or raw.endswith(b"\n")
    answers = [json.loads(line) for line in raw.splitlines()]
    found = {answer["custom_id"]: answer for answer in answers}
    assert len(found) == len(answers), "a custom_id stands there twice"
    for name, answer in found.items():
        assert set(answer) == {"id", "custom_id", "response", "error"}
        if name.startswith("line-") and answer["response"] and answer["response"]["status_code"] == 200:
            text = answer["response"]["body"]["choices"][0]["message"]["content"]
            assert text == f"this is {name.removeprefix('line-')}"
    return found


def test_every_line_has_its_answer_and_the_last_line_says_what_it_took(
    service: ServiceProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = written(tmp_path / "in", [request(at, first_s=0.05) for at in range(20)]), tmp_path / "out"
    assert main(["batch", str(source), str(target), "--url", service.url]) == 0
    found = read(target)
    assert set(found) == {f"line-{at}" for at in range(20)}
    assert all(answer["id"].startswith("batch_req_") and answer["error"] is None for answer in found.values())
    assert all(answer["response"]["request_id"] for answer in found.values())
    out = capsys.readouterr().out
    text = " ".join(out.split())
    assert "20 of 20 answered, 0 of them refused; 40 prompt and 60 completion tokens; this run: 20 in" in text
    assert "s of the card, 0.00" in text and "CNY at list price" in text and "0 s left" in text
    assert main(["batch", str(source), str(target), "--url", service.url]) == 0
    assert "nothing was left to do" in capsys.readouterr().out and read(target) == found


def test_what_is_refused_for_good_stands_there_with_its_status(
    service: ServiceProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, lost = request(1), request(2)
    wrong["body"]["max_tokens"], lost["url"] = 0, "/nowhere"
    generate = {"custom_id": "g", "method": "POST", "url": "/generate", "body": {"prompt": "a b", "max_tokens": 2}}
    target = tmp_path / "out"
    source = written(tmp_path / "in", [wrong, lost, request(3), generate])
    assert main(["batch", str(source), str(target), "--url", service.url]) == 1
    found = read(target)
    assert {name: found[name]["response"]["status_code"] for name in ("line-1", "line-2", "line-3")} == {
        "line-1": 400,
        "line-2": 404,
        "line-3": 200,
    }
    assert found["line-1"]["response"]["body"]["error"]["param"] == "max_tokens"
    assert found["g"]["response"]["body"]["text"][0].startswith("a b")
    assert "2 of 4 were refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    "custom_id",
    ["\ud800", "a\nb", "\0", "\u2028", "\U0001f600", 'quote " and \\', "x" * 100_000],
    ids=lambda one: ascii(one[:20]),
)
def test_any_text_is_a_custom_id(service: ServiceProcess, tmp_path: Path, custom_id: str) -> None:
    source, target = written(tmp_path / "in", [{**request(1), "custom_id": custom_id}]), tmp_path / "out"
    for _ in range(2):  # the second time it is known
        assert main(["batch", str(source), str(target), "--url", service.url]) == 0
        assert list(read(target)) == [custom_id]


def start(source: Path, target: Path, url: str) -> subprocess.Popen[bytes]:
    words = ["batch", str(source), str(target), "--url", url, "--at-once", "8"]
    code = "import sys; from infra.commands import batch; from infra.__main__ import main; batch.WAITS_S = (0.05,)\n"
    code += f"sys.exit(main({words!r}))"
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.timeout(1200)
def test_killed_at_random_points_among_faults_it_finishes_with_each_line_once(
    service: ServiceProcess, faults: Faults, tmp_path: Path
) -> None:
    chance = random.Random(7)
    source, target = written(tmp_path / "in", [request(at, first_s=0.01) for at in range(LINES)]), tmp_path / "out"
    kills, half = 0, 0
    for _ in range(5):
        process = start(source, target, faults.url)
        before = target.stat().st_size if target.exists() else 0
        while process.poll() is None and (not target.exists() or target.stat().st_size <= before):
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 1.0))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
        if chance.random() < 0.7:  # what a kill inside a write leaves
            with target.open("ab") as file:
                file.write(b'{"id": "batch_req_1", "custom_id": "line-')
                half += 1
    assert kills >= 2 and half
    process = start(source, target, faults.url)
    _, err = process.communicate()
    found = read(target)
    assert set(found) == {f"line-{at}" for at in range(LINES)}
    wrong = [answer for answer in found.values() if answer["error"] or answer["response"]["status_code"] != 200]
    assert process.returncode == 0 and not wrong, err
    assert {kind for kind in KINDS if faults.done[kind]} == set(KINDS)


@pytest.mark.parametrize(("number", "broken"), [(30, 0), (5, 4), (1, 0)], ids=["the first", "the last", "alone"])
def test_a_request_that_breaks_every_connection_ends_as_an_error_and_the_others_go_on(
    service: ServiceProcess, tmp_path: Path, number: int, broken: int
) -> None:
    class Poison(Faults):
        pass

    poison = Poison(service.url, share=0.0)
    handler = poison._server.RequestHandlerClass
    usual = handler.do_POST  # type: ignore[attr-defined]

    def do_post(self: Any) -> None:
        if self.path == "/v1/poison":
            self.close_connection = True
        else:
            usual(self)

    handler.do_POST = do_post  # type: ignore[attr-defined]
    lines = [request(at, first_s=0.1) for at in range(number)]
    lines[broken]["url"] = "/v1/poison"
    target = tmp_path / "out"
    try:
        assert main(["batch", str(written(tmp_path / "in", lines)), str(target), "--url", poison.url]) == 1
    finally:
        poison.close()
    found = read(target)
    assert len(found) == number and found[f"line-{broken}"]["response"] is None
    assert found[f"line-{broken}"]["error"]["code"] == "no_answer"


def test_it_waits_as_long_as_it_is_told_and_gives_up_when_nobody_answers(
    service: ServiceProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = written(tmp_path / "in", [request(1)]), tmp_path / "out"
    full = Faults(service.url, share=1.0, retry_after="1")
    full._server.RequestHandlerClass.do_POST = lambda self: (  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers["content-length"])),
        full.done.update(["429"]),
        self.reply(429, b"{}", {"retry-after": "1"}),
    )
    try:
        began = time.monotonic()
        assert main(["batch", str(source), str(target), "--url", full.url, "--patience", "2.5"]) == 4
        assert full.done["429"] <= 4 and time.monotonic() - began >= 2, "it comes back when it may"
    finally:
        full.close()
    assert "the same command goes on" in capsys.readouterr().err
    assert main(["batch", str(source), str(target), "--url", "http://127.0.0.1:1", "--patience", "0.2"]) == 4
    assert main(["batch", str(source), str(target), "--url", service.url]) == 0 and len(read(target)) == 1


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ([], "has no request in it"),
        (["{"], "line 1:"),
        ([request(1), request(1)], "line 2: custom_id 'line-1' stands there twice"),
        ([{**request(1), "custom_id": 7}], "custom_id must be a text"),
        ([{**request(1), "url": "http://elsewhere/"}], "a path of the service"),
        ([{**request(1), "url": "//elsewhere/"}], "a path of the service"),
        ([{**request(1), "method": "GET"}], 'method must be "POST"'),
        ([{**request(1), "body": {"stream": True}}], "body.stream"),
        ([{**request(1), "body": []}], "not an object with"),
        (['{"body": ' + "[" * 5000 + "]" * 5000 + "}"], "line 1: maximum recursion depth"),
        (['{"body": ' + "9" * 5000 + "}"], "line 1: Exceeds the limit"),
    ],
)
def test_a_wrong_file_is_told_before_anything_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: list[Any], text: str
) -> None:
    target = tmp_path / "out"
    assert main(["batch", str(written(tmp_path / "in", lines)), str(target), "--url", "http://127.0.0.1:1"]) == 2
    assert text in capsys.readouterr().err and not target.exists()


def test_another_batchs_answers_and_a_second_writer_are_refused(
    service: ServiceProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = written(tmp_path / "in", [request(1)]), tmp_path / "out"
    words = ["batch", str(source), str(target), "--url", service.url]
    target.write_text("something of mine\n")
    assert main(words) == 2 and "name another OUT" in capsys.readouterr().err
    assert target.read_text() == "something of mine\n"
    target.unlink()
    assert main(words) == 0
    other = written(tmp_path / "other", [request(2)])
    assert main(["batch", str(other), str(target), "--url", service.url]) == 2
    assert "belongs to another batch" in capsys.readouterr().err
    with batch.opened(target, {"line-1"}):
        assert main(words) == 2 and "another batch" in capsys.readouterr().err


def test_a_key_that_is_not_taken_ends_it_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closed = ServiceProcess(tmp_path / "log", api_keys="the-key-of-this-test-only")
    try:
        closed.wait_ready()
        target = tmp_path / "out"
        assert main(["batch", str(written(tmp_path / "in", [request(1)])), str(target), "--url", closed.url]) == 2
        assert "CHATBOT_API_KEY" in capsys.readouterr().err and not target.read_text()
    finally:
        closed.close()


def test_room_grows_by_one_and_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "GROW_AFTER", 1)
    room = batch.Room(8)
    seen = []
    for good in (True,) * 12 + (False,) + (True,) * 2:
        room.enter()
        room.leave(good)
        seen.append(room._limit)
    assert seen == [2, 2, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 2, 2, 3]


def queued_s(answer: Answer) -> float:
    return (smoke.timing(answer.headers, "queue") or 0.0) / 1000


def test_interactive_callers_do_not_notice(service: ServiceProcess, tmp_path: Path) -> None:
    """About three at a time, a second each, beside a batch that runs and stops every few seconds.

    A caller's time is the script's and its wait for a slot, as the service tells it. The rest is the machine's.
    """
    source = written(tmp_path / "in", [request(at, token_s=0.1) for at in range(3000)])
    target = tmp_path / "out"
    words = [sys.executable, "-m", "infra", "batch", str(source), str(target), "--url", service.url]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    chance, seen = random.Random(11), {True: list[float](), False: list[float]()}

    def p95_s(runs: bool) -> float:
        return statistics.quantiles(seen[runs], n=20)[-1]

    def hardly_noticed() -> bool:
        """Whether they wait at most a tenth longer at p95 than without the batch."""
        before, calls = len(target.read_bytes().splitlines()), list[tuple[bool, Future[Answer]]]()
        with ThreadPoolExecutor(32) as callers:
            for turn in range(10):
                runs = turn % 2 == 0
                process.send_signal(signal.SIGCONT if runs else signal.SIGSTOP)
                end = time.monotonic() + 4
                while (wait := chance.expovariate(3)) < end - time.monotonic():
                    time.sleep(wait)
                    calls.append((runs, callers.submit(chat, service.port, 10, token_s=0.1)))
        assert process.poll() is None and len(target.read_bytes().splitlines()) > before + 20, "the batch has run"
        for runs, call in calls:
            seen[runs].append(0.9 + queued_s(call.result()))
        print(f"interactive p95: {p95_s(False):.3f} s alone, {p95_s(True):.3f} s beside the batch")
        return p95_s(True) <= 1.1 * p95_s(False)

    try:
        while not target.exists() or len(target.read_bytes().splitlines()) < 40:  # it has come to three at once
            time.sleep(0.1)
        # Sixty callers each way, and more where a machine that is busy beside has spoilt them: what is so, stays so.
        assert any(hardly_noticed() for _ in range(3))
    finally:
        process.kill()
        process.wait()
