"""The rules the doctor knows for rendered props: each yields Findings and knows one thing.

Numbers of the platform come from `quotas`, those of the service from `service`; none is typed here. A rule
trusts no other rule: a missing key is that rule's own finding or nothing, never a traceback.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from infra.doctor import Finding, error, service, warning
from infra.doctor.roundtrip import unknown_keys
from infra.fc import keys, quotas
from infra.fc.serverless_devs import REDIRECTING

Props = Mapping[str, Any]

ELSEWHERE = "the deployment would go there instead of Function Compute"
WITH_DIGESTS = "`make deploy` or `python -m infra s`, which hand on digests"

NUMBERS = (
    "cpu", "memorySize", "diskSize", "timeout", "instanceConcurrency", "gpuConfig.gpuMemorySize",
    "customContainerConfig.port", "provisionConfig.defaultTarget", "concurrencyConfig.reservedConcurrency",
)  # fmt: skip

# Path -> what its text must be, empty where it is missing; what is wrong otherwise, with the text in {}.
TEXTS = {
    "runtime": ("custom-container", "must be custom-container: the service is an image"),
    "functionName": (r"[A-Za-z_][\w-]{0,63}",
        "must be 1 to 64 letters, digits, _ or -, not beginning with a digit; set DEPLOY_FUNCTION"),
    "role": (r"(acs:ram::\d+:role/[a-z0-9.-]+)?",
        "is '{}': must be acs:ram::<account>:role/<name> in lower case (fc3 lower-cases it), or empty"),
    "provisionConfig.qualifier": (r"(?!\d+$).*",
        "is version {}: instances are kept for LATEST or an alias; set DEPLOY_QUALIFIER"),
    "endpoint": ("", f"is set: {ELSEWHERE}; take it away"),
    "sessionAffinity": ("(NONE)?", "is {}: FC then counts sessions and sends up to "
        f"{quotas.MAX_INSTANCE_CONCURRENCY} requests to one instance; the service keeps no session, take it away"),
}  # fmt: skip

# What FC does by itself: key -> what its value must be, as JSON. `s deploy` passes on whatever stands there.
_BOTH = {"name": '".+"', "startTime": r'"\d{4}-.+"', "endTime": r'"\d{4}-.+"', "timeZone": '".*"|null'}
SCALING = {
    "scheduledActions": _BOTH | {"target": r"\d+", "scheduleExpression": f'"({quotas.SCHEDULE})"'},
    "targetTrackingPolicies": _BOTH
    | {"metricType": r'"\w+"', "metricTarget": r"0\.\d*[1-9]\d*|1(\.0)?", "minCapacity": r"\d+", "maxCapacity": r"\d+"},
}

AMOUNTS = ("CHATBOT_DEADLINE_S", "CHATBOT_DRAIN_S", "CHATBOT_MAX_RUNNING", "CHATBOT_MAX_WAITING")

REFERENCE = re.compile(r"([^/:@]+)[^/]*/[^:@]*(?::([^@]*))?(?:@(.*))?")  # host, tag, digest
# A tag that no one moves: git describe on a release (v1.2.3, v1.2.3-4-gabc1234), or a bare commit.
IMMUTABLE_TAG = re.compile(r"v?\d+\.\d+\.\d+([-+.]\w[\w.+-]*)?|[0-9a-f]{7,40}")


def get(props: Props, path: str, default: Any = None) -> Any:
    """The value at a dotted path, `default` where any step is missing."""
    value: Any = props
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return default
        value = value[key]
    return value


def number(props: Props, path: str) -> float:
    """The number at a path; 0 where there is none (`values` reports it)."""
    value = get(props, path)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0


def setting(props: Props, name: str) -> Any:
    """A setting of the service in this deployment: from the function's environment, else its default."""
    return get(props, f"environmentVariables.{name}", service.settings().get(name))


def amount(props: Props, name: str) -> float:
    """A setting as a number; where it is none, NaN, with which no comparison finds fault (`values` does)."""
    try:
        return float(setting(props, name))
    except (TypeError, ValueError):
        return math.nan


def values(props: Props) -> Iterator[Finding]:
    for path, (pattern, sentence) in TEXTS.items():
        text = str(get(props, path) or "")
        if not re.fullmatch(pattern, text):
            yield error(path, sentence.format(text))
    for path in NUMBERS:
        if isinstance(value := get(props, path), str | bool):
            write = "${env()} gives text, write ${json(env('NAME', '1'))} for a number"
            yield error(path, f"is {value!r}: {write}")
    for name in AMOUNTS:
        if math.isnan(amount(props, name)):
            yield error(f"environmentVariables.{name}", f"is {setting(props, name)!r}: must be a number, in quotes")


def machine(props: Props) -> Iterator[Finding]:
    path, disk, step = "gpuConfig.gpuType", number(props, "diskSize"), quotas.DISK_STEP_MB
    if (kind := get(props, path)) is None:
        yield error(path, "is missing: name an existing block of `template:` after `extend:` in s.yaml")
    elif kind != quotas.T4_GPU_TYPE:
        yield warning(path, f"{kind}: its vCPU and memory pairs are not known here; see FC's page on specifications")
    else:
        yield from t4(props)
    if disk != quotas.SMALL_DISK_MB and (disk % step or not 0 < disk <= quotas.MAX_DISK_MB):
        steps = f"{step} to {quotas.MAX_DISK_MB} in steps of {step}"
        yield error("diskSize", f"is {disk:g} MB: must be {quotas.SMALL_DISK_MB}, or {steps}")


def t4(props: Props) -> Iterator[Finding]:
    cpu, memory, region = number(props, "cpu"), number(props, "memorySize"), get(props, "region")
    if number(props, "gpuConfig.gpuMemorySize") != quotas.T4_GPU_MEMORY_MB:
        yield error("gpuConfig.gpuMemorySize", f"must be {quotas.T4_GPU_MEMORY_MB} MB: a T4 comes as a whole card")
    if not (legal := quotas.legal_t4_memory_mb(cpu)):
        yield error("cpu", f"is {cpu:g}: beside a T4 it must be one of {sorted(quotas.T4_MAX_MEMORY_MB)}")
    elif memory not in legal:
        pairs = f"{cpu:g} vCPU may have {legal[0]} to {legal[-1]} MB in steps of {quotas.T4_MEMORY_STEP_MB}"
        yield error("memorySize", f"is {memory:g} MB: {pairs}")
    if region not in quotas.T4_REGIONS:
        yield error("region", f"is {region!r}: the T4 is in {', '.join(sorted(quotas.T4_REGIONS))}; set DEPLOY_REGION")


def times(props: Props) -> Iterator[Finding]:
    for name, most in (("initializer", quotas.MAX_INITIALIZER_S), ("preStop", quotas.MAX_PRE_STOP_S)):
        path = f"instanceLifecycleConfig.{name}"
        if not get(props, f"{path}.handler"):
            why = "without it FC never calls the hook, and a redeploy resets both to 3 s"
            yield error(f"{path}.handler", f"must be a non-empty word: {why}")
        if get(props, f"{path}.command"):
            yield error(f"{path}.command", "excludes `handler`: take it away")
        if not 1 <= number(props, f"{path}.timeout") <= most:
            yield error(f"{path}.timeout", f"must be 1 to {most} s")
    drain, stop = amount(props, "CHATBOT_DRAIN_S"), number(props, "instanceLifecycleConfig.preStop.timeout")
    if drain >= stop:
        must = f"must be under preStop's {stop:g} s, or FC kills answers that are being finished"
        yield error("environmentVariables.CHATBOT_DRAIN_S", f"is {drain:g} s: {must}")
    timeout, deadline = number(props, "timeout"), amount(props, "CHATBOT_DEADLINE_S")
    if not 1 <= timeout <= quotas.MAX_TIMEOUT_S:
        yield error("timeout", f"must be 1 to {quotas.MAX_TIMEOUT_S} s; left out it is 3 s")
    elif timeout <= deadline:
        must = f"must be above CHATBOT_DEADLINE_S ({deadline:g} s), or FC kills an answer before the service ends it"
        yield error("timeout", f"is {timeout:g} s: {must}")


def concurrency(props: Props) -> Iterator[Finding]:
    path, at_once = "instanceConcurrency", number(props, "instanceConcurrency")
    if not 1 <= at_once <= quotas.MAX_INSTANCE_CONCURRENCY:
        yield error(path, f"must be 1 to {quotas.MAX_INSTANCE_CONCURRENCY}; left out it is 1")
    taken = amount(props, "CHATBOT_MAX_RUNNING") + amount(props, "CHATBOT_MAX_WAITING")
    if at_once > taken:
        has = f"the service takes {taken:g} at once; raise CHATBOT_MAX_RUNNING or CHATBOT_MAX_WAITING"
        yield error(path, f"is {at_once:g}: {has}")
    command = get(props, "customContainerConfig.command") or []
    sequences = service.flag("--max-num-seqs", command, setting(props, "CHATBOT_PROFILE"))
    if sequences is not None and at_once > int(sequences):
        has = f"the engine batches {sequences} (--max-num-seqs); the rest would wait inside it"
        yield error(path, f"is {at_once:g}: {has}")


def container(props: Props) -> Iterator[Finding]:
    path, command = "customContainerConfig.port", get(props, "customContainerConfig.command") or []
    listening = service.flag("--port", command, "none") or service.DEFAULT_PORT
    if number(props, path) != int(listening):
        yield error(path, f"is {get(props, path)}: the service listens on {listening}; left out it is 9000")
    path = "customContainerConfig.healthCheckConfig"
    if not (config := get(props, path)):
        yield error(path, "is missing: FC would send traffic to an engine that no longer answers")
        return
    if get(config, "httpGetUrl") != "/health":
        yield error(f"{path}.httpGetUrl", "must be /health, which is 200 only while the engine answers")
    for key, (least, most) in quotas.HEALTH_CHECK_RANGES.items():
        value = get(config, key)
        if value is not None and not (isinstance(value, int) and least <= value <= most):
            yield error(f"{path}.{key}", f"is {value!r}: must be {least} to {most}")


def image(props: Props) -> Iterator[Finding]:
    """FC notes tag and digest; a tag whose content changes later makes every call fail until the next deployment."""
    path, region = "customContainerConfig.image", get(props, "region")
    reference = str(get(props, path, ""))
    if not (named := REFERENCE.fullmatch(reference)):
        yield error(path, f"is {reference!r}, without a repository: export DEPLOY_REPOSITORY=<host>/<namespace>/<name>")
        return
    host, tag, digest = named.groups("")
    immutable = IMMUTABLE_TAG.fullmatch(tag) and not tag.endswith("dirty")
    if not (immutable or re.fullmatch(r"sha256:[0-9a-f]{64}", digest)):
        why = "can move or name unsaved work, and FC fails calls when a tag's content changes"
        yield error(path, f"tag {tag!r} {why}: push one that `git describe` made, e.g. v1.2.3")
    if not host.endswith(".aliyuncs.com"):
        known = "FC documents only ACR of the same account and region"
        yield warning(path, f"host {host!r} is not Alibaba's registry: {known}")
    elif str(region) not in host.split("."):
        yield error(path, f"host {host!r} is not in {region}: FC pulls from a registry of its own region")


def environment_variables(props: Props) -> Iterator[Finding]:
    variables: Mapping[str, Any] = get(props, "environmentVariables") or {}
    size = sum(len(str(part).encode()) for pair in variables.items() for part in pair)
    if size > quotas.MAX_ENVIRONMENT_BYTES:
        yield error("environmentVariables", f"are {size} bytes: must be at most {quotas.MAX_ENVIRONMENT_BYTES} in all")
    for name, value in variables.items():
        path = f"environmentVariables.{name}"
        if name.startswith(quotas.RESERVED_ENVIRONMENT_PREFIX):
            yield error(path, f"begins with {quotas.RESERVED_ENVIRONMENT_PREFIX}, which FC keeps for itself: rename it")
        if not isinstance(value, str):
            yield error(path, "must be text: put its value in quotes")
        if name.startswith(service.PREFIX) and name not in service.settings():
            refuses = "which refuses to start with it; code/README.md lists them"
            yield error(path, f"is not a setting of the service, {refuses}")


def api_keys(props: Props) -> Iterator[Finding]:
    path = f"environmentVariables.{keys.KEYS}"
    given = keys.listed(str(get(props, path, "")))
    if not given and any(get(each, "triggerConfig.authType") == "anonymous" for each in get(props, "triggers", [])):
        spends = "whoever finds the URL spends your money; export CHATBOT_API_KEYS"
        yield warning(path, f"is empty and the trigger is anonymous: {spends}")
    if not all(keys.DIGEST.fullmatch(entry) for entry in given):
        leave = f"leave the line as it is, export {keys.KEYS} and deploy with {WITH_DIGESTS}"
        yield error(path, f"holds a plain key, which `s` prints and keeps in ~/.s/logs: {leave}")


def logs(props: Props) -> Iterator[Finding]:
    if not isinstance(config := get(props, "logConfig"), Mapping):
        why = "without it a deploy switches logs off, and `auto` has no LLM metrics"
        yield error("logConfig", f"must name project and logstore: {why}")
        return
    for key in ("enableRequestMetrics", "enableInstanceMetrics", "enableLlmMetrics"):
        if config.get(key) is not True:
            yield warning(f"logConfig.{key}", "is off: the console will have no numbers to show; set it to true")
    if config.get("logBeginRule") != "DefaultRegex":
        yield warning("logConfig.logBeginRule", "must be DefaultRegex to keep a traceback in one record")


def instances(props: Props) -> Iterator[Finding]:
    path, scaling = "provisionConfig", get(props, "scalingConfig")
    provision = get(props, path)
    if provision and scaling:
        yield error("scalingConfig", "excludes provisionConfig: take one away (only provisionConfig can hibernate)")
    if not provision:
        if not scaling:
            removes = "a full deploy then removes the minimum instances that are there"
            yield error(path, f"is missing: {removes}; set defaultTarget: 0 if that is meant")
        return
    for key in quotas.PROVISION_REQUIRED:
        if key not in provision:
            decides = "the API then decides (both alwaysAllocate flags: true, about four times the price)"
            yield error(f"{path}.{key}", f"is missing: {decides}")
        elif key.startswith("alwaysAllocate") and provision[key]:
            costs = "the instance never hibernates and costs the full price day and night"
            yield warning(f"{path}.{key}", f"is true: {costs}")
    least, most = number(provision, "defaultTarget"), quotas.MAX_MIN_INSTANCES
    if least not in range(most + 1):
        yield error(
            f"{path}.defaultTarget", f"is {least:g}: must be a whole number, 0 to {most}; set DEPLOY_MIN_INSTANCES"
        )
    for kind, needed in SCALING.items():
        if not isinstance(some := get(provision, kind, []), list):
            yield error(f"{path}.{kind}", f"is {some!r}: must be a list, [] for none")
            continue
        for place, rule in enumerate(some):
            for key, pattern in needed.items():
                if not re.fullmatch(pattern, json.dumps(get(rule, key))):
                    take = "take the whole rule as `scale` and `plan` print it"
                    yield error(f"{path}.{kind}[{place}].{key}", f"is {get(rule, key)!r}: {take}")


def policies(props: Props) -> Iterator[Finding]:
    cap, cards = get(props, "concurrencyConfig.reservedConcurrency"), quotas.T4_CARDS_PER_REGION
    for place, policy in enumerate(get(props, "provisionConfig.targetTrackingPolicies") or []):
        path = f"provisionConfig.targetTrackingPolicies[{place}].maxCapacity"
        most = number(policy, "maxCapacity")
        if get(props, "logConfig.enableInstanceMetrics") is not True:
            yield error("logConfig.enableInstanceMetrics", "must be true: FC refuses a metric policy without it")
        if most > cards:
            yield warning(path, f"is {most:g}: a new account has {cards} T4 in a region; raise the quota first")
        if cap is not None and most > cap:
            yield error(path, f"is {most:g}: concurrencyConfig.reservedConcurrency caps the function at {cap}")


def triggers(props: Props) -> Iterator[Finding]:
    kept = get(props, "provisionConfig.qualifier", "LATEST")
    for place, trigger in enumerate(get(props, "triggers") or []):
        path, config, called = f"triggers[{place}]", get(trigger, "triggerConfig"), get(trigger, "qualifier", "LATEST")
        if get(trigger, "triggerType") != "http":
            continue
        methods = get(config, "methods") or []
        if missing := ", ".join(name for name in ("GET", "POST", "OPTIONS") if name not in methods):
            used = "POST: every question; GET: models and health; OPTIONS: browsers ask first"
            yield error(f"{path}.triggerConfig.methods", f"lacks {missing}: FC would refuse them itself ({used})")
        if get(props, "provisionConfig") and called != kept:
            wait = "callers would wait for a cold start beside a paid instance"
            yield error(f"{path}.qualifier", f"is not provisionConfig's ({kept}): {wait}")
        elif called == "LATEST":
            changes = "a deployment then changes what callers reach, untried; unset DEPLOY_QUALIFIER"
            yield warning(f"{path}.qualifier", f"is LATEST: {changes}")
        if get(config, "authType") == "function":
            wants = "FC then wants its own signature in `Authorization`, where an OpenAI client puts its key"
            own = "write anonymous, the service checks the key"
            yield error(f"{path}.triggerConfig.authType", f"is function: {wants}; {own}")


RULES: tuple[Callable[[Props], Iterator[Finding]], ...] = (
    unknown_keys, values, machine, times, concurrency, container, image,
    environment_variables, api_keys, logs, instances, policies, triggers,
)  # fmt: skip


def surroundings(env: Mapping[str, str]) -> Iterator[Finding]:
    """What in the operator's own environment would make a deployment go wrong."""
    if REDIRECTING in env:
        yield error(REDIRECTING, f"is set: {ELSEWHERE}; unset it")
    if env.get("SecurityToken") and env.get("AccessKeyID"):
        instead = "export ALIBABA_CLOUD_* and use `python -m infra s`"
        yield error("SecurityToken", f"is dropped by `s` beside AccessKeyID, and every call is refused: {instead}")
    if env.get(keys.KEYS) and not env.get(keys.DIGESTS):
        yield error(keys.KEYS, f"is set, and this `s` would deploy without it: use {WITH_DIGESTS}")


def check(rendered_props: Props, env: Mapping[str, str]) -> list[Finding]:
    """All that is wrong with props (`template.render`) deployed from environment `env`; errors first."""
    found = [finding for rule in RULES for finding in rule(rendered_props)]
    return sorted([*found, *surroundings(env)], key=lambda finding: (finding.level, finding.path))
