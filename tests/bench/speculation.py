"""Speculation by lookup (vLLM's n-gram method) on questions with passages: where it pays, and where it costs.

`drafts` is one engine in a process of its own, with the service's flags and without HTTP. Only the number of tokens
drafted a step (k) changes between two cells: vLLM's scheduler looks it up by batch size at every step, so it can be
changed while nothing runs, and every k is measured beside the others within minutes. All prompts are in the prefix
cache, so its tokens/s are those of decoding. `served` is the service, with and
without, and vLLM's own server at its defaults over HTTP: one at a time, in turn and back.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from bench import load, report
from bench.servers import MAX_RUNNING, engine_environment, engine_flags, model_path, running
from chatbot_llm.engine import profiles
from chatbot_llm.rag.documents import behind_system, form_of, read
from infra.image import variants

#: Tokens drafted a step; 0 is without.
DRAFTS = (0, 2, 3, 4, 5, 6)
#: The longest answer, tokens.
ANSWER = 32
#: Batches by level in one round of `drafts`, each of so many questions as run at once; every round has others.
BATCHES = {1: 8, 2: 6, 4: 5, 10: 5}
#: Questions of `served` by level, half of them a cell, and those that warm a server up. None comes twice.
SERVED, WARM = {1: 6, 2: 8, 4: 12, 10: 20}, 4
#: What the service is served with: k by the requests at once, from what `drafts` shows.
CHOSEN = variants.speculation(3, up_to=4, graphs=False)
PEERS = {"without": ("service", {}), "lookup": ("service", CHOSEN), "vllm-defaults": ("vllm-defaults", {})}


def questions() -> list[list[dict[str, Any]]]:
    """The messages of every question, its passages in the service's own form: any server can be asked them."""
    form, found = form_of("", ()), []
    for body in variants.questions():
        documents = read(body)
        assert documents is not None
        placed = documents.place(
            body, form, len(documents.items), lambda put, text: {"messages": behind_system(put["messages"], text)}
        )
        found.append(placed["messages"])
    return found


class Engine:
    """vLLM's synchronous engine in this process, whose k can be changed between runs."""

    def __init__(self) -> None:
        from vllm import SamplingParams
        from vllm.engine.arg_utils import EngineArgs
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
        from vllm.utils.argparse_utils import FlexibleArgumentParser
        from vllm.v1.engine.llm_engine import LLMEngine

        flags = variants.speculation(max(DRAFTS), up_to=MAX_RUNNING - 1, graphs=False)
        words = [*engine_flags(model_path()), *(word for pair in flags.items() for word in pair)]
        args = make_arg_parser(FlexibleArgumentParser()).parse_args(words)
        self._engine = LLMEngine.from_engine_args(EngineArgs.from_cli_args(args), enable_multiprocessing=False)
        self._scheduler = self._engine.engine_core.engine_core.scheduler
        self._params = SamplingParams(temperature=0, max_tokens=ANSWER)

    def run(self, prompts: list[list[int]], k: int) -> dict[str, Any]:
        """All prompts at once, k tokens drafted a step; up to three times, while others take the cores away."""
        for _ in range(3):
            found = self._run(prompts, k)
            if found["share"] >= report.OWN_SHARE:
                break
        return found

    def _run(self, prompts: list[list[int]], k: int) -> dict[str, Any]:
        self._scheduler.dynamic_sd_lookup = [k] * len(self._scheduler.dynamic_sd_lookup)
        answers: dict[str, list[int]] = {str(number): [] for number in range(len(prompts))}
        steps, after_first, begun, spent = 0, 0, time.perf_counter(), time.process_time()
        for name, prompt in zip(answers, prompts, strict=True):
            self._engine.add_request(name, {"prompt_token_ids": prompt}, self._params)
        while self._engine.has_unfinished_requests():
            for out in self._engine.step():
                tokens = list(out.outputs[0].token_ids)
                if before := len(answers[out.request_id]):
                    steps, after_first = steps + 1, after_first + len(tokens) - before
                answers[out.request_id] = tokens
        took, tokens = time.perf_counter() - begun, sum(map(len, answers.values()))
        # The engine's threads wait for each other by spinning: what they had of the cores is what others left them.
        share = (time.process_time() - spent) / took / len(os.sched_getaffinity(0))
        found = {"peer": f"k={k}", "concurrency": len(prompts), "tokens": tokens, "tokens_per_s": tokens / took}
        return {**found, "tokens_a_step": after_first / steps, "share": share, "answers": [*answers.values()]}


def sweep(turn: int) -> None:
    """One round: batch by batch, every k in turn. A line of JSON a cell."""
    tokenizer, engine = load.tokenizer(), Engine()
    how = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
    prompts = [tokenizer.apply_chat_template(messages, **how) for messages in questions()]
    for at in range(0, len(prompts), MAX_RUNNING):
        engine.run(prompts[at : at + MAX_RUNNING], DRAFTS[-1])  # now every prompt is in the prefix cache
    for level, batches in BATCHES.items():
        for batch in range(turn * batches, (turn + 1) * batches):
            some = [prompts[number % len(prompts)] for number in range(batch * level, (batch + 1) * level)]
            cells = {k: engine.run(some, k) for k in (DRAFTS if batch % 2 == 0 else reversed(DRAFTS))}
            answers = {k: cell.pop("answers") for k, cell in cells.items()}
            for k, cell in cells.items():
                cell["same"] = sum(mine == plain for mine, plain in zip(answers[k], answers[0], strict=True)) / level
                # A small model's answer that goes round in circles is copied from itself, not from the passages.
                cell["circling"] = sum(map(_circles, answers[k])) / level
                print(json.dumps({"turn": turn, "round": batch, **cell}), flush=True)


def _circles(answer: list[int], length: int = 8) -> bool:
    """Whether some 8 tokens in a row come twice in an answer."""
    pieces = [tuple(answer[at : at + length]) for at in range(len(answer) - length + 1)]
    return len(set(pieces)) < len(pieces)


def drafts(rounds: range, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """`sweep` in a process of its own for each round, with the environment that the service's engine has."""
    cells: list[dict[str, Any]] = []
    one_process = {"LD_PRELOAD": profiles.openmp(), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    for turn in rounds:
        command = [sys.executable, "-m", __name__, str(turn)]
        with subprocess.Popen(
            command, env=engine_environment() | one_process, stdout=subprocess.PIPE, text=True
        ) as lines:
            assert lines.stdout
            for line in lines.stdout:
                if line.startswith('{"turn"'):
                    cells.append(json.loads(line))
                    say(_line(cells[-1]))
        if lines.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {lines.returncode}")
    return cells


def served(rounds: range, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Every peer once a round, in turn and back; each answers questions that its prefix cache does not know."""
    cells: list[dict[str, Any]] = []
    requests = load.chats(questions(), ANSWER)
    for turn in rounds:
        for name in PEERS if turn % 2 == 0 else reversed(PEERS):
            server_name, flags = PEERS[name]
            with running(server_name, flags=tuple(word for pair in flags.items() for word in pair)) as server:
                at = len(requests) - sum(SERVED.values())
                load.run(server, load.RAG, 4, WARM, 0, requests=requests[:WARM])
                for level, count in SERVED.items():
                    for half in range(2):
                        some, at = requests[at : at + count // 2], at + count // 2
                        found = load.run(server, load.RAG, level, len(some), turn, requests=some)
                        cells.append({"turn": turn, "round": 2 * turn + half, **found, "peer": name})
                        say(_line(cells[-1]))
    return cells


def _line(cell: dict[str, Any]) -> str:
    rest = f"{cell['tokens_a_step']:.2f} a step" if "tokens_a_step" in cell else f"TTFT {cell['ttft_p50_ms']:.0f} ms"
    return f"{cell['peer']}, {cell['concurrency']:2d} concurrent: {cell['tokens_per_s']:.1f} tokens/s, {rest}"


if __name__ == "__main__":
    sweep(int(sys.argv[1]))
