"""Finds keys that nobody reads: sends props through the API's own models and looks at what comes out.

FC ignores a key it does not know, and so do `s` and its component: `healthCheck:` for `healthCheckConfig:`
deploys without a word and the function has no health check. The models of the SDK drop the same keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from infra.doctor import Finding, error
from infra.fc.quotas import AUTO_KEYS, COMPONENT_KEYS, SCALING_COMPONENT_KEYS, TRIGGER_KEYS

# props key -> the model of the call that fc3 makes of it, and the keys fc3 reads itself
CALLS: Mapping[str, tuple[str, frozenset[str]]] = {
    "provisionConfig": ("PutProvisionConfigInput", SCALING_COMPONENT_KEYS),
    "scalingConfig": ("PutScalingConfigInput", SCALING_COMPONENT_KEYS),
    "concurrencyConfig": ("PutConcurrencyInput", frozenset()),
    "asyncInvokeConfig": ("PutAsyncInvokeConfigInput", frozenset({"qualifier"})),
}


def lost(sent: Any, kept: Any, path: str) -> Iterator[str]:
    """Paths of keys that are in `sent` and not in `kept`."""
    if isinstance(sent, Mapping):
        for key, value in sent.items():
            here = f"{path}.{key}".lstrip(".")
            if isinstance(kept, Mapping) and key in kept:
                yield from lost(value, kept[key], here)
            else:
                yield here
    elif isinstance(sent, list):
        for place, value in enumerate(sent):
            yield from lost(value, kept[place], f"{path}[{place}]")


def through(model: Any, sent: Mapping[str, Any], path: str = "") -> Iterator[Finding]:
    """Findings for every key of `sent` that `model` drops, or for a value of the wrong shape."""
    try:
        kept = model().from_map(sent).to_map()
    except (AttributeError, TypeError) as problem:
        yield error(path or "props", f"has text or a list where the API wants keys, or the other way round ({problem})")
        return
    for key in lost(sent, kept, path):
        dropped = "and would be dropped without a word: check its spelling"
        yield error(key, f"is not a key that Function Compute knows, {dropped}")


def unknown_keys(props: Mapping[str, Any]) -> Iterator[Finding]:
    """Every key under the props of an fc3 resource that no API call would carry."""
    # Here and not above: it takes a second, and commands that never look at s.yaml should not wait for it.
    from alibabacloud_fc20230330 import models  # type: ignore[import-untyped]

    auto = {key for key in AUTO_KEYS if props.get(key) == "auto"}
    aside = COMPONENT_KEYS | CALLS.keys() | {"triggers"} | auto
    yield from through(models.CreateFunctionInput, {key: props[key] for key in props if key not in aside})
    for name, (model, own) in CALLS.items():
        part = props.get(name) or {}
        yield from through(getattr(models, model), {key: part[key] for key in part if key not in own}, name)
    for place, trigger in enumerate(props.get("triggers") or []):
        path = f"triggers[{place}]"
        for key in trigger.keys() - TRIGGER_KEYS:
            yield error(f"{path}.{key}", "is not a key of a trigger: check its spelling")
        if trigger.get("triggerType") == "http":
            yield from through(models.HTTPTriggerConfig, trigger.get("triggerConfig") or {}, f"{path}.triggerConfig")
