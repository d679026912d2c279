"""The grammars of tool calls, on the real library and the bundled model's tokens."""

import json
import os
from typing import Any

import pytest

from chatbot_llm.engine import tool_calls, weights

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("vllm")]

SCHEMAS: dict[str, Any] = {
    "weather": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "anything": None,
}
WEATHER = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 3}}\n</tool_call>'
ANYTHING = '<tool_call>{"name": "anything", "arguments": {"x": [1, {"y": null}]}}</tool_call>'
#: Answers that no grammar of these tools allows.
WRONG = [
    WEATHER.replace("weather", "whether"),
    WEATHER.replace("3", '"three"'),
    WEATHER.replace("Rome", "Roma Capitale d'Italia"),
    WEATHER.replace(', "days": 3', ', "hours": 3'),
    ANYTHING.replace('{"x": [1, {"y": null}]}', "[1]"),
    "<tool_call> hello",
]
TEXT, OBJECT = "It is warm.", '{"warm": true}'
FORMAT = '%json {"type": "object", "properties": {"warm": {"type": "boolean"}}, "additionalProperties": false}'


@pytest.fixture(scope="module")
def allows() -> Any:
    """Whether a grammar allows a whole answer."""
    import llguidance.hf
    from transformers import AutoTokenizer

    folder = str(weights.bundled(os.environ.get("CHATBOT_CACHE_DIR", "")))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    library = llguidance.hf.from_tokenizer(tokenizer)

    def whole(lark: str, answer: str) -> bool:
        matcher = llguidance.LLMatcher(library, llguidance.grammar_from("grammar", lark))
        assert not matcher.get_error()
        tokens = tokenizer.encode(answer, add_special_tokens=False)
        return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())

    return whole


@pytest.mark.parametrize(
    ("how", "right", "wrong"),
    [
        (
            {"forced": False, "several": True},
            [WEATHER, ANYTHING, WEATHER + "\n" + ANYTHING, TEXT, f"So: {WEATHER}"],
            [],
        ),
        ({"forced": False, "several": False}, [WEATHER, TEXT, f"So: {ANYTHING}"], [WEATHER + WEATHER]),
        ({"forced": True, "several": True}, [WEATHER, ANYTHING + WEATHER], [TEXT, f"So: {WEATHER}", ""]),
        ({"forced": True, "several": False}, [ANYTHING], [TEXT, WEATHER + "\n" + WEATHER]),
        ({"forced": False, "several": True, "otherwise": FORMAT}, [WEATHER + WEATHER, OBJECT], [TEXT, '{"warm": 1}']),
    ],
    ids=["auto", "auto, one", "required", "required, one", "auto or a format"],
)
def test_an_answer_is_text_or_calls_that_obey(allows: Any, how: Any, right: list[str], wrong: list[str]) -> None:
    lark = tool_calls.grammar(SCHEMAS, **how)
    assert [answer for answer in right if not allows(lark, answer)] == []
    assert [answer for answer in [*wrong, *WRONG] if allows(lark, answer)] == []


def test_a_name_or_a_schema_is_text_and_never_grammar(allows: Any) -> None:
    names = ['quo"te', "back\\slash", "start: TEXT", "ü"]
    schema = {"type": "object", "description": '"} | TEXT\n%llguidance', "properties": {"a/b": {"const": "}"}}}
    lark = tool_calls.grammar(dict.fromkeys(names, schema), forced=True, several=False)
    for name in names:
        call = f'<tool_call>{{"name": {json.dumps(name)}, "arguments": {{"a/b": "}}"}}}}</tool_call>'
        assert allows(lark, call) and not allows(lark, call.replace('"}"', '"x"'))
