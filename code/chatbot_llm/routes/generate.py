"""What `/generate` adds to an OpenAI completion: the top-level list `text` that vLLM's first demo server returned.

Whole, each entry is the prompt followed by one choice's completion. Streamed, the first event has the prompt in each
entry, once, and every event has what is new: the entries of all events, joined, are the whole answer's.
"""

import json
from collections.abc import Sequence
from typing import Any

from chatbot_llm.errors import wrong
from chatbot_llm.sse import one_line

#: Bytes of prompts sent back for one byte sent: eight choices of a plain text stay below.
MAX_ECHO = 20


def check(body: dict[str, Any], prompts: Sequence[str], sent: int) -> None:
    """Refuse to send `prompts` back so often that a small request, `sent` bytes long, becomes a huge answer."""
    copies = int(body.get("n") or 1) * (2 if body.get("echo") else 1)
    size = sum(len(json.dumps(one_line(prompt), ensure_ascii=False).encode()) for prompt in prompts) * copies
    if size > MAX_ECHO * sent:
        raise wrong(
            "n",
            f"the prompt would be sent back {copies} times, more than {MAX_ECHO} times the request; ask "
            "for fewer choices, or POST /v1/completions, which does not send it back",
        )


def each(prompt: Any) -> list[Any]:
    """One prompt or several, as a list: a list of strings or of token lists is several, a list of token ids is one."""
    one = not isinstance(prompt, list) or (bool(prompt) and isinstance(prompt[0], int))
    return [prompt] if one else prompt


def add_text(body: bytes, prompts: Sequence[str], echo: bool = False) -> bytes:
    """Add `text` to a whole completion object (JSON in, JSON out). `prompts` are texts; with `echo` they are in it."""
    answer = json.loads(body)
    choices = answer.get("choices") or []
    per_prompt = max(1, len(choices) // len(prompts))
    answer["text"] = [("" if echo else prompts[c["index"] // per_prompt]) + c["text"] for c in choices]
    return json.dumps(answer, ensure_ascii=False).encode()


class StreamTexts:
    """Adds `text` to every event of a completion stream: what is new of each choice, the prompt first."""

    def __init__(self, prompts: Sequence[str], choices: int, echo: bool = False) -> None:
        self._new = ["" if echo else prompt for prompt in prompts for _ in range(choices)]

    def __call__(self, events: bytes) -> bytes:
        return b"".join(self._event(event) for event in events.split(b"\n\n") if event)

    def _event(self, event: bytes) -> bytes:
        data = event.removeprefix(b"data: ")
        if data == b"[DONE]" or data == event:
            return event + b"\n\n"
        answer = json.loads(data)
        if not answer.get("choices"):
            return event + b"\n\n"
        for choice in answer["choices"]:
            self._new[choice["index"]] += choice["text"]
        answer["text"], self._new = self._new, [""] * len(self._new)
        return b"data: " + one_line(json.dumps(answer, ensure_ascii=False)).encode() + b"\n\n"
