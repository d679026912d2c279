"""What the fake account holds: keys, functions, versions, aliases, min instances. Tests change it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from alibabacloud_credentials.client import Client  # type: ignore[import-untyped]
from alibabacloud_credentials.models import Config  # type: ignore[import-untyped]
from alibabacloud_fc20230330 import models  # type: ignore[import-untyped]


@dataclass
class State:
    """What the account holds; tests read and change it directly."""

    access_key_id: str = "LTAItestkey"
    access_key_secret: str = "test-secret"
    security_token: str = ""
    service: str = ""
    functions: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    aliases: dict[tuple[str, str], Any] = field(default_factory=dict)
    provisions: dict[tuple[str, str], Any] = field(default_factory=dict)
    triggers: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    instances: dict[tuple[str, str], list[Any]] = field(default_factory=lambda: defaultdict(list))
    domains: dict[str, Any] = field(default_factory=dict)
    ready_after: int = 0
    provision_error: str = ""
    # Function states still to be answered before the stored one: (state, lastUpdateStatus, reason).
    states_ahead: list[tuple[str, str, str]] = field(default_factory=list)
    # action -> (status, code) to answer before the real answer.
    faults: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    # Qualifier -> base URL of the service behind it, where it differs from `service`.
    services: dict[str, str] = field(default_factory=dict)
    # Every accepted request: (action, qualifier, body).
    log: list[tuple[str, str, bytes]] = field(default_factory=list)
    query: dict[str, str] = field(default_factory=dict)
    # DeleteFunction answers 204 and deletes nothing.
    keeps_functions: bool = False
    headers: list[dict[str, str]] = field(default_factory=list)
    _polls: dict[tuple[str, str], int] = field(default_factory=dict)

    def actions(self) -> list[str]:
        return [action for action, _, _ in self.log]

    def writes(self) -> list[str]:
        return [action for action in self.actions() if not action.startswith(("Get", "List"))]


def credential(state: State, secret: str | None = None) -> Any:
    """What Alibaba's default chain would hand the SDK for the fake's one user."""
    kind = "sts" if state.security_token else "access_key"
    config = Config(type=kind, access_key_id=state.access_key_id)
    config.access_key_secret = secret or state.access_key_secret
    config.security_token = state.security_token or None
    return Client(config)


def deployed(name: str = "chatbot-llm") -> Any:
    """The function as `s deploy` leaves it."""
    return models.Function(
        function_name=name,
        state="Active",
        last_update_status="Successful",
        cpu=4,
        memory_size=16384,
        disk_size=10240,
        gpu_config=models.GPUConfig(gpu_type="fc.gpu.tesla.1", gpu_memory_size=16384),
        custom_container_config=models.CustomContainerConfig(
            image="registry.cn-hangzhou.aliyuncs.com/team/chatbot-llm:v1.2.0", port=8000
        ),
        timeout=360,
        instance_concurrency=10,
        last_modified_time="2026-11-20T08:00:00Z",
        function_arn=f"acs:fc:cn-hangzhou:1000:functions/{name}",
    )
