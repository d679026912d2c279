"""`python -m bench.gpu [--weights FOLDER]`: the paired comparison on a GPU, and its ratio to the card's own limit.

Without --weights it makes the checkpoint (5.6 GB, about two minutes). Writes results/gpu-<card>.json.
"""

import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.gpu import bandwidth, checkpoint
from bench.gpu.roofline import Shapes, most_tokens_per_s
from chatbot_llm.engine import profiles
from infra.image import variants
from infra.image.target import Process, Target

RESULTS = Path(__file__).resolve().parents[1] / "results"
#: The T4's own kernels, so that another card is judged by the same code (README.md beside this file).
T4_KERNELS = ("--linear-backend", "marlin", "--attention-backend", "TRITON_ATTN")
FLAGS = ("--quantization", "gptq", "--dtype", "float16", "--max-model-len", "8192", "--max-num-seqs", "16")
LEVELS = (1, 4, 10)
PROMPT, ANSWER = 128, 256
#: Tokens of a retrieved context that every request shares, and each request's own.
SHARED, OWN = 1536, 64


def card() -> dict[str, str]:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    name, driver, memory = subprocess.check_output(query, text=True).splitlines()[0].split(", ")
    return {"name": name, "driver": driver, "memory": memory}


def measure(rounds: int, kernels: tuple[str, ...]) -> list[dict[str, Any]]:
    from bench import load
    from bench.servers import running

    cells: list[dict[str, Any]] = []
    shape = load.Shape("short prompt, long answer", PROMPT, ANSWER)
    # One at a time: two engines would share the card's memory. Interleaved by restarting, A B B A.
    for turn in range(rounds):
        for name in ("service", "vllm") if turn % 2 == 0 else ("vllm", "service"):
            env = {"CHATBOT_SELF_TEST": "false"} if name == "service" else {}
            with running(name, env, (*FLAGS, *kernels)) as server:
                load.run(server, shape, 4, 8, seed=0)
                for level in LEVELS:
                    cells.append({"round": turn, **load.run(server, shape, level, 2 * level, seed=turn)})
                cells += load.prefix(server, SHARED, OWN, turn)
                cells[-1]["first_token_s"] = server.first_token_s
            print(name, [round(cell["tokens_per_s"], 1) for cell in cells[-5:]], flush=True)
    return cells


def judge(cells: list[dict[str, Any]], shapes: Shapes, speed: float) -> dict[str, Any]:
    """The service's decode speed over the roofline, and ten streams over one. `speed` is bytes/s."""
    found: dict[str, Any] = {"bandwidth_gb_s": speed / 1e9}
    rate = {}
    for level in LEVELS:
        own = [c for c in cells if c["peer"] == "service" and c["concurrency"] == level and "long" in c["shape"]]
        rate[level] = statistics.median(level * 1000 / cell["itl_p50_ms"] for cell in own)
        found[f"roofline_share_{level}"] = rate[level] / most_tokens_per_s(shapes, speed, level, PROMPT + ANSWER // 2)
    found["ten_over_one"] = rate[10] / rate[1]
    return found


def compare(weights: Path, real: bool) -> dict[str, Any]:
    """The T4's profile against its variants (infra/image/variants.py), on this card and these weights."""
    from bench.servers import START_LIMIT_S, free_port

    def start(flags: Sequence[str], environment: Mapping[str, str]) -> tuple[Target, str]:
        words = ["--model", str(weights), *flags]
        port = free_port()
        # Random weights have no language: no self-test, and no answers that could be right.
        quiet = {} if real else {"CHATBOT_SELF_TEST": "false"}
        return Process(words, {**quiet, **environment}, port, profile="t4"), f"http://127.0.0.1:{port}"

    shipped = {name: value or "" for name, value in profiles.FLAGS["t4"].items()}
    effort = variants.Effort(prompts=variants.Effort.prompts if real else 0)
    return variants.compare(start, variants.variants(card=True), True, START_LIMIT_S, effort, shipped)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--weights", type=Path, help="a folder with the real checkpoint")
    parser.add_argument("--folder", type=Path, default=Path("build/qwen2.5-7b-shapes"), help="where to make one")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--card-kernels", action="store_true", help="the card's best kernels instead of the T4's")
    parser.add_argument("--variants", action="store_true", help="only the T4's flags against others, about 40 minutes")
    args = parser.parse_args()
    shapes = Shapes()
    weights = args.weights or checkpoint.make(args.folder, shapes)
    about = {"when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "card": card()}
    about |= {"weights": "real" if args.weights else "random, seed fixed"}
    suffix = f"{re.sub(r'[^a-z0-9]+', '-', about['card']['name'].lower())}.json"
    if args.variants:
        variants.write(RESULTS / f"variants-{suffix}", about, compare(weights, bool(args.weights)))
        return 0
    os.environ["BENCH_MODEL"] = str(weights)
    # In a process of its own, which gives the card's memory back.
    speed = float(subprocess.check_output([sys.executable, "-m", bandwidth.__name__], text=True))
    cells = measure(args.rounds, () if args.card_kernels else T4_KERNELS)
    results = {**about, "judged": judge(cells, shapes, speed), "data": cells}
    (RESULTS / f"gpu-{suffix}").write_text(json.dumps(results, indent=1, default=float) + "\n")
    print(json.dumps(results["judged"], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
