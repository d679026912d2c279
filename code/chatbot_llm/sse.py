"""Server-sent events: what must hold for every one of them, whoever wrote it."""

import json
from typing import Any

#: Ends of lines for those who split by Unicode's rules (Python's `splitlines`, httpx): JSON leaves them as they are.
_BREAKS = {"\u0085": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def one_line(event: str) -> str:
    """An event whose JSON no client takes for two lines. These characters stand in JSON's strings only."""
    if event.isascii():
        return event
    for character, escape in _BREAKS.items():
        event = event.replace(character, escape)
    return event


def framed(value: dict[str, Any], name: str = "") -> str:
    """An object as one event, with its name where the protocol has names."""
    data = one_line(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    return f"event: {name}\ndata: {data}\n\n" if name else f"data: {data}\n\n"
