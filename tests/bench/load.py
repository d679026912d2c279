"""The load generator: vLLM's own `vllm bench serve`, used as a library so that it is imported once for all cells.

Why this one: it is the field's most used for OpenAI servers, it streams, it counts tokens by the server's own usage,
it is installed with the engine (guidellm, aiperf and inference-perf bring some hundred packages), and a vLLM user can
repeat every cell with the command line. Its random prompts have an exact number of tokens and a seed.
"""

import asyncio
import contextlib
import functools
import io
from dataclasses import dataclass
from typing import Any

from bench.servers import Server, model_path


@dataclass(frozen=True)
class Shape:
    """A kind of request. Lengths are tokens."""

    name: str
    prompt: int
    answer: int
    shared: int = 0


#: RAG as the service sees it: a long context with a short answer, and a short question with a long answer.
LONG_PROMPT = Shape("long prompt, short answer", 512, 24)
LONG_ANSWER = Shape("short prompt, long answer", 32, 96)
#: Given messages; lengths are theirs, and an answer ends where the model ends it.
RAG = Shape("questions with passages", 0, 0)


@functools.cache
def tokenizer() -> Any:
    from vllm.tokenizers import get_tokenizer

    return get_tokenizer(model_path())


def prompts(shape: Shape, count: int, seed: int) -> list[Any]:
    """`count` requests; the same seed gives the same requests."""
    from vllm.benchmarks.datasets import RandomDataset

    return RandomDataset(random_seed=seed).sample(
        tokenizer(), count, prefix_len=shape.shared, input_len=shape.prompt, output_len=shape.answer
    )


def chats(conversations: list[list[dict[str, Any]]], answer: int) -> list[Any]:
    """Requests of given messages, answered with at most so many tokens."""
    from vllm.benchmarks.datasets import SampleRequest

    return [SampleRequest("", 0, answer, request_id=str(n), chat_messages=m) for n, m in enumerate(conversations)]


def run(
    server: Server, shape: Shape, concurrency: int, count: int, seed: int, requests: list[Any] | None = None
) -> dict[str, Any]:
    """Send `count` requests, `concurrency` at a time; one cell. Latencies are ms.

    `requests` are sent instead of random ones, and end where the model ends them.
    Raises RuntimeError with the first error when none is answered; the cell counts the others that failed.
    """
    from vllm.benchmarks import serve

    ignore_eos, requests = requests is None, requests or prompts(shape, count, seed)
    before = server.cpu_s()
    # "Peak concurrent requests" is drawn with a package that is not needed here: keep its advice off the screen.
    with contextlib.redirect_stdout(io.StringIO()):
        found = asyncio.run(
            serve.benchmark(
                task_type=serve.TaskType.GENERATION,
                endpoint_type="openai-chat",
                api_url=f"{server.url}/v1/chat/completions",
                base_url=server.url,
                model_id=server.model,
                model_name=server.model,
                tokenizer=tokenizer(),
                input_requests=requests,
                logprobs=None,
                request_rate=float("inf"),
                burstiness=1.0,
                disable_tqdm=True,
                num_warmups=0,
                profile=False,
                selected_percentile_metrics=["ttft", "tpot", "itl", "e2el"],
                selected_percentiles=[50, 95, 99],
                ignore_eos=ignore_eos,
                goodput_config_dict={},
                max_concurrency=concurrency,
                lora_modules=None,
                extra_headers=None,
                extra_body={"temperature": 0},
                ready_check_timeout_sec=0,
            )
        )
    if not found["completed"]:
        raise RuntimeError(f"{server.name} answered none of {count} requests: {next(iter(found['errors']), '')!s:.500}")
    after = server.cpu_s()
    cell = {
        "peer": server.name,
        "prompt_tokens": found["total_input_tokens"] / max(1, found["completed"]),
        "shape": shape.name,
        "concurrency": concurrency,
        "seed": seed,
        "requests": found["completed"],
        "failed": found.get("failed", count - found["completed"]),
        "tokens": found["total_output_tokens"],
        "seconds": found["duration"],
        "tokens_per_s": found["output_throughput"],
        "serving_cpu_s_per_1000": 1000 * (after["serving"] - before["serving"]) / max(1, found["total_output_tokens"]),
    }
    for name in ("ttft", "itl", "e2el"):
        for percentile in (50, 95, 99):
            cell[f"{name}_p{percentile}_ms"] = found[f"p{percentile}_{name}_ms"]
    return cell


def prefix(server: Server, shared: int, own: int, turn: int) -> list[dict[str, Any]]:
    """One request whose prompt is new, then some that share its first `shared` tokens: what the prefix cache saves."""
    return [
        {"round": turn, **run(server, Shape(f"prefix, {name}", own, 8, shared), 1, count, seed=turn)}
        for name, count in (("cold", 1), ("cached", 4))
    ]
