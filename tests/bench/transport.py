"""What serving costs beside the engine: CPU per token, the ceiling of chunks, many streams, /health under load."""

import asyncio
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from bench import load
from bench.servers import MAX_RUNNING, Server, client_environment, running

#: A decode step as a T4 is expected to take it, seconds: with a step of no time the servers would only be racing.
STEP_S = "0.02"
STREAMS = 300
#: Tokens of each stream in the ceiling, and how many streams at once.
CEILING_TOKENS, CEILING_STREAMS = 4000, 8
SHAPE = load.Shape("transport", 32, 256)


def cpu(rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """CPU seconds of the serving processes per 1,000 streamed tokens, both servers on the same stub engine."""
    cells = []
    env = {"BENCH_STEP_S": STEP_S}
    with running("vllm-stub", env) as theirs, running("service-stub", env) as ours:
        for server in (ours, theirs):
            load.run(server, SHAPE, 4, 4, seed=0)
        for turn in range(rounds):
            for level in (1, 4, 10):
                pair = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
                cells += [{"round": turn, **load.run(server, SHAPE, level, 2 * level, seed=turn)} for server in pair]
                say("  ".join(f"{c['peer']} x{level} {c['serving_cpu_s_per_1000']:.3f} s CPU" for c in cells[-2:]))
    return cells


def ceiling(rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Streamed chunks a second from the scripted engine, and how many of 300 streams arrive whole."""
    script = json.dumps({"loop": True, "burst": 64})
    env = {"CHATBOT_SCRIPT": script, "CHATBOT_MAX_RUNNING": str(STREAMS), "CHATBOT_SELF_TEST": "false"}
    found: dict[str, Any] = {"chunks_per_s": [], "chunks_per_core_s": []}
    with running("service-scripted", env) as server:
        for _ in range(rounds):
            before, begun = server.cpu_s()["serving"], time.perf_counter()
            chunks = asyncio.run(_streams(server, CEILING_STREAMS, CEILING_TOKENS))
            seconds, cpu = time.perf_counter() - begun, server.cpu_s()["serving"] - before
            found["chunks_per_s"].append(sum(chunks) / seconds)
            found["chunks_per_core_s"].append(sum(chunks) / cpu)
        whole = asyncio.run(_streams(server, STREAMS, 100))
        found["streams"] = STREAMS
        found["streams_whole"] = sum(count == whole[0] and count >= 100 for count in whole)
    say(f"{statistics.median(found['chunks_per_core_s']):.0f} chunks/s and core, {found['streams_whole']} of {STREAMS}")
    return found


async def _streams(server: Server, count: int, tokens: int) -> list[int]:
    """Chunks that came on each of `count` streams; the reader does nothing but count."""
    body = json.dumps(
        {"model": server.model, "messages": [{"role": "user", "content": "x"}], "max_tokens": tokens, "stream": True}
    )
    head = "POST /chat HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nContent-Type: application/json\r\n"

    async def one() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 20)
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        chunks, tail, done = 0, b"", False
        while data := await reader.read(1 << 18):
            text = tail + data
            chunks += text.count(b"data: {")
            done = done or b"data: [DONE]" in text
            tail = text[-12:] if not text.endswith(b"\n\n") else b""
            chunks -= tail.count(b"data: {")
        writer.close()
        return chunks if done else -1

    return list(await asyncio.gather(*(one() for _ in range(count))))


def health(server: Server, seconds: float, say: Callable[[str], None]) -> dict[str, float]:
    """/health's latency, asked ten times a second, while the engine runs as many requests as it may. ms."""
    over = threading.Event()

    def work() -> None:
        seed = 9000
        while not over.is_set():
            load.run(server, load.LONG_ANSWER, MAX_RUNNING, MAX_RUNNING, seed)
            seed += 1

    thread = threading.Thread(target=work)
    thread.start()
    prober = [sys.executable, "-m", "bench.prober", str(server.port), str(seconds)]
    took = json.loads(subprocess.run(prober, env=client_environment(), stdout=subprocess.PIPE, check=True).stdout)
    over.set()
    thread.join()
    ranks = statistics.quantiles(took, n=100, method="inclusive")
    say(f"/health of {server.name}: p50 {ranks[49]:.1f} ms, p99 {ranks[98]:.1f} ms")
    return {"count": len(took), "p50_ms": ranks[49], "p99_ms": ranks[98], "max_ms": max(took)}
