"""Anthropic's Messages: what is asked, what is refused by name, counting."""

import json
from typing import Any

import pytest

from chatbot_llm.engine.protocols import PROTOCOLS
from chatbot_llm.errors import BadRequest
from chatbot_llm.routes import validation
from chatbot_llm.settings import Settings
from in_process import Client

SETTINGS = Settings(engine="scripted", max_prompt_chars=10_000)
PATH = "/v1/messages"
URL = "http://169.254.169.254/latest/meta-data"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
IMAGE = {"type": "image", "source": {"type": "url", "url": URL}}
TOOL = {"name": "f", "input_schema": {"type": "object"}}


def blocks(*content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}, {"role": role, "content": list(content)}]}


REFUSED: list[tuple[dict[str, Any], str]] = [
    (blocks(IMAGE), "messages[1].content[0]: only blocks of type text, document"),
    (blocks({"type": "document", "source": {"type": "url", "url": URL}}), "messages[1].content[0].source: must be"),
    (
        blocks({"type": "tool_result", "tool_use_id": "t", "content": [IMAGE]}),
        "messages[1].content[0].content[0]: only",
    ),
    (
        blocks({"type": "tool_use", "id": "t", "name": "f", "input": "{}"}, role="assistant"),
        "messages[1].content[0]: a",
    ),
    (blocks({"type": "tool_use", "id": "t", "name": "f", "input": {}}), "messages[1].content[0]: a tool_use stands in"),
    (blocks({"type": "thinking", "thinking": "t"}), "messages[1].content[0]: a thinking stands in"),
    (blocks({"type": "redacted_thinking", "data": "t"}), "messages[1].content[0]: a redacted_thinking stands in"),
    (blocks({"type": "tool_result", "tool_use_id": "t"}, role="assistant"), "messages[1].content[0]: a tool_result"),
    (blocks({"type": "tool_result", "tool_use_id": "t"}, role="system"), "messages[1].content[0]: a tool_result"),
    (blocks({"type": "tool_result", "tool_use_id": "t", "content": {}}), "messages[1].content[0].content: must be a"),
    (blocks({"type": []}), "messages[1].content[0]: only blocks"),
    (blocks({"type": "text", "text": 5}), "messages[1].content[0].text: must be a string"),
    (blocks({"type": "tool_addition", "tool": {}}), "messages[1].content[0]: only blocks"),
    ({"messages": []}, "messages: must be a list with at least one message"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role: must be user or assistant"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content: must be a string or a list of blocks"),
    ({"messages": [{"role": "user", "content": ""}] * 2200}, "messages: at most 2000"),
    (
        blocks({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": ""}] * 2200}),
        "messages: at most 2000",
    ),
    ({"system": [{"type": "text", "text": ""}] * 2200}, f"system: at most {validation.MAX_MESSAGES} blocks, not 2200"),
    (blocks(), "messages[1].content: must hold a block with something in it"),
    (blocks({"type": "text", "text": ""}), "messages[1].content: must hold a block with something in it"),
    ({"system": [IMAGE]}, "system[0]: only blocks of type text are accepted"),
    ({"system": 5}, "system: must be a string or a list of blocks"),
    ({"system": "x" * 20_000}, "the text has"),
    ({"max_tokens": 10**6}, "max_tokens: at most 4096"),
    ({"stop_sequences": ["a"] * 5}, "stop_sequences: at most 4, not 5"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type: only tools of your own"),
    ({"tools": [{**TOOL, "input_examples": [{}]}]}, "tools[0].input_examples: not accepted here"),
    ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading: not accepted here"),
    ({"tools": [{**TOOL, "allowed_callers": ["code_execution_20250825"]}]}, "tools[0].allowed_callers: not accepted"),
    ({"thread": {"type": "create"}}, "thread: not accepted here: nothing is stored"),
    ({"compaction": {"type": "auto"}}, "compaction: not accepted here"),
    ({"fallbacks": [{"model": "other"}]}, "fallbacks: not accepted here"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema: must be a JSON schema"),
    ({"tools": [{**TOOL, "name": 5}]}, "tools[0]: must be an object with a name"),
    ({"tools": [{"name": "f", "input_schema": {"$ref": URL}}]}, "tools[0].input_schema: $ref may only point"),
    ({"tool_choice": "auto"}, "tool_choice: must be an object"),
    ({"tool_choice": {"type": "required"}, "tools": [TOOL]}, "tool_choice.type: must be auto, any, tool or none"),
    ({"tool_choice": {"type": ["any"]}, "tools": [TOOL]}, "tool_choice.type: must be auto, any, tool or none"),
    ({"tool_choice": {"type": "any"}}, "tool_choice: there are no tools to choose"),
    ({"tool_choice": {"type": "any"}, "tools": []}, "tool_choice: there are no tools to choose"),
    ({"tool_choice": {"type": "tool", "name": "f"}}, "tool_choice: there are no tools to choose"),
    ({"tool_choice": {"type": "tool", "name": "g"}, "tools": [TOOL]}, "tool_choice.name: must be the name of one"),
    ({"tool_choice": {"type": "tool"}, "tools": [TOOL]}, "tool_choice.name: must be the name of one"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema: must be a JSON schema"),
    ({"output_config": {"format": {"type": "json_object"}}}, "output_config.format.type: must be json_schema"),
    ({"output_config": {"format": "json"}}, "output_config.format: must be an object"),
    ({"output_config": {"length": 5}}, "output_config.length: this field is not known here"),
    ({"thinking": "on"}, "thinking: must be an object"),
    ({"thinking": {"type": [{"text": "a secret"}]}}, "thinking.type: must be enabled, disabled or adaptive"),
    ({"thinking": {}}, "thinking.type: must be enabled, disabled or adaptive"),
    ({"mcp_servers": [{"url": URL}]}, "mcp_servers: not accepted here"),
    ({"container": "c"}, "container: not accepted here"),
    ({"context_management": {"edits": []}}, "context_management: not accepted here"),
    ({"stop": ["a"]}, "stop: not accepted here: send stop_sequences"),
    ({"think_harder": True}, "think_harder"),
]


@pytest.mark.parametrize(("body", "reported"), REFUSED, ids=[reported for _, reported in REFUSED])
@pytest.mark.parametrize("kind", ["messages", "count"])
def test_what_cannot_be_done_is_refused_by_its_own_name(kind: str, body: dict[str, Any], reported: str) -> None:
    with pytest.raises(BadRequest) as refused:
        validation.check(kind, json.loads(json.dumps({**ASK, **body})), SETTINGS)
    assert reported in refused.value.message and refused.value.param
    assert URL not in refused.value.message and len(refused.value.message) < 250


def test_what_clients_send_passes() -> None:
    cached = {"cache_control": {"type": "ephemeral"}}
    body = {
        "system": [{"type": "text", "text": "You help.", **cached}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Weather?", **cached}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "...", "signature": "s"},
                    {"type": "text", "text": "Let me look.", "citations": None},
                    {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}, "caller": {"type": "direct"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "mild"}]},
                    {"type": "tool_result", "tool_use_id": "u", "is_error": True},
                    {"type": "text", "text": "And tomorrow?"},
                ],
            },
        ],
        "max_tokens": 5,
        "metadata": {"user_id": "u"},
        "stop_sequences": ["a", "b"],
        "tools": [
            {**TOOL, "description": "d", "type": "custom", "strict": True, **cached},
            {**TOOL, "defer_loading": False, "input_examples": [], "allowed_callers": ["direct"], "type": None},
        ],
        "user_profile_id": "p",
        "fallbacks": "default",
        "diagnostics": {"previous_message_id": None},
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}, "effort": "low"},
        "thinking": {"type": "disabled"},
        "temperature": 0,
        "top_k": 5,
        "service_tier": "auto",
        "anthropic_version": "2023-06-01",
    }
    validation.check("messages", json.loads(json.dumps(body)), SETTINGS)


def test_a_budget_of_thoughts_is_refused_in_the_callers_words() -> None:
    """vLLM names its own flags and a field of a chat; a drift test holds the sentence against its source."""
    reported = BadRequest("thinking_token_budget is set but reasoning_config is not configured. Please set --reasoning")
    error = PROTOCOLS["messages"].in_words(reported)
    assert error.message.startswith("thinking: ") and "token_budget" not in error.message and "--" not in error.message


def test_counting_needs_no_limit_and_is_no_generation(client: Client) -> None:
    answer = client.post(f"{PATH}/count_tokens", json={"messages": [{"role": "user", "content": "one two three"}]})
    assert answer.status_code == 200 and answer.get_json() == {"input_tokens": 3}


@pytest.mark.parametrize("headers", [{}, {"anthropic-version": "2023-06-01", "anthropic-beta": "a,b"}])
def test_the_headers_of_its_clients_are_harmless(client: Client, headers: dict[str, str]) -> None:
    assert client.post(PATH, json=ASK, headers=headers).status_code == 200


def test_a_base_url_with_v1_is_told_that_it_has_one_too_many(client: Client) -> None:
    answer = client.post("/v1/v1/messages", json=ASK)
    assert answer.status_code == 404 and "must not end in /v1" in answer.get_json()["error"]["message"]
