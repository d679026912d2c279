"""What observe/sls.yaml asks is answered from lines that the service wrote, and arrives in SLS, once and again."""

from __future__ import annotations

import json
import math
import re
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from alibabacloud_credentials.client import Client  # type: ignore[import-untyped]
from alibabacloud_credentials.models import Config  # type: ignore[import-untyped]

from fake_sls import KEY, SECRET, TOKEN, FakeSls, database, rows
from infra import ROOT
from infra.__main__ import main
from infra.commands import observe
from infra.errors import Refused
from infra.fc.sls import Sls
from launcher import ServiceProcess, until

PLAN = observe.read(prices={"active": "16", "idle": "4"})
QUERIES: dict[str, dict[str, Any]] = PLAN["queries"]
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
FAILED = {"engine_error", "internal_error", "engine_unavailable"}


def found(db: sqlite3.Connection, name: str) -> list[dict[str, Any]]:
    return rows(db, f"* | {QUERIES[name]['sql']}")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Four answers, one of which waited for its slot; one caller turned away; one answer cut at its deadline."""
    log = tmp_path_factory.mktemp("observe") / "log"
    one = ServiceProcess(log, max_running=1, max_waiting=1, deadline_s=4)
    try:
        one.wait_ready()
        for stream in (False, True):
            assert one.call("POST", "/chat", {**CHAT, "stream": stream}).status == 200
        slow = {**CHAT, "script": {"first_s": 1.5, "text": "a b"}}
        asking = [
            threading.Thread(target=one.call, args=("POST", "/chat", body)) for body in (slow, CHAT | {"stream": True})
        ]
        for thread, place in zip(asking, ("running", "waiting"), strict=True):
            thread.start()
            until(lambda place=place: one.health()[place] == 1, place)  # type: ignore[misc]
        assert one.call("POST", "/chat", CHAT).status == 429
        for thread in asking:
            thread.join()
        cut = {**CHAT, "max_tokens": 90, "script": {"token_s": 0.1, "loop": True, "text": "a"}}
        assert one.call("POST", "/chat", cut).status == 200
        yield one.log()
    finally:
        one.close()


@pytest.fixture
def db(service: str) -> Iterator[sqlite3.Connection]:
    made = database([("c-1", service)])
    yield made
    made.close()


def lines(log: str, msg: str) -> list[dict[str, Any]]:
    bodies = [json.loads(line.partition(" ")[2]) for line in log.splitlines() if f'"msg": "{msg}"' in line]
    assert bodies
    return bodies


def test_every_field_that_a_query_names_is_in_the_log(service: str) -> None:
    for view, msg in (("requests", "request"), ("ready", "ready")):
        named = set(re.findall(r"\$\.(\w+)", PLAN["views"][view]))
        written = {name for line in lines(service, msg) for name in line}
        assert named and named <= written, f"{view}: {named - written}"


def test_outcomes_named_are_ones_the_service_has(db: sqlite3.Connection) -> None:
    code = "".join(path.read_text() for path in (ROOT / "code" / "chatbot_llm").rglob("*.py"))
    named = {
        word
        for query in QUERIES.values()
        for word in re.findall(r"outcome (?:= |in \()('[^)]*?')(?:\)| )", query["sql"])
    }
    outcomes = {part.strip(" '") for words in named for part in words.split(",")}
    assert outcomes > FAILED and all(f'"{outcome}"' in code for outcome in outcomes)
    assert {row["outcome"]: row["requests"] for row in found(db, "outcomes")} == {
        "ok": 4,
        "overloaded": 1,
        "deadline": 1,
    }


def test_times_and_shares_are_those_of_the_lines(db: sqlite3.Connection, service: str) -> None:
    waits = [line["ttft_ms"] + line["queue_ms"] for line in lines(service, "request") if "ttft_ms" in line]
    first = found(db, "first-token")
    assert sum(row["requests"] for row in first) == 6
    assert max(row["p95_s"] for row in first) == pytest.approx(max(waits) / 1000, abs=0.01)
    assert max(row["p95_s"] for row in first) > 1
    shares = found(db, "shares")
    if len(shares) == 1:  # not over the end of five minutes
        assert (shares[0]["turned_away_pct"], shares[0]["cut_pct"], shares[0]["failed_pct"]) == (16.67, 16.67, 0)


def test_tokens_starts_and_first_requests_are_counted(db: sqlite3.Connection, service: str) -> None:
    tokens = found(db, "tokens")
    written = [line.get("completion_tokens", 0) for line in lines(service, "request")]
    assert sum(row["completion_tokens"] for row in tokens) == sum(written) > 10
    (starts,) = found(db, "starts")
    assert (starts["starts"], starts["instances"]) == (1, 1) and starts["slowest_s"] >= 0
    assert sum(row["cold"] for row in found(db, "cold")) == 1
    assert found(db, "degenerate") == []


@pytest.mark.process
def test_an_instance_that_refuses_to_serve_garbage_is_seen(tmp_path: Path) -> None:
    broken = ServiceProcess(tmp_path / "log", script={"text": "!!!!!!!!"})
    try:
        assert broken.wait_exit() != 0
        made = database([("c-2", broken.log())])
        # Two rows where its lines stand on both sides of the end of five minutes.
        assert {row["refused"] for row in found(made, "degenerate")} == {1}
        assert found(made, "starts") == []
        made.close()
    finally:
        broken.close()


def line(second: float, total_s: float, **fields: Any) -> str:
    stamp = f"2026-11-28T10:{int(second) // 60:02}:{int(second) % 60:02}.{round(second % 1 * 1000):03}Z"
    body = {"level": "info", "logger": "x", "msg": "request", "outcome": "ok", "total_ms": total_s * 1000, **fields}
    return f"{stamp} {json.dumps(body)}"


def test_the_price_counts_time_in_which_requests_overlap_once() -> None:
    """16 an hour awake, 4 asleep: 30 minutes of one instance and 6 of another are 10 + 5.2."""
    busy = [line(1000, 900), line(1100, 900), line(1000.5, 0.25), line(1900, 700), line(100, 10)]
    other = [line(3600 - 1, 360)]
    made = database([("c-1", "\n".join(busy)), ("c-2", "\n".join(other))])
    (hour,) = found(made, "cost")
    # 100..1000 and on to 1100, a request inside, 1200..1900, 90..100.
    minutes = (1000 + 700 + 10 + 360) / 60
    assert hour["busy_minutes"] == pytest.approx(minutes, abs=0.06) and hour["instances"] == 2
    assert hour["price"] == pytest.approx(minutes / 60 * 16 + (2 - minutes / 60) * 4, abs=0.01)
    made.close()


def test_what_charts_and_alerts_name_are_columns_of_their_query(db: sqlite3.Connection) -> None:
    columns = {name: {column[0] for column in db.execute(query["sql"]).description} for name, query in QUERIES.items()}
    for chart in PLAN["dashboard"]:
        assert {chart["x"], *chart["y"]} <= columns[chart["query"]], chart
    for name, alert in PLAN["alerts"].items():
        words = set(re.findall(r"[a-z]\w*", alert["when"]))
        assert words and words <= columns[alert["query"]], name
    assert {chart["query"] for chart in PLAN["dashboard"]} == QUERIES.keys(), "a query that nobody sees"


def holds(db: sqlite3.Connection, alert: dict[str, Any]) -> bool:
    condition = re.sub(r"&&", "and", str(alert["when"]))
    rows_found = [{name: math.nan if x is None else x for name, x in row.items()} for row in found(db, alert["query"])]
    return any(eval(condition, {}, row) for row in rows_found)  # conditions are ours; null is more than no number


def test_a_quiet_day_raises_no_alert_and_a_bad_one_each(db: sqlite3.Connection) -> None:
    good = database([("c-1", "\n".join(line(10 + n, 0.5, ttft_ms=200, queue_ms=0, cold=n == 0) for n in range(50)))])
    assert [name for name, alert in PLAN["alerts"].items() if holds(good, alert)] == []
    good.close()
    bad = [line(300 + n, 250, ttft_ms=12_000, queue_ms=9, completion_tokens=40_000) for n in range(40)]
    bad += [line(400 + n, 1, outcome="overloaded") for n in range(4)] + [line(410, 1, outcome="engine_error")]
    bad += [line(500 + n, 0).replace('"request"', '"ready"') for n in range(4)]
    bad += ['2026-11-28T10:09:00.000Z {"msg": "the engine failed: the engine generated only \'!\'"}']
    others = [line(3590, 3500) for _ in range(2)]
    broken = database([("c-1", "\n".join(bad)), ("c-2", others[0]), ("c-3", others[1])])
    assert [name for name, alert in PLAN["alerts"].items() if not holds(broken, alert)] == []
    broken.close()


def test_a_price_of_s_yaml_is_filled_in() -> None:
    prices = observe.an_hour()
    assert float(prices["active"]) > 3 * float(prices["idle"]) > 0
    text = json.dumps(observe.read(prices=prices))
    assert prices["active"] in text and "{" + "active}" not in text and "{requests}" not in text


# into SLS


@pytest.fixture
def sls(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSls]:
    config = Config(type="sts", access_key_id=KEY)
    config.access_key_secret, config.security_token = SECRET, TOKEN
    monkeypatch.setattr(observe, "an_hour", lambda: {"active": "16", "idle": "4"})
    with FakeSls() as fake:
        made = Sls("cn-hangzhou", "my-logs", fake.url, credential=Client(config))
        monkeypatch.setattr(observe, "Sls", lambda *where: made)
        yield fake


ARGUMENTS = ["observe", "--project", "my-logs", "--action-policy", "on-call"]
INDEX = "/logstores/chatbot-llm/index"


def test_all_of_it_arrives(sls: FakeSls, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(ARGUMENTS) == 0
    kept = {kind: [path for path in sls.objects if path.startswith(kind)] for kind in ("/saved", "/dash", "/jobs")}
    assert [len(paths) for paths in kept.values()] == [len(QUERIES), 1, len(PLAN["alerts"])]
    index = sls.objects[INDEX]
    assert index["keys"]["message"]["doc_value"] is True and index["max_text_len"] == 16384
    (shown,) = [sls.objects[path] for path in kept["/dash"]]
    assert len(shown["charts"]) == len(PLAN["dashboard"])
    assert [one["display"]["yAxis"] for one in shown["charts"]] == [one["y"] for one in PLAN["dashboard"]]
    for path in kept["/jobs"]:
        alert = sls.objects[path]["configuration"]
        (query,) = alert["queryList"]
        assert (query["project"], query["store"], query["region"]) == ("my-logs", "chatbot-llm", "cn-hangzhou")
        assert query["query"] in [one["searchQuery"] for at, one in sls.objects.items() if at.startswith("/saved")]
        assert alert["policyConfiguration"]["actionPolicyId"] == "on-call"
        assert alert["severityConfigurations"][0]["severity"] in (4, 6, 8, 10)
    assert capsys.readouterr().out.count(": made\n") == 2 + len(QUERIES) + len(PLAN["alerts"])


def test_again_it_is_renewed_and_what_others_have_made_stays(sls: FakeSls, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = {"type": "long", "doc_value": True}
    sls.objects[INDEX] = {
        "keys": {"durationMs": theirs, "message": {"type": "text", "token": ["x"]}},
        "line": {"token": ["y"]},
    }
    sls.objects["/savedsearches/theirs"] = {}
    assert main(ARGUMENTS) == main(ARGUMENTS) == 0
    index = sls.objects[INDEX]
    assert index["keys"]["durationMs"] == theirs and index["line"] == {"token": ["y"]}
    assert index["keys"]["message"]["token"] == ["x"] and index["keys"]["message"]["doc_value"] is True
    assert "/savedsearches/theirs" in sls.objects
    assert capsys.readouterr().out.count(": renewed\n") == 2 + 1 + len(QUERIES) + len(PLAN["alerts"])


@pytest.mark.parametrize(
    ("refuses", "message"),
    [((404, "ProjectNotExist"), "make it in the SLS console"), ((401, "Unauthorized"), "observer.json")],
)
def test_a_refusal_says_what_to_do(
    sls: FakeSls, capsys: pytest.CaptureFixture[str], refuses: tuple[int, str], message: str
) -> None:
    sls.refuses = refuses
    assert main(ARGUMENTS) == 3
    assert message in capsys.readouterr().err and len(sls.calls) == 1


def test_without_a_project_it_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DEPLOY_LOG_PROJECT", raising=False)
    assert main(["observe"]) == 2
    assert "DEPLOY_LOG_PROJECT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [(None, "cn-hangzhou.log.aliyuncs.com"), ("cn-hangzhou-intranet.log.aliyuncs.com",) * 2],
)
def test_a_project_is_a_host_of_its_own_reached_by_tls(
    sls: FakeSls, monkeypatch: pytest.MonkeyPatch, endpoint: str | None, host: str
) -> None:
    urls: list[str] = []

    def request(method: str, url: str, **_: Any) -> Any:
        urls.append(url)
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "request", request)
    config = Config(type="access_key", access_key_id=KEY)
    config.access_key_secret = SECRET
    with pytest.raises(Refused, match="no answer"):
        Sls("cn-hangzhou", "my-logs", endpoint, credential=Client(config)).call("GET", "/dashboards/x")
    assert urls == [f"https://my-logs.{host}/dashboards/x"]


def test_a_wrong_signature_is_refused(sls: FakeSls) -> None:
    """Guards the double."""
    config = Config(type="sts", access_key_id=KEY)
    config.access_key_secret, config.security_token = "another", TOKEN
    wrong = Sls("cn-hangzhou", "my-logs", sls.url, credential=Client(config))
    with pytest.raises(Refused, match="SignatureNotMatch"):
        wrong.exists("/dashboards/x")


def test_the_policy_allows_what_is_asked_for() -> None:
    policy = json.loads((ROOT / "infra" / "ram" / "observer.json").read_text(encoding="utf-8"))
    allowed = set(policy["Statement"][0]["Action"])
    for one in ("Index", "SavedSearch", "Dashboard", "Job"):
        assert {f"log:{verb}{one}" for verb in ("Get", "Create", "Update")} <= allowed
