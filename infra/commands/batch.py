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
import json
import queue
import random
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import requests

from infra.commands import options, smoke
from infra.commands.screen import progress
from infra.errors import CheckFailed, InfraError, TimedOut, WrongUsage
from infra.fc import keys, template
from infra.fc.prices import Size, price
from infra.fc.quotas import MAX_REQUEST_BYTES

#: Worth sending again: no room or nobody there (0), and what a fresh instance or a second try may answer.
NO_ROOM, PASSING = {0, 429, 503}, {408, 500, 502, 504}
#: Tries of what fails in passing before its failure is the answer.
TRIES = 4
#: Longest wait that a Retry-After is believed, seconds; and the waits between tries without one.
LONGEST_WAIT_S, WAITS_S = 120.0, (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
#: Good answers, for each request under way, before there may be one more: callers come and go within seconds.
GROW_AFTER = 10
#: An answer that waited this long for a slot was in somebody's way, ms.
IN_THE_WAY_MS = 50.0
REPORT_S = 5.0


def arguments(parser: argparse.ArgumentParser) -> None:
    options.currency(parser)
    parser.add_argument("source", type=Path, metavar="IN.jsonl")
    parser.add_argument("target", type=Path, metavar="OUT.jsonl", help="is gone on with if it exists")
    parser.add_argument("--url", default="http://localhost:8000", help="of the service (%(default)s)")
    options.number(parser, "--at-once", 1, 1000, "requests under way, at most (%(default)s)", 3)
    options.number(parser, "--patience", 0.001, 1e6, "give up when X s bring no answer (%(default)s)", 900)


def run(args: argparse.Namespace) -> None:
    """Send what has no answer yet, and print tokens, rate and cost. Raises CheckFailed if answers are refusals."""
    known, cu_per_s = read(args.source), None
    with contextlib.suppress(InfraError):  # without `s` nobody knows the size of an instance: no price then
        cu_per_s = Size.of(template.render_any()).cu_per_second("active")
    with opened(args.target, known) as answers, args.source.open("rb") as source:
        todo, began = len(known) - len(answers.done), time.monotonic()
        lines = (json.loads(raw) for raw in source if raw.strip())
        new = (line for line in lines if line["custom_id"] not in answers.done)
        sender, reported = Sender(smoke.Deployment(args.url, keys.own()), new, args.patience), began
        with progress() as shown:
            for sent, (custom_id, reply) in enumerate(sender.replies(todo, args.at_once), 1):
                answers.write(custom_id, reply)
                if (now := time.monotonic()) - reported >= REPORT_S or sent == todo:
                    reported, rate = now, sent / (now - began)
                    left = f"{rate:.1f}/s, {(todo - sent) / rate:,.0f} s left"
                    shown.report(f"{len(answers.done):,} of {len(known):,}, {left}")
        print(last_line(answers, len(known), todo, time.monotonic() - began, cu_per_s, args.currency))
        if answers.refused:
            raise CheckFailed(f"{answers.refused} of {len(known)} were refused: look for a status_code of 400 or more")


def read(path: Path) -> set[str]:
    """Check all of IN before anything is sent; its custom_ids. Raises WrongUsage naming the line and what is wrong."""
    found = set[str]()
    try:
        with path.open("rb") as source:
            for number, raw in enumerate(source, 1):
                try:
                    found |= {_checked(raw, found)} if raw.strip() else set()
                except (ValueError, RecursionError) as error:
                    raise WrongUsage(f"{path}, line {number}: {error}") from None
    except OSError as error:
        raise WrongUsage(f"cannot read {path}: {error.strerror}") from None
    if not found:
        raise WrongUsage(f"{path} has no request in it")
    return found


def _checked(raw: bytes, before: set[str]) -> str:
    """The custom_id of a line of IN. Raises ValueError."""
    value = json.loads(raw)
    if not isinstance(value, dict) or not isinstance(value.get("body"), dict):
        raise ValueError('not an object with "custom_id", "method", "url" and an object "body"')
    custom_id, url = value.get("custom_id"), value.get("url")
    if not isinstance(custom_id, str) or not custom_id:
        raise ValueError("custom_id must be a text")
    if value.get("method") != "POST" or not isinstance(url, str) or not url.startswith("/") or url.startswith("//"):
        raise ValueError('method must be "POST" and url a path of the service, such as "/v1/chat/completions"')
    if value["body"].get("stream"):
        raise ValueError("body.stream: an answer in a batch comes whole; leave it out")
    if len(raw) > MAX_REQUEST_BYTES:
        raise ValueError(f"longer than the {MAX_REQUEST_BYTES} bytes that Function Compute takes")
    if custom_id in before:
        raise ValueError(f"custom_id {custom_id!r} stands there twice")
    return custom_id


@dataclass(frozen=True)
class Reply:
    """What came of one try. `status` 0: no whole answer, for the reason in `problem`. `body` is JSON."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    problem: str = ""

    def retry_after_s(self) -> float:
        """How long the answer wants nothing to be sent; 0 where it gives no number of seconds."""
        text = self.headers.get("retry-after", "")
        return min(LONGEST_WAIT_S, float(text)) if text.isdecimal() else 0.0


class Answers:
    """OUT. `done` are the custom_ids that stand in it, `prompt` and `completion` their tokens.

    `card_ms` is what those written by this run had of the card, `before` the tokens that stood there before it.
    """

    def __init__(self, file: FileIO, path: Path, known: set[str]) -> None:
        """Take in what stands there, and drop half a line at its end. Raises WrongUsage: not of this batch."""
        self._file, self.path = file, path
        self.done: set[str] = set()
        self.refused = self.prompt = self.completion = whole = 0
        self.card_ms = 0.0
        with path.open("rb") as there:
            for number, raw in enumerate(there, 1):
                if not raw.endswith(b"\n"):
                    break
                try:
                    custom_id = self._count(json.loads(raw))
                except (ValueError, KeyError, TypeError):
                    raise WrongUsage(f"{path}, line {number}: no answer of a batch; name another OUT") from None
                if custom_id not in known or custom_id in self.done:
                    raise WrongUsage(f"{path}, line {number}: {custom_id!r} belongs to another batch")
                self.done.add(custom_id)
                whole += len(raw)
        file.truncate(whole)
        self.before = self.prompt + self.completion

    def _count(self, answer: dict[str, Any]) -> str:
        response = answer["response"] or {"status_code": 0, "body": None}
        self.refused += not 0 < response["status_code"] < 400
        usage = (isinstance(response["body"], dict) and response["body"].get("usage")) or {}
        self.prompt += usage.get("prompt_tokens") or usage.get("input_tokens") or 0
        self.completion += usage.get("completion_tokens") or usage.get("output_tokens") or 0
        return str(answer["custom_id"])

    def write(self, custom_id: str, reply: Reply) -> None:
        """Append one line. Raises InfraError when the disk does not take it."""
        request_id = reply.headers.get("x-request-id", "")
        answer = {
            "id": f"batch_req_{uuid.uuid4().hex}",
            "custom_id": custom_id,
            "response": {"status_code": reply.status, "request_id": request_id, "body": reply.body},
            "error": None,
        }
        if not reply.status:
            answer |= {"response": None, "error": {"code": "no_answer", "message": reply.problem}}
        rest = memoryview(json.dumps(answer, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise InfraError(f"cannot write {self.path}: {error.strerror}; make room and run it again") from None
        self.done.add(self._count(answer))
        self.card_ms += smoke.timing(reply.headers, "card") or 0.0


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
        yield Answers(file, path, known)


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


class Sender:
    """Sends `lines` of IN, with threads that end with this program."""

    def __init__(self, deployment: smoke.Deployment, lines: Iterator[dict[str, Any]], patience_s: float) -> None:
        self._deployment, self._lines, self._patience_s = deployment, lines, patience_s
        self._reading, self._stop, self._problem = threading.Lock(), threading.Event(), ""
        self._found = queue.SimpleQueue[tuple[str, Reply] | BaseException]()

    def replies(self, count: int, at_once: int) -> Iterator[tuple[str, Reply]]:
        """The final reply to each custom_id, as they come. Raises TimedOut when `patience_s` seconds bring none."""
        self._room = Room(at_once)
        for _ in range(min(at_once, count)):
            threading.Thread(target=self._work, daemon=True).start()
        try:
            for _ in range(count):
                one = self._found.get(timeout=self._patience_s)
                if isinstance(one, BaseException):
                    raise one
                yield one
        except queue.Empty:
            last = f", the last try: {self._problem}" if self._problem else ""
            text = f"no answer for {self._patience_s:g} s{last}; the same command goes on from here"
            raise TimedOut(text) from None
        finally:
            self._stop.set()

    def _next(self) -> dict[str, Any] | None:
        with self._reading:
            return next(self._lines, None)

    def _work(self) -> None:
        try:
            with requests.Session() as session:
                session.headers.update({"content-type": "application/json", **self._deployment.headers})
                while line := self._next():
                    if (reply := self._answer(session, line["url"], json.dumps(line["body"]).encode())) is None:
                        return
                    self._found.put((line["custom_id"], reply))
        except BaseException as error:
            self._found.put(error)

    def _answer(self, session: requests.Session, url: str, body: bytes) -> Reply | None:
        """An answer that is final; None where nobody waits for it any more."""
        passing = broken = turn = 0
        while True:
            self._room.enter()
            if self._stop.is_set():
                return None
            reply = self._post(session, url, body)
            wait_s = WAITS_S[min(turn, len(WAITS_S) - 1)] * random.uniform(0.5, 1)
            full = reply.status in NO_ROOM
            good = not full and (smoke.timing(reply.headers, "queue") or 0.0) < IN_THE_WAY_MS
            self._room.leave(good, (reply.retry_after_s() or wait_s) if full else 0.0)
            if reply.status == 401:
                raise WrongUsage(f"{reply.problem}: set CHATBOT_API_KEY to one of the service's keys")
            passing += reply.status in PASSING
            broken += not reply.status and self._anybody(session)
            if TRIES in (passing, broken) or reply.status not in NO_ROOM | PASSING:
                return reply
            self._problem, turn = reply.problem, turn + 1
            if reply.status in PASSING:
                self._stop.wait(wait_s)

    def _anybody(self, session: requests.Session) -> bool:
        """Whether the service is there: then it was the request that broke its connection."""
        try:
            session.get(f"{self._deployment.url}/health", **self._deployment.options)
        except requests.RequestException:
            return False
        return True

    def _post(self, session: requests.Session, url: str, body: bytes) -> Reply:
        try:
            came = session.post(self._deployment.url + url, data=body, **self._deployment.options)
        except requests.RequestException as error:
            return Reply(0, problem=f"no whole answer from {self._deployment.url} ({type(error).__name__})")
        status = smoke.status_of(came)
        problem = smoke.failed(came) if status >= 400 else ""
        try:
            answer = came.json()
        except ValueError:
            answer = {"error": {"message": problem, "type": "server_error", "param": None, "code": None}}
        return Reply(status, came.headers, answer, problem)


def last_line(
    answers: Answers, everything: int, sent: int, seconds: float, cu_per_s: float | None, currency: str
) -> str:
    """What the whole batch has, and the rate and cost of this run, which sent `sent` lines in `seconds`."""
    text = (
        f"{len(answers.done):,} of {everything:,} answered, {answers.refused:,} of them refused; "
        f"{answers.prompt:,} prompt and {answers.completion:,} completion tokens"
    )
    if not sent:
        return f"{text}; nothing was left to do"
    rate = (answers.prompt + answers.completion - answers.before) / seconds
    text += f"; this run: {sent:,} in {seconds:,.0f} s, {rate:,.0f} tokens/s"
    card_s = answers.card_ms / 1000  # 0 from another service, or a version before `card` in Server-Timing
    text += f", {card_s:,.1f} s of the card" if card_s else ""
    return text + (
        f", {price(card_s * cu_per_s, currency):,.4f} {currency} at list price" if card_s and cu_per_s else ""
    )
