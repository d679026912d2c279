"""Hugging Face Transformers' `generate`, the peer of the claim: one request at a time, and in static batches.

A process of its own that reads jobs as JSON lines and answers each with one; so it can take its turn among servers.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from bench.servers import client_environment, engine_environment, model_path
from chatbot_llm.engine import profiles


class Transformers:
    """The parent's side."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def generate(self, prompts: list[str], answer: int, batch: int) -> dict[str, float]:
        """Tokens and seconds of all prompts, `batch` at a time."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"prompts": prompts, "answer": answer, "batch": batch}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the Transformers process has ended; its error is above")
        found: dict[str, float] = json.loads(line)
        return found


@contextlib.contextmanager
def running() -> Iterator[Transformers]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.hf"],
        env=engine_environment() | client_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Transformers(process)
    finally:
        process.kill()
        process.wait()


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(os.cpu_count() or 1)
    path = model_path()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    dtype = profiles.FLAGS[profiles.pick("auto")].get("--dtype", "auto")  # the service's
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device).eval()
    for line in sys.stdin:
        job = json.loads(line)
        prompts, answer, batch = job["prompts"], job["answer"], job["batch"]
        begun, tokens = time.perf_counter(), 0
        for at in range(0, len(prompts), batch):
            inputs = tokenizer(prompts[at : at + batch], return_tensors="pt", padding=True).to(device)
            with torch.inference_mode():
                out = model.generate(**inputs, min_new_tokens=answer, max_new_tokens=answer, do_sample=False)
            tokens += out.shape[0] * (out.shape[1] - inputs["input_ids"].shape[1])
        print(json.dumps({"tokens": tokens, "seconds": time.perf_counter() - begun}), flush=True)


if __name__ == "__main__":
    main()
