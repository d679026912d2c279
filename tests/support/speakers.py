"""The three protocols as their clients see them: what they send, and what an answer comes to.

So one test of a promise serves all. Reading is strict: names, order and numbers of events are asserted here.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

PATHS = {"chat": "/chat", "responses": "/v1/responses", "messages": "/v1/messages"}
KINDS = tuple(PATHS)
#: Where each protocol names how many tokens an answer may have.
LIMIT = {"chat": "max_tokens", "responses": "max_output_tokens", "messages": "max_tokens"}


class Reply(NamedTuple):
    """What an answer came to. `finish` is a chat's word for it; `error` the message of one, in the protocol's form."""

    text: str
    finish: str | None
    prompt: int
    completion: int
    error: str = ""
    pieces: int = 1


def body(kind: str, words: int = 16, ask: str = "Count.", **more: Any) -> dict[str, Any]:
    """A request of a protocol for at most `words` tokens."""
    sent = {"input": ask} if kind == "responses" else {"messages": [{"role": "user", "content": ask}]}
    return {**sent, LIMIT[kind]: words, **more}


def scripted(kind: str, words: int = 16, *, stream: bool = False, **script: Any) -> dict[str, Any]:
    """The same for exactly `words` tokens of the scripted engine, as `script` says."""
    return body(kind, words, script={"loop": True, **script}, **({"stream": True} if stream else {}))


def error_of(kind: str, answer: Any) -> dict[str, Any]:
    """The error object of an answer, after checking that it has the protocol's own form."""
    error: dict[str, Any] = answer["error"]
    assert error["message"] and error["type"]
    if kind == "messages":
        assert answer["type"] == "error" and not {"param", "code"} & set(error)
    else:
        assert {"param", "code"} <= set(error)
    return error


def whole(kind: str, answer: Any) -> Reply:
    """A whole answer (JSON)."""
    if kind == "chat":
        (choice,), usage = answer["choices"], answer["usage"]
        text = choice["message"]["content"] or ""
        return Reply(text, choice["finish_reason"], usage["prompt_tokens"], usage["completion_tokens"])
    if kind == "responses":
        return _response(answer)
    assert answer["type"] == "message" and answer["id"].startswith("msg_") and "stop_sequence" in answer
    text = "".join(block["text"] for block in answer["content"] if block["type"] == "text")
    return Reply(text, _finish(answer["stop_reason"]), *_anthropic(answer["usage"]))


def _anthropic(usage: dict[str, int]) -> tuple[int, int]:
    return usage["input_tokens"] + usage.get("cache_read_input_tokens", 0), usage["output_tokens"]


def _finish(reason: str | None) -> str | None:
    return {"end_turn": "stop", "max_tokens": "length"}.get(reason or "", reason)


def _response(answer: Any) -> Reply:
    assert answer["object"] == "response" and answer["id"].startswith("resp_")
    assert answer["store"] is False and answer["error"] is None
    cut = answer["status"] == "incomplete"
    assert answer["status"] in ("completed", "incomplete")
    assert answer["incomplete_details"] == ({"reason": "max_output_tokens"} if cut else None)
    if answer["output"]:
        assert answer["output"][-1]["status"] == answer["status"]
    messages = [item for item in answer["output"] if item["type"] == "message"]
    text = "".join(part["text"] for item in messages for part in item["content"])
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    return Reply(text, "length" if cut else "stop", usage["input_tokens"], usage["output_tokens"])


def events(raw: str) -> list[tuple[str, Any]]:
    """(name, data) of each event of a stream."""
    assert raw.endswith("\n\n"), raw[-200:]
    found = []
    for event in raw[:-2].split("\n\n"):
        *head, data = event.split("\n")
        assert len(head) <= 1 and all(line.startswith("event: ") for line in head) and data.startswith("data: "), event
        data = data.removeprefix("data: ")
        name = head[0].removeprefix("event: ") if head else ""
        found.append((name, data if data == "[DONE]" else json.loads(data)))
    return found


def streamed(kind: str, raw: str) -> Reply:
    """A streamed answer, read to its end."""
    return {"chat": _chat_stream, "responses": _responses_stream, "messages": _messages_stream}[kind](events(raw))


def _chat_stream(found: list[tuple[str, Any]]) -> Reply:
    assert found.pop() == ("", "[DONE]") and not any(name for name, _ in found)
    error = found.pop()[1]["error"]["message"] if "error" in found[-1][1] else ""
    choices = [choice for _, data in found for choice in data["choices"]]
    usage = next((data["usage"] for _, data in found if data.get("usage")), {})
    words = [choice["delta"].get("content") or "" for choice in choices]
    finish = choices[-1]["finish_reason"] if choices else None
    tokens = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    return Reply("".join(words), finish, *tokens, error, sum(map(bool, words)))


def _responses_stream(found: list[tuple[str, Any]]) -> Reply:
    names = [name for name, _ in found]
    assert all(name == data["type"] for name, data in found)
    assert [data["sequence_number"] for _, data in found] == list(range(len(found)))
    assert names[:2] == ["response.created", "response.in_progress"]
    assert all(data["response"]["status"] == "in_progress" and not data["response"]["store"] for _, data in found[:2])
    words = [data["delta"] for name, data in found if name == "response.output_text.delta"]
    last = found[-1][1]["response"]
    assert last["id"] == found[0][1]["response"]["id"]
    if names[-1] == "response.failed":
        assert names[-2] == "error" and last["status"] == "failed" and last["error"]["code"]
        return Reply("".join(words), None, 0, 0, found[-2][1]["message"], len(words))
    assert names[-1] == f"response.{last['status']}"
    done = [data["item"] for name, data in found if name == "response.output_item.done"]
    assert done == last["output"] and len(done) == names.count("response.output_item.added")
    reply = _response(last)
    assert "".join(words) == reply.text
    return reply._replace(pieces=len(words))


def _messages_stream(found: list[tuple[str, Any]]) -> Reply:
    names = [name for name, _ in found]
    assert all(name == data["type"] for name, data in found) and names[0] == "message_start"
    start = found[0][1]["message"]
    assert start["id"].startswith("msg_") and start["content"] == [] and start["stop_reason"] is None
    words = [data["delta"]["text"] for _, data in found if data.get("delta", {}).get("type") == "text_delta"]
    if names[-1] == "error":
        return Reply("".join(words), None, 0, 0, error_of("messages", found[-1][1])["message"], len(words))
    assert names[-2:] == ["message_delta", "message_stop"]
    starts, stops = names.count("content_block_start"), names.count("content_block_stop")
    assert starts == stops
    last = found[-2][1]
    prompt, completion = _anthropic({**start["usage"], **last["usage"]})
    return Reply("".join(words), _finish(last["delta"]["stop_reason"]), prompt, completion, "", len(words))
