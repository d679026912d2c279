"""observe: index, saved queries, dashboard and alerts of observe/sls.yaml, put into the SLS project of the logs.

It can be run again: what is there is renewed, other people's queries and indexed fields stay. On Function Compute this
is the way to watch the service, because reading /metrics would wake an instance and bill it.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from typing import Any

import yaml

from infra import ROOT
from infra.commands import options
from infra.errors import WrongUsage
from infra.fc import template
from infra.fc.prices import Size, price
from infra.fc.sls import Sls

PLAN = ROOT / "infra" / "observe" / "sls.yaml"
DASHBOARD = "chatbot-llm"


def arguments(parser: argparse.ArgumentParser) -> None:
    options.region(parser)
    parser.add_argument("--project", default=os.environ.get("DEPLOY_LOG_PROJECT"), help="SLS project (%(default)s)")
    parser.add_argument("--logstore", default=os.environ.get("DEPLOY_LOG_STORE", "chatbot-llm"), help="(%(default)s)")
    parser.add_argument("--endpoint", help="host of SLS (default: REGION.log.aliyuncs.com)")
    parser.add_argument(
        "--action-policy", default="sls.builtin", metavar="ID", help="made in the console (%(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    if not args.project:
        raise WrongUsage("which project? export DEPLOY_LOG_PROJECT")
    plan, sls = read(), Sls(args.region, args.project, args.endpoint)
    index = f"/logstores/{args.logstore}/index"
    there = sls.exists(index)
    sls.call("POST" if there is None else "PUT", index, merged(there or {}, plan["index"]))
    print(f"index of {args.logstore}: {'made' if there is None else 'renewed'}")
    made = shaped(plan, vars(args))
    for query in made["query"]:
        name = query["savedsearchName"]
        print(f"query {name}: {sls.put('/savedsearches', name, query)}")
    dashboard = {"dashboardName": DASHBOARD, "displayName": DASHBOARD, "description": "", "charts": made["chart"]}
    print(f"dashboard {DASHBOARD}: {sls.put('/dashboards', DASHBOARD, dashboard)}")
    for alert in made["job"]:
        print(f"alert {alert['name']}: {sls.put('/jobs', alert['name'], alert)}")


def read(prices: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The plan with prices and views filled in."""
    text = PLAN.read_text(encoding="utf-8")
    for name, value in (an_hour() if prices is None else prices).items():
        text = text.replace(f"{{{name}}}", value)
    plan: dict[str, Any] = yaml.safe_load(text)
    for query in plan["queries"].values():
        for name in reversed(plan["views"]):
            query["sql"] = query["sql"].replace(f"{{{name}}}", plan["views"][name])
    return plan


def an_hour() -> dict[str, str]:
    """What one instance of s.yaml costs an hour, CNY."""
    size = Size.of(template.render_any())
    return {"active": f"{price(size.cu(1, 0), 'CNY'):.2f}", "idle": f"{price(size.cu(0, 1), 'CNY'):.2f}"}


def merged(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The index with our fields, each open to SQL; what others have indexed stays."""
    keys = dict(there.get("keys") or {})
    for name in wanted["text"]:
        keys[name] = {"alias": "", "type": "text", **wanted["words"], **keys.get(name, {}), "doc_value": True}
    longest = max(int(there.get("max_text_len") or 0), wanted["max_text_len"])
    return {"line": there.get("line") or wanted["words"], "keys": keys, "max_text_len": longest}


def shaped(plan: Mapping[str, Any], args: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What the API takes of the plan, by the name of its shape."""
    queries = {name: {**args, **query, "name": name} for name, query in plan["queries"].items()}
    values = {
        "query": queries.values(),
        "chart": [
            {**queries[chart["query"]], **chart, "left": 10 * (place % 2), "top": 8 * (place // 2)}
            for place, chart in enumerate(plan["dashboard"])
        ],
        "job": [{**queries[alert["query"]], **alert, "name": name} for name, alert in plan["alerts"].items()],
    }
    return {name: [filled(plan["shapes"][name], one) for one in some] for name, some in values.items()}


def filled(shape: Any, values: Mapping[str, Any]) -> Any:
    """A shape with a value for each {name}; a text that is nothing else becomes the value itself."""
    if isinstance(shape, dict):
        return {key: filled(one, values) for key, one in shape.items()}
    if isinstance(shape, list):
        return [filled(one, values) for one in shape]
    if not isinstance(shape, str):
        return shape
    return values[shape[1:-1]] if re.fullmatch(r"{\w+}", shape) else shape.format_map(values)
