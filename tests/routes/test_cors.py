"""Pages of other origins: what a browser is told."""

from typing import Any

import pytest

from chatbot_llm import settings
from chatbot_llm.errors import UsageError
from in_process import Make

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
PAGE = "https://chat.example.com"
#: What openai-node 6 sends.
STAINLESS = ",".join(
    ["authorization", "content-type"]
    + [
        f"x-stainless-{name}"
        for name in "arch lang os package-version retry-count runtime runtime-version timeout".split()
    ]
)


def preflight(make_app: Make, origins: str, origin: str = PAGE, headers: str = STAINLESS) -> Any:
    sent = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": headers}
    return make_app(cors_origins=origins, api_keys="k" * 16).test_client().options("/v1/chat/completions", headers=sent)


def test_an_allowed_page_may_send_the_headers_it_asks_for(make_app: Make) -> None:
    answer = preflight(make_app, PAGE)
    assert answer.status_code == 200 and answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert answer.headers["Access-Control-Allow-Headers"] == STAINLESS
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert "Origin" in answer.headers["Vary"]


def test_a_star_is_every_page(make_app: Make) -> None:
    answer = preflight(make_app, "*")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Access-Control-Allow-Headers"] == STAINLESS
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize(("origins", "origin"), [("", PAGE), (PAGE, "https://evil.example"), (PAGE, "null")])
def test_another_page_is_told_nothing(make_app: Make, origins: str, origin: str) -> None:
    answer = preflight(make_app, origins, origin)
    assert not [name for name, _ in answer.headers if name.lower().startswith("access-control")]


def test_headers_that_are_no_headers_are_not_repeated(make_app: Make) -> None:
    assert "Access-Control-Allow-Headers" not in preflight(make_app, PAGE, headers="a: b; c<d>").headers


@pytest.mark.parametrize("body", [CHAT, {**CHAT, "max_tokens": 0}, {**CHAT, "stream": True}])
def test_a_page_may_read_what_it_needs_of_an_answer(make_app: Make, body: dict[str, Any]) -> None:
    client = make_app(cors_origins=PAGE).test_client()
    answer = client.post("/chat", json=body, headers={"Origin": PAGE})
    exposed = answer.headers["Access-Control-Expose-Headers"]
    assert all(name in exposed for name in ("x-request-id", "Retry-After", "Server-Timing"))
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE


@pytest.mark.parametrize("origin", ["https://chat.example.com/", "chat.example.com", "https://Chat.example.com", "**"])
def test_an_origin_that_no_browser_sends_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    monkeypatch.setenv("CHATBOT_CORS_ORIGINS", origin)
    with pytest.raises(UsageError, match="CHATBOT_CORS_ORIGINS"):
        settings.load()
