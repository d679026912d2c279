"""What /generate adds: `text`, with the prompt once, however it is asked."""

import json
from typing import Any

import pytest

from chatbot_llm.errors import BadRequest
from chatbot_llm.routes import generate
from in_process import App, Client


def events(raw: bytes) -> list[dict[str, Any]]:
    return [json.loads(event[6:]) for event in raw.split(b"\n\n") if event.startswith(b"data: {")]


def chunk(index: int, text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": index, "text": text}]}).encode() + b"\n\n"


def joined(raw: bytes) -> list[str]:
    return ["".join(parts) for parts in zip(*(event["text"] for event in events(raw) if "text" in event), strict=True)]


def test_a_stream_has_the_prompt_once_per_choice_in_its_first_event() -> None:
    prompt = "word " * 38_000
    body = {"prompt": prompt, "n": 8, "stream": True}
    sent = len(json.dumps(body))
    generate.check(body, [prompt], sent)
    add = generate.StreamTexts([prompt], 8)
    raw = b"".join(add(chunk(at % 8, f" {at}")) for at in range(80)) + add(b"data: [DONE]\n\n")
    assert len(raw) < 20 * sent
    assert events(raw)[0]["text"] == [prompt + " 0", *[prompt] * 7]
    assert all(prompt not in event["text"] for event in events(raw)[1:])
    assert joined(raw) == [prompt + "".join(f" {at}" for at in range(80) if at % 8 == n) for n in range(8)]


def test_several_events_in_one_piece_are_all_changed() -> None:
    add = generate.StreamTexts(["a", "b"], 1)
    assert joined(add(chunk(0, "1") + chunk(1, "2"))) == ["a1", "b2"]


@pytest.mark.parametrize("prompt", ["\u0085" * 5000, "\u2028" * 5000])
def test_a_prompt_that_grows_by_being_escaped_is_not_sent_back_too_often(prompt: str) -> None:
    body = {"prompt": prompt, "n": 8, "echo": True}
    with pytest.raises(BadRequest, match="^n:"):
        generate.check(body, [prompt], len(json.dumps(body, ensure_ascii=False).encode()))


def test_with_echo_the_prompt_is_in_the_text_once() -> None:
    whole = json.dumps({"choices": [{"index": 0, "text": "Q: A"}]}).encode()
    assert json.loads(generate.add_text(whole, ["Q: "], echo=True))["text"] == ["Q: A"]
    add = generate.StreamTexts(["Q: "], 1, echo=True)
    assert joined(add(chunk(0, "Q: ")) + add(chunk(0, "A"))) == ["Q: A"]


def test_no_line_of_a_stream_breaks_where_a_client_may_break_it() -> None:
    raw = generate.StreamTexts(["a\u2028b\u2029c\u0085d"], 1)(chunk(0, "\u2028"))
    assert len(raw.decode().splitlines()) == 2
    assert joined(raw) == ["a\u2028b\u2029c\u0085d\u2028"]


def test_token_ids_are_a_prompt_too(client: Client) -> None:
    body = client.post("/generate", json={"prompt": [1, 2], "max_tokens": 2}).get_json()
    assert body["text"] == ["<1><2>The capital"]


def test_what_would_be_sent_back_too_often_is_refused_with_a_way_round(app: App) -> None:
    client = app.test_client()
    body = {"prompt": "\u2028" * 5000, "n": 8, "echo": True, "max_tokens": 1}
    raw = json.dumps(body, ensure_ascii=False).encode()
    answer = client.post("/generate", data=raw, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, "n")
    again = client.post("/v1/completions", data=raw, headers={"content-type": "application/json"})
    assert again.status_code == 200, "the way round that the refusal names"


@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/invoke"])
@pytest.mark.parametrize(
    "prompt", [5, [], [None], [{}], ["a", 1], [1, "a"], [[]], [[1], 2], [["a"]], [[1], [None]], [1.5]]
)
def test_what_is_no_prompt_is_refused_by_name(client: Client, path: str, prompt: Any) -> None:
    answer = client.post(path, json={"prompt": prompt})
    assert answer.status_code == 400 and answer.get_json()["error"]["param"] == "prompt"


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_every_form_of_prompts_is_answered(client: Client, prompt: Any) -> None:
    answer = client.post("/generate", json={"prompt": prompt, "max_tokens": 2})
    assert answer.status_code == 200, answer.get_data(as_text=True)
