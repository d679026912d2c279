"""replay: a log's requests sent again to a service, at the same or another speed, and the two pages side by side.

For trying a release, a flag or a bigger card with one's own load. No text is known, and none is needed: a prompt is
made of words that are one token each, as many as the log says; where prompts began alike (`prompt_blocks`), these do,
and an answer is made as long as it was. Times of the replay are those of this client. Requests that had no tokens
(refused, gone before the first one, /tokenize) are left out; those of other protocols are sent as chats.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import requests
from rich.table import Table

from infra.commands import options, report, request_log, smoke
from infra.commands.screen import console, progress, table
from infra.errors import CheckFailed, WrongUsage
from infra.fc import keys
from infra.fc.prices import Size

#: Tokens of one of `prompt_blocks` (chatbot_llm/observability/prefix.py).
BLOCK = 64
#: Requests under way at once, at most: beyond it they come later than in the log.
AT_ONCE = 256
#: Common enough to be one token, with the space before, in every tokenizer that was trained on English.
WORDS = (
    "the of and to in is you that it he was for on are as with his they at be this have from or one had by but not "
    "what all were we when your can said there use an each which she do how their if will up other about out many then"
).split()
_QUERY = """
    SELECT ended - to_milliseconds(coalesce(total_ms, 0)::BIGINT) AS arrived, route, stream,
        prompt_tokens AS prompt, completion_tokens AS completion, prompt_blocks AS blocks
    FROM entries WHERE msg = 'request' ORDER BY arrived
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.span(parser)
    parser.add_argument("log", metavar="LOG", help="a file, .gz too")
    parser.add_argument("url", metavar="URL", help="of the service that shall answer")
    options.number(parser, "--speed", 0.001, 1e6, "2: in half the time (%(default)s)", 1.0)


def run(args: argparse.Namespace) -> None:
    """Send, wait, print. Raises WrongUsage if the log has nothing to send, CheckFailed if the service cannot answer."""
    span = args.since, args.until
    rows = request_log.query([args.log], _QUERY, span)
    kept = [row for row in rows if row["prompt"] and row["completion"]]
    if not kept:
        raise WrongUsage(f"{args.log} has no request with tokens in this span: there is nothing to send")
    client = Client(smoke.Deployment(args.url, keys.own()))
    began = time.monotonic()
    with tempfile.NamedTemporaryFile("w", prefix="replay-") as log, progress() as shown:
        with ThreadPoolExecutor(AT_ONCE) as callers:
            sent = []
            for at, row in enumerate(kept):
                due = began + (row["arrived"] - kept[0]["arrived"]).total_seconds() / args.speed
                time.sleep(max(0.0, due - time.monotonic()))
                sent.append(callers.submit(client.send, row, at, due))
                shown.report(f"{100 * at // len(kept)} % of {len(kept):,} sent")
        lines, late_s = zip(*(one.result() for one in sent), strict=True)
        log.write("\n".join([*lines, ""]))
        log.flush()
        # Without a bill: what a replay costs is in the log of the service that answered.
        nothing = Size(1, 1024, 0, 512), 0, "CNY"
        before, after = report.make([args.log], *nothing, span), report.make([log.name], *nothing)
    console().print(side_by_side(before, after))
    print(
        f"{len(rows) - len(kept):,} requests of the log had no tokens and were left out; "
        f"at most {max(late_s):.1f} s behind their time"
    )


class Client:
    """Makes the requests. Finds out first how many tokens the service adds to a prompt, by asking it."""

    def __init__(self, deployment: smoke.Deployment) -> None:
        self.deployment = deployment
        self._added = {chat: self._overhead(chat) for chat in (True, False)}

    def _overhead(self, chat: bool) -> int:
        """Tokens beside the words. Raises CheckFailed where the words are not one token each."""
        try:
            two = (_request(chat, " ".join(words), 1, stream=False) for words in (WORDS[:1], WORDS))
            usages = [self.deployment.call(*one)[0].get("usage") or {} for one in two]
        except requests.RequestException as error:
            raise CheckFailed(f"no connection to {self.deployment.url} ({type(error).__name__})") from None
        one, all_ = (usage.get("prompt_tokens") or 0 for usage in usages)
        if all_ - one != len(WORDS) - 1:
            raise CheckFailed(f"{len(WORDS)} common words are {all_ - one + 1} tokens here: no prompt can be made")
        return int(one - 1)

    def prompt(self, row: dict[str, Any], number: int, chat: bool) -> str:
        """Words: for each block those of its hash, then those of this request alone."""
        words: list[str] = []
        most = max(1, row["prompt"] - self._added[chat])
        for at, block in enumerate(filter(None, (row["blocks"] or "").split("."))):
            words += random.Random(block).choices(WORDS, k=BLOCK - (self._added[chat] if at == 0 else 0))
        words += random.Random(number).choices(WORDS, k=max(0, most - len(words)))
        return " ".join(words[:most])

    def send(self, row: dict[str, Any], number: int, due: float) -> tuple[str, float]:
        """(a line in the form of the request log, seconds it was sent late)."""
        chat = row["route"] not in ("/generate", "/v1/completions")
        path, body = _request(chat, self.prompt(row, number, chat), row["completion"], bool(row["stream"]))
        path = row["route"] if row["route"] in ("/chat", "/generate") else path
        began = time.monotonic()
        fields: dict[str, Any] = {"msg": "request", "route": path, "instance": self.deployment.url, "queue_ms": 0.0}
        try:
            with self.deployment.post(path, body, stream=True) as reply:
                fields |= _read(reply, began)
        except requests.RequestException as error:
            fields["outcome"] = type(error).__name__
        fields["total_ms"] = 1000 * (time.monotonic() - began)
        if "ttft_ms" in fields:
            fields["decode_ms"] = fields["total_ms"] - fields["ttft_ms"]
        when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
        return f"{when}Z {json.dumps({'level': 'info', **fields})}", began - due


def _request(chat: bool, words: str, tokens: int, stream: bool) -> tuple[str, dict[str, Any]]:
    body: dict[str, Any] = {"max_tokens": tokens, "min_tokens": tokens, "ignore_eos": True}
    body |= {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    if chat:
        return "/v1/chat/completions", body | {"messages": [{"role": "user", "content": words}]}
    return "/v1/completions", body | {"prompt": words}


def _read(reply: requests.Response, began: float) -> dict[str, Any]:
    """Fields of the request log, from an answer that is whole or in pieces."""
    kind = reply.headers.get("content-type", "")
    if reply.status_code != 200:
        code = (reply.json().get("error") or {}).get("code") if "json" in kind else None
        return {"outcome": code or str(reply.status_code)}
    usage: dict[str, Any] = {}
    fields: dict[str, Any] = {"outcome": "cut"}
    if "event-stream" not in kind:
        usage, fields = reply.json().get("usage") or {}, {"outcome": "ok"}
        if ttft_ms := smoke.timing(reply.headers, "ttft"):
            fields["ttft_ms"] = ttft_ms + (smoke.timing(reply.headers, "queue") or 0.0)
    else:
        for event in smoke.events(reply):
            fields.setdefault("ttft_ms", 1000 * (time.monotonic() - began))
            if event == "[DONE]":
                fields["outcome"] = "ok"
                break
            usage = json.loads(event).get("usage") or usage
    counted = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
    return fields | counted | {"cached_tokens": (usage.get("prompt_tokens_details") or {}).get("cached_tokens")}


def side_by_side(before: report.Report, after: report.Report) -> Table:
    """The log's page and the replay's, row by row."""
    both = [one.everything for one in (before, after)]
    counts = ("requests", "failed", "refused", "prompt", "completion")
    rows = [[report.NAMES[what], *(f"{one[what] or 0:,}" for one in both)] for what in counts]
    rows.append([report.NAMES["cached"], *(report.hits(one) for one in both)])
    for name, (at, quantile) in itertools.product(report.TIMES, enumerate(("p50", "p95", "p99"))):
        rows.append([f"{name} {quantile}, ms", *(f"{one[name][at]:,.0f}" if one[name] else "-" for one in both)])
    return table("", "", ">log", ">replay", rows=rows)
