"""Simple Log Service on loopback: the objects of one project, signatures checked, and its SQL as far as SQLite goes.

- Every signature (version 1) is computed again from the bytes on the wire, as Alibaba describes it, independently of
  infra/fc/sls.py.
- Creating what is there, replacing what is not, an alert on a query whose columns it does not have: refused.
- `rows` runs a query's SQL over log lines, with SLS's own functions beside SQLite's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import re
import sqlite3
from collections.abc import Iterable
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from typing import Any

from serving import Serving

KEY, SECRET, TOKEN = "LTAItestkey", "test-secret", "test-token"
#: Collection -> what its objects are named by, what SLS calls one.
COLLECTIONS = {
    "/savedsearches": ("savedsearchName", "SavedSearch"),
    "/dashboards": ("dashboardName", "Dashboard"),
    "/jobs": ("name", "Job"),
}
#: FC's DefaultRegex: a line that begins with a date begins a record.
BEGINS = re.compile(r"^.{0,2}\d{4}-\d{2}-\d{2}")


class FakeSls(Serving):
    """`with FakeSls() as sls:` serves `sls.objects` (path -> body) on `sls.url`."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.calls: list[str] = []
        self.refuses: tuple[int, str] | None = None
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def handle_one(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length") or 0))
                status, answer = fake.answer(self.command, self.path, dict(self.headers.items()), raw)
                text = json.dumps(answer).encode() if answer is not None else b""
                self.send_response(status)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = handle_one

            def log_message(self, format: str, *args: Any) -> None:
                pass

        super().__init__(Handler)

    def answer(self, method: str, path: str, headers: dict[str, str], raw: bytes) -> tuple[int, Any]:
        self.calls.append(f"{method} {path}")
        if problem := unsigned(method, path, {name.lower(): value for name, value in headers.items()}, raw):
            return refusal(401, "SignatureNotMatch", problem)
        if self.refuses:
            return refusal(*self.refuses, "on purpose")
        body = json.loads(raw or b"null")
        if path.endswith("/index"):
            key, kind = path, "IndexConfig"
        else:
            collection = "/" + path.split("/")[1]
            name, kind = COLLECTIONS[collection]
            key = f"{collection}/{body[name]}" if method == "POST" else path
        there = key in self.objects
        if method == "POST" and there:
            return refusal(400, f"{kind}AlreadyExist", f"{key} already exists")
        if method != "POST" and not there:
            return refusal(404, f"{kind}NotExist", f"{key} does not exist")
        if method == "GET":
            return 200, self.objects[key]
        self.objects[key] = body
        return 200, None


def refusal(status: int, code: str, text: str) -> tuple[int, Any]:
    return status, {"errorCode": code, "errorMessage": text}


def unsigned(method: str, path: str, headers: dict[str, str], raw: bytes) -> str:
    """What is wrong with a request's signature, or ""."""
    if headers.get("x-acs-security-token") != TOKEN:
        return "the STS token is missing"
    if headers.get("x-log-apiversion") != "0.6.0" or headers.get("x-log-signaturemethod") != "hmac-sha1":
        return "API version or signature method are missing"
    if headers.get("x-log-bodyrawsize") != str(len(raw)):
        return "x-log-bodyrawsize is not the body's size"
    md5 = hashlib.md5(raw, usedforsecurity=False).hexdigest().upper() if raw else ""
    if headers.get("content-md5", "") != md5:
        return "Content-MD5 is not the body's"
    named = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers) if name[:6] in ("x-log-", "x-acs-"))
    text = f"{method}\n{md5}\n{headers.get('content-type', '')}\n{headers.get('date', '')}\n{named}{path}"
    digest = base64.b64encode(hmac.new(SECRET.encode(), text.encode(), hashlib.sha1).digest()).decode()
    return "" if headers.get("authorization") == f"LOG {KEY}:{digest}" else "the signature is another one"


def database(logs: Iterable[tuple[str, str]]) -> sqlite3.Connection:
    """`log` as Function Compute fills it, from (instance, what the service wrote)."""
    db = sqlite3.connect(":memory:")
    db.execute('create table log (__time__ integer, "functionName" text, "instanceID" text, message text)')
    for instance, text in logs:
        records: list[str] = []
        for line in text.splitlines():
            if BEGINS.match(line):
                records.append(line)
            elif records:
                records[-1] += f"\n{line}"
        for record in records:
            second = int(datetime.fromisoformat(record[:24].replace("Z", "+00:00")).timestamp())
            db.execute("insert into log values (?, 'chatbot-llm', ?, ?)", (second, instance, record))
    db.create_function("json_extract_scalar", 2, scalar)
    db.create_function("strpos", 2, lambda text, part: text.find(part) + 1)
    db.create_function("from_iso8601_timestamp", 1, lambda text: text)
    db.create_function("to_unixtime", 1, lambda t: datetime.fromisoformat(t.replace("Z", "+00:00")).timestamp())
    db.create_function("greatest", -1, lambda *values: None if None in values else max(values))
    db.create_function("least", -1, lambda *values: None if None in values else min(values))
    db.create_aggregate("approx_percentile", 2, Percentile)  # type: ignore[arg-type]
    db.create_aggregate("count_if", 1, CountIf)  # type: ignore[arg-type]
    db.row_factory = sqlite3.Row
    return db


def rows(db: sqlite3.Connection, query: str) -> list[dict[str, Any]]:
    """What a query (`search | SQL`) finds."""
    search, _, sql = query.partition(" | ")
    assert search == "*", "the search before the | is not played here"
    return [dict(row) for row in db.execute(sql)]


def scalar(text: str, path: str) -> str | None:
    """Presto's json_extract_scalar for `$.name`: text, or null for what is no scalar."""
    try:
        value = json.loads(text).get(path.removeprefix("$."))
    except ValueError:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None or isinstance(value, list | dict) else str(value)


class Percentile:
    """Nearest rank."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.share = 0.0

    def step(self, value: float | None, share: float) -> None:
        self.share = share
        if value is not None:
            self.values.append(value)

    def finalize(self) -> float | None:
        ranked = sorted(self.values)
        return ranked[max(0, math.ceil(self.share * len(ranked)) - 1)] if ranked else None


class CountIf:
    def __init__(self) -> None:
        self.count = 0

    def step(self, holds: int | None) -> None:
        self.count += bool(holds)

    def finalize(self) -> int:
        return self.count
