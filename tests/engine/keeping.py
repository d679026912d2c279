"""Asks a real engine in this process a thousand times and prints what is left: entries of vLLM's stores, objects."""

import asyncio
import contextlib
import gc
import json

from chatbot_llm.engine.protocols import PROTOCOLS
from chatbot_llm.engine.protocols.base import EngineRequest
from chatbot_llm.engine.vllm_engine import VllmEngine
from chatbot_llm.settings import Settings
from launcher import ONE_LAYER
from speakers import body

REQUESTS, AT_ONCE = 1000, 10


async def ask(engine: VllmEngine, number: int) -> None:
    kind = ("responses", "messages")[number % 2]
    more = {"store": True} if kind == "responses" else {}
    request = EngineRequest(PROTOCOLS[kind], body(kind, 1, stream=number % 4 > 1, temperature=0, **more))
    engine.prepare(request)
    answer = await engine.answer(request)
    if not isinstance(answer, bytes):
        async with contextlib.aclosing(answer):
            assert [event async for event in answer]


async def many(engine: VllmEngine, requests: int) -> int:
    for start in range(0, requests, AT_ONCE):
        await asyncio.gather(*(ask(engine, start + at) for at in range(AT_ONCE)))
    await asyncio.sleep(0.5)
    gc.collect()
    return len(gc.get_objects())


async def main() -> None:
    engine = VllmEngine(Settings(profile="cpu", self_test=False), ONE_LAYER)
    engine.start()
    status = await engine.wait(300)
    assert status.state == "ready", status
    before = await many(engine, 100)
    grown = await many(engine, REQUESTS) - before
    kept = engine._serving.openai_serving_responses
    stores = (kept.response_store, kept.msg_store, kept.event_store, kept.background_tasks)
    print(json.dumps({"stores": sum(map(len, stores)), "objects": grown}))
    await engine.stop()


if __name__ == "__main__":
    asyncio.run(main())
