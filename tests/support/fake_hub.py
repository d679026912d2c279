"""A loopback double of both model hubs: lists, redirects to a "CDN", ranges; and the ways a download goes wrong."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

REPOSITORY = "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4"
REVISION = "e9c932ac1893a49ae0fc497ad6e1e86e2e39af20"
WEIGHTS = "model-00001-of-00001.safetensors"


def blob(content: bytes) -> str:
    """Git's object id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub(ThreadingHTTPServer):
    """What it serves, what it was asked for, and how it misbehaves."""

    daemon_threads = True
    repository: str
    files: dict[str, bytes]
    received: list[tuple[str, str]]  # path, Range header
    served: dict[str, bytes]  # content that differs from what is listed
    cut_at: int | None = None  # close the connection at this byte, once
    hold_at: int | None = None  # send no more from this byte on, until `go_on`
    resumes = True
    held: threading.Event
    go_on: threading.Event
    busy = 0  # answer 503 this many times

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def ranges(self, name: str = WEIGHTS) -> list[str]:
        return [wanted for path, wanted in self.received if path.endswith(f"cdn/{name}")]


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        query = parse_qs(address.query)
        hub = self.server
        hub.received.append((path, self.headers.get("Range", "")))
        if hub.busy:
            hub.busy -= 1
            self.send_error(503)
        elif path == f"/api/models/{hub.repository}/tree/{REVISION}":
            self._json([self._huggingface_entry(name, content) for name, content in hub.files.items()])
        elif path == f"/api/v1/models/{hub.repository}/repo/files":
            entries = [
                {"Path": name, "Type": "blob", "Size": len(content), "Sha256": hashlib.sha256(content).hexdigest()}
                for name, content in hub.files.items()
            ]
            self._json({"Code": 200, "Data": {"Files": [{"Path": "figures", "Type": "tree"}, *entries]}})
        elif path == f"/api/v1/models/{hub.repository}/repo":
            self._redirect(query["FilePath"][0])
        elif found := re.fullmatch(rf"/{re.escape(hub.repository)}/resolve/{REVISION}/(.+)", path):
            self._redirect(found[1])
        elif path.startswith("/cdn/") and path[5:] in hub.files:
            self._content(path[5:])
        else:
            self.send_error(404)

    def _huggingface_entry(self, name: str, content: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": blob(content)}
        if name.endswith(".safetensors"):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 135}
        return entry

    def _json(self, body: object) -> None:
        raw = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _redirect(self, name: str) -> None:
        self.send_response(302)
        self.send_header("Location", f"{self.server.url}/cdn/{name}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _content(self, name: str) -> None:
        hub = self.server
        content = hub.served.get(name, hub.files[name])
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(found[1]) if found and hub.resumes else 0
        self.send_response(206 if found and hub.resumes else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if found and hub.resumes:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end = len(content)
        if name == WEIGHTS and hub.cut_at is not None:
            end, hub.cut_at = hub.cut_at, None
        if name == WEIGHTS and hub.hold_at is not None:
            end, hub.hold_at = hub.hold_at, None
            self.wfile.write(content[start:end])
            hub.held.set()
            hub.go_on.wait(30)
            return
        self.wfile.write(content[start:end])

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


@contextmanager
def hub(files: dict[str, bytes], repository: str = REPOSITORY) -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), Handler)
    server.repository = repository
    server.files, server.received, server.served = dict(files), [], {}
    server.held, server.go_on = threading.Event(), threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()
