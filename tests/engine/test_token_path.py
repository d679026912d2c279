"""The short way of a token writes what vLLM's own code writes, loses no message and no count."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import zmq
import zmq.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from chatbot_llm.engine import token_path
from chatbot_llm.engine import weights as models
from chatbot_llm.engine.stand_in import stand_in

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
CALL = '<tool_call>\n{"name": "look", "arguments": {"x": "ü"}}\n</tool_call>'
PLAIN: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}


@pytest.fixture(scope="module")
def chat() -> Any:
    """vLLM's serving object with what a stream asks of it, and no engine."""
    from transformers import AutoTokenizer
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.parser import ParserManager

    chat: Any = OpenAIServingChat.__new__(OpenAIServingChat)
    tokenizer = AutoTokenizer.from_pretrained(models.locate(models.BUNDLED, "", "").path)
    chat.tokenizer = tokenizer
    chat.parser_cls = ParserManager.get_parser("hermes", None, True, tokenizer=tokenizer)
    chat.model_config = SimpleNamespace()
    chat.response_role, chat.system_fingerprint = "assistant", "print-1"
    chat.enable_prompt_tokens_details = chat.enable_per_request_metrics = True
    chat.enable_force_include_usage = chat.enable_log_outputs = chat.enable_log_deltas = False
    chat._include_reasoning_tokens_details = chat.return_tokens_as_token_ids = False
    chat.request_logger = None
    return chat


@pytest.fixture(autouse=True)
def one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.entrypoints.openai.chat_completion import serving

    monkeypatch.setattr(serving, "time", SimpleNamespace(time=lambda: 1_700_000_000))


async def _steps(steps: list[Any]) -> AsyncIterator[Any]:
    for step in steps:
        yield step


def written(chat: Any, body: dict[str, Any], texts: list[list[str]], reason: tuple[str, Any], short: bool) -> list[str]:
    """Every chunk of a stream in which choice i gets `texts[i]`, a text a step, and then ends for `reason`."""
    from vllm.entrypoints.generate.base.protocol import RequestResponseMetadata
    from vllm.entrypoints.openai.chat_completion import serving
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.logprobs import Logprob
    from vllm.outputs import CompletionOutput, RequestOutput

    request = ChatCompletionRequest.model_validate(PLAIN | body | {"n": len(texts)})
    steps = []
    for at in range(max(len(one) for one in texts)):
        outputs = []
        for index, one in enumerate(texts):
            if at < len(one):
                last = at == len(one) - 1
                ends = {"finish_reason": reason[0], "stop_reason": reason[1]} if last else {}
                odds = [{at + 300: Logprob(-0.1 - at / 3, 1, one[at]), 7: Logprob(-9.5, 2, "x")}]
                outputs.append(CompletionOutput(index, one[at], [at + 300], None, odds, **ends))
        steps.append(RequestOutput("r", "Hi", [1, 2, 3], None, outputs, False, num_cached_tokens=2))

    async def read() -> list[str]:
        metadata = RequestResponseMetadata(request_id="chatcmpl-1")
        conversation = [{"role": "user", "content": "Hi"}]
        stream = chat.chat_completion_stream_generator(
            request, _steps(steps), "chatcmpl-1", "model", conversation, chat.tokenizer, metadata
        )
        return [chunk async for chunk in stream]

    if not short:
        return asyncio.run(read())
    with pytest.MonkeyPatch.context() as patch:
        for name, stand_in in token_path.models(serving).items():
            patch.setattr(serving, name, stand_in)
        patch.setattr(chat, "_make_parser", token_path.parser_for(chat._make_parser))
        return asyncio.run(read())


def without_call_ids(chunks: list[str]) -> list[str]:
    """Tool calls get random ids."""
    return [re.sub(r"chatcmpl-tool-\w+", "chatcmpl-tool", chunk) for chunk in chunks]


BODIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "usage": {"stream_options": {"include_usage": True}},
    "usage with every chunk": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "token ids": {"return_token_ids": True},
    "prompt": {"return_prompt_text": True},
    "echo": {"echo": True, "add_generation_prompt": False},
    "no reasoning": {"include_reasoning": False},
    "no reasoning, logprobs": {"include_reasoning": False, "logprobs": True, "return_token_ids": True},
    "tools": {"tools": TOOLS},
    "tools, one at a time": {"tools": TOOLS, "parallel_tool_calls": False},
    "tools not wanted": {"tools": TOOLS, "tool_choice": "none", "parallel_tool_calls": False},
    "tool required": {"tools": TOOLS, "tool_choice": "required"},
}
REASONS = [("stop", None), ("stop", "END"), ("stop", 151645), ("length", None), ("abort", None), ("error", None)]
TEXTS = [
    ["The", " capital", "", ' "is"', "\n\tPäris\x00\x1f\x7f", " 😀\u2028"],
    ["", CALL[:9], CALL[9:30], CALL[30:]],
    [CALL + CALL, "."],
    [""],
]


@pytest.mark.parametrize("reason", REASONS, ids=str)
@pytest.mark.parametrize("name", BODIES)
def test_every_chunk_is_the_same_byte_for_byte(chat: Any, name: str, reason: tuple[str, Any]) -> None:
    for texts in (*([one] for one in TEXTS), TEXTS):
        long, short = (written(chat, BODIES[name], texts, reason, short) for short in (False, True))
        assert without_call_ids(short) == without_call_ids(long)
        assert short[-1] == "data: [DONE]\n\n"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=some.lists(some.text(some.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_any_text_is_written_the_same(chat: Any, text: list[str]) -> None:
    long, short = (written(chat, {}, [text], ("stop", None), way) for way in (False, True))
    assert short == long
    shown = [json.loads(chunk[6:])["choices"][0]["delta"].get("content") or "" for chunk in short[:-1]]
    assert "".join(shown) == "".join(text)


def test_a_plain_stream_does_take_the_short_way(chat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    usual = token_path.Chunk.model_dump_json
    monkeypatch.setattr(token_path.Chunk, "model_dump_json", lambda *a, **k: seen.append(a[0]) or usual(*a, **k))
    written(chat, {}, [TEXTS[0]], ("stop", None), short=True)
    assert len(seen) == len(TEXTS[0])  # the role's, and one for each text but the empty one
    assert all(type(chunk.choices[0].delta) is token_path.Delta for chunk in seen)


class TestStatistics:
    @pytest.fixture
    def counted(self) -> Iterator[list[dict[str, Any]]]:
        yield []

    def test_every_step_is_counted_in_order_and_an_end_at_once(self, counted: list[dict[str, Any]]) -> None:
        async def serve() -> None:
            statistics = token_path.Statistics(lambda **step: counted.append(step))
            idle: dict[str, Any] = {"iteration_stats": None}
            going = {"iteration_stats": SimpleNamespace(finished_requests=[])}
            ended = {"iteration_stats": SimpleNamespace(finished_requests=["one"])}
            for at, step in enumerate([going, idle, going]):
                statistics.record(**step, engine_idx=at)
            assert counted == []
            statistics.record(**ended, engine_idx=3)
            assert [step["engine_idx"] for step in counted] == [0, 1, 2, 3]
            statistics.record(**idle, engine_idx=4)
            await asyncio.sleep(token_path.STATISTICS_LAG_S * 2)
            assert [step["engine_idx"] for step in counted] == [0, 1, 2, 3, 4]

        asyncio.run(serve())

    def test_vllm_records_with_the_names_we_read(self) -> None:
        import inspect

        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.metrics.stats import IterationStats

        source = inspect.getsource(AsyncLLM._run_output_handler)
        assert source.count(".record(") == 1 and "iteration_stats=iteration_stats" in source
        assert IterationStats().finished_requests == []


class TestInlet:
    @pytest.fixture(params=["asyncio", "uvloop"])
    def runner(self, request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
        import uvloop

        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            yield runner

    def test_messages_come_in_order_one_by_one_and_in_crowds_and_after_a_reader_gave_up(
        self, runner: asyncio.Runner
    ) -> None:
        async def talk() -> list[list[bytes]]:
            context, other = zmq.asyncio.Context(), zmq.Context()
            pull, push = context.socket(zmq.PULL), other.socket(zmq.PUSH)
            push.connect(f"tcp://127.0.0.1:{pull.bind_to_random_port('tcp://127.0.0.1')}")
            inlet = token_path.Inlet(pull)
            impatient = asyncio.ensure_future(inlet.recv_multipart())
            await asyncio.sleep(0.05)
            impatient.cancel()
            got: list[list[bytes]] = []
            for crowd in (1, 500, 1, 1, 40):
                for _ in range(crowd):
                    push.send_multipart([b"%d" % len(got), b"x"])
                for _ in range(crowd):
                    frames = await asyncio.wait_for(inlet.recv_multipart(copy=False), 10)
                    got.append([bytes(frame) for frame in frames])
            fd = pull.FD
            context.destroy()
            other.destroy()
            assert not runner.get_loop().remove_reader(fd), (
                "nobody watches a closed socket, whose number may be another's"
            )
            return got

        crowds = [1, 500, 1, 1, 40]
        firsts = [sum(crowds[:at]) for at, crowd in enumerate(crowds) for _ in range(crowd)]
        assert runner.run(talk()) == [[b"%d" % first, b"x"] for first in firsts]

    def test_vllms_client_reads_through_it_once_and_keeps_its_socket(
        self, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vllm.v1.engine.core_client import AsyncMPClient

        inlets: list[token_path.Inlet] = []
        usual_inlet = token_path.Inlet
        monkeypatch.setattr(token_path, "Inlet", lambda socket: inlets.append(usual_inlet(socket)) or inlets[-1])

        async def start() -> None:
            context = zmq.asyncio.Context()
            socket = context.socket(zmq.PULL)
            resources = SimpleNamespace(
                output_socket=socket, output_queue_task=None, validate_alive=lambda frames: None
            )
            client = AsyncMPClient.__new__(AsyncMPClient)
            client.__dict__ |= {
                "resources": resources,
                "decoder": None,
                "utility_results": {},
                "outputs_queue": asyncio.Queue(),
            }
            usual = AsyncMPClient._ensure_output_queue_task
            with stand_in(AsyncMPClient, "_ensure_output_queue_task", token_path.reading(usual)):
                client._ensure_output_queue_task()
                client._ensure_output_queue_task()
            assert len(inlets) == 1 and resources.output_socket is socket
            task = resources.output_queue_task
            await asyncio.sleep(0.05)
            assert not task.done() and inlets[0]._waiter is not None
            task.cancel()
            await asyncio.wait({task})
            context.destroy()

        runner.run(start())
