"""s.yaml, rendered by the real `s preview`: what would be deployed, and what only looks as if it would."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from infra.doctor import roundtrip, service
from infra.doctor.rules import check, get
from infra.errors import InfraError
from infra.fc import quotas
from infra.fc.client import LIVE
from infra.fc.template import S_YAML

TEXT = S_YAML.read_text(encoding="utf-8")
TEMPLATES = re.findall(r"^  ([\w-]+):\n    cpu:", TEXT, re.MULTILINE)
BARE_NUMBER = re.compile(r"^(?!\s*#).*[:\-=]\s*'?\d[\d.]*'?\s*$")


def errors(props: dict[str, Any]) -> list[str]:
    return [str(finding) for finding in check(props, {}) if finding.level == "error"]


def with_template(name: str) -> str:
    return TEXT.replace("name: t4-4vcpu", f"name: {name}")


def test_the_machine_is_one_whole_t4_with_4_vcpu_and_the_most_memory_they_may_have(
    props: dict[str, Any],
) -> None:
    assert props["gpuConfig"] == {"gpuType": quotas.T4_GPU_TYPE, "gpuMemorySize": quotas.T4_GPU_MEMORY_MB}
    assert props["cpu"] == 4
    assert props["memorySize"] == quotas.T4_MAX_MEMORY_MB[4]
    assert props["diskSize"] == quotas.DISK_STEP_MB


def test_the_function_is_a_container_on_8000_with_its_hooks_and_health_check(props: dict[str, Any]) -> None:
    assert props["runtime"] == "custom-container"
    assert props["customContainerConfig"]["port"] == 8000
    assert (props["timeout"], props["instanceConcurrency"]) == (360, 10)
    hooks = props["instanceLifecycleConfig"]
    assert hooks["initializer"]["handler"] and hooks["preStop"]["handler"]
    assert hooks["initializer"]["timeout"] == quotas.MAX_INITIALIZER_S
    assert hooks["preStop"]["timeout"] == quotas.MAX_PRE_STOP_S
    assert props["customContainerConfig"]["healthCheckConfig"]["httpGetUrl"] == "/health"


def test_one_instance_is_kept_and_hibernates(props: dict[str, Any]) -> None:
    provision = props["provisionConfig"]
    assert provision["defaultTarget"] == 1
    assert provision["alwaysAllocateCPU"] is False and provision["alwaysAllocateGPU"] is False
    assert set(quotas.PROVISION_REQUIRED) <= provision.keys()


def test_request_instance_and_llm_metrics_are_on(props: dict[str, Any]) -> None:
    logs = props["logConfig"]
    assert [logs[f"enable{name}Metrics"] for name in ("Request", "Instance", "Llm")] == [True, True, True]
    assert logs["logBeginRule"] == "DefaultRegex"


def test_no_key_is_lost_on_the_way_through_the_api_models(props: dict[str, Any]) -> None:
    assert list(roundtrip.unknown_keys(props)) == []


def test_the_doctor_finds_nothing_in_the_shipped_template(props: dict[str, Any]) -> None:
    assert check(props, {}) == []


@pytest.mark.parametrize(
    ("variable", "path", "value"),
    [
        ("DEPLOY_REGION", "region", "cn-shanghai"),
        ("DEPLOY_FUNCTION", "functionName", "other"),
        ("DEPLOY_IMAGE", "customContainerConfig.image", "registry.cn-hangzhou.aliyuncs.com/a/b:v9.9.9"),
        ("DEPLOY_ROLE", "role", "acs:ram::1:role/r"),
        ("DEPLOY_LOG_PROJECT", "logConfig.project", "p"),
        ("DEPLOY_LOG_STORE", "logConfig.logstore", "l"),
        ("DEPLOY_QUALIFIER", "provisionConfig.qualifier", "blue"),
        ("DEPLOY_KEY_DIGESTS", "environmentVariables.CHATBOT_API_KEYS", "sha256:" + "f" * 64),
    ],
)
def test_a_variable_changes_its_value(render: Any, variable: str, path: str, value: str) -> None:
    assert get(render(**{variable: value}), path) == value


def test_the_url_leads_to_the_qualifier_that_keeps_the_instance(render: Any) -> None:
    props = render(DEPLOY_QUALIFIER=None)
    assert props["triggers"][0]["qualifier"] == props["provisionConfig"]["qualifier"] == LIVE


@pytest.mark.parametrize("variable", ["DEPLOY_IMAGE", "DEPLOY_LOG_PROJECT"])
def test_a_missing_variable_is_named(render: Any, variable: str) -> None:
    with pytest.raises(InfraError, match=f"export {variable}="):
        render(**{variable: None})


def test_nothing_secret_is_in_the_file_or_rendered_by_default(render: Any) -> None:
    assert (
        render(DEPLOY_KEY_DIGESTS=None, CHATBOT_API_KEYS="a-key-that-s-must-not-see")["environmentVariables"][
            "CHATBOT_API_KEYS"
        ]
        == ""
    )
    assert not re.search(r"LTAI\w{12,}|sk-\w{16,}|AccessKeySecret:|password:", TEXT)


def test_zero_instances_is_one_variable_away_and_a_number(render: Any) -> None:
    props = render(DEPLOY_MIN_INSTANCES="0")
    assert props["provisionConfig"]["defaultTarget"] == 0
    assert errors(props) == []


def test_schedules_come_from_a_variable_and_are_a_list(render: Any, props: dict[str, Any]) -> None:
    assert props["provisionConfig"]["scheduledActions"] == []
    action = {
        "name": "morning",
        "scheduleExpression": "cron(0 30 8 * * MON-FRI)",
        "target": 2,
        "timeZone": "Asia/Shanghai",
    }
    action |= {"startTime": "2026-01-01T00:00:00Z", "endTime": "2036-01-01T00:00:00Z"}
    changed = render(DEPLOY_SCHEDULES=json.dumps([action]))
    assert changed["provisionConfig"]["scheduledActions"] == [action] and errors(changed) == []


def test_policies_come_from_a_variable_and_what_needs_more_cards_than_an_account_has_is_told(
    render: Any, props: dict[str, Any]
) -> None:
    assert props["provisionConfig"]["targetTrackingPolicies"] == []
    policy = {"name": "by-slots", "metricType": "ProvisionedConcurrencyUtilization", "metricTarget": 0.6}
    policy |= {"minCapacity": 1, "maxCapacity": 3, "timeZone": ""}
    policy |= {"startTime": "2026-01-01T00:00:00Z", "endTime": "2036-01-01T00:00:00Z"}
    changed = render(DEPLOY_POLICIES=json.dumps([policy]))
    assert changed["provisionConfig"]["targetTrackingPolicies"] == [policy] and check(changed, {}) == []
    (finding,) = check(render(DEPLOY_POLICIES=json.dumps([policy | {"maxCapacity": 11}])), {})
    assert "raise the quota" in str(finding)


def test_the_templates_offered_are_found() -> None:
    assert TEMPLATES == ["t4-4vcpu", "t4-8vcpu", "ada-8vcpu"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_renders_to_something_the_doctor_accepts(render: Any, name: str) -> None:
    props = render(with_template(name))
    assert errors(props) == []
    assert props["environmentVariables"]["CHATBOT_DEADLINE_S"], "a template must not replace the environment"


def test_the_larger_template_is_8_vcpu_with_32_gb(render: Any) -> None:
    props = render(with_template("t4-8vcpu"))
    assert (props["cpu"], props["memorySize"]) == (8, quotas.T4_MAX_MEMORY_MB[8])


def test_a_template_that_does_not_exist_is_an_error(render: Any) -> None:
    assert any("gpuConfig.gpuType is missing" in error for error in errors(render(with_template("t4-2vcpu"))))


def test_every_number_carries_its_reason() -> None:
    assert [line for line in TEXT.splitlines() if BARE_NUMBER.match(line) and "edition:" not in line] == []


def test_the_component_is_pinned() -> None:
    assert re.search(r"FC3_COMPONENT', 'fc3@\d+\.\d+\.\d+'\)", TEXT)


def test_the_service_accepts_the_environment_it_would_get(
    props: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from chatbot_llm.settings import load

    for name, value in props["environmentVariables"].items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert settings.deadline_s < props["timeout"]
    assert settings.drain_s < props["instanceLifecycleConfig"]["preStop"]["timeout"]
    assert settings.max_running == props["instanceConcurrency"]


def test_what_the_doctor_reads_of_the_service_is_what_the_service_uses() -> None:
    from chatbot_llm.engine.profiles import FLAGS
    from chatbot_llm.settings import Settings

    assert service.settings().keys() == {f"CHATBOT_{name.upper()}" for name in Settings.model_fields}
    assert service.settings()["CHATBOT_DEADLINE_S"] == Settings.model_fields["deadline_s"].default
    assert service.profiles().keys() == FLAGS.keys()
    assert service.profiles()["t4"] == FLAGS["t4"], "local-test shows what wins as a diff of it"
    assert service.flag("--max-num-seqs", [], "t4") == FLAGS["t4"]["--max-num-seqs"]


def test_the_port_is_the_one_the_image_exposes(props: dict[str, Any]) -> None:
    dockerfile = (S_YAML.parent / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^EXPOSE (\d+)", dockerfile, re.MULTILINE) == [str(service.DEFAULT_PORT)]
    assert props["customContainerConfig"]["port"] == service.DEFAULT_PORT
