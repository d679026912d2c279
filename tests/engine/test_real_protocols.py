"""Responses and Messages on the real engine: the same text and counts as /chat, tools, schemas, cuts, nothing kept."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from launcher import ROOT, ServiceProcess, until
from speakers import PATHS, Reply, body, streamed, whole

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

FRANCE = "What is the capital of France?"
SCHEMA = {
    "type": "object",
    "properties": {"celsius": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["celsius"],
    "additionalProperties": False,
}
KINDS = ("responses", "messages")
both = pytest.mark.parametrize("kind", KINDS)
ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def post(server: ServiceProcess, kind: str, sent: dict[str, Any], **headers: str) -> Any:
    answer = requests.post(f"{server.url}{PATHS[kind]}", json=sent, headers=headers, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.content.decode() if sent.get("stream") else answer.json()


def say(server: ServiceProcess, kind: str, sent: dict[str, Any], **headers: str) -> Reply:
    answer = post(server, kind, sent, **headers)
    return streamed(kind, answer) if sent.get("stream") else whole(kind, answer)


def system(kind: str, text: str) -> dict[str, Any]:
    return {"instructions" if kind == "responses" else "system": text}


@both
@ways
@pytest.mark.parametrize("words", [6, 60])
def test_text_and_counts_are_those_of_chat(server: ServiceProcess, kind: str, stream: bool, words: int) -> None:
    chat = body("chat", words, FRANCE, temperature=0)
    chat["messages"] = [{"role": "system", "content": "You are a helpful assistant."}, *chat["messages"]]
    sent = body(kind, words, FRANCE, temperature=0, stream=stream) | system(kind, "You are a helpful assistant.")
    expected, reply = say(server, "chat", chat), say(server, kind, sent)
    assert reply[:4] == expected[:4] and reply.text
    assert expected.finish == ("length" if words == 6 else "stop")


CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"celsius": 3}'}}
#: One conversation with a tool in three protocols.
CONVERSATION: dict[str, Any] = {
    "chat": {
        "messages": [
            {"role": "user", "content": "Look."},
            {"role": "assistant", "content": "I look.", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "mild"},
            {"role": "user", "content": "And now?"},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "description": "d", "parameters": SCHEMA}}],
    },
    "responses": {
        "input": [
            {"role": "user", "content": "Look."},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"celsius": 3}'},
            {"type": "function_call_output", "call_id": "c1", "output": "mild"},
            {"role": "user", "content": "And now?"},
        ],
        "tools": [{"type": "function", "name": "look", "description": "d", "parameters": SCHEMA}],
    },
    "messages": {
        "messages": [
            {"role": "user", "content": "Look."},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "c1", "name": "look", "input": {"celsius": 3}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "mild"},
                    {"type": "text", "text": "And now?"},
                ],
            },
        ],
        "tools": [{"name": "look", "description": "d", "input_schema": SCHEMA}],
    },
}


@both
def test_a_conversation_with_tools_is_the_same_prompt(server: ServiceProcess, kind: str) -> None:
    limit = {"max_output_tokens" if kind == "responses" else "max_tokens": 4, "temperature": 0}
    chat = say(server, "chat", {**CONVERSATION["chat"], "max_tokens": 4, "temperature": 0})
    reply = say(server, kind, {**CONVERSATION[kind], **limit})
    assert reply[:4] == chat[:4]
    if kind == "messages":
        counted = requests.post(f"{server.v1}/messages/count_tokens", json=CONVERSATION[kind], timeout=60).json()
        assert counted["input_tokens"] == chat.prompt


def calls_of(kind: str, answer: Any) -> list[tuple[str, str]]:
    """(name, arguments) of each call."""
    if kind == "responses":
        return [(item["name"], item["arguments"]) for item in answer["output"] if item["type"] == "function_call"]
    return [(block["name"], json.dumps(block["input"])) for block in answer["content"] if block["type"] == "tool_use"]


def tools(kind: str) -> dict[str, Any]:
    if kind == "responses":
        tool = {"type": "function", "name": "set_temperature", "strict": True, "parameters": SCHEMA}
        return {"tools": [tool], "tool_choice": "required"}
    return {
        "tools": [{"name": "set_temperature", "strict": True, "input_schema": SCHEMA}],
        "tool_choice": {"type": "any"},
    }


@both
def test_a_tool_that_must_be_called_is_called(server: ServiceProcess, kind: str) -> None:
    sent = body(kind, 100, "Make it 21 degrees.", temperature=0) | tools(kind)
    answer = post(server, kind, sent)
    (name, arguments), *_ = calls_of(kind, answer)
    assert name == "set_temperature" and set(json.loads(arguments)) == {"celsius"}
    if kind == "messages":
        assert answer["stop_reason"] == "tool_use"
    raw = post(server, kind, {**sent, "stream": True})
    streamed(kind, raw)
    mark = "response.function_call_arguments.delta" if kind == "responses" else "input_json_delta"
    assert mark in raw and "set_temperature" in raw


@both
@ways
def test_a_call_cut_amid_its_arguments_is_no_call(server: ServiceProcess, kind: str, stream: bool) -> None:
    sent = body(kind, 8, "Make it 21 degrees.", temperature=0, stream=stream) | tools(kind)
    answer = post(server, kind, sent)
    if stream:
        assert streamed(kind, answer).finish == "length"
    else:
        assert whole(kind, answer).finish == "length"
        if kind == "messages":
            assert calls_of(kind, answer) == []


@both
def test_an_answer_obeys_its_schema(server: ServiceProcess, kind: str) -> None:
    wanted = {"type": "json_schema", "schema": SCHEMA}
    sent = (
        {"text": {"format": {**wanted, "name": "x"}}} if kind == "responses" else {"output_config": {"format": wanted}}
    )
    reply = say(server, kind, body(kind, 60, "The office has 21 degrees.", temperature=0) | sent)
    assert set(json.loads(reply.text)) == {"celsius"}


@both
def test_a_schema_that_costs_too_much_is_refused_by_its_place(server: ServiceProcess, kind: str) -> None:
    hostile = {
        "type": "object",
        "properties": {f"p{at}": {"type": "string"} for at in range(300)},
        "additionalProperties": False,
        "minProperties": 150,
        "maxProperties": 290,
    }
    wanted = {"type": "json_schema", "schema": hostile}
    place = "text.format.schema" if kind == "responses" else "output_config.format.schema"
    sent = (
        {"text": {"format": {**wanted, "name": "x"}}} if kind == "responses" else {"output_config": {"format": wanted}}
    )
    answer = requests.post(f"{server.url}{PATHS[kind]}", json=body(kind) | sent, timeout=120)
    assert answer.status_code == 400 and answer.json()["error"]["message"].startswith(place), answer.text


@both
def test_a_tool_whose_hint_costs_too_much_is_offered_all_the_same(server: ServiceProcess, kind: str) -> None:
    hostile = {
        "type": "object",
        "properties": {f"p{at}": {"type": "string"} for at in range(300)},
        "minProperties": 150,
    }
    tool = {"name": "f", "input_schema": hostile}
    if kind == "responses":
        tool = {"type": "function", "name": "f", "parameters": hostile}
    assert say(server, kind, body(kind, 3, "Hello", tools=[tool], temperature=0)).completion == 3


def test_the_beginning_of_an_answer_is_gone_on_with(server: ServiceProcess) -> None:
    sent = body("messages", 4, FRANCE, temperature=0)
    sent["messages"].append({"role": "assistant", "content": "The capital of France is"})
    assert "Paris" in say(server, "messages", sent).text


def test_a_stop_sequence_is_named(server: ServiceProcess) -> None:
    answer = post(server, "messages", body("messages", 40, FRANCE, temperature=0, stop_sequences=["Paris"]))
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "Paris")
    assert "Paris" not in whole("messages", answer).text


def busy(server: ServiceProcess) -> float:
    return sum(value for name, value in server.metrics().items() if name.startswith("vllm:num_requests_running"))


STORY = "Tell me a long story about a river."


@both
@ways
def test_the_deadline_returns_partial_text_and_frees_the_engine(
    server: ServiceProcess, kind: str, stream: bool
) -> None:
    reply = say(server, kind, body(kind, 3000, STORY, temperature=0, stream=stream), **{"x-request-timeout": "1"})
    assert reply.finish == "length" and bool(reply.text) == bool(reply.completion)
    until(lambda: busy(server) == 0, "vLLM has nothing left of it", 10)


@both
def test_what_is_wrong_is_told_in_the_callers_words(server: ServiceProcess, kind: str) -> None:
    limit = "max_output_tokens" if kind == "responses" else "max_tokens"
    long = body(kind, 5, "word " * 6000)
    for sent, words in ((long, "maximum context length"), ({**body(kind), limit: 0}, limit), ({}, "")):
        answer = requests.post(f"{server.url}{PATHS[kind]}", json=sent, timeout=60)
        assert answer.status_code == 400 and words in answer.json()["error"]["message"], answer.text
    if kind == "responses":
        answer = requests.post(f"{server.url}{PATHS[kind]}", json=long, timeout=60)
        assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_logprobs_come_when_they_are_included(server: ServiceProcess) -> None:
    sent = body("responses", 3, FRANCE, temperature=0, include=["message.output_text.logprobs"], top_logprobs=2)
    (part,) = post(server, "responses", sent)["output"][0]["content"]
    assert len(part["logprobs"]) == 3 and len(part["logprobs"][0]["top_logprobs"]) == 2


def test_the_prefix_cache_is_told_of(server: ServiceProcess) -> None:
    sent = body("responses", 1, "word " * 200, temperature=0)
    usages = [post(server, "responses", sent)["usage"]["input_tokens_details"]["cached_tokens"] for _ in range(2)]
    assert usages[1] >= 128 > usages[0]


def test_vllm_keeps_nothing_of_a_thousand_requests(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'code'}:{ROOT / 'tests' / 'support'}"}
    program = [sys.executable, str(Path(__file__).with_name("keeping.py"))]
    done = subprocess.run(program, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]  # the engine logs beside it
    kept = json.loads(line)
    assert kept["stores"] == 0
    assert kept["objects"] < 5000, f"a request that is kept is some dozen objects: {kept}"
