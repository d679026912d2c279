"""The instrument believes no server that does not answer."""

import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import load, servers


class _Broken(http.server.BaseHTTPRequestHandler):
    """Says it is well, and fails every request."""

    def do_GET(self) -> None:
        self._say(200, {})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say(500, {"error": {"message": "no kernel for this card"}})

    def _say(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[servers.Server]:
    log = tmp_path / "log"
    log.write_text("the log's last line")
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Broken) as server,
        subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield servers.Server("broken", server.server_port, process, log, time.monotonic(), "bench")
        server.shutdown()


def test_a_start_counts_only_when_a_token_came(broken: servers.Server) -> None:
    with pytest.raises(RuntimeError, match="(?s)broken answers 500.*no kernel for this card.*the log's last line"):
        servers._await(broken)
    assert broken.ready_s and not broken.first_token_s


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")  # vLLM's, while it is imported
@pytest.mark.xdist_group("vllm")
def test_a_cell_of_nothing_but_failures_is_an_error(broken: servers.Server) -> None:
    with pytest.raises(RuntimeError, match="broken answered none of 2 requests: "):
        load.run(broken, load.Shape("tiny", 8, 2), concurrency=1, count=2, seed=1)


def test_vllms_server_is_given_no_parser_that_only_the_service_has() -> None:
    flags = servers.engine_flags("a-model")
    assert flags[flags.index("--tool-call-parser") + 1] == "hermes"
