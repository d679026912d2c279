"""The real engine under the real gunicorn, driven by the official `openai` client with only `base_url` changed."""

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import requests

from figures import Figure
from launcher import ServiceProcess, until

pytestmark = pytest.mark.engine

QUESTION: list[Any] = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the capital of France?"},
]


@pytest.fixture(scope="module")
def client(server: ServiceProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.v1, api_key="unused", max_retries=0, timeout=120)


@pytest.fixture(scope="module")
def model(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


def test_the_seed_request_gets_the_seed_answer(server: ServiceProcess, model: str) -> None:
    body = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 20}
    answer = requests.post(f"{server.url}/chat", json=body, timeout=120)
    found = answer.json()
    assert found["id"].startswith("chatcmpl-") and found["object"] == "chat.completion"
    choice = found["choices"][0]
    assert choice["index"] == 0 and choice["finish_reason"] == "stop" and choice["message"]["role"] == "assistant"
    assert "Paris" in choice["message"]["content"]
    assert found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"] + found["usage"]["completion_tokens"]


def test_streaming_with_usage_says_the_same_as_a_whole_answer(client: openai.OpenAI, model: str) -> None:
    ask: dict[str, Any] = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 12}
    whole = client.chat.completions.create(**ask)
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None and whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_tool_that_must_be_called_is_called_with_valid_arguments(client: openai.OpenAI, model: str) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": schema}}
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Weather in Paris?"}],
        tools=[tool],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        temperature=0,
        max_tokens=60,
    )
    call: Any = (answer.choices[0].message.tool_calls or [])[0]
    assert call.function.name == "weather" and isinstance(json.loads(call.function.arguments)["city"], str)


def test_structured_output_obeys_the_schema(client: openai.OpenAI, model: str) -> None:
    schema = {
        "type": "object",
        "properties": {"capital": {"enum": ["Paris", "Rome"]}, "sure": {"type": "boolean"}},
        "required": ["capital", "sure"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=model,
        messages=QUESTION,
        temperature=0,
        max_tokens=40,
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
    )
    found = json.loads(answer.choices[0].message.content or "")
    assert set(found) == {"capital", "sure"} and found["capital"] in ("Paris", "Rome")


def test_logprobs_name_the_likely_tokens(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_tokens=4, logprobs=True, top_logprobs=3
    )
    found = answer.choices[0].logprobs
    assert found is not None and found.content is not None and len(found.content) == 4
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 3 for entry in found.content)


def test_n_choices_stop_and_seed(client: openai.OpenAI, model: str) -> None:
    ask: dict[str, Any] = {"model": model, "messages": QUESTION, "temperature": 1.0, "max_tokens": 8, "seed": 7}
    first, again = client.chat.completions.create(**ask, n=3), client.chat.completions.create(**ask, n=3)
    texts = [choice.message.content for choice in first.choices]
    assert len(texts) == 3 and texts == [choice.message.content for choice in again.choices]
    stopped = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, stop=["France"])
    assert "France" not in (stopped.choices[0].message.content or "")
    assert stopped.choices[0].finish_reason == "stop"


def test_penalties_and_max_completion_tokens_are_taken(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model,
        messages=QUESTION,
        temperature=0,
        presence_penalty=1.0,
        frequency_penalty=0.5,
        max_completion_tokens=3,
    )
    assert answer.usage is not None and answer.usage.completion_tokens == 3
    assert answer.choices[0].finish_reason == "length"


def test_raw_completions_and_generate_agree(server: ServiceProcess, client: openai.OpenAI, model: str) -> None:
    prompt = "The capital of France is"
    ask: dict[str, Any] = {"prompt": prompt, "max_tokens": 5, "temperature": 0}
    raw = client.completions.create(model=model, **ask).choices[0].text
    found = requests.post(f"{server.url}/generate", json=ask, timeout=120).json()
    assert found["choices"][0]["text"] == raw and found["text"] == [prompt + raw]
    lines = (
        requests.post(f"{server.url}/generate", json={**ask, "stream": True}, timeout=120).text.strip().split("\n\n")
    )
    assert "".join(json.loads(line.removeprefix("data: "))["text"][0] for line in lines[:-1]) == prompt + raw


def test_an_event_says_the_same_as_the_route(server: ServiceProcess) -> None:
    ask = {"messages": QUESTION, "temperature": 0, "max_tokens": 8}
    direct = requests.post(f"{server.url}/chat", json=ask, timeout=120).json()
    through = requests.post(f"{server.url}/invoke", data=json.dumps(ask), timeout=120).json()
    assert through["choices"][0]["message"] == direct["choices"][0]["message"]


def test_tokenize_counts_what_usage_counts(server: ServiceProcess) -> None:
    counted = requests.post(f"{server.url}/tokenize", json={"messages": QUESTION}, timeout=60).json()
    ask = {"messages": QUESTION, "max_tokens": 1}
    used = requests.post(f"{server.url}/chat", json=ask, timeout=60).json()["usage"]["prompt_tokens"]
    assert counted["count"] == used == len(counted["tokens"])


def running(server: ServiceProcess) -> float:
    text = requests.get(f"{server.url}/metrics", timeout=5).text
    found = re.search(r"^vllm:num_requests_running\{[^}]*\} (\S+)", text, re.M)
    assert found is not None
    return float(found.group(1))


def test_ten_requests_are_batched_in_the_engine(
    server: ServiceProcess, client: openai.OpenAI, model: str, figure: Figure
) -> None:
    seen: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.append(running(server))
            time.sleep(0.05)

    def ask(number: int) -> int:
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": f"Tell me about the number {number}."}],
            max_tokens=96,  # long enough that the first still runs when the tenth has come and the gauge says so
            extra_body={"ignore_eos": True},
        )
        assert answer.usage is not None
        return answer.usage.completion_tokens

    watcher = threading.Thread(target=look)
    watcher.start()
    with ThreadPoolExecutor(10) as pool:
        counts = list(pool.map(ask, range(10)))
    over.set()
    watcher.join()
    assert counts == [96] * 10
    assert max(seen) == 10, "vLLM itself must have had all ten running at once"
    figure("batched", max(seen), "requests")


@pytest.mark.parametrize(
    ("ask", "status", "code"),
    [
        ({"messages": [{"role": "user", "content": "word " * 6000}]}, 400, "context_length_exceeded"),
        ({"messages": QUESTION, "temperature": -1}, 400, None),
        ({"messages": QUESTION, "model": "gpt-4"}, 404, "model_not_found"),
        ({"messages": "hello"}, 400, None),
        ({"messages": QUESTION, "tools": "x"}, 400, None),
        ({"messages": QUESTION, "stop": 5}, 400, None),
    ],
)
def test_refusals_have_the_envelope(server: ServiceProcess, ask: dict[str, Any], status: int, code: str | None) -> None:
    answer = requests.post(f"{server.url}/chat", json=ask, timeout=60)
    error = answer.json()["error"]
    assert answer.status_code == status, error
    assert error["code"] == code and error["message"] and "/site-packages" not in error["message"]


def test_the_deadline_returns_partial_text_and_frees_the_cache(server: ServiceProcess) -> None:
    ask = {"messages": QUESTION, "max_tokens": 2000, "ignore_eos": True}
    for stream in (False, True):
        answer = requests.post(
            f"{server.url}/chat", json={**ask, "stream": stream}, headers={"x-request-timeout": "2"}, timeout=60
        )
        assert answer.status_code == 200
        if stream:
            assert '"finish_reason":"length"' in answer.text and answer.text.endswith("data: [DONE]\n\n")
        else:
            found = answer.json()
            assert found["choices"][0]["finish_reason"] == "length"
            assert bool(found["choices"][0]["message"]["content"]) == bool(found["usage"]["completion_tokens"])
    end = time.monotonic() + 10
    while running(server) and time.monotonic() < end:
        time.sleep(0.1)
    assert running(server) == 0


def test_every_phase_of_the_start_was_seen(server: ServiceProcess) -> None:
    spent = requests.get(f"{server.url}/health", timeout=5).json()["start_phases_s"]
    assert set(spent) == {"listen", "model", "import", "config", "spawn", "weights", "kv_cache", "compile", "warm_up"}
    assert all(seconds >= 0 for seconds in spent.values())
    assert spent["listen"] < 120 and sum(spent.values()) - spent["model"] < 300


def test_every_log_line_of_the_service_and_of_vllm_begins_with_a_date(server: ServiceProcess) -> None:
    ours = [line for line in server.log().splitlines() if '"logger"' in line]
    assert any('"vllm.' in line for line in ours) and any('"chatbot_llm.' in line for line in ours)
    assert all(re.match(r"\d{4}-\d{2}-\d{2}T", line) for line in ours)


@pytest.mark.parametrize("stream", [False, True])
def test_the_log_says_how_a_prompt_begins_and_what_of_it_was_cached(server: ServiceProcess, stream: bool) -> None:
    """Two prompts with the same 300 first words, in answers of either kind."""
    beginning = " ".join(f"{stream}{number}" for number in range(300))
    for ending in ("one", "two"):
        body = {"messages": [{"role": "user", "content": f"{beginning} {ending}"}], "max_tokens": 2, "stream": stream}
        requests.post(
            f"{server.url}/chat", json=body, headers={"x-request-id": f"cached-{stream}-{ending}"}, timeout=60
        )

    def written() -> list[dict[str, Any]]:
        """Their lines, which a stream's caller may be quicker than."""
        lines = [line for line in server.log().splitlines() if f'"cached-{stream}-' in line]
        return [json.loads(line.split(" ", 1)[1]) for line in lines] if len(lines) == 2 else []

    lines = first, second = until(written, "both lines", 5)
    assert first["cached_tokens"] < second["cached_tokens"] < second["prompt_tokens"]
    a, b = (line["prompt_blocks"].split(".") for line in lines)
    alike = sum(x == y for x, y in zip(a, b, strict=False))
    assert len(a) == min(32, first["prompt_tokens"] // 64) and alike >= second["cached_tokens"] // 64 >= 1
    assert 0 < second["card_ms"] <= second["total_ms"] and 1 <= second["running"] <= 2
