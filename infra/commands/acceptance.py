"""The run that only a T4 can settle: `python -m infra acceptance URL`.

Turing's Marlin kernel sums in float16 (other cards: float32), and Qwen's activations are large: an overflow shows as
"!!!!!!!!" with status 200, first on short prompts. Nothing but a T4 can show it. So: 200 prompts, short ones and long
ones, each at 1, 4 and 10 at once; no answer may be empty, degenerate or carry a NaN, and plain knowledge must be right.
Batch sizes take different paths through the kernel, hence the three rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import requests

from infra.commands.smoke import DEGENERATE, Answer, Deployment, chat_body, failed, one_line, tokens_of
from infra.errors import CheckFailed
from infra.fc import keys

PROMPTS = 200
AT_ONCE = (1, 4, 10)  # 10 = instanceConcurrency in s.yaml
MAX_TOKENS = 48
#: Share of plain questions that must be right; a sound 7B model misses few, a broken one most.
RIGHT_SHARE = 0.9
REQUEST_LIMIT_S = 120
RULERS = "-=_*.#"  # long runs of these are how Markdown draws lines
ESCAPES = """What to do, in this order; run this again after each:
  1. VLLM_MARLIN_INPUT_DTYPE=int8 in the environment (int8 products, int32 sums; slightly other answers)
  2. --linear-backend exllama (slower; has had float16 overflows of its own)
  3. another engine: LMDeploy's TurboMind keeps kernels of its own for the T4"""

CAPITALS = {
    "France": "Paris", "Japan": "Tokyo", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Egypt": "Cairo",
    "Greece": "Athens", "Russia": "Moscow", "China": "Beijing", "Cuba": "Havana", "Peru": "Lima", "Kenya": "Nairobi",
    "Norway": "Oslo", "Poland": "Warsaw", "Portugal": "Lisbon", "Ireland": "Dublin", "Austria": "Vienna",
    "Sweden": "Stockholm", "Finland": "Helsinki", "Thailand": "Bangkok",
}  # fmt: skip
SHORT = ("Hi", "Hello!", "Why?", "你好", "谢谢", "Ok.", "2", "?", "Tell me a joke.", "Bonjour", "今天天气怎么样？", "a")
TASKS = (
    "Write one sentence about the sea.",
    "Translate to Chinese: The train leaves at nine.",
    "Write a Python function that reverses a string.",
    "用一句话介绍杭州。",
    "List three colours.",
    "Explain photosynthesis to a child.",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", help="where the service answers; its key, if any, in CHATBOT_API_KEY")


@dataclass(frozen=True)
class Prompt:
    text: str
    expect: str = ""


def prompts() -> list[Prompt]:
    """The 200: a third plain knowledge, a quarter a few tokens long, the rest tasks with up to about 2,000 tokens."""
    known = [Prompt(f"What is the capital of {land}?", city) for land, city in CAPITALS.items()]
    sums = itertools.product(range(3, 10), (4, 9, 25))
    known += [Prompt(f"What is {a} plus {b}? Answer with the number.", str(a + b)) for a, b in sums]
    known += [Prompt(f"{land}的首都是哪里？用英文回答。", city) for land, city in CAPITALS.items()]
    short = [Prompt(word + tail) for word in SHORT for tail in ("", "?", "...", " 3")]
    tasks = itertools.product((0, 4, 16, 40, 80, 160), TASKS * 3)
    rest = [Prompt(f"{context(length)}\n\n{task}" if length else task) for length, task in tasks]
    chosen = (known + short + rest)[:PROMPTS]
    random.Random(0).shuffle(chosen)  # short and long ones share a batch, in the same order every time
    return chosen


def context(sentences: int) -> str:
    """A text as retrieval would put before a question, about 12 tokens a sentence."""
    return " ".join(f"Record {n}: parcel {n * 37 % 1000} left the depot on day {n}." for n in range(sentences))


def judge(raw: str) -> Answer:
    """The fault of one answer, if it has one."""
    body = json.loads(raw)  # NaN and Infinity included
    choice = body["choices"][0]
    text = choice["message"]["content"] or ""
    words, entries, fault = text.split(), (choice.get("logprobs") or {}).get("content") or [], ""
    if any(entry["logprob"] is None or not math.isfinite(entry["logprob"]) for entry in entries):
        fault = "a log probability is not a number"
    elif not words:
        fault = "empty"
    elif any(run[1] not in RULERS for run in DEGENERATE.finditer(text)) or (len(words) >= 8 and len(set(words)) == 1):
        fault = "degenerate"
    return Answer(text, tokens_of(body), fault=fault)


def ask(deployment: Deployment, prompt: Prompt) -> Answer:
    try:
        answer = deployment.post("/chat", chat_body(prompt.text) | {"max_tokens": MAX_TOKENS, "logprobs": True})
        return judge(answer.text) if answer.status_code == 200 else Answer(fault=failed(answer))
    except (requests.RequestException, ValueError, KeyError, IndexError, TypeError) as error:
        return Answer(fault=f"no chat completion: {error!r}")


def round_of(deployment: Deployment, questions: Sequence[Prompt], at_once: int) -> list[Answer]:
    """Every prompt once, `at_once` under way; progress on one line per quarter."""
    started, replies = time.monotonic(), list[Answer]()
    with ThreadPoolExecutor(at_once) as pool:
        for reply in pool.map(lambda prompt: ask(deployment, prompt), questions):
            replies.append(reply)
            if len(replies) % max(1, len(questions) // 4) == 0:
                rate = sum(one.tokens for one in replies) / (time.monotonic() - started)
                print(f"  {at_once:2} at once: {len(replies):3} of {len(questions)}, {rate:.0f} tokens/s", flush=True)
    return replies


def right(questions: Sequence[Prompt], replies: Sequence[Answer]) -> int:
    """How many plain questions are answered with the expected word."""
    pairs = zip(questions, replies, strict=True)
    return sum(bool(one.expect) and one.expect.casefold() in reply.text.casefold() for one, reply in pairs)


def run(args: argparse.Namespace) -> None:
    """Raises CheckFailed with the faults found and the escape order."""
    deployment, questions = Deployment(args.url, keys.own(), REQUEST_LIMIT_S), prompts()
    problems, count, plain = list[str](), len(AT_ONCE) * len(questions), sum(bool(one.expect) for one in questions)
    for at_once in AT_ONCE:
        replies = round_of(deployment, questions, at_once)
        problems += [
            f"{at_once} at once, {one_line(prompt.text, 40)!r}: {reply.fault} {one_line(reply.text, 40)!r}"
            for prompt, reply in zip(questions, replies, strict=True)
            if reply.fault
        ]
        known = right(questions, replies)
        if known < RIGHT_SHARE * plain:
            problems.append(f"{at_once} at once: only {known} of {plain} plain questions right")
        print(f"  {at_once:2} at once: {known} of {plain} plain questions right", flush=True)
    if problems:
        more = [f"and {len(problems) - 20} more"] if len(problems) > 20 else []
        shown = "\n  ".join(problems[:20] + more)
        raise CheckFailed(f"{len(problems)} faults in {count} answers:\n  {shown}\n{ESCAPES}")
    print(f"accepted: {count} answers, none degenerate", flush=True)
