"""The dashboard and the alert rules name series that exist, outcomes that happen, and say what to do."""

import json
import re
from typing import Any

import pytest
import requests
import yaml
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from in_process import Make
from infra import ROOT

OBSERVE = ROOT / "infra" / "observe"
DASHBOARD: dict[str, Any] = json.loads((OBSERVE / "grafana.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS: list[dict[str, Any]] = yaml.safe_load((OBSERVE / "alerts.yaml").read_text())["groups"][0]["rules"]

_WORDS = {"and", "or", "unless", "on", "ignoring", "by", "without", "bool", "offset", "group_left", "group_right"}


def expressions() -> list[str]:
    found = [target["expr"] for panel in PANELS for target in panel["targets"]]
    variables = [item["query"]["query"] for item in DASHBOARD["templating"]["list"] if item["type"] == "query"]
    return found + [query.split("(")[1].split(",")[0] for query in variables] + [rule["expr"] for rule in ALERTS]


def series(expression: str) -> set[str]:
    """The names of series in a PromQL expression: every word that is no function, label, keyword or duration."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", " ", bare)
    return {word for word in re.findall(r"[a-zA-Z_:][\w:]*\b(?!\s*\()", bare) if word not in _WORDS}


NAMED = set().union(*(series(expression) for expression in expressions()))


def exposed(text: str) -> set[str]:
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def test_the_reader_of_expressions_finds_names_and_nothing_else() -> None:
    found = series('sum by (le) (rate(a_total{b="c", d=~"e|f"}[5m])) / on (g) vllm:h_bucket > 0.5 and absent(i)')
    assert found == {"a_total", "vllm:h_bucket", "i"}


def test_every_series_of_the_service_exists(make_app: Make) -> None:
    client = make_app().test_client()
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    assert client.post("/chat", json=chat).status_code == 200
    here = exposed(client.get("/metrics").get_data(as_text=True)) | exposed(generate_latest(REGISTRY).decode())
    own = {name for name in NAMED if not name.startswith("vllm:")}
    assert own and own <= here, own - here


@pytest.mark.engine
def test_every_series_of_vllm_exists(server: Any) -> None:
    here = exposed(requests.get(f"{server.url}/metrics", timeout=10).text)
    vllm = {name for name in NAMED if name.startswith("vllm:")}
    assert vllm and vllm <= here, vllm - here


def test_every_series_of_the_service_is_shown(make_app: Make) -> None:
    families = {
        family.name
        for family in text_string_to_metric_families(make_app().test_client().get("/metrics").get_data(as_text=True))
        if not family.name.endswith("_created")
    }
    hidden = {name for name in families if not any(named.startswith(name) for named in NAMED)}
    assert not hidden


def test_every_outcome_named_is_one_the_service_counts() -> None:
    code = "".join(path.read_text() for path in (ROOT / "code" / "chatbot_llm").rglob("*.py"))
    matchers = [match for text in expressions() for match in re.findall(r'outcome=~?"([^"]*)"', text)]
    outcomes = {outcome for matcher in matchers for outcome in matcher.split("|")}
    assert outcomes and all(f'"{outcome}"' in code for outcome in outcomes)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"] and rule["annotations"]["action"]


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
