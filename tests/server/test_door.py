"""From ASGI to Flask and back, in this process."""

from __future__ import annotations

from typing import Any

import pytest

from chatbot_llm.server.door import LARGE, environ_of
from in_process import App, Make


def scope(*headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    base = {"type": "http", "method": "POST", "http_version": "1.1", "path": "/chat", "query_string": b""}
    return {**base, "headers": list(headers), "client": ("10.0.0.1", 5), **more}


def test_a_header_with_an_underscore_cannot_pass_for_the_platforms() -> None:
    environ = environ_of(scope((b"x_fc_control_path", b"/forged"), (b"x-fc-request-id", b"r")))
    assert "HTTP_X_FC_CONTROL_PATH" not in environ and environ["HTTP_X_FC_REQUEST_ID"] == "r"


def test_a_header_that_comes_twice_is_joined() -> None:
    assert environ_of(scope((b"x-a", b"1"), (b"x-a", b"2")))["HTTP_X_A"] == "1,2"


def test_a_path_keeps_its_letters() -> None:
    assert environ_of(scope(path="/v1/models/é"))["PATH_INFO"].encode("latin-1").decode() == "/v1/models/é"


def test_a_large_body_is_judged_beside_the_loop(app: App) -> None:
    client = app.test_client()
    message = {"role": "user", "content": "x" * LARGE}
    answer = client.post("/chat", json={"messages": [message], "max_tokens": 2})
    assert answer.status_code == 200
    assert client.post("/chat", json={"messages": [{**message, "role": 5}]}).status_code == 400


@pytest.mark.parametrize("expectation", ["tea", "100-continue, tea"])
def test_an_expectation_nobody_meets_is_refused(app: App, expectation: str) -> None:
    answer = app.test_client().post("/chat", json={}, headers={"Expect": expectation})
    assert answer.status_code == 417 and "error" in answer.get_json()


def test_what_is_refused_unread_has_the_headers_of_its_route(make_app: Make) -> None:
    client = make_app(max_body_bytes=1024, cors_origins="https://a.example").test_client()
    headers = {"Origin": "https://a.example", "x-request-id": "r-1"}
    answer = client.post("/chat", data=b"x" * 2000, headers=headers)
    assert answer.status_code == 413 and answer.headers["Connection"] == "close"
    assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert answer.headers["x-request-id"] == "r-1"
