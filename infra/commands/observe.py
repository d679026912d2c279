"""observe: index, saved queries, dashboard and alerts of observe/sls.yaml, put into the SLS project of the logs.

It can be run again: what is there is renewed, other people's queries and indexed fields stay. On Function Compute this
is the way to watch the service, because reading /metrics would wake an instance and bill it.
"""

from __future__ import annotations

import argparse
import os
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
PREFIX = "chatbot-llm-"
DASHBOARD = "chatbot-llm"


def arguments(parser: argparse.ArgumentParser) -> None:
    options.region(parser)
    parser.add_argument("--project", default=os.environ.get("DEPLOY_LOG_PROJECT"), help="SLS project (%(default)s)")
    parser.add_argument("--logstore", default=os.environ.get("DEPLOY_LOG_STORE", "chatbot-llm"), help="(%(default)s)")
    parser.add_argument("--endpoint", help="host of SLS (default: REGION.log.aliyuncs.com)")
    parser.add_argument(
        "--action-policy", default="sls.builtin", metavar="ID", help="of alerts: made in the console (%(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    if not args.project:
        raise WrongUsage("which project? export DEPLOY_LOG_PROJECT")
    plan, sls = read(), connect(args)
    index = f"/logstores/{args.logstore}/index"
    there = sls.exists(index)
    sls.call("POST" if there is None else "PUT", index, merged(there or {}, plan["index"]))
    print(f"index of {args.logstore}: {'made' if there is None else 'renewed'}")
    for name, query in plan["queries"].items():
        done = sls.put("/savedsearches", PREFIX + name, saved(name, query, args.logstore))
        print(f"query {PREFIX}{name}: {done}")
    print(f"dashboard {DASHBOARD}: {sls.put('/dashboards', DASHBOARD, dashboard(plan, args.logstore))}")
    for name, alert in plan["alerts"].items():
        print(f"alert {PREFIX}{name}: {sls.put('/jobs', PREFIX + name, job(name, alert, plan, args))}")


def connect(args: argparse.Namespace) -> Sls:
    return Sls(args.region, args.project, args.endpoint)


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


def statement(query: Mapping[str, Any]) -> str:
    return f"* | {query['sql']}"


def saved(name: str, query: Mapping[str, Any], logstore: str) -> dict[str, Any]:
    known = {"savedsearchName": PREFIX + name, "displayName": query["title"], "logstore": logstore, "topic": ""}
    return {**known, "searchQuery": statement(query)}


def dashboard(plan: Mapping[str, Any], logstore: str) -> dict[str, Any]:
    charts = []
    for place, chart in enumerate(plan["dashboard"]):
        query = plan["queries"][chart["query"]]
        search = {"logstore": logstore, "topic": "", "query": statement(query), "start": "-86400s", "end": "now"}
        display = {"displayName": query["title"], "xAxis": [chart["x"]], "yAxis": chart["y"]}
        # The grid is 20 wide.
        display |= {"xPos": 10 * (place % 2), "yPos": 8 * (place // 2), "width": 10, "height": 8}
        title = PREFIX + chart["query"]
        charts.append({"title": title, "type": chart["type"], "search": search, "display": display})
    return {"dashboardName": DASHBOARD, "displayName": DASHBOARD, "description": "", "charts": charts}


def job(name: str, alert: Mapping[str, Any], plan: Mapping[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """An alert rule; in the API it is a job."""
    query, title, common = plan["queries"][alert["query"]], f"{DASHBOARD}: {name}", plan["alert"]
    look = {"region": args.region, "project": args.project, "store": args.logstore, "query": statement(query)}
    condition = {"condition": str(alert["when"]), "countCondition": ""}
    what = f"{query['title']}: {alert['when']}. {alert['do']}"
    configuration = {
        **common["rule"],
        "dashboard": DASHBOARD,
        "queryList": [{**common["look"], **look, "start": f"-{alert['over']}"}],
        "severityConfigurations": [{"severity": alert["severity"], "evalCondition": condition}],
        "annotations": [{"key": "title", "value": title}, {"key": "desc", "value": what}],
        "policyConfiguration": {**common["policy"], "actionPolicyId": args.action_policy},
    }
    schedule = {"type": "FixedRate", "interval": alert["every"]}
    known = {"name": PREFIX + name, "displayName": title, "description": alert["do"], "type": "Alert"}
    return {**known, "state": "Enabled", "schedule": schedule, "configuration": configuration}
