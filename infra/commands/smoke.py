"""smoke: does it answer, in words, on every way a caller has?

Against a URL (HTTP trigger, custom domain, local container): /health, /chat, /chat streamed, /generate, and
that a caller without the key is turned away. Against a function: the same through its trigger, and
InvokeFunction through the SDK, which is what the console's "Test" and `s invoke` use.

An answer passes when it holds the expected word and is not degenerate: a quantised model whose kernel
overflows in float16 answers "!!!!!!!!" with status 200, so a status alone proves nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import requests
from rich.markup import escape

from infra.commands import options
from infra.commands.screen import Report, console, progress, table
from infra.errors import CheckFailed, InfraError
from infra.fc import keys
from infra.fc.client import FunctionCompute
from infra.fc.quotas import LISTEN_WITHIN_S, MAX_INITIALIZER_S

QUESTION, EXPECT = "What is the capital of France? Answer in one short sentence.", "Paris"
PROMPT = "The capital of France is"  # /generate has no chat template: a text to go on with
SAMPLING = {"max_tokens": 64, "temperature": 0}
# s.yaml's timeout is 360 s: FC answers by then, so a client that waits longer always learns why.
READ_TIMEOUT_S = 390.0
CONNECT_TIMEOUT_S = 10.0
HEALTH_POLL_S = 2.0
DEGENERATE = re.compile(r"(\S)\1{7}")  # eight of the same sign in a row

#: Sends a body to a path; the answer's JSON, and the seconds it took.
Call = Callable[[str, dict[str, Any]], tuple[dict[str, Any], float]]


def arguments(parser: argparse.ArgumentParser) -> None:
    options.account(parser, qualifier=True)
    parser.add_argument("target", nargs="?", metavar="URL|FUNCTION", help="https://... or a function (--function)")
    options.number(parser, "--wait", 0.0, 1e6, "seconds that /health may take to say 200 (%(default)s)", 0)


def run(args: argparse.Namespace) -> None:
    target = args.target or args.function
    if target.startswith(("http://", "https://")):
        answers = over_http(Deployment(target, keys.own()), args.wait)
    else:
        answers = over_both(options.connect(args), target, args.qualifier, args.wait)
    with progress() as shown:
        judge_all(target, answers, shown.report)


def judge_all(target: str, answers: Iterable[Answer], report: Report = lambda line: None) -> None:
    """Make the checks, print them as a table. Raises CheckFailed with every failed one and its reason."""
    shown, wrong = table("", "check", "", ">s", ">TTFT s", ">tokens/s", "answer or reason"), list[Answer]()
    for one in answers:
        report(f"{one.check}: {'FAILED' if one.fault else 'ok'}")
        numbers = ((one.seconds, 2), (one.ttft_s, 2), (one.tokens_per_s, 1))
        shown.add_row(
            escape(one.check),
            "[bold red]FAILED[/]" if one.fault else "[green]ok[/]",
            *(f"{value:.{digits}f}" if value else "-" for value, digits in numbers),
            escape(one.fault or one_line(one.text)),
        )
        wrong += [one] if one.fault else []
    console().print(shown)
    if wrong:
        names, faults = ", ".join(one.check for one in wrong), "; ".join(one.fault for one in wrong)
        raise CheckFailed(f"smoke test of {target} failed: {names}: {faults}")


@dataclass(frozen=True)
class Answer:
    """What one call brought, and what is wrong with it. Times in seconds; `ttft_s` is known of a streamed one only."""

    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    ttft_s: float | None = None
    fault: str = ""
    check: str = ""

    @property
    def tokens_per_s(self) -> float | None:
        """Decode rate after the first token when streamed, else of the whole call."""
        tokens, seconds = self.tokens - (self.ttft_s is not None), self.seconds - (self.ttft_s or 0.0)
        return tokens / seconds if tokens > 0 and seconds > 0 else None


def check(name: str, attempt: Callable[..., Answer], *with_: Any) -> Answer:
    """One check; whatever a service can do wrong becomes its fault, never a traceback."""
    try:
        return replace(attempt(*with_), check=name)
    except (InfraError, requests.RequestException) as error:
        return Answer(fault=str(error) or type(error).__name__, check=name)


def judge(answer: Answer) -> Answer:
    """The answer, if it holds the expected word and is language."""
    if not answer.text.strip():
        raise CheckFailed("the answer is empty")
    if DEGENERATE.search(answer.text):
        raise CheckFailed(f"degenerate answer: {one_line(answer.text)}")
    if EXPECT.casefold() not in answer.text.casefold():
        raise CheckFailed(f"{EXPECT!r} is not in the answer: {one_line(answer.text)}")
    return answer


def one_line(text: str, most: int = 70) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"


class Deployment:
    """A running service behind a base URL, as an HTTP client sees it."""

    def __init__(self, url: str, api_key: str = "", read_timeout_s: float = READ_TIMEOUT_S) -> None:
        if not url.startswith(("http://", "https://")):
            raise InfraError(f"{url} is not a URL: begin with http:// or https://")
        self.url = url.rstrip("/")
        self.headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self.options: dict[str, Any] = {"timeout": (CONNECT_TIMEOUT_S, read_timeout_s), "allow_redirects": False}

    def post(self, path: str, body: dict[str, Any], stream: bool = False, key: bool = True) -> requests.Response:
        headers = self.headers if key else {}
        return requests.post(self.url + path, json=body, headers=headers, stream=stream, **self.options)

    def call(self, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], float]:
        started = time.monotonic()
        reply = self.post(path, body)
        if status_of(reply) != 200:
            raise CheckFailed(failed(reply))
        return parse(reply.content), time.monotonic() - started

    def health(self, wait_s: float = 0.0, sleep: Callable[[float], None] = time.sleep) -> Answer:
        """`wait_s`: how long a service that is still loading, or not listening yet, may take."""
        deadline = time.monotonic() + wait_s
        while True:
            try:
                reply = requests.get(f"{self.url}/health", **self.options)
                if reply.status_code == 200:
                    return Answer("healthy")
                problem = failed(reply)
            except (requests.ConnectionError, requests.Timeout) as error:
                problem = f"no connection to {self.url} ({type(error).__name__})"
            if time.monotonic() + HEALTH_POLL_S > deadline:
                raise CheckFailed(problem)
            sleep(HEALTH_POLL_S)

    def stream(self) -> Answer:
        started = time.monotonic()
        wanted = chat_body(QUESTION) | {"stream": True, "stream_options": {"include_usage": True}}
        with self.post("/chat", wanted, stream=True) as reply:
            if status_of(reply) != 200:
                raise CheckFailed(failed(reply))
            return judge(read_stream(reply, started))

    def stranger(self) -> Answer:
        """A caller without the key must be turned away before any work is done."""
        reply = self.post("/chat", chat_body("hello") | {"max_tokens": 1}, key=False)
        if reply.status_code not in (401, 403):
            raise CheckFailed(f"answered {reply.status_code} without an API key; set CHATBOT_API_KEYS there")
        return Answer(f"turned away with {reply.status_code}")


def chat_body(question: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], **SAMPLING}


def ask(call: Call, path: str, body: dict[str, Any], text_of: Callable[[Any], str]) -> Answer:
    """The answer, judged by the text that `text_of` finds in it. Raises CheckFailed."""
    reply, seconds = call(path, body)
    try:
        text = text_of(reply) or ""
    except (KeyError, IndexError, TypeError):
        raise CheckFailed(f"not what {path} answers: {one_line(json.dumps(reply))}") from None
    return judge(Answer(text, tokens_of(reply), seconds))


def chat(call: Call) -> Answer:
    return ask(call, "/chat", chat_body(QUESTION), lambda reply: reply["choices"][0]["message"]["content"])


def generate(call: Call) -> Answer:
    """Judges what the model added: `text` may begin with the prompt, which proves nothing."""
    wanted = {"prompt": PROMPT, **SAMPLING}
    return ask(call, "/generate", wanted, lambda reply: str(reply["text"][0]).removeprefix(PROMPT))


def status_of(reply: requests.Response) -> int:
    """FC reports a function that could not start as HTTP 200 with a header: that is a 500."""
    return 500 if reply.status_code == 200 and "x-fc-error-type" in reply.headers else reply.status_code


def failed(reply: requests.Response) -> str:
    """Why a call failed, in the service's words or FC's."""
    try:
        words = reply.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        words = reply.text or reply.reason
    kind = reply.headers.get("x-fc-error-type")
    return f"HTTP {reply.status_code}: " + one_line(f"{kind}: {words}" if kind else words, 200)


def parse(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError:
        raise CheckFailed(f"not JSON: {one_line(raw.decode(errors='replace'))}") from None
    if not isinstance(body, dict):
        raise CheckFailed(f"not a JSON object: {one_line(json.dumps(body))}")
    if "error" in body:
        raise CheckFailed(f"error: {one_line(json.dumps(body['error'], ensure_ascii=False), 200)}")
    return body


def timing(headers: Mapping[str, str], name: str) -> float | None:
    """Milliseconds of one entry of the answer's Server-Timing, if it is there."""
    found = re.search(rf"(?:^|[ ,]){name};dur=([\d.]+)", headers.get("server-timing", ""))
    return float(found[1]) if found else None


def tokens_of(body: dict[str, Any]) -> int:
    return int((body.get("usage") or {}).get("completion_tokens") or 0)


def read_stream(reply: requests.Response, started: float) -> Answer:
    """Server-sent events of a chat completion, to the end mark. `started`: time.monotonic() before the request."""
    text, tokens, came = "", 0, list[float]()
    for event in events(reply):
        if event == "[DONE]":
            last = came[-1] if came else time.monotonic()
            return Answer(text, tokens or len(came), last - started, came[0] - started if came else None)
        body = parse(event.encode())
        tokens = tokens_of(body) or tokens
        pieces = ((choice.get("delta") or {}).get("content") or "" for choice in body.get("choices") or [])
        if piece := "".join(pieces):
            came.append(time.monotonic())
            text += piece
    raise CheckFailed(f"the stream broke off before [DONE], after: {one_line(text)}")


def events(reply: requests.Response) -> Iterator[str]:
    # chunk_size=None hands over what has arrived; a fixed size would hold back the first tokens.
    for line in reply.iter_lines(chunk_size=None):
        if line.startswith(b"data:"):
            yield line[5:].strip().decode()


def over_http(deployment: Deployment, wait_s: float = 0) -> Iterator[Answer]:
    health = check("health", deployment.health, wait_s)
    yield health
    if health.fault:
        return  # the rest would only fail for the same reason, each after its own time-out
    yield check("chat", chat, deployment.call)
    yield check("stream", deployment.stream)
    yield check("generate", generate, deployment.call)
    if deployment.headers:
        yield check("no key", deployment.stranger)


def over_invoke(fc: FunctionCompute, function: str, qualifier: str) -> Iterator[Answer]:
    """InvokeFunction drops status and headers, so the body is all there is to judge."""
    # The function's own timeout counts from when an instance stands; a cold start comes before it.
    patience = fc.get_function(function, qualifier).timeout + LISTEN_WITHIN_S + MAX_INITIALIZER_S

    def call(path: str, body: dict[str, Any]) -> tuple[dict[str, Any], float]:
        started = time.monotonic()
        raw, error_type = fc.invoke(function, json.dumps(body).encode(), qualifier, patience)
        if error_type:
            raise CheckFailed(f"{error_type}: {one_line(raw.decode(errors='replace'), 200)}")
        return parse(raw), time.monotonic() - started

    yield check(f"invoke chat @{qualifier}", chat, call)
    yield check(f"invoke generate @{qualifier}", generate, call)


def over_both(fc: FunctionCompute, function: str, qualifier: str, wait_s: float = 0) -> Iterator[Answer]:
    """InvokeFunction, and the trigger of the qualifier where it has an open one."""
    yield from over_invoke(fc, function, qualifier)
    if (url := trigger_url(fc, function, qualifier)) is not None:
        yield from over_http(Deployment(url, keys.own()), wait_s)


def try_out(fc: FunctionCompute, function: str, qualifier: str) -> None:
    """All checks of a qualifier. Raises CheckFailed."""
    judge_all(f"{function}@{qualifier}", over_both(fc, function, qualifier))


def trigger_url(fc: FunctionCompute, function: str, qualifier: str) -> str | None:
    """The public URL of the HTTP trigger on this qualifier, if one is there and open to the internet."""
    for trigger in fc.triggers(function):
        config = json.loads(trigger.trigger_config or "{}")  # the API sends it as a JSON string
        here = trigger.trigger_type == "http" and (trigger.qualifier or "LATEST") == qualifier
        if here and not config.get("disableURLInternet") and config.get("authType") == "anonymous":
            return str(trigger.http_trigger.url_internet)
    return None
