"""A stand-in for the service, good or bad in one named way, for what the real one must never do."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import Any

from serving import Serving

GOOD = "The capital of France is Paris."


class ServiceDouble(Serving):
    """`fault`: "" (good), "wrong", "degenerate", "empty", "error", "cut" (stream without end), "not-json"."""

    def __init__(self, fault: str = "", *, api_key: str = "", unhealthy_for: int = 0) -> None:
        self.fault = fault
        self.api_key = api_key
        self.unhealthy_for = unhealthy_for
        self.seen: list[tuple[str, str, bytes]] = []
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet an answer, see fake_fc

            def do_GET(self) -> None:
                double.seen.append(("GET", self.path, b""))
                if double.unhealthy_for > 0:
                    double.unhealthy_for -= 1
                    self.reply(503, {"state": "loading", "phase": "weights", "seconds": 3})
                else:
                    self.reply(200, {"state": "ready"})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                double.seen.append(("POST", self.path, body))
                key = self.headers.get("authorization", "").removeprefix("Bearer ")
                if self.path != "/invoke" and double.api_key and key != double.api_key:
                    self.reply(401, error("invalid_api_key"))
                    return
                request = json.loads(body)
                if double.fault == "error":
                    self.reply(500, error("engine_failed"))
                elif double.fault == "not-json":
                    self.send(200, b"<html>bad gateway</html>")
                elif request.get("stream"):
                    self.stream()
                elif "messages" in request:
                    self.reply(200, chat(double.text()))
                else:
                    self.reply(200, completion(request["prompt"], double.text()))

            def stream(self) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                words = double.text().split(" ")
                for place, word in enumerate(words):
                    text = word if place == 0 else f" {word}"
                    self.event(json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}))
                self.event(json.dumps({"choices": [], "usage": {"completion_tokens": len(words)}}))
                if double.fault != "cut":
                    self.event("[DONE]")
                self.wfile.write(b"0\r\n\r\n")

            def event(self, data: str) -> None:
                line = f"data: {data}\n\n".encode()
                self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                self.wfile.flush()

            def reply(self, status: int, body: dict[str, Any]) -> None:
                self.send(status, json.dumps(body).encode())

            def send(self, status: int, raw: bytes) -> None:
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        super().__init__(Handler)

    def text(self) -> str:
        return {"wrong": "The capital is Lyon.", "degenerate": "!" * 32, "empty": ""}.get(self.fault, GOOD)


def error(code: str) -> dict[str, Any]:
    return {"error": {"message": f"on purpose: {code}", "type": "test", "param": None, "code": code}}


def chat(text: str) -> dict[str, Any]:
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}],
        "usage": {"completion_tokens": len(text.split())},
    }


def completion(prompt: str, text: str) -> dict[str, Any]:
    return {
        "object": "text_completion",
        "choices": [{"index": 0, "text": text}],
        "text": [prompt + text],
        "usage": {"completion_tokens": len(text.split())},
    }
