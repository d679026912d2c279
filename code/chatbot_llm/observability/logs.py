"""Log lines, and what of a request's headers may stand in one.

A log line starts with a date, because FC's `logBeginRule: DefaultRegex` cuts multi-line logs there, and holds one JSON
object. Secrets never get here: only named fields of a request are logged, never its headers or body, and an exception
that a request caused is logged by type and place, without its text.
"""

import json
import logging
import os
import re
import socket
import time
import traceback
from typing import Any

#: Of the fields in code/README.md, "The request log": rises when some are added; none is ever renamed or redefined.
VERSION = 2
#: FC cuts a log line at 32 KB (FC quota page); this many characters of one field leave room for the rest.
MAX_FIELD = 8_000
#: Loggers that speak of requests: the text of their exceptions may repeat what a client sent.
_OF_REQUESTS = (
    "chatbot_llm.app",
    "chatbot_llm.server",
    "gunicorn",
    "uvicorn",
    "vllm.entrypoints",
    "vllm.parser",
    "vllm.reasoning",
    "vllm.renderers",
    "vllm.tool_parsers",
    "vllm.v1.structured_output",
)
_TRACE = re.compile(r"[A-Za-z0-9@*/_=,-]{1,512}")
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_HOST = socket.gethostname()


class DateFirst(logging.Formatter):
    """`2026-01-31T12:00:00.000Z {"level": ..., "msg": ...}`"""

    def format(self, record: logging.LogRecord) -> str:
        seconds, millis = int(record.created), int(record.msecs)
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{millis:03d}Z"
        line: dict[str, Any] = {"level": record.levelname.lower(), "logger": record.name, "v": VERSION}
        line["instance"] = os.environ.get("FC_INSTANCE_ID") or f"{_HOST}-{os.getpid()}"
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line |= fields
        else:
            line["msg"] = _clip(record.getMessage())
        if record.exc_info and record.exc_info[1]:
            error = record.exc_info[1]
            silent = record.name.startswith(_OF_REQUESTS)
            line["exception"] = _clip(without_text(error) if silent else self.formatException(record.exc_info))
        return f"{stamp} {json.dumps(line, ensure_ascii=False, default=str)}"


def _clip(text: str) -> str:
    """The beginning and the end of a text that is too long: a traceback tells most there."""
    return text if len(text) <= MAX_FIELD else f"{text[: MAX_FIELD // 2]} ... {text[-MAX_FIELD // 2 :]}"


def without_text(error: BaseException) -> str:
    """Where an exception came from, its causes included, without what it says."""
    lines: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        lines = [*traceback.format_tb(error.__traceback__), type(error).__name__ + "\n", *lines]
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return "".join(lines)


def clean_id(value: str | None) -> str:
    """A request id from outside if it is harmless in a log line and a header, else ""."""
    return value if value and _ID.fullmatch(value) else ""


def clean_trace(value: str | None) -> str:
    """A W3C trace header if it is harmless, else ""."""
    return value if value and _TRACE.fullmatch(value) else ""
