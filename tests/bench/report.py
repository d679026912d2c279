"""BENCHMARKS.md from results/*.json and reasons.toml. Nothing in it is typed: a test renders it again and compares."""

import statistics
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FILE = HERE / "BENCHMARKS.md"
REASONS = HERE / "reasons.toml"
#: For a goal that is met in the results kept here: a test demands a reason for each that is not.
UNEXPLAINED = "met in the results that the repository holds; look at this run's spread and load before."

Cells = list[dict[str, Any]]
#: Of all cores, what an engine whose threads spin must have had for its tokens/s to count.
OWN_SHARE = 0.9


@dataclass(frozen=True)
class Row:
    """One claim: `values` are one number a pair or a repetition. The median decides."""

    key: str
    measure: str
    goal: str
    met: Callable[[float], bool]
    values: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def reached(self) -> bool:
        return self.met(self.median)

    def line(self) -> str:
        if not self.values:
            return f"| {self.measure} | {self.goal} | not measured | | 0 | |"
        spread = f"{_number(min(self.values))} to {_number(max(self.values))}"
        verdict = "met" if self.reached else "**missed**"
        n = len(self.values)
        return f"| {self.measure} | {self.goal} | {_number(self.median)} | {spread} | {n} | {verdict} |"


def at_least(goal: float) -> Callable[[float], bool]:
    return lambda value: round(value, 2) >= goal


def at_most(goal: float) -> Callable[[float], bool]:
    return lambda value: round(value, 2) <= goal


def ratios(cells: Cells, key: str, ours: str = "service", theirs: str = "vllm", **where: Any) -> list[float]:
    """Ours over theirs, one number for each pair of the same round, shape and concurrency."""
    found: dict[tuple[Any, ...], dict[str, float]] = {}
    for cell in cells:
        if all(cell.get(name) == value for name, value in where.items()):
            pair = (cell["round"], cell.get("shape"), cell.get("concurrency"))
            found.setdefault(pair, {})[cell["peer"]] = cell[key]
    return [pair[ours] / pair[theirs] for pair in found.values() if ours in pair and pair.get(theirs)]


def rows(results: dict[str, Any]) -> Iterable[Row]:
    """Every goal, with the measurements there are."""

    def data(name: str) -> Any:
        return results.get(name, {}).get("data", [])

    paired = data("throughput")
    for level in (1, 4, 10):
        yield Row(
            f"tokens-{level}",
            f"tokens/s against vLLM's server, {level} concurrent",
            ">= 1.00",
            at_least(1.0),
            ratios(paired, "tokens_per_s", concurrency=level),
        )
    yield Row("ttft", "TTFT p50 against the same", "<= 1.00", at_most(1.0), ratios(paired, "ttft_p50_ms"))
    yield Row("itl", "ITL p99 against the same", "<= 1.00", at_most(1.0), ratios(paired, "itl_p99_ms"))
    for level in (1, 4, 10):
        yield Row(
            "cpu",
            f"serving CPU per token against vLLM's server, same stub engine, {level} concurrent",
            "<= 1.00",
            at_most(1.0),
            ratios(data("transport"), "serving_cpu_s_per_1000", "service-stub", "vllm-stub", concurrency=level),
        )
    ceiling = data("ceiling") or {}
    yield Row(
        "ceiling",
        "streamed chunks/s and core, scripted engine",
        ">= 40,000",
        at_least(40_000),
        ceiling.get("chunks_per_core_s", []),
    )
    whole = [float(ceiling["streams_whole"])] if ceiling else []
    yield Row("streams", "of 300 concurrent streams, whole", ">= 300", at_least(300), whole)
    others = data("others")
    for name, key in (("transformers, one at a time", "hf"), ("transformers, static batch of 10", "hf-batch")):
        yield Row(
            key,
            f"tokens/s at 10 concurrent against {name} (CPU; the goal is the GPU's)",
            ">= 10" if key == "hf" else "none",
            at_least(10 if key == "hf" else 0),
            ratios(others, "tokens_per_s", theirs=name),
        )
    yield Row(
        "llamacpp",
        "tokens/s at 10 concurrent against llama.cpp (Q4_1; ours not quantised)",
        "none",
        at_least(0),
        ratios(others, "tokens_per_s", theirs="llama.cpp"),
    )
    start = data("start")
    yield Row(
        "start", "start to first token against vLLM's server", "<= 0.50", at_most(0.5), ratios(start, "first_token_s")
    )
    listening = [cell["listening_s"] for cell in start if cell["peer"] == "service"]
    yield Row("listen", "start to listening, s", "<= 2", at_most(2), listening)
    loading = [cell["health_s"] for cell in start if cell["peer"] == "service" and "health_s" in cell]
    yield Row("loading", "/health's longest answer while loading, s", "< 1", lambda value: value < 1, loading)
    cold = data("cold")
    yield Row(
        "cold",
        "start to first token with an empty page cache, against the same",
        "<= 0.50",
        at_most(0.5),
        ratios(cold, "first_token_s"),
    )
    yield Row(
        "cold-mb", "MB of files read by that start, against the same", "<= 0.50", at_most(0.5), ratios(cold, "mb")
    )
    health = data("health") or {}
    yield Row(
        "health",
        "/health p99 under full load, ms",
        "<= 50",
        at_most(50),
        [health["service"]["p99_ms"]] if health else [],
    )
    yield Row(
        "defaults",
        "tokens/s against the same vLLM at its defaults",
        ">= 1.30",
        at_least(1.3),
        ratios(data("defaults"), "tokens_per_s", theirs="vllm-defaults"),
    )
    wake = [cell["frozen_ms"] / cell["idle_ms"] for cell in data("wake")]
    yield Row("wake", "first token after a freeze against never frozen", "<= 1.10", at_most(1.1), wake)
    contexts = data("prefix")
    yield Row(
        "prefix",
        "TTFT of a prompt whose context is in the prefix cache against one whose is new",
        "<= 0.50",
        at_most(0.5),
        [known["ttft_p50_ms"] / new["ttft_p50_ms"] for new, known in zip(contexts[::2], contexts[1::2], strict=True)],
    )
    found = data("drafts")
    yield Row(
        "a-step",
        "tokens a step with 3 drafted by lookup, questions with passages, 1 concurrent",
        ">= 1.50",
        at_least(1.5),
        [cell["tokens_a_step"] for cell in found if (cell["peer"], cell["concurrency"]) == ("k=3", 1)],
    )
    yield Row(
        "identical",
        "of greedy answers, the same with 2 to 6 drafted",
        ">= 1.00",
        at_least(1.0),
        [c["same"] for c in found],
    )
    chosen = data("speculation")
    for level in (1, 2, 4, 10):
        yield Row(
            f"lookup-{level}",
            f"tokens/s of the service, k by batch size, against without, {level} concurrent",
            ">= 0.98",
            at_least(0.98),
            ratios(chosen, "tokens_per_s", "lookup", "without", concurrency=level),
        )
    for level, goal in ((1, 1.3), (2, 1.3), (10, 1.0)):
        yield Row(
            f"lookup-defaults-{level}",
            f"the same against vLLM's own server at its defaults, {level} concurrent",
            f">= {goal:.2f}",
            at_least(goal),
            ratios(chosen, "tokens_per_s", "lookup", "vllm-defaults", concurrency=level),
        )


def render(results: dict[str, Any]) -> str:
    """The whole file."""
    reasons = tomllib.loads(REASONS.read_text()) if REASONS.exists() else {}
    table = list(rows(results))
    lines = [
        "# Benchmarks",
        "",
        "Generated by `make bench` from `results/*.json`; edits are lost. Peers run in the same run on one machine, in",
        "turn and in both orders; only ratios are claims. How it was tuned: [NOTES.md](NOTES.md).",
        "",
        "| measure | goal | median | spread | n | |",
        "|---|---|---|---|---|---|",
        *(row.line() for row in table),
        "",
    ]
    missed = list(dict.fromkeys(row.key for row in table if row.values and not row.reached))
    if missed:
        lines += ["## Missed goals: what was tried, what bounds them", ""]
        lines += [f"- {_measures(table, key)}: {reasons.get(key, UNEXPLAINED).strip()}" for key in missed]
        lines.append("")
    if cells := results.get("throughput", {}).get("data"):
        lines += ["## Cells", "", "Medians of the rounds; for comparing peers, not machines.", "", *_cells(cells), ""]
        lines += ["![tokens/s and TTFT against concurrency](results/throughput.svg)", ""]
    if cells := results.get("start", {}).get("data"):
        lines += ["## Where a start goes", "", *_phases(cells), ""]
    if cells := results.get("drafts", {}).get("data"):
        lines += ["## Speculation by lookup", "", *_drafts(cells), ""]
    lines += ["## Measured on", "", *_machines(results), ""]
    return "\n".join(lines)


def _measures(table: list[Row], key: str) -> str:
    return "; ".join(row.measure for row in table if row.key == key and row.values and not row.reached)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def _cells(cells: Cells) -> Iterable[str]:
    yield "| shape | concurrent | peer | tokens/s | TTFT p50 / p95 / p99, ms | ITL p50 / p95 / p99, ms | failed |"
    yield "|---|---|---|---|---|---|---|"
    groups: dict[tuple[Any, ...], Cells] = {}
    for cell in cells:
        groups.setdefault((cell["shape"], cell["concurrency"], cell["peer"]), []).append(cell)
    for (shape, level, peer), group in sorted(groups.items()):

        def middle(name: str, some: Cells = group) -> float:
            return statistics.median(cell[name] for cell in some)

        triples = [" / ".join(f"{middle(f'{n}_p{p}_ms'):.0f}" for p in (50, 95, 99)) for n in ("ttft", "itl")]
        failed = sum(cell["failed"] for cell in group)
        yield f"| {shape} | {level} | {peer} | {middle('tokens_per_s'):.1f} | {triples[0]} | {triples[1]} | {failed} |"


def _phases(cells: Cells) -> Iterable[str]:
    yield "| peer | listening, s | first token, s | CPU, s | phases, s |"
    yield "|---|---|---|---|---|"
    for cell in cells:
        phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in cell["phases_s"].items())
        yield (
            f"| {cell['peer']} | {cell['listening_s']:.1f} | {cell['first_token_s']:.1f} | {cell['cpu_s']:.1f} "
            f"| {phases or 'not logged'} |"
        )


def machine(box: dict[str, Any]) -> str:
    """One line about what a section was measured on."""
    versions = ", ".join(f"{package} {version}" for package, version in box["versions"].items())
    return f"{box['cpu']}, {box['cores']} cores, {box['memory_gib']} GiB; Python {box['python']}; {versions}"


def _drafts(cells: Cells) -> Iterable[str]:
    yield "Questions with four passages (code/examples/rag/questions.json), k drafted tokens a step against none, same"
    yield "engine, decoding only: medians of the pairs, and where the middle half of their tokens/s lies. The first"
    yield "token's step is not counted. Where a spread is wide, another process had a core (NOTES.md)."
    yield ""
    yield "| concurrent | k | tokens/s | middle half | pairs | tokens a step | answers that repeat 8 tokens |"
    yield "|---|---|---|---|---|---|---|"
    for level, peer in sorted({(cell["concurrency"], cell["peer"]) for cell in cells if cell["peer"] != "k=0"}):
        quiet = [cell for cell in cells if cell.get("share", 1) >= OWN_SHARE]
        speed = ratios(quiet, "tokens_per_s", peer, "k=0", concurrency=level)
        own = [cell for cell in cells if (cell["concurrency"], cell["peer"]) == (level, peer)]
        a_step, circling = (statistics.median(cell[key] for cell in own) for key in ("tokens_a_step", "circling"))
        low, middle, high = statistics.quantiles(speed, n=4) if len(speed) > 1 else (speed or [0.0]) * 3
        figures = f"{middle:.2f} | {low:.2f} to {high:.2f} | {len(speed)} | {a_step:.2f}"
        yield f"| {level} | {peer[2:]} | {figures} | {100 * circling:.0f} % |"


def _machines(results: dict[str, Any]) -> Iterable[str]:
    yield "| section | when | took, s | load before | machine |"
    yield "|---|---|---|---|---|"
    for name, section in results.items():
        where = machine(section["machine"])
        yield f"| {name} | {section['when']} | {section['took_s']} | {section['load_before']} | {where} |"
