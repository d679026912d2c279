"""OpenAI's Responses: what is asked, what is refused by name, and what vLLM is given."""

import json
from typing import Any

import pytest

from chatbot_llm.engine.protocols import PROTOCOLS
from chatbot_llm.engine.protocols.base import EngineRequest
from chatbot_llm.errors import BadRequest
from chatbot_llm.routes import validation
from chatbot_llm.settings import Settings
from in_process import Client

SETTINGS = Settings(engine="scripted", max_prompt_chars=10_000)
PATH = "/v1/responses"
URL = "http://169.254.169.254/latest/meta-data"
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


def item(**fields: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": "Hi"}, fields]}


def part(**fields: Any) -> dict[str, Any]:
    return item(role="user", content=[fields])


def schema(value: Any) -> dict[str, Any]:
    return {"text": {"format": {"type": "json_schema", "name": "x", "schema": value}}}


#: What is refused, and where the refusal says it is.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"previous_response_id": "resp_1"}, "previous_response_id: not accepted here: nothing is stored"),
    ({"conversation": "c"}, "conversation: not accepted here: nothing is stored"),
    ({"background": True}, "background: not accepted here"),
    ({"prompt": {"id": "p"}}, "prompt: not accepted here"),
    ({"truncation": "auto"}, "truncation: not accepted here"),
    ({"include": ["file_search_call.results"]}, "include: only message.output_text.logprobs"),
    ({"include": "x"}, "include: must be a list"),
    *(
        ({"tools": [{"type": kind}]}, "tools[0].type: only tools of type function")
        for kind in (
            "web_search",
            "file_search",
            "code_interpreter",
            "mcp",
            "computer_use_preview",
            "image_generation",
            "custom",
        )
    ),
    ({"tools": [{"type": "function"}]}, "tools[0]: must be an object with a name"),
    ({"tools": [{"type": "function", "name": "f", "parameters": {"$ref": URL}}]}, "tools[0].parameters: $ref"),
    ({"tool_choice": {"type": "web_search"}}, "tool_choice: must be auto"),
    ({"max_output_tokens": 10**6}, "max_output_tokens: at most 4096"),
    ({"max_output_tokens": "5"}, "max_output_tokens: must be an integer"),
    ({"max_tokens": 5}, "max_tokens: not accepted here: send max_output_tokens"),
    ({"messages": []}, "messages: not accepted here: send them as input"),
    ({"stream_options": {"include_obfuscation": True}}, "stream_options: not accepted"),
    ({"text": {"verbosity": "low"}}, "text.verbosity: not accepted here"),
    ({"text": {"format": "json"}}, "text.format: must be an object"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema: must be a JSON schema"),
    (schema({"$ref": URL}), "text.format.schema: $ref may only point"),
    (schema({"type": "string", "minLength": -1}), "text.format.schema: minLength"),
    ({"input": []}, "input: must be a string or a list of items"),
    ({"input": ""}, "input: must be a string or a list of items"),
    ({"input": [1]}, "input[0]: only items of type message"),
    ({"input": "x" * 20_000}, "the text has"),
    ({"instructions": "x" * 20_000}, "the text has"),
    ({"instructions": ["x"]}, "instructions: must be a string"),
    ({"input": [{"role": "user", "content": ""}] * 2200}, "input: at most 2000"),
    (item(type="item_reference", id="msg_1"), "input[1]: nothing is stored here"),
    (item(type="web_search_call", id="ws_1"), "input[1]: only items of type"),
    (item(type="reasoning", summary=[], encrypted_content="gASV"), "input[1]: encrypted reasoning"),
    (item(role="boss", content="a"), "input[1].role: must be one of"),
    (item(**{**CALL, "arguments": "{"}), "input[1].arguments: must be a JSON object"),
    (item(**{**CALL, "name": None}), "input[1]: must be an object with name and arguments"),
    (item(type="function_call", name="f"), "input[1].call_id: must be a string"),
    (part(type="input_image", image_url=URL), "input[1].content[0]: only parts of type text"),
    (part(type="input_file", file_url=URL), "input[1].content[0]: only parts of type text"),
    (part(type="input_text", text="a", image_url=URL), "input[1].content[0]: only parts of type text"),
    (part(type="input_text", text=5), "input[1].content[0].text: must be a string"),
    (item(type="function_call_output", call_id="c"), "input[1].output: must be a string or a list of parts"),
    (item(type="function_call_output", call_id="c", output=5), "input[1].output: must be a string or a list of parts"),
    (
        item(type="function_call_output", call_id="c", output=[{"type": "input_image"}]),
        "input[1].output[0]: only parts",
    ),
    (item(type="function_call_output", call_id="c", output=[{"type": "input_text"}]), "input[1].output[0].text: must"),
    (item(type="function_call_output", output="a"), "input[1].call_id: must be a string"),
    (item(type="function_call_output", call_id=5, output="a"), "input[1].call_id: must be a string"),
    (
        {"text": {"format": {"type": "json_object", "schema": {}}}},
        'send {"type": "json_schema", "name": "...", "schema"',
    ),
    (item(role="user"), "input[1].content: must be a string or a list of parts"),
    (item(role="user", content=None), "input[1].content: must be a string or a list of parts"),
    ({"reasoning": "high"}, "reasoning: must be an object"),
    ({"reasoning": {"efort": "high"}}, "reasoning.efort: this field is not known here"),
    ({"think_harder": True}, "think_harder"),
]


@pytest.mark.parametrize(("body", "reported"), REFUSED, ids=[reported for _, reported in REFUSED])
def test_what_cannot_be_done_is_refused_by_its_own_name(body: dict[str, Any], reported: str) -> None:
    with pytest.raises(BadRequest) as refused:
        validation.check("responses", json.loads(json.dumps({"input": "Hi", **body})), SETTINGS)
    assert reported in refused.value.message and refused.value.param
    assert URL not in refused.value.message and len(refused.value.message) < 250


CONVERSATION = [
    {"role": "developer", "content": "Be brief."},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}], "status": "completed"},
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None},
    {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "c1",
        "name": "f",
        "arguments": '{"a": 1}',
        "status": "completed",
    },
    {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "mild"}]},
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "incomplete",
        "content": [
            {"type": "output_text", "text": "It is ", "annotations": [], "logprobs": []},
            {"type": "output_text", "text": "mild.", "annotations": []},
        ],
    },
    {"role": "user", "content": "Thanks."},
]


def test_what_clients_send_passes() -> None:
    body: dict[str, Any] = {
        "input": CONVERSATION,
        "instructions": "You help.",
        "max_output_tokens": 5.0,
        "metadata": {"a": "b"},
        "store": True,
        "background": False,
        "truncation": "disabled",
        "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
        "reasoning": {"effort": "low", "summary": "auto"},
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "stream": True,
        "stream_options": {"include_obfuscation": False},
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}],
        "tool_choice": {"type": "function", "name": "f"},
        "user": "u",
    }
    validation.check("responses", json.loads(json.dumps(body)), SETTINGS)


def test_vllm_is_given_items_of_which_it_drops_nothing() -> None:
    request = EngineRequest(PROTOCOLS["responses"], {"input": CONVERSATION, "include": ["reasoning.encrypted_content"]})
    sent = request.protocol.for_vllm(request, "scripted")
    assert sent["store"] is False and sent["include"] == [] and sent["request_id"] == f"resp_{request.id}"
    assert sent["input"] == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "mild"},
        {"role": "assistant", "content": "It is mild."},
        {"role": "user", "content": "Thanks."},
    ]
    assert request.body["input"] is CONVERSATION, "the caller's own words stay as they are"


def test_an_answer_says_that_it_is_not_stored(client: Client) -> None:
    answer = client.post(PATH, json={"input": "Hi", "store": True, "metadata": {"a": "b"}}).get_json()
    assert answer["store"] is False and answer["metadata"] == {"a": "b"}
    assert client.get(f"{PATH}/{answer['id']}").status_code == 404
