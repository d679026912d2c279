"""What a client of a stream sees, whatever the words: whole events, one end, the same text as without streaming."""

import json
from typing import Any

import requests
from fuzzing import LIMIT_S, examples
from hypothesis import given
from hypothesis import strategies as st

from launcher import ServiceProcess
from speakers import KINDS, PATHS, body, streamed, whole

session = requests.Session()
session.trust_env = False

#: Words that would break a careless writer or reader of server-sent events.
NASTY = st.sampled_from(
    ["\n\n", "data: ", "[DONE]", "data: [DONE]\n\n", "\r\n", "\r", "\u2028", "\x00", "é", "🙂", '"', "\\", "{"]
)
texts = st.lists(NASTY | st.text(max_size=8), min_size=1, max_size=12).map("".join).filter(lambda text: text.strip())


def utf8(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def events(raw: bytes) -> list[bytes]:
    """A strict reader: every event is one line `data: ...` and an empty line, and nothing else stands between."""
    assert raw.endswith(b"\n\n")
    found = raw[:-2].split(b"\n\n")
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in found), raw[:500]
    return [event.removeprefix(b"data: ") for event in found]


@examples(0.04)
@given(
    text=texts.filter(utf8),
    words=st.integers(1, 30),
    burst=st.integers(1, 9),
    route=st.sampled_from(["/chat", "/v1/completions", "/generate"]),
    usage=st.booleans(),
    pieces=st.integers(1, 4096),
)
def test_a_stream_says_what_the_whole_answer_says(
    service: ServiceProcess, text: str, words: int, burst: int, route: str, usage: bool, pieces: int
) -> None:
    posted: dict[str, Any] = {"max_tokens": words, "script": {"text": text, "burst": burst}}
    posted |= {"messages": [{"role": "user", "content": text}]} if route == "/chat" else {"prompt": text}
    url = f"http://127.0.0.1:{service.port}{route}"
    choice = session.post(url, json=posted, timeout=LIMIT_S).json()["choices"][0]
    whole = choice["message"]["content"] if route == "/chat" else choice["text"]
    streamed = {**posted, "stream": True, "stream_options": {"include_usage": usage}}
    with session.post(url, json=streamed, timeout=LIMIT_S, stream=True) as answer:
        data = events(b"".join(answer.iter_content(pieces)))
    assert data[-1] == b"[DONE]" and data.count(b"[DONE]") == 1
    chunks = [json.loads(event) for event in data[:-1]]
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    reply = "".join(one["delta"].get("content", "") if route == "/chat" else one["text"] for one in choices)
    assert reply == whole
    assert [one for one in choices[:-1] if one.get("finish_reason")] == []
    assert choices[-1]["finish_reason"] == choice["finish_reason"]
    assert ("usage" in chunks[-1] and not chunks[-1]["choices"]) == usage
    if route == "/generate":
        assert "".join(chunk["text"][0] for chunk in chunks if chunk["choices"]) == text + whole


@examples(0.02)
@given(text=texts.filter(utf8), words=st.integers(1, 30), burst=st.integers(1, 9), kind=st.sampled_from(KINDS[1:]))
def test_a_stream_of_named_events_says_what_the_whole_answer_says(
    service: ServiceProcess, text: str, words: int, burst: int, kind: str
) -> None:
    posted = body(kind, words, ask=text, script={"text": text, "burst": burst})
    url = f"http://127.0.0.1:{service.port}{PATHS[kind]}"
    reply = whole(kind, session.post(url, json=posted, timeout=LIMIT_S).json())
    raw = session.post(url, json={**posted, "stream": True}, timeout=LIMIT_S).content.decode()
    assert streamed(kind, raw)[:4] == reply[:4]


@examples(0.02)
@given(after=st.integers(0, 600), words=st.integers(1, 200))
def test_a_reader_that_leaves_anywhere_leaves_nothing_behind(service: ServiceProcess, after: int, words: int) -> None:
    posted = {"prompt": "a", "max_tokens": words, "stream": True, "script": {"loop": True, "token_s": 0.001}}
    with requests.post(
        f"http://127.0.0.1:{service.port}/generate", json=posted, timeout=LIMIT_S, stream=True
    ) as answer:
        seen = 0
        for piece in answer.iter_content(64):
            seen += len(piece)
            if seen >= after:
                break
    service.wait_idle()
