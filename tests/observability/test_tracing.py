"""Traces, when an endpoint is set: one server span per request, received over OTLP/HTTP by this process."""

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

#: The caller's trace and span, as W3C Trace Context writes them.
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
#: Runs two requests through the app and prints what the engine was told; a process of its own, since the exporter
#: lives as long as the process.
PROGRAM = """
import json
import sys
from prometheus_client import CollectorRegistry
from chatbot_llm.app import create_app
from chatbot_llm.engine.scripted import ScriptedEngine
from chatbot_llm.observability.metrics import Metrics
from chatbot_llm.server.door import Door
from chatbot_llm.settings import Settings
from in_process import App

settings = Settings(engine="scripted")
engine = ScriptedEngine(settings)
seen = []
answer = engine.answer
engine.answer = lambda request: (seen.append(dict(request.trace)), answer(request))[1]
app = App(Door(create_app(settings, engine, Metrics(CollectorRegistry()))))
app.begin()
app.wait_ready()
body = {"messages": [{"role": "user", "content": "my secret"}], "max_tokens": 2}
headers = {"traceparent": "00-TRACE-PARENT-01", "x-request-id": "r-1"}
client = app.test_client()
assert client.post("/chat", json=body, headers=headers).status_code == 200
assert client.post("/generate", json={"prompt": "a", "max_tokens": 2, "stream": True}).get_data()
app.close()
print(json.dumps({"trace": seen, "otel": "opentelemetry" in sys.modules}))
""".replace("TRACE-PARENT", f"{TRACE}-{PARENT}")


class Receiver(BaseHTTPRequestHandler):
    """Keeps every span it is sent."""

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        raw = gzip.decompress(raw) if self.headers.get("Content-Encoding") == "gzip" else raw
        assert isinstance(self.server, Server)
        self.server.paths.append(self.path)
        for resource in ExportTraceServiceRequest.FromString(raw).resource_spans:
            self.server.resources.append({item.key: item.value.string_value for item in resource.resource.attributes})
            self.server.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.spans: list[Any] = []
        self.paths: list[str] = []
        self.resources: list[dict[str, str]] = []


@pytest.fixture
def receiver() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run(monkeypatch: pytest.MonkeyPatch, **env: str) -> dict[str, Any]:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_every_request_is_one_span_below_its_callers(receiver: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{receiver.server_port}"
    output = run(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=url)
    chat, generate = sorted(receiver.spans, key=lambda span: str(span.name))
    assert [chat.name, generate.name] == ["POST /chat", "POST /generate"]
    assert chat.trace_id.hex() == TRACE and chat.parent_span_id.hex() == PARENT
    assert not generate.parent_span_id
    # vLLM is given our span as its parent.
    reported = [trace["traceparent"].split("-")[1:3] for trace in output["trace"]]
    assert reported == [[span.trace_id.hex(), span.span_id.hex()] for span in (chat, generate)]
    values = {item.key: item.value for item in chat.attributes}
    assert values["gen_ai.request.model"].string_value == "scripted"
    assert values["gen_ai.usage.output_tokens"].int_value == 2
    assert values["chatbot.outcome"].string_value == "ok"
    assert values["chatbot.request_id"].string_value == "r-1"
    assert 0 < chat.end_time_unix_nano - chat.start_time_unix_nano < 30e9
    assert "my secret" not in str(receiver.spans)
    assert set(receiver.paths) == {"/v1/traces"}
    assert {resource["service.name"] for resource in receiver.resources} == {"chatbot-llm"}


def test_the_variable_for_traces_alone_is_taken_as_it_is(receiver: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{receiver.server_port}/custom"
    run(monkeypatch, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=url, OTEL_SERVICE_NAME="mine")
    assert set(receiver.paths) == {"/custom"}
    assert {resource["service.name"] for resource in receiver.resources} == {"mine"}


def test_a_dead_collector_costs_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_EXPORTER_OTLP_TIMEOUT="1")


@pytest.mark.parametrize(
    "env",
    [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}],
    ids=["unset", "disabled"],
)
def test_without_an_endpoint_nothing_is_imported(monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> None:
    output = run(monkeypatch, **env)
    assert output["otel"] is False
    assert output["trace"][0]["traceparent"] == f"00-{TRACE}-{PARENT}-01", "the caller's context reaches vLLM unchanged"
