"""Lines of the request log, as the service writes them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

BEGAN = datetime(2027, 1, 31, 22, 0, tzinfo=UTC)


def line(after_s: float = 0.0, **fields: Any) -> str:
    """One line, written `after_s` seconds after BEGAN."""
    when = (BEGAN + timedelta(seconds=after_s)).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    usual: dict[str, Any] = {
        "level": "info",
        "logger": "chatbot_llm.request",
        "v": 2,
        "instance": "c-1",
        "msg": "request",
        "route": "/chat",
        "model": "m",
        "outcome": "ok",
        "cold": False,
        "running": 1,
        "prompt_tokens": 100,
        "completion_tokens": 11,
        "queue_ms": 0.0,
        "ttft_ms": 200.0,
        "decode_ms": 1000.0,
        "card_ms": 1200.0,
        "total_ms": 1200.0,
    }
    if fields.get("msg") == "ready":  # a start has no request
        usual = {name: usual[name] for name in ("level", "logger", "v", "instance")}
    return f"{when} {json.dumps(usual | fields)}"
