"""Somebody else's errors: no value of the request in them, and still the word the caller needs."""

import pytest

from chatbot_llm.observability.redaction import NOTHING_LEFT, withhold

BODY = {
    "messages": [{"role": "user", "content": "sk-123456 and more"}],
    "stop": ["sk-0"],
    "sk-name-1": 1,
    "n": 3,
    "logit_bias": {"999999": 1},
    "response_format": {"patternProperties": {"unevaluatedItems": True}},
}
TOO_LONG = (
    "This model's maximum context length is 4096 tokens. However, your prompt contains at least 4097 input tokens, "
    "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt."
)


@pytest.mark.parametrize(
    ("written", "logged"),
    [
        ("stop: 'sk-123456 and more' is too long", "stop: '...' is too long"),
        ("no field sk-name-1", "no field ..."),
        ("messages: a role must be one of user, system", "messages: a role must be one of user, system"),
        ("max_tokens: at most 4096", "max_tokens: at most 4096"),
        ('Unimplemented keys: ["unevaluatedItems"]', 'Unimplemented keys: ["unevaluatedItems"]'),
        ("token_id(s) [999999] in logit_bias contain ids", "token_id(s) [999999] in logit_bias contain ids"),
        ("Too many bad words. (parameter=bad_words, value=['a', 'b'])", "Too many bad words."),
        ("Bad type. For further information visit https://errors.pydantic.dev/2/v/x", "Bad type."),
        ("sk-123456 and more", NOTHING_LEFT),
    ],
)
def test_an_error_keeps_its_place_and_loses_what_was_sent(written: str, logged: str) -> None:
    assert withhold(written, BODY) == logged


def test_an_error_that_repeats_the_beginning_of_a_long_text_is_cut() -> None:
    secret = "password: hunter2 " * 50
    assert withhold(f"cannot read {secret[:200]}", {"prompt": secret}) == "cannot read ..."


@pytest.mark.parametrize("start", ['{"error": {"message"', "This model's maximum context length is", "input tokens"])
def test_no_prompt_hides_that_it_is_too_long(start: str) -> None:
    assert withhold(TOO_LONG, {"prompt": start + " x" * 5000}) == TOO_LONG
