"""Who gets in: API keys, the platform's routes, browsers of other origins."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from chatbot_llm.routes import auth as guard
from in_process import Client

OLD, NEW = "old-key-0123456789abcdef", "new-key-0123456789abcdef"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
Make = Callable[..., Client]


@pytest.fixture
def on_fc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FC_FUNCTION_NAME", "chatbot-llm")
    monkeypatch.setenv("FC_INSTANCE_ID", "c-1")


def code(answer: Any) -> str:
    return str(answer.get_json()["error"]["code"])


@pytest.mark.parametrize("headers", [{"Authorization": f"Bearer {OLD}"}, {"authorization": f"bearer  {OLD} "}])
def test_a_key_is_taken_as_bearer(client_of: Make, headers: dict[str, str]) -> None:
    assert client_of(api_keys=OLD).post("/chat", json=CHAT, headers=headers).status_code == 200


def test_a_key_is_taken_as_api_key_beside_a_signature_for_the_platform(client_of: Make) -> None:
    headers = {"Authorization": "ACS3-HMAC-SHA256 Credential=x,Signature=y", "api-key": OLD}
    assert client_of(api_keys=OLD).post("/chat", json=CHAT, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/chat", "/v1/messages", "/v1/responses", "/v1/models"])
def test_a_key_is_taken_as_anthropics_clients_send_it(client_of: Make, path: str) -> None:
    body = {"input": "Hello"} if path == "/v1/responses" else CHAT
    method = "GET" if path == "/v1/models" else "POST"
    client = client_of(api_keys=OLD)
    assert client.open(path, method=method, json=body, headers={"x-api-key": OLD}).status_code == 200
    assert client.open(path, method=method, json=body, headers={"x-api-key": NEW}).status_code == 401


@pytest.mark.parametrize("other", [{"Authorization": f"Bearer {NEW}"}, {"api-key": NEW}, {"x-api-key": NEW}])
@pytest.mark.parametrize("own", [{"Authorization": f"Bearer {OLD}"}, {"api-key": OLD}, {"x-api-key": OLD}])
def test_a_header_meant_for_somebody_else_hides_no_key(
    client_of: Make, own: dict[str, str], other: dict[str, str]
) -> None:
    headers = {**other, **own}
    assert client_of(api_keys=OLD).get("/version", headers=headers).status_code == 200
    if len(headers) == 2:
        assert client_of(api_keys="x" * 16).get("/version", headers=headers).status_code == 401


def test_rotation_has_no_gap(client_of: Make) -> None:
    def served(keys: str) -> dict[str, int]:
        client = client_of(api_keys=keys)
        return {key: client.post("/chat", json=CHAT, headers={"api-key": key}).status_code for key in (OLD, NEW)}

    assert served(OLD) == {OLD: 200, NEW: 401}
    assert served(f"{OLD}, {NEW}") == {OLD: 200, NEW: 200}
    assert served(NEW) == {OLD: 401, NEW: 200}


@pytest.mark.parametrize("write", [str, str.upper], ids=["lower case", "upper case"])
def test_a_digest_lets_its_key_in_and_not_itself(client_of: Make, write: Callable[[str], str]) -> None:
    digest = write(f"sha256:{hashlib.sha256(OLD.encode()).hexdigest()}")
    client = client_of(api_keys=f"{digest}, {NEW}")
    sent = {key: client.post("/chat", json=CHAT, headers={"api-key": key}).status_code for key in (OLD, NEW, digest)}
    assert sent == {OLD: 200, NEW: 200, digest: 401}
    assert client.get("/version", headers={"api-key": digest.partition(":")[2]}).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": f"Basic {OLD}"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {OLD[:-1]}"},
        {"Authorization": f"Bearer {OLD}x"},
        {"Authorization": f"Bearer {OLD},{NEW}"},
        {"api-key": ""},
        {"api-key": OLD.upper()},
        {"api-key": "ключ-0123456789abcdef".encode().decode("latin-1")},
        {"Cookie": f"api-key={OLD}"},
    ],
)
def test_without_the_right_key_nothing_is_told(client_of: Make, headers: dict[str, str]) -> None:
    client = client_of(api_keys=f"{OLD},{NEW}")
    for path in ("/chat", "/generate", "/v1/models", "/version", "/tokenize", "/invoke", "/pre-stop", "/no"):
        for answer in (client.get(path, headers=headers), client.post(path, json=CHAT, headers=headers)):
            assert answer.status_code == 401
            assert code(answer) == "invalid_api_key"
            assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_every_key_is_compared_whole_and_in_constant_time(monkeypatch: pytest.MonkeyPatch, client_of: Make) -> None:
    compared: list[tuple[int, int]] = []
    real = guard.hmac.compare_digest

    def spy(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return real(one, other)

    client = client_of(api_keys=f"{OLD},{NEW}")
    monkeypatch.setattr(guard.hmac, "compare_digest", spy)
    client.get("/version", headers={"api-key": OLD})
    client.get("/version", headers={"api-key": "x"})
    # Both keys each time, also after the first has matched; and all of one length, whatever was sent.
    assert compared == [(32, 32)] * 4


def test_what_the_platform_and_load_balancers_need_is_open(client_of: Make) -> None:
    client = client_of(api_keys=OLD)
    assert [client.get(path).status_code for path in ("/health", "/metrics", "/openapi.json")] == [200, 200, 200]


ROUTES = [("POST", "/initialize"), ("GET", "/pre-stop"), ("POST", "/invoke")]
#: As the server hands a path on: without the query, decoded.
DETOURS = ["{}", "/{}", "{}/", "/.{}", "{};x", "{}#x", "{} ", "{}\x00"]


@pytest.mark.usefixtures("on_fc")
@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("way", ["/http-invoke", "/http-invoke,/invoke", "/invoke, /http-invoke"])
def test_the_trigger_does_not_reach_the_platforms_routes(client_of: Make, method: str, path: str, way: str) -> None:
    client = client_of(api_keys=OLD)
    headers = {"x-fc-control-path": way, "api-key": OLD}
    for detour in DETOURS:
        overrides = {"PATH_INFO": detour.format(path)}
        answer = client.open("/", method=method, headers=headers, data=b"{}", environ_overrides=overrides)
        assert answer.status_code in (403, 404)
    assert client.get("/health").get_json()["state"] == "ready", "it must not have begun to drain"


@pytest.mark.usefixtures("on_fc")
def test_the_platform_reaches_its_own_routes_without_a_key(client_of: Make) -> None:
    client = client_of(api_keys=OLD)
    event = b'{"prompt": "Hello", "max_tokens": 1}'
    assert client.post("/initialize", headers={"x-fc-control-path": "/initialize"}).status_code == 200
    assert client.post("/invoke", data=event, headers={"x-fc-control-path": "/invoke"}).status_code == 200
    assert client.get("/pre-stop").status_code == 200  # the hook's request carries no control path


@pytest.mark.usefixtures("on_fc")
def test_metrics_need_a_key_through_the_trigger(client_of: Make) -> None:
    client = client_of(api_keys=OLD)
    trigger = {"x-fc-control-path": "/http-invoke"}
    assert client.get("/metrics", headers=trigger).status_code == 401
    assert client.get("/metrics", headers={**trigger, "api-key": OLD}).status_code == 200


def test_elsewhere_the_platforms_headers_open_nothing(client_of: Make) -> None:
    client = client_of(api_keys=OLD)
    for way in ("/invoke", "/initialize", "/pre-stop"):
        assert client.get("/pre-stop", headers={"x-fc-control-path": way}).status_code == 401
        assert client.get("/version", headers={"x-fc-control-path": way}).status_code == 401


@pytest.mark.usefixtures("on_fc")
@pytest.mark.parametrize("path", ["/initialize", "/pre-stop", "/invoke", "//pre-stop", "/pre-stop?a=b", "/%70re-stop"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_an_event_cannot_reach_the_platforms_routes(client_of: Make, path: str, method: str) -> None:
    client = client_of()
    event = {
        "path": path,
        "method": method,
        "headers": {"x-fc-control-path": "/invoke", "X-FC-Control-Path": "/invoke"},
    }
    answer = client.post("/invoke", json=event, headers={"x-fc-control-path": "/invoke"})
    assert answer.status_code in (400, 403, 404, 405)
    assert client.get("/health").get_json()["state"] == "ready"


def test_browsers_of_other_origins_get_no_leave(client_of: Make) -> None:
    closed, one = client_of(), client_of(cors_origins="https://chat.example.com")
    for client, origin in ((closed, "https://chat.example.com"), (one, "https://evil.example"), (one, "null")):
        for answer in (
            client.options("/chat", headers={"Origin": origin, "Access-Control-Request-Method": "POST"}),
            client.post("/chat", json=CHAT, headers={"Origin": origin}),
        ):
            assert not [name for name, _ in answer.headers if name.lower().startswith("access-control")]


def test_browsers_of_the_named_origin_do(client_of: Make) -> None:
    client = client_of(cors_origins="https://chat.example.com, https://two.example.com", api_keys=OLD)
    origin = {"Origin": "https://two.example.com"}
    preflight = client.options("/chat", headers={**origin, "Access-Control-Request-Headers": "authorization"})
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://two.example.com"
    assert "authorization" in preflight.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in preflight.headers
    answer = client.post("/chat", json=CHAT, headers={**origin, "api-key": OLD})
    assert answer.headers["Access-Control-Allow-Origin"] == "https://two.example.com"
    assert answer.headers["Vary"] == "Origin"


@pytest.mark.parametrize("path", ["//chat", "/v1//models", "/chat/", "//evil.example/chat", "/\\evil.example"])
def test_no_path_is_redirected_to_a_host_that_the_caller_names(client_of: Make, path: str) -> None:
    headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
    answer = client_of().get("/", headers=headers, environ_overrides={"PATH_INFO": path})
    assert answer.status_code in (404, 405) and "Location" not in answer.headers
    assert "evil.example" not in json.dumps(dict(answer.headers))


def ask(client: Client, method: str, path: str, peer: str = "127.0.0.1", **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = client.open(path, method=method, data=b"{}", headers=named, environ_overrides={"REMOTE_ADDR": peer})
    return int(answer.status_code)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_off_the_platform_its_routes_answer_to_this_machine_only(client_of: Make, method: str, path: str) -> None:
    client = client_of()
    for peer in ("10.0.0.5", "203.0.113.9", "::ffff:10.0.0.5", "2001:db8::1", ""):
        assert ask(client, method, path, peer) == 403
    assert client.get("/health").get_json()["state"] == "ready", "it must not have begun to drain"
    for peer in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"):
        assert ask(client_of(), method, path, peer) in (200, 400)  # 400: {} is no event


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_off_the_platform_its_routes_answer_to_a_key_from_anywhere(client_of: Make, method: str, path: str) -> None:
    assert ask(client_of(api_keys=OLD), method, path, "203.0.113.9", api_key=OLD) in (200, 400)
    assert ask(client_of(api_keys=OLD), method, path, "203.0.113.9", api_key=NEW) == 401


#: What browsers, and proxies on this machine, add to what a page makes them send.
PAGES: list[dict[str, str]] = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:3000"},
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
    {"Host": "evil.example", "Origin": "http://evil.example", "Sec_Fetch_Site": "same-origin"},
    {"Host": "127.0.0.1.evil.example"},
    {"X_Forwarded_For": "203.0.113.9"},
    {"Forwarded": "for=203.0.113.9"},
]


@pytest.mark.parametrize("page", PAGES, ids=str)
@pytest.mark.parametrize(("method", "path"), [*ROUTES, ("HEAD", "/pre-stop")])
def test_no_page_of_another_site_reaches_them(client_of: Make, method: str, path: str, page: dict[str, str]) -> None:
    client = client_of(cors_origins="*")
    assert ask(client, method, path, **page) == 403
    assert ask(client, method, path, Content_Type="text/plain", **page) == 403
    assert client.get("/health").get_json()["state"] == "ready", "it must not have begun to drain"


@pytest.mark.parametrize("page", PAGES[:5], ids=str)
def test_a_key_does_not_open_them_to_another_sites_page(client_of: Make, page: dict[str, str]) -> None:
    for method, path in ROUTES:
        assert ask(client_of(api_keys=OLD), method, path, api_key=OLD, **page) == 403


@pytest.mark.parametrize("page", [{}, {"Origin": "http://localhost"}, {"Sec_Fetch_Site": "none"}], ids=str)
def test_ones_own_page_and_ones_own_shell_reach_them(client_of: Make, page: dict[str, str]) -> None:
    assert ask(client_of(), "GET", "/pre-stop", **page) == 200


def test_with_keys_metrics_are_for_this_machine_and_the_scrapers_that_are_named(client_of: Make) -> None:
    client = client_of(api_keys=OLD, metrics_from="10.1.0.0/16, 192.0.2.7")
    seen = {peer: ask(client, "GET", "/metrics", peer) for peer in ("127.0.0.1", "10.1.2.3", "192.0.2.7", "10.2.0.1")}
    assert seen == {"127.0.0.1": 200, "10.1.2.3": 200, "192.0.2.7": 200, "10.2.0.1": 401}
    assert ask(client, "GET", "/metrics", "10.2.0.1", api_key=OLD) == 200
    assert ask(client, "GET", "/metrics", "127.0.0.1", X_Forwarded_For="203.0.113.9") == 401
    assert ask(client_of(), "GET", "/metrics", "10.2.0.1") == 200, "no keys: as open as everything else"
