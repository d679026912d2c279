"""tokens/s, TTFT and ITL of the service and its peers on the real engine: A B, B A, A B ... in one run."""

import sys
from collections.abc import Callable
from typing import Any

from bench import hf, load
from bench.servers import Server, running

LEVELS = (1, 2, 4, 8, 10, 16)
SHAPES = (load.LONG_PROMPT, load.LONG_ANSWER)
#: Levels in every round; the others once, to bound the time.
PAIRED = (1, 4, 10)
#: Tokens of a retrieved context that requests share, each request's own, and how often it is tried.
SHARED, OWN, PREFIXES = 448, 64, 3
#: Requests that are compared with Transformers and llama.cpp.
OTHERS = 10


def measure(rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """All cells. Both servers are up the whole time; one is loaded at a time."""
    cells: list[dict[str, Any]] = []
    with running("vllm") as theirs, running("service") as ours:
        for server in (ours, theirs):  # nobody's first request is measured
            load.run(server, load.LONG_ANSWER, 4, 4, seed=0)
        for turn in range(rounds):
            for shape in SHAPES:
                for level in LEVELS if turn == 0 else PAIRED:
                    # Each peer goes first in half of the pairs: a machine that warms up or slows down favours neither.
                    pair = (ours, theirs) if (turn + LEVELS.index(level)) % 2 == 0 else (theirs, ours)
                    cells += [_cell(server, shape, level, turn) for server in pair]
                    say(_line(cells[-2:]))
    return cells


def defaults(rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The service against the same vLLM with no flags and no environment of ours."""
    cells: list[dict[str, Any]] = []
    with running("vllm-defaults") as theirs, running("service") as ours:
        for server in (ours, theirs):
            load.run(server, load.LONG_ANSWER, 4, 4, seed=0)
        for turn in range(rounds):
            for level in PAIRED:
                pair = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
                cells += [_cell(server, load.LONG_ANSWER, level, turn) for server in pair]
                say(_line(cells[-2:]))
    return cells


def prefix(say: Callable[[str], None]) -> list[dict[str, Any]]:
    """What vLLM's prefix cache saves where the questions differ and the context does not."""
    cells: list[dict[str, Any]] = []
    with running("service") as server:
        load.run(server, load.LONG_ANSWER, 4, 4, seed=0)
        for turn in range(PREFIXES):
            cells += load.prefix(server, SHARED, OWN, 1 + turn)
            cold, cached = (cell["ttft_p50_ms"] for cell in cells[-2:])
            say(f"TTFT with a new context {cold:.0f} ms, with a known one {cached:.0f} ms")
    return cells


def _cell(server: Server, shape: load.Shape, level: int, turn: int) -> dict[str, Any]:
    count = max(2, level)
    return {"round": turn, **load.run(server, shape, level, count, seed=1000 * turn + 10 * level)}


def others(rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The service at ten concurrent against Transformers and llama.cpp, same prompts, interleaved."""
    cells: list[dict[str, Any]] = []
    shape = load.LONG_ANSWER
    with running("service") as ours, hf.running() as transformers, _llamacpp() as llama:
        texts = [request.prompt for request in load.prompts(shape, OTHERS, 1)]
        transformers.generate(texts[:1], 4, 1)
        load.run(ours, shape, 4, 4, seed=0)
        for turn in range(rounds):
            seed = 500 + turn
            texts = [request.prompt for request in load.prompts(shape, OTHERS, seed)]
            cells.append({"round": turn, **load.run(ours, shape, OTHERS, OTHERS, seed)})
            for name, batch, some in (
                ("transformers, one at a time", 1, texts[:3]),
                (f"transformers, static batch of {OTHERS}", OTHERS, texts),
            ):
                found = transformers.generate(some, shape.answer, batch)
                found["tokens_per_s"] = found["tokens"] / found["seconds"]
                cells.append({"round": turn, "peer": name, "shape": shape.name, "concurrency": OTHERS, **found})
            if llama is not None:
                cells.append({"round": turn, **load.run(llama, shape, OTHERS, OTHERS, seed)})
            say("  ".join(f"{cell['peer']} {cell['tokens_per_s']:.1f} tokens/s" for cell in cells[-4:]))
    return cells


def _llamacpp() -> Any:
    import contextlib
    import importlib.util

    if importlib.util.find_spec("xllamacpp") is None:
        print("llama.cpp is left out: the wheel xllamacpp is not installed", file=sys.stderr)
        return contextlib.nullcontext()
    return running("llama.cpp")


def _line(pair: list[dict[str, Any]]) -> str:
    ours, theirs = sorted(pair, key=lambda cell: cell["peer"] != "service")
    return (
        f"{ours['shape']}, {ours['concurrency']:2d} concurrent: {ours['tokens_per_s']:.1f} against "
        f"{theirs['tokens_per_s']:.1f} tokens/s, TTFT {ours['ttft_p50_ms']:.0f} against {theirs['ttft_p50_ms']:.0f} ms"
    )
