"""s.yaml, rendered by the real `s` once for a whole run, and a fake account with one function in it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fake_account import credential, deployed
from fake_fc import FakeFC
from infra.commands import options, wait_ready
from infra.errors import InfraError
from infra.fc import client, serverless_devs, template
from infra.fc.client import FunctionCompute

Render = Callable[..., dict[str, Any]]

# Every variable that s.yaml reads, so that a developer's own .env changes nothing.
DEPLOYMENT: Mapping[str, str] = {
    "DEPLOY_IMAGE": "registry.cn-hangzhou.aliyuncs.com/example/chatbot-llm:v1.2.3",
    "DEPLOY_LOG_PROJECT": "example-logs",
    "DEPLOY_LOG_STORE": "chatbot-llm",
    "DEPLOY_REGION": "cn-hangzhou",
    "DEPLOY_FUNCTION": "chatbot-llm",
    "DEPLOY_ROLE": "",
    "DEPLOY_QUALIFIER": "live",
    "DEPLOY_MIN_INSTANCES": "1",
    "DEPLOY_SCHEDULES": "[]",
    "DEPLOY_POLICIES": "[]",
    "DEPLOY_KEY_DIGESTS": "sha256:" + "0123456789abcdef" * 4,
    "FC3_COMPONENT": "fc3@0.1.22",
    "PYTHON": "python3",
}


@pytest.fixture(scope="session")
def s_command() -> str:
    try:
        return serverless_devs.find_s()
    except InfraError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def deployment() -> dict[str, str]:
    return dict(DEPLOYMENT)


@pytest.fixture(scope="session")
def _rendered(s_command: str, deployment: dict[str, str]) -> dict[str, Any]:
    return template.render(deployment)


@pytest.fixture
def props(_rendered: dict[str, Any]) -> dict[str, Any]:
    """Rendered props of s.yaml as it is shipped; the test may change them."""
    return copy.deepcopy(_rendered)


@pytest.fixture
def render(s_command: str, deployment: dict[str, str], tmp_path: Path) -> Render:
    """Render s.yaml, or the text of an edited one, with some variables changed or (None) taken away."""

    def rendered(text: str | None = None, **changes: str | None) -> dict[str, Any]:
        path = template.S_YAML
        if text is not None:
            path = tmp_path / "s.yaml"
            path.write_text(text, encoding="utf-8")
        merged = {**deployment, **changes}
        return template.render({name: value for name, value in merged.items() if value is not None}, path)

    return rendered


@pytest.fixture(autouse=True)
def _no_dotenv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A developer's own .env is no matter of these tests."""
    monkeypatch.setattr("infra.__main__.DOTENV", tmp_path / ".env")


@pytest.fixture
def fake() -> Iterator[FakeFC]:
    with FakeFC() as fake:
        fake.state.functions["chatbot-llm"] = deployed()
        yield fake


@pytest.fixture
def fc(fake: FakeFC) -> FunctionCompute:
    return FunctionCompute("cn-hangzhou", fake.url, credential=credential(fake.state))


@pytest.fixture
def connected(fake: FakeFC, monkeypatch: pytest.MonkeyPatch) -> FakeFC:
    """The fake account is what every command of this process talks to, whatever the developer's own environment."""
    for name in (*DEPLOYMENT, "CHATBOT_API_KEYS", "CHATBOT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")

    def connect(args: Any) -> FunctionCompute:
        return FunctionCompute(args.region, fake.url, credential=credential(fake.state))

    monkeypatch.setattr(options, "connect", connect)
    monkeypatch.setattr(client, "LONGEST_DELAY_S", 0.0)
    monkeypatch.setattr(wait_ready, "POLL_S", 0.01)
    return fake
