"""What the log says of a prompt's beginning: blocks as vLLM's prefix cache makes them, and taken from its outputs."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from chatbot_llm.engine.protocols import PROTOCOLS
from chatbot_llm.engine.protocols.base import EngineRequest
from chatbot_llm.engine.vllm_engine import _noted
from chatbot_llm.observability import prefix

SALT = prefix.salt([b"keys"])


def hashes(tokens: list[int], salt: bytes = SALT) -> list[str]:
    return prefix.blocks(tokens, salt).split(".")


def test_a_block_counts_once_it_is_whole_and_at_most_so_many_do() -> None:
    assert prefix.blocks(list(range(prefix.BLOCK - 1)), SALT) == ""
    assert len(hashes(list(range(2 * prefix.BLOCK + 5)))) == 2
    assert len(hashes(list(range(100_000)))) == prefix.MOST


def test_a_hash_depends_on_all_tokens_before_it_and_on_the_salt() -> None:
    tokens = list(range(3 * prefix.BLOCK))
    changed = [*tokens[: prefix.BLOCK], 7, *tokens[prefix.BLOCK + 1 :]]
    assert [a == b for a, b in zip(hashes(tokens), hashes(changed), strict=True)] == [True, False, False]
    assert not set(hashes(tokens)) & set(hashes(tokens, prefix.salt([b"others"])))
    assert hashes([1] * 2 * prefix.BLOCK)[0] != hashes([1] * 2 * prefix.BLOCK)[1], "the same tokens elsewhere"


@pytest.mark.parametrize("read", [1, 3])
def test_the_first_output_is_noted_all_are_passed_on_and_vllms_generator_is_closed(read: int) -> None:
    closed = []

    async def outputs() -> AsyncGenerator[Any, None]:
        try:
            for number in range(3):
                yield SimpleNamespace(number=number, num_cached_tokens=64, prompt_token_ids=list(range(130)))
        finally:
            closed.append(True)

    async def ask(request: EngineRequest | None) -> list[int]:
        generator, seen = _noted(outputs(), request, SALT), []
        async for output in generator:
            seen.append(output.number)
            if len(seen) == read:
                break
        await generator.aclose()
        return seen

    request = EngineRequest(PROTOCOLS["chat"], {})
    assert asyncio.run(ask(request)) == list(range(read)) and closed == [True]
    assert request.prefix == {"cached_tokens": 64, "prompt_blocks": prefix.blocks(list(range(130)), SALT)}
    asyncio.run(ask(request))
    assert request.prefix["cached_tokens"] == 128, "a completion of two prompts has found both"
    assert asyncio.run(ask(None)) == list(range(read))
