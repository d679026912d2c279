"""What `/generate` adds to an OpenAI completion: the top-level list `text` that vLLM's first demo server returned.

Each entry is the prompt followed by one choice's completion so far, as that server had it.
"""

import json
from typing import Any


def add_text(body: bytes, prompt: Any) -> bytes:
    """Add `text` to a whole completion object (JSON in, JSON out)."""
    answer = json.loads(body)
    choices = answer.get("choices") or []
    per_prompt = max(1, len(choices) // len(_prompts(prompt)))
    answer["text"] = [_of(prompt, choice["index"] // per_prompt) + choice["text"] for choice in choices]
    return json.dumps(answer, ensure_ascii=False).encode()


class StreamTexts:
    """Adds `text`, grown so far, to every event of a completion stream."""

    def __init__(self, prompt: Any, choices: int) -> None:
        self._texts = [_of(prompt, at // choices) for at in range(choices * len(_prompts(prompt)))]

    def __call__(self, events: bytes) -> bytes:
        return b"".join(self._event(event) for event in events.split(b"\n\n") if event)

    def _event(self, event: bytes) -> bytes:
        data = event.removeprefix(b"data: ")
        if data == b"[DONE]" or data == event:
            return event + b"\n\n"
        answer = json.loads(data)
        if "choices" not in answer:
            return event + b"\n\n"
        for choice in answer["choices"]:
            self._texts[choice["index"]] += choice["text"]
        answer["text"] = self._texts
        return b"data: " + json.dumps(answer, ensure_ascii=False).encode() + b"\n\n"


def _prompts(prompt: Any) -> list[Any]:
    """One prompt or several: a list of strings or of token lists is several, a list of token ids is one."""
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        return prompt
    return [prompt]


def _of(prompt: Any, at: int) -> str:
    one = _prompts(prompt)[min(at, len(_prompts(prompt)) - 1)]
    return one if isinstance(one, str) else ""
