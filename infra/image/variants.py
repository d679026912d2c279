"""Flags against flags on this machine: every variant is started, measured, taken down; one table, one file.

What speed a card gives is a question that only the card answers. Each variant is the service as shipped with some
flags changed; the shipped one is measured first and last, so that the table shows how far two equal runs lie apart.
What a machine cannot run is named with the reason and never timed. Flags that win alone are tried together, and
what then still wins is shown as a diff of the profile.
"""

from __future__ import annotations

import difflib
import functools
import json
import random
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import requests

from infra import ROOT
from infra.commands import acceptance
from infra.commands.replay import WORDS
from infra.commands.smoke import Deployment
from infra.errors import CheckFailed, InfraError
from infra.image.target import Target

RAG = ROOT / "code" / "examples" / "rag"
SHIPPED, AGAIN, TOGETHER = "as shipped", "as shipped, again", "together"
#: Prompt lengths for TTFT, tokens. The last fits a context of 4096 with the chat template and one token of answer.
LENGTHS = (512, 2000, 4000)
LEVELS = (1, 4, 10)
CHUNKS = (512, 1024, 2048, 4096)
#: A step that decodes n requests with k drafted tokens each has n * (k + 1) tokens, and graphs are captured by tokens.
REQUESTS = (1, 2, 4, 8, 16)
#: What a variant must win, as a mean over all its times, and the most it may lose at one of them.
WIN, LOSS = 1.05, 0.95
#: Of plain questions answered right as shipped, what a variant must still get right.
RIGHT_SHARE = 0.98
#: Why a log ends: the last line of a traceback.
_ERROR = re.compile(r"^(?:.*\s)?(\w*(?:Error|Exception)\b.*|error: .*)$", re.M)

Start = Callable[[Sequence[str], Mapping[str, str]], tuple[Target, str]]  # flags, environment -> target, its URL


@dataclass(frozen=True)
class Variant:
    """`changes` are flags, by `--name`, and variables that differ. Of one `topic` only the best is recommended."""

    name: str
    topic: str
    changes: Mapping[str, str] = field(default_factory=dict)
    #: Why it means nothing without an NVIDIA card.
    needs: str = ""


@dataclass(frozen=True)
class Effort:
    """What each variant gets: repeats of a TTFT, rag questions a slot, tokens of an answer, prompts compared."""

    repeats: int = 3
    questions: int = 4
    tokens: int = 128
    prompts: int = acceptance.PROMPTS


#: For a dry run on a CPU, where every token takes long and no figure is a claim.
DRY = Effort(repeats=1, questions=1, tokens=8, prompts=6)


@dataclass
class Outcome:
    """One variant's measurements; `fault` instead of them where it did not run."""

    name: str
    fault: str = ""
    start_s: float = 0.0
    ttft_ms: dict[int, float] = field(default_factory=dict)
    tokens_per_s: dict[int, float] = field(default_factory=dict)
    #: Of the prompts of the acceptance run: faults, right plain questions, and answers as those of the shipped one.
    faults: int = 0
    right: int = 0
    same: int = 0
    same_beginning: int = 0
    answers: list[str] = field(default_factory=list, repr=False)

    def gains(self, base: Outcome) -> list[float]:
        """Over the shipped one, above 1 is better: each TTFT, each tokens/s."""
        times = [base.ttft_ms[at] / self.ttft_ms[at] for at in self.ttft_ms]
        return times + [self.tokens_per_s[at] / base.tokens_per_s[at] for at in self.tokens_per_s]

    def gain(self, base: Outcome) -> float:
        return statistics.geometric_mean(self.gains(base))

    def wins(self, base: Outcome) -> bool:
        sound = not (self.fault or self.faults) and self.right >= RIGHT_SHARE * base.right
        return sound and self.gain(base) >= WIN and min(self.gains(base)) >= LOSS


def speculation(k: int, up_to: int | None = None, graphs: bool = True) -> dict[str, str]:
    """Flags for vLLM's n-gram method: k tokens drafted a step while at most `up_to` requests run (None: always)."""
    config: dict[str, Any] = {"method": "ngram", "num_speculative_tokens": k}
    config |= {"prompt_lookup_min": 2, "prompt_lookup_max": 4}
    sizes = {requests * (k + 1) for requests in REQUESTS if requests <= (up_to or REQUESTS[-1])}
    if up_to:
        config["num_speculative_tokens_per_batch_size"] = [[1, up_to, k], [up_to + 1, REQUESTS[-1], 0]]
        sizes |= set(REQUESTS)
    compilation = {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": sorted(sizes)}
    found = {"--speculative-config": json.dumps(config)}
    return found | ({"--compilation-config": json.dumps(compilation)} if graphs else {})


def variants(card: bool) -> list[Variant]:
    """What is tried. `card`: on an NVIDIA card, whose graphs are captured by size."""
    piecewise = {"cudagraph_mode": "FULL_AND_PIECEWISE", "cudagraph_capture_sizes": list(REQUESTS)}
    lookup = functools.partial(speculation, graphs=card)
    return [
        Variant("compiled prefill", "compile", {"--compilation-config": json.dumps(piecewise)}, needs="CUDA graphs"),
        Variant("int8 products", "marlin", {"VLLM_MARLIN_INPUT_DTYPE": "int8"}, needs="Marlin's kernels"),
        Variant("n-gram, k = 2", "n-gram", lookup(2)),
        Variant("n-gram, k = 3", "n-gram", lookup(3)),
        Variant("n-gram, k = 3 up to 4 at once", "n-gram", lookup(3, 4)),
        *(
            Variant(f"attention by {name}", "attention", {"--attention-backend": name}, needs="a choice of attention")
            for name in ("FLASHINFER", "FLEX_ATTENTION", "FLASH_ATTN")
        ),
        *(Variant(f"chunks of {size}", "chunks", {"--max-num-batched-tokens": f"{size}"}) for size in CHUNKS),
    ]


def questions() -> list[dict[str, Any]]:
    """The example's questions as chats, each with its passages as documents."""
    own = json.loads((RAG / "questions.json").read_text(encoding="utf-8"))
    texts = {each["title"]: each for each in [*json.loads((RAG / "hvac.json").read_text("utf-8")), *own["passages"]]}
    return [
        {
            "messages": [{"role": "user", "content": each["question"]}],
            "documents": [texts[title] for title in each["passages"]],
        }
        for each in own["questions"]
    ]


def measure(outcome: Outcome, url: str, effort: Effort, base: Outcome | None) -> None:
    """Measure all of it, of a running service. Raises CheckFailed with the service's own words."""
    service, asking = Deployment(url, read_timeout_s=acceptance.REQUEST_LIMIT_S), cycle(questions())

    def tokens_per_s(level: int, count: int) -> float:
        """`level` at once, each followed by the next; no context comes again as long as there are other questions."""
        more = {"max_tokens": effort.tokens, "temperature": 0, "documents_policy": "drop_last"}
        bodies = [body | more for body in islice(asking, count)]
        with ThreadPoolExecutor(level) as pool:
            began = time.monotonic()
            answers = list(pool.map(lambda body: service.call("/chat", body)[0], bodies))
            return sum(int(answer["usage"]["completion_tokens"]) for answer in answers) / (time.monotonic() - began)

    # The first request of a kind is nobody's: what is compiled late is compiled then.
    tokens_per_s(LEVELS[-1], LEVELS[-1])
    # A tokenizer that knows only bytes, as the GPU kit's, makes several tokens of a word.
    tokenized, _ = service.call("/tokenize", {"prompt": " ".join(WORDS), "add_special_tokens": False})
    a_token = len(WORDS) / tokenized["count"]
    for length in LENGTHS:
        took = []
        for repeat in range(effort.repeats):  # prompts that no cache knows
            words = random.Random(f"{length} {repeat}").choices(WORDS, k=round(length * a_token))
            chat = {"messages": [{"role": "user", "content": " ".join(words)}], "max_tokens": 1}
            took.append(service.call("/chat", chat)[1])
        outcome.ttft_ms[length] = 1000 * statistics.median(took)
    outcome.tokens_per_s = {level: tokens_per_s(level, effort.questions * level) for level in LEVELS}
    prompts = acceptance.prompts()[: effort.prompts]
    replies = acceptance.round_of(service, prompts, LEVELS[-1]) if prompts else []
    outcome.answers = [reply.text for reply in replies]
    outcome.faults = sum(bool(reply.fault) for reply in replies)
    outcome.right = acceptance.right(prompts, replies)
    pairs = list(zip(outcome.answers, (base or outcome).answers, strict=True))
    outcome.same = sum(mine == shipped for mine, shipped in pairs)
    outcome.same_beginning = sum(mine.split()[:8] == shipped.split()[:8] for mine, shipped in pairs)


def measured(variant: Variant, start: Start, limit_s: int, effort: Effort, base: Outcome | None) -> Outcome:
    """One variant started, measured and taken down. Whatever goes wrong is its fault, and never the run's end."""
    outcome = Outcome(variant.name)
    flags = [word for pair in variant.changes.items() if pair[0].startswith("--") for word in pair]
    environment = {name: value for name, value in variant.changes.items() if not name.startswith("--")}
    target, url = start(flags, environment)

    def watch(pause_s: float) -> None:
        time.sleep(min(pause_s, 0.2))
        if not target.running():
            raise CheckFailed("it does not start")

    try:
        began = time.monotonic()
        target.start()
        watch(0)
        Deployment(url, read_timeout_s=5).health(limit_s, sleep=watch)
        outcome.start_s = time.monotonic() - began
        measure(outcome, url, effort, base)
        target.stop(limit_s=30)
    except (InfraError, requests.RequestException) as error:
        logged = _ERROR.findall(target.log())
        return Outcome(variant.name, f"{error}: {logged[-1][:200]}" if logged else str(error))
    finally:
        target.remove()
    return outcome


def compare(
    start: Start, tried: Iterable[Variant], card: bool, limit_s: int, effort: Effort, shipped: Mapping[str, str]
) -> dict[str, Any]:
    """Every variant, one after the other; prints the table and returns what goes into the file.

    `shipped` are the flags that variants change. Raises CheckFailed if not even the shipped service can be measured.
    """
    found: list[Outcome] = []

    def one(variant: Variant, base: Outcome | None = None) -> Outcome:
        if variant.needs and not card:
            outcome = Outcome(variant.name, f"not tried: it needs {variant.needs}, which only an NVIDIA card has")
        else:
            outcome = measured(variant, start, limit_s, effort, base)
        found.append(outcome)
        gain = f", {outcome.gain(base):.2f} of the shipped one" if base and not outcome.fault else ""
        print(f"{variant.name}: {outcome.fault or f'{outcome.start_s:.0f} s to start{gain}'}", flush=True)
        return outcome

    base = one(Variant(SHIPPED, ""))
    if base.fault:
        raise CheckFailed(f"{SHIPPED}: {base.fault}")
    others = [(one(each, base), each) for each in tried if not each.changes.items() <= shipped.items()]
    won = sorted(((each.gain(base), variant) for each, variant in others if each.wins(base)), key=itemgetter(0))
    best = {variant.topic: (gain, variant) for gain, variant in won}  # of a topic the last one
    winners = [variant for _, variant in sorted(best.values(), key=itemgetter(0))]
    # Of two values for a flag the best one's, which is the last.
    winner = Variant(TOGETHER, "", {name: value for each in winners for name, value in each.changes.items()})
    if len(winners) > 1 and not one(winner, base).wins(base):
        winner = winners[-1]
    one(Variant(AGAIN, ""), base)
    diff = profile_diff(shipped, winner)
    print(f"\n{table(found)}\n")
    print("\n".join(diff) or "no variant wins 5 % without losing elsewhere: the profile stays as it is")
    outcomes = [{name: value for name, value in asdict(each).items() if name != "answers"} for each in found]
    return {"effort": asdict(effort), "variants": outcomes, "recommended": diff}


def profile_diff(shipped: Mapping[str, str], winner: Variant) -> list[str]:
    """The profile before and after, as a diff of its lines in profiles.py; empty if nothing changes."""
    profiles = (shipped, {**shipped, **winner.changes})
    before, after = ([f"{json.dumps(flag)}: {json.dumps(value)}," for flag, value in each.items()] for each in profiles)
    return list(difflib.unified_diff(before, after, "shipped", "recommended", n=0, lineterm=""))


def table(found: Iterable[Outcome]) -> str:
    """One line a variant, in Markdown: it goes into an issue as it is."""
    ttft, speed = (" / ".join(map(str, numbers)) for numbers in (LENGTHS, LEVELS))
    columns = f"variant | start, s | TTFT at {ttft}, ms | tokens/s at {speed} | faults | right | same, first 8 words"
    rows = [columns, "---|---|---|---|---|---|---"]
    for one in found:
        times = " / ".join(f"{value:.0f}" for value in one.ttft_ms.values())
        speeds = " / ".join(f"{value:.1f}" for value in one.tokens_per_s.values())
        judged = f"{one.faults} | {one.right} | {one.same}, {one.same_beginning}"
        cells = f"{one.start_s:.0f} | {times} | {speeds} | {judged}"
        rows.append(f"{one.name} | {f'{one.fault} | | | | |' if one.fault else cells}")
    return "\n".join(f"| {row} |" for row in rows)


def write(path: Path, about: Mapping[str, Any], compared: Mapping[str, Any]) -> None:
    """The file to send back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about, **compared}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path}; please send it back")
