"""Reading rendered props without tripping over what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from infra.doctor import service

Props = Mapping[str, Any]


def get(props: Props, path: str, default: Any = None) -> Any:
    """The value at a dotted path, `default` where any step is missing."""
    value: Any = props
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return default
        value = value[key]
    return value


def number(props: Props, path: str) -> float:
    """The number at a path; 0 where there is none (`numbers` reports it)."""
    value = get(props, path)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0


def setting(props: Props, name: str) -> Any:
    """A setting of the service in this deployment: from the function's environment, else its default."""
    return get(props, f"environmentVariables.{name}", service.settings().get(name))


def amount(props: Props, name: str) -> float:
    """A setting as a number; where it is none, NaN, with which no comparison finds fault (`numbers` does)."""
    try:
        return float(setting(props, name))
    except (TypeError, ValueError):
        return math.nan
