"""The doctor, one deliberate error at a time, starting from the rendered s.yaml that has none."""

from __future__ import annotations

from typing import Any

import pytest

from infra.commands import plan, scale
from infra.doctor import service
from infra.doctor.rules import check, get
from infra.fc import quotas

Props = dict[str, Any]
DIGEST = "sha256:" + "a" * 64


def found(props: Props, level: str = "error", env: dict[str, str] | None = None) -> list[str]:
    return [finding.path for finding in check(props, env or {}) if finding.level == level]


def put(props: Props, path: str, value: Any) -> Props:
    """Set the value at a dotted path; None takes the key away."""
    *steps, last = path.split(".")
    here = props
    for step in steps:
        here = here.setdefault(step, {})
    if value is None:
        del here[last]
    else:
        here[last] = value
    return props


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("instanceConcurrency", "instanceConcurency"),
        ("customContainerConfig.healthCheckConfig", "customContainerConfig.customHealthCheckConfig"),
        (
            "customContainerConfig.healthCheckConfig.periodSeconds",
            "customContainerConfig.healthCheckConfig.periodSecond",
        ),
        ("provisionConfig.alwaysAllocateGPU", "provisionConfig.alwaysAllocateGpu"),
        ("logConfig.enableLlmMetrics", "logConfig.enableLLMMetrics"),
    ],
)
def test_a_misspelt_key_is_named(props: Props, right: str, wrong: str) -> None:
    put(props, wrong, get(props, right))
    put(props, right, None)
    assert wrong in found(props)


def test_a_misspelt_key_of_the_trigger_is_named(props: Props) -> None:
    props["triggers"][0]["triggerConfig"]["method"] = ["GET"]
    props["triggers"][0]["qualifer"] = "live"
    assert {"triggers[0].triggerConfig.method", "triggers[0].qualifer"} <= set(found(props))


def test_a_value_of_the_wrong_shape_is_a_finding_and_no_traceback(props: Props) -> None:
    put(props, "customContainerConfig", "registry.example/image")
    assert "props" in found(props)


def test_4_vcpu_with_32_gb_is_refused_and_the_sentence_says_what_is_sold(props: Props) -> None:
    put(props, "memorySize", quotas.T4_MAX_MEMORY_MB[8])
    (finding,) = check(props, {})
    assert (finding.level, finding.path) == ("error", "memorySize")
    assert str(quotas.T4_MAX_MEMORY_MB[4]) in finding.sentence


@pytest.mark.parametrize(("cpu", "memory"), [(2, 8192), (6, 16384), (4.5, 16384), (4, 10240), (16, 69632)])
def test_a_machine_that_is_not_sold_is_refused(props: Props, cpu: float, memory: int) -> None:
    put(put(props, "cpu", cpu), "memorySize", memory)
    assert {"cpu", "memorySize"} & set(found(props))


@pytest.mark.parametrize(("cpu", "memory"), [(4, 4096), (4, 16384), (8, 32768), (16, 65536)])
def test_a_machine_that_is_sold_is_accepted(props: Props, cpu: int, memory: int) -> None:
    assert found(put(put(props, "cpu", cpu), "memorySize", memory)) == []


def test_half_a_card_is_refused(props: Props) -> None:
    assert found(put(props, "gpuConfig.gpuMemorySize", 8192)) == ["gpuConfig.gpuMemorySize"]


@pytest.mark.parametrize("megabytes", [0, 1024, 15000, 512_000])
def test_a_disk_size_that_is_not_sold_is_refused(props: Props, megabytes: int) -> None:
    assert found(put(props, "diskSize", megabytes)) == ["diskSize"]


def test_a_region_without_the_card_is_refused(props: Props) -> None:
    props["customContainerConfig"]["image"] = "registry.eu-west-1.aliyuncs.com/a/b:v1.2.3"
    assert found(put(props, "region", "eu-west-1")) == ["region"]


def test_text_where_a_number_belongs_is_named(props: Props) -> None:
    assert "cpu" in found(put(props, "cpu", "4"))


def test_a_missing_initializer_is_an_error(props: Props) -> None:
    assert "instanceLifecycleConfig.initializer.handler" in found(
        put(props, "instanceLifecycleConfig.initializer", None)
    )


def test_an_initializer_with_an_empty_handler_is_an_error(props: Props) -> None:
    path = "instanceLifecycleConfig.initializer.handler"
    assert found(put(props, path, "")) == [path]


@pytest.mark.parametrize(
    ("hook", "most"), [("initializer", quotas.MAX_INITIALIZER_S), ("preStop", quotas.MAX_PRE_STOP_S)]
)
def test_a_hook_longer_than_the_platform_allows_is_an_error(props: Props, hook: str, most: int) -> None:
    path = f"instanceLifecycleConfig.{hook}.timeout"
    assert found(put(props, path, most + 1)) == [path]


def test_draining_for_longer_than_pre_stop_is_an_error(props: Props) -> None:
    path = "environmentVariables.CHATBOT_DRAIN_S"
    assert found(put(props, path, str(quotas.MAX_PRE_STOP_S))) == [path]


def test_concurrency_above_the_threads_is_an_error(props: Props) -> None:
    put(props, "environmentVariables.CHATBOT_MAX_RUNNING", "4")
    put(props, "environmentVariables.CHATBOT_MAX_WAITING", "5")
    assert found(props) == ["instanceConcurrency"]


def test_concurrency_above_max_num_seqs_of_the_profile_is_an_error(props: Props) -> None:
    sequences = int(service.flag("--max-num-seqs", [], "t4") or 0)
    assert found(put(props, "instanceConcurrency", sequences)) == []
    assert found(put(props, "instanceConcurrency", sequences + 1)) == ["instanceConcurrency"]


@pytest.mark.parametrize("command", [["--max-num-seqs", "8"], ["--max_num_seqs=8"]])
def test_concurrency_above_max_num_seqs_of_the_command_is_an_error(props: Props, command: list[str]) -> None:
    assert found(put(props, "customContainerConfig.command", command)) == ["instanceConcurrency"]


def test_a_timeout_below_the_deadline_is_an_error(props: Props) -> None:
    assert found(put(props, "timeout", int(props["environmentVariables"]["CHATBOT_DEADLINE_S"]) - 1)) == ["timeout"]


def test_without_a_deadline_of_its_own_the_services_default_counts(props: Props) -> None:
    put(props, "environmentVariables.CHATBOT_DEADLINE_S", None)
    assert found(put(props, "timeout", 100)) == ["timeout"]


def test_a_deadline_that_is_no_number_is_an_error(props: Props) -> None:
    path = "environmentVariables.CHATBOT_DEADLINE_S"
    assert found(put(props, path, "five minutes")) == [path]


@pytest.mark.parametrize(
    "tag",
    ["latest", "main", "dev", "v1", "v1.2", "release-2026", "v1.2.3-dirty", "v1.2.3-4-gabc1234-dirty", ""],
)
def test_a_tag_that_can_move_is_an_error(props: Props, tag: str) -> None:
    image = "registry.cn-hangzhou.aliyuncs.com/example/chatbot-llm"
    assert found(put(props, "customContainerConfig.image", f"{image}:{tag}" if tag else image)) == [
        "customContainerConfig.image"
    ]


@pytest.mark.parametrize("tag", [":v1.2.3", ":1.2.3", ":v1.2.3-4-gabc1234", ":abc1234", "@sha256:" + "0a" * 32])
def test_a_tag_that_stays_is_accepted(props: Props, tag: str) -> None:
    image = f"registry-vpc.cn-hangzhou.aliyuncs.com/example/chatbot-llm{tag}"
    assert found(put(props, "customContainerConfig.image", image)) == []


def test_an_image_of_another_region_is_an_error(props: Props) -> None:
    path = "customContainerConfig.image"
    assert found(put(props, path, "registry.cn-beijing.aliyuncs.com/example/chatbot-llm:v1.2.3")) == [path]


PERSONAL = (
    "crpi-0cn-shanghai1.cn-hangzhou.personal.cr.aliyuncs.com",
    "crpi-abc1-vpc.cn-hangzhou.personal.cr.aliyuncs.com",
)


@pytest.mark.parametrize("host", [*PERSONAL, "team-registry.cn-hangzhou.cr.aliyuncs.com"])
def test_hosts_of_personal_and_enterprise_registries_belong_to_their_region(props: Props, host: str) -> None:
    path = "customContainerConfig.image"
    assert check(put(props, path, f"{host}/example/chatbot-llm:v1.2.3"), {}) == []
    assert found(put(props, "region", "cn-shanghai")) == [path]


def test_an_image_from_another_registry_is_a_warning(props: Props) -> None:
    path = "customContainerConfig.image"
    assert found(put(props, path, "docker.io/example/chatbot-llm:v1.2.3"), "warning") == [path]


def test_a_port_the_service_does_not_listen_on_is_an_error(props: Props) -> None:
    path = "customContainerConfig.port"
    assert found(put(props, path, 9000)) == [path]
    assert found(put(props, "customContainerConfig.command", ["--port=9000"])) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("timeoutSeconds", 4), ("timeoutSeconds", 0), ("initialDelaySeconds", 121), ("httpGetUrl", "/")],
)
def test_a_health_check_the_platform_refuses_is_an_error(props: Props, key: str, value: object) -> None:
    path = f"customContainerConfig.healthCheckConfig.{key}"
    assert found(put(props, path, value)) == [path]


def test_a_function_without_a_health_check_is_an_error(props: Props) -> None:
    path = "customContainerConfig.healthCheckConfig"
    assert found(put(props, path, None)) == [path]


def test_an_environment_above_4_kb_is_an_error(props: Props) -> None:
    put(props, "environmentVariables.HF_HOME", "x" * quotas.MAX_ENVIRONMENT_BYTES)
    assert found(props) == ["environmentVariables"]


def test_a_reserved_variable_is_an_error(props: Props) -> None:
    assert found(put(props, "environmentVariables.FC_REGION", "x")) == ["environmentVariables.FC_REGION"]


def test_a_setting_the_service_does_not_have_is_an_error(props: Props) -> None:
    path = "environmentVariables.CHATBOT_DEADLINE"
    assert found(put(props, path, "350")) == [path]


def test_an_open_door_is_a_warning_and_a_key_closes_it(props: Props) -> None:
    path = "environmentVariables.CHATBOT_API_KEYS"
    assert found(props, "warning") == []
    assert found(put(props, path, ""), "warning") == [path]


@pytest.mark.parametrize(
    "plain", ["hunter2", "a-key-long-enough-for-the-service", f"{DIGEST}, one-more-key-in-plain-text"]
)
def test_a_key_that_s_would_print_is_an_error_and_is_not_printed(props: Props, plain: str) -> None:
    (finding,) = check(put(props, "environmentVariables.CHATBOT_API_KEYS", plain), {})
    assert finding.level == "error" and plain.split()[-1] not in str(finding)


def test_digests_are_fine(props: Props) -> None:
    assert check(put(props, "environmentVariables.CHATBOT_API_KEYS", f"{DIGEST}, {DIGEST}"), {}) == []


def test_keys_that_an_s_by_hand_would_leave_behind_are_an_error(props: Props) -> None:
    keys = {"CHATBOT_API_KEYS": "a-key-long-enough"}
    assert found(props, env=keys) == ["CHATBOT_API_KEYS"]
    assert found(props, env=keys | {"DEPLOY_KEY_DIGESTS": DIGEST}) == []


def test_a_role_with_capitals_is_an_error(props: Props) -> None:
    assert found(put(props, "role", "acs:ram::1:role/FunctionRole")) == ["role"]


def test_both_kinds_of_scaling_are_an_error(props: Props) -> None:
    assert found(put(props, "scalingConfig", {"minInstances": 1})) == ["scalingConfig"]


def test_neither_kind_of_scaling_is_an_error(props: Props) -> None:
    assert found(put(props, "provisionConfig", None)) == ["provisionConfig"]


@pytest.mark.parametrize("key", quotas.PROVISION_REQUIRED)
def test_a_required_key_of_provision_config_is_missed(props: Props, key: str) -> None:
    assert found(put(props, f"provisionConfig.{key}", None)) == [f"provisionConfig.{key}"]


def test_an_instance_that_never_hibernates_is_a_warning(props: Props) -> None:
    path = "provisionConfig.alwaysAllocateGPU"
    assert found(put(props, path, True), "warning") == [path]


def test_a_policy_above_the_cap_or_without_metrics_is_an_error(props: Props) -> None:
    policy = plan.policy(0.6, 1, 3)
    put(
        put(props, "provisionConfig.targetTrackingPolicies", [policy]),
        "concurrencyConfig.reservedConcurrency",
        2,
    )
    put(props, "logConfig.enableInstanceMetrics", False)
    assert found(props) == [
        "logConfig.enableInstanceMetrics",
        "provisionConfig.targetTrackingPolicies[0].maxCapacity",
    ]


def test_logs_left_to_chance_are_an_error(props: Props) -> None:
    assert found(put(props, "logConfig", "auto")) == ["logConfig"]


def test_an_endpoint_left_over_from_a_rehearsal_is_an_error(props: Props) -> None:
    env = {"FC_CLIENT_CUSTOM_ENDPOINT": "http://127.0.0.1:1"}
    assert found(props, env=env) == ["FC_CLIENT_CUSTOM_ENDPOINT"]


def test_a_token_that_serverless_devs_would_drop_is_an_error(props: Props) -> None:
    assert found(props, env={"AccessKeyID": "a", "SecurityToken": "t"}) == ["SecurityToken"]


def test_nothing_at_all_is_many_findings_and_no_traceback() -> None:
    assert "gpuConfig.gpuType" in found({})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("provisionConfig.defaultTarget", -1),
        ("provisionConfig.defaultTarget", 10_001),
        ("endpoint", "http://127.0.0.1:18099"),
        ("sessionAffinity", "MCP_SSE"),
        ("environmentVariables.CHATBOT_API_KEYS", f"{DIGEST}\n{DIGEST}"),
    ],
)
def test_what_would_be_deployed_without_a_word_is_found(props: Props, path: str, value: object) -> None:
    assert found(put(props, path, value)) == [path]


@pytest.mark.parametrize(("key", "value"), [("methods", ["GET"]), ("methods", ["POST"]), ("authType", "function")])
def test_a_trigger_that_turns_callers_away_is_found(props: Props, key: str, value: object) -> None:
    props["triggers"][0]["triggerConfig"][key] = value
    assert found(props) == [f"triggers[0].triggerConfig.{key}"]


@pytest.mark.parametrize("image", [":v1.2.3", "", "/x:v1.2.3"])
def test_an_image_without_a_repository_names_the_variable_to_set(props: Props, image: str) -> None:
    (finding,) = check(put(props, "customContainerConfig.image", image), {})
    assert finding.level == "error" and "export DEPLOY_REPOSITORY=" in finding.sentence


def test_a_version_holds_no_instances(props: Props) -> None:
    props["triggers"][0]["qualifier"] = props["provisionConfig"]["qualifier"] = "7"
    assert found(props) == ["provisionConfig.qualifier"]


def test_an_instance_beside_the_callers_is_an_error_and_latest_under_them_a_warning(props: Props) -> None:
    props["provisionConfig"]["qualifier"] = "LATEST"
    assert found(props) == ["triggers[0].qualifier"]
    props["triggers"][0]["qualifier"] = "LATEST"
    assert found(props) == [] and found(props, "warning") == ["triggers[0].qualifier"]


RULES = {
    "scheduledActions": scale.schedule("busy", "cron(0 30 8 * * MON-FRI)", 2, "Asia/Shanghai"),
    "targetTrackingPolicies": plan.policy(0.6, 1, 3),
}


@pytest.mark.parametrize("kind", RULES)
def test_a_rule_of_scaling_as_scale_and_plan_print_it_is_accepted(props: Props, kind: str) -> None:
    assert found(put(props, f"provisionConfig.{kind}", [RULES[kind]])) == []


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (kind, key, value)
        for kind in RULES
        for key in sorted(RULES[kind].keys() - {"timeZone"})
        for value in (None, "", True, [])
    ]
    + [("scheduledActions", "target", value) for value in ("2", -1, 1.5, "two")]
    + [("scheduledActions", "scheduleExpression", when) for when in (5, "0 30 8 * * *", "cron(0 30 8)", "at(tomorrow)")]
    + [("targetTrackingPolicies", "metricTarget", value) for value in (0, 1.5, 60, "0.6", -0.5)]
    + [("targetTrackingPolicies", key, value) for key in ("minCapacity", "maxCapacity") for value in ("1", -1, 0.5)],
)
def test_a_rule_of_scaling_that_the_api_would_refuse_is_an_error(
    props: Props, kind: str, key: str, value: object
) -> None:
    """`s deploy` sends it after it has updated the function, and fails then."""
    assert f"provisionConfig.{kind}[0].{key}" in found(
        put(props, f"provisionConfig.{kind}", [{**RULES[kind], key: value}])
    )


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("rules", [["x"], [1], [None], [{}], {"a": 1}, {}, "[]", "", 0, False])
def test_what_is_no_list_of_rules_is_an_error(props: Props, kind: str, rules: object) -> None:
    paths = found(put(props, f"provisionConfig.{kind}", rules))
    assert any(path.startswith(f"provisionConfig.{kind}") for path in paths)


@pytest.mark.parametrize("least", [1.5, True, "1", -1, None])
def test_a_minimum_that_is_no_whole_number_is_an_error(props: Props, least: object) -> None:
    assert "provisionConfig.defaultTarget" in found(put(props, "provisionConfig.defaultTarget", least))
