"""batch: a file of requests in the form of OpenAI's batches, sent to the service, each answered exactly once.

IN has a line a request: {"custom_id", "method": "POST", "url": "/v1/chat/completions", "body"}; any POST route of the
service will do. OUT gets a line an answer, in the order they come: {"id", "custom_id", "response": {"status_code",
"request_id", "body"}, "error": null}. What the service refuses for good stands there too, with its status.

A line is written whole, by one writer, when its answer is whole. So whatever ends this program, the same command goes
on: it drops the half line that a kill may have left, and sends what has no line yet.

Interactive callers come first: fewer requests are sent at once as soon as there is no room (429, 503) or an answer says
that it waited for a slot, and one more after ten times as many answers as are under way without either.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import itertools
import json
import os
import queue
import random
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import requests

from infra.commands import options, smoke
from infra.commands.screen import Progress, progress
from infra.errors import CheckFailed, InfraError, TimedOut, WrongUsage
from infra.fc import keys, template
from infra.fc.prices import Size, price
from infra.fc.quotas import MAX_REQUEST_BYTES

#: Worth sending again: no room, and what a fresh instance or a second try may answer.
NO_ROOM, PASSING = frozenset({429, 503}), frozenset({408, 500, 502, 504})
#: Tries of what fails in passing before its failure is the answer.
TRIES = 4
#: Longest wait that a Retry-After is believed, seconds; and the waits between tries without one.
LONGEST_WAIT_S, WAITS_S = 120.0, (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
#: Good answers, for each request under way, before there may be one more: callers come and go within seconds.
GROW_AFTER = 10
#: An answer that waited this long for a slot was in somebody's way, ms.
IN_THE_WAY_MS = 50.0


def arguments(parser: argparse.ArgumentParser) -> None:
    options.currency(parser)
    parser.add_argument("source", type=Path, metavar="IN.jsonl")
    parser.add_argument("target", type=Path, metavar="OUT.jsonl", help="is gone on with if it exists")
    parser.add_argument("--url", default="http://localhost:8000", help="of the service (%(default)s)")
    parser.add_argument("--at-once", type=int, default=3, metavar="N", help="requests under way, at most (%(default)s)")
    parser.add_argument(
        "--patience", type=float, default=900, metavar="S", help="give up after S s without an answer (%(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    """Send what has no answer yet, and print tokens, rate and cost. Raises CheckFailed if answers are refusals."""
    if args.at_once < 1 or args.patience <= 0:
        raise WrongUsage("--at-once and --patience must be above 0")
    lines, cu_per_s = read(args.source), None
    with contextlib.suppress(InfraError):  # without `s` nobody knows the size of an instance: no price then
        cu_per_s = Size.of(template.render_any()).cu_per_second("active")
    deployment = smoke.Deployment(args.url, keys.own())
    with opened(args.target, set(lines)) as answers, args.source.open("rb") as source:
        todo = [line for line in lines.values() if line.custom_id not in answers.done]
        with progress() as shown:
            sender = Sender(deployment, answers, args.at_once, args.patience)
            sender.send(todo, source, shown, len(lines))
        print(last_line(sender, answers, len(lines), cu_per_s, args.currency))
        if answers.refused:
            raise CheckFailed(f"{answers.refused} of {len(lines)} were refused: look for a status_code of 400 or more")


@dataclass(frozen=True)
class Line:
    """Where a request stands in IN: `start` and `size` in bytes."""

    custom_id: str
    url: str
    start: int
    size: int


def read(path: Path) -> dict[str, Line]:
    """Check all of IN before anything is sent. Raises WrongUsage naming the line and what is wrong with it."""
    lines: dict[str, Line] = {}
    number = start = 0
    try:
        with path.open("rb") as source:
            for raw in source:
                number += 1
                if raw.strip():
                    line = _checked(json.loads(raw), start, len(raw))
                    if line.custom_id in lines:
                        raise ValueError(f"custom_id {line.custom_id!r} stands there twice")
                    lines[line.custom_id] = line
                start += len(raw)
    except OSError as error:
        raise WrongUsage(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise WrongUsage(f"{path}, line {number}: {error}") from None
    if not lines:
        raise WrongUsage(f"{path} has no request in it")
    return lines


def _checked(value: Any, start: int, size: int) -> Line:
    """One line of IN. Raises ValueError."""
    if not isinstance(value, dict) or not isinstance(value.get("body"), dict):
        raise ValueError('not an object with "custom_id", "method", "url" and an object "body"')
    custom_id, url = value.get("custom_id"), value.get("url")
    if not isinstance(custom_id, str) or not custom_id:
        raise ValueError("custom_id must be a text")
    if value.get("method") != "POST" or not isinstance(url, str) or not url.startswith("/") or url.startswith("//"):
        raise ValueError('method must be "POST" and url a path of the service, such as "/v1/chat/completions"')
    if value["body"].get("stream"):
        raise ValueError("body.stream: an answer in a batch comes whole; leave it out")
    if size > MAX_REQUEST_BYTES:
        raise ValueError(f"longer than the {MAX_REQUEST_BYTES} bytes that Function Compute takes")
    return Line(custom_id, url, start, size)


@dataclass(frozen=True)
class Reply:
    """What came of one try. `status` 0: no whole answer."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""
    problem: str = ""

    def body(self) -> Any:
        """The answer as JSON; what is none, as the error it is."""
        try:
            return json.loads(self.content)
        except ValueError:
            return {"error": {"message": self.problem, "type": "server_error", "param": None, "code": None}}

    def retry_after(self) -> float:
        """Seconds that the answer wants nothing to be sent; 0 where it gives none."""
        try:
            return min(LONGEST_WAIT_S, max(0.0, float(self.headers.get("retry-after", 0))))
        except ValueError:  # a date, which neither the service nor Function Compute sends
            return 0.0


class Answers:
    """OUT. `done` are the custom_ids that stand in it; only whole lines do."""

    def __init__(self, file: FileIO, path: Path) -> None:
        self._file, self.path = file, path
        self.done: set[str] = set()
        self.refused = 0
        self.tokens = [0, 0]

    def load(self, known: set[str]) -> None:
        """Take in what stands there, and drop half a line at its end. Raises WrongUsage: not of this batch."""
        whole = 0
        with self.path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if not raw.endswith(b"\n"):
                    break
                try:
                    answer = json.loads(raw)
                    custom_id = answer["custom_id"]
                    self._count(answer)
                except (ValueError, KeyError, TypeError):
                    raise WrongUsage(f"{self.path}, line {number}: no answer of a batch; name another OUT") from None
                if custom_id not in known or custom_id in self.done:
                    raise WrongUsage(f"{self.path}, line {number}: {custom_id!r} belongs to another batch")
                self.done.add(custom_id)
                whole += len(raw)
        self._file.truncate(whole)

    def _count(self, answer: dict[str, Any]) -> None:
        response = answer["response"]
        self.refused += response is None or response["status_code"] >= 400
        body = response["body"] if response else None
        usage = (body.get("usage") if isinstance(body, dict) else None) or {}
        for at, names in enumerate((("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))):
            self.tokens[at] += next((usage[name] for name in names if isinstance(usage.get(name), int)), 0)

    def write(self, custom_id: str, reply: Reply) -> None:
        """Append one line. Raises InfraError when the disk does not take it."""
        came = {"status_code": reply.status, "request_id": reply.headers.get("x-request-id", ""), "body": reply.body()}
        answer = {
            "id": f"batch_req_{uuid.uuid4().hex}",
            "custom_id": custom_id,
            "response": came if reply.status else None,
            "error": None if reply.status else {"code": "no_answer", "message": reply.problem},
        }
        rest = memoryview(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise InfraError(f"cannot write {self.path}: {error.strerror}; make room and run it again") from None
        self._count(answer)
        self.done.add(custom_id)


@contextlib.contextmanager
def opened(path: Path, known: set[str]) -> Iterator[Answers]:
    """OUT for one writer. Raises WrongUsage where it is another's, or cannot be written."""
    try:
        file = path.open("ab", buffering=0)
    except OSError as error:
        raise WrongUsage(f"cannot write {path}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WrongUsage(f"{path} is being written by another batch") from None
        answers = Answers(file, path)
        answers.load(known)
        yield answers


class Room:
    """How many requests may be under way: one more or half as many, as in TCP; and a pause that an answer wanted."""

    def __init__(self, most: int) -> None:
        self._most, self._limit, self._away, self._good = most, 1, 0, 0
        self._not_before = 0.0
        self._free = threading.Condition()

    def enter(self) -> None:
        with self._free:
            while (wait := self._not_before - time.monotonic()) > 0 or self._away >= self._limit:
                self._free.wait(max(0.0, wait) or None)
            self._away += 1

    def leave(self, good: bool, pause_s: float = 0.0) -> None:
        """`good`: there was room. `pause_s`: nobody is to send for so long."""
        with self._free:
            self._away -= 1
            self._good = self._good + 1 if good else 0
            if not good:
                self._limit = max(1, self._limit // 2)
            elif self._good >= GROW_AFTER * self._limit:
                self._limit, self._good = min(self._most, self._limit + 1), 0
            self._not_before = max(self._not_before, time.monotonic() + pause_s)
            self._free.notify_all()


@dataclass
class Sender:
    """Sends with `at_once` threads; the caller's own thread writes."""

    deployment: smoke.Deployment
    answers: Answers
    at_once: int
    patience_s: float
    sent: int = 0
    seconds: float = 0.0
    card_ms: float | None = None
    tokens_before: int = 0
    _last: float = field(default_factory=time.monotonic)
    _stop: threading.Event = field(default_factory=threading.Event)

    def send(self, todo: list[Line], source: BinaryIO, shown: Progress, everything: int) -> None:
        """Return once every line has its answer. Raises TimedOut after `patience_s` seconds without any."""
        lines, found = iter(todo), queue.SimpleQueue[tuple[Line, Reply] | BaseException]()
        room = Room(self.at_once)
        self.tokens_before = sum(self.answers.tokens)

        def work() -> None:
            try:
                with requests.Session() as session:
                    session.headers["content-type"] = "application/json"
                    session.headers.update(self.deployment.headers)
                    for line in lines:  # a list's iterator gives each to one thread
                        if self._stop.is_set():
                            return
                        raw = os.pread(source.fileno(), line.size, line.start)
                        body = json.dumps(json.loads(raw)["body"]).encode()
                        found.put((line, self._answer(session, room, line, body)))
            except BaseException as error:
                found.put(error)

        for number in range(min(self.at_once, len(todo))):
            threading.Thread(target=work, name=f"send-{number}", daemon=True).start()
        began = reported = time.monotonic()
        try:
            for self.sent in range(1, len(todo) + 1):
                one = found.get()
                if isinstance(one, BaseException):
                    raise one
                line, reply = one
                self.answers.write(line.custom_id, reply)
                self._last = time.monotonic()
                if (card_ms := smoke.timing(reply.headers, "card")) is not None:
                    self.card_ms = (self.card_ms or 0.0) + card_ms
                self.seconds = time.monotonic() - began
                if time.monotonic() - reported >= 5 or self.sent == len(todo):
                    reported = time.monotonic()
                    rate = self.sent / self.seconds
                    left = (len(todo) - self.sent) / rate
                    shown.report(f"{len(self.answers.done):,} of {everything:,}, {rate:.1f}/s, {left:,.0f} s left")
        finally:
            self._stop.set()

    def _answer(self, session: requests.Session, room: Room, line: Line, body: bytes) -> Reply:
        """An answer that is final. Raises TimedOut when nobody has had any for `patience_s` seconds."""
        passing = broken = 0
        for turn in itertools.count():
            room.enter()
            reply = self._post(session, line.url, body)
            full = reply.status in NO_ROOM
            wait_s = WAITS_S[min(turn, len(WAITS_S) - 1)] * random.uniform(0.5, 1)
            good = reply.status not in {0, *NO_ROOM} and (smoke.timing(reply.headers, "queue") or 0.0) < IN_THE_WAY_MS
            room.leave(good, (reply.retry_after() or wait_s) if full or not reply.status else 0.0)
            passing += reply.status in PASSING
            broken += not reply.status and self._anybody(session)
            if reply.status == 401:
                raise WrongUsage(f"{reply.problem}: set CHATBOT_API_KEY to one of the service's keys")
            if passing == TRIES or broken == TRIES or reply.status not in {0, *NO_ROOM, *PASSING}:
                return reply
            if time.monotonic() - self._last > self.patience_s or self._stop.is_set():
                raise TimedOut(
                    f"no answer for {self.patience_s:g} s, {line.custom_id} last: {reply.problem}; "
                    "the same command goes on from here"
                )
            if reply.status in PASSING:
                self._stop.wait(wait_s)
        raise AssertionError("it counts for ever")

    def _anybody(self, session: requests.Session) -> bool:
        """Whether the service is there: then it was the request that broke its connection."""
        try:
            session.get(f"{self.deployment.url}/health", **self.deployment.options)
        except requests.RequestException:
            return False
        return True

    def _post(self, session: requests.Session, url: str, body: bytes) -> Reply:
        try:
            came = session.post(self.deployment.url + url, data=body, **self.deployment.options)
        except requests.RequestException as error:
            return Reply(0, problem=f"no whole answer from {self.deployment.url} ({type(error).__name__})")
        # FC reports a function that could not start as HTTP 200 with this header.
        status = 500 if came.status_code == 200 and "x-fc-error-type" in came.headers else came.status_code
        return Reply(status, came.headers, came.content, smoke.failed(came) if status >= 400 else "")


def last_line(sender: Sender, answers: Answers, everything: int, cu_per_s: float | None, currency: str) -> str:
    """What the whole batch has, and the rate and cost of this run."""
    prompt, completion = answers.tokens
    text = (
        f"{len(answers.done):,} of {everything:,} answered, {answers.refused:,} of them refused; "
        f"{prompt:,} prompt and {completion:,} completion tokens"
    )
    if not sender.sent:
        return f"{text}; nothing was left to do"
    rate = (prompt + completion - sender.tokens_before) / max(sender.seconds, 1e-9)
    text += f"; this run: {sender.sent:,} in {sender.seconds:,.0f} s, {rate:,.0f} tokens/s"
    if sender.card_ms is None:  # not this service's answers, or of a version before `card` in Server-Timing
        return text
    text += f", {sender.card_ms / 1000:,.1f} s of the card"
    if cu_per_s is None:
        return text
    return f"{text}, {price(sender.card_ms / 1000 * cu_per_s, currency):,.4f} {currency} at list price"
