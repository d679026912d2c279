"""plan: finds the configuration known to be the cheapest, prints it so that s.yaml takes it, marks a forecast."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine_steps import Arrival, play
from infra.__main__ import main
from infra.commands import plan, request_log
from infra.commands.screen import progress
from infra.doctor.rules import check
from infra.fc import fleet, template
from infra.fc.prices import CU_PER_REQUEST, Size, price
from infra.fc.service_times import ASSUMED, Times
from log_lines import line

T4 = Times(step_s=0.023, per_running_s=0.0007, per_prompt_token_s=0.0005, first_s=0.15, wake_s=2.5, cold_start_s=90.0)
SIZE = Size(4, 16384, 16384, 10240)
#: log_lines.BEGAN is 06:00 of a Monday in Shanghai: this is its midnight, seconds after BEGAN.
MIDNIGHT_S = -6 * 3600.0
#: Hours in which twenty come at once, every ten minutes, so that what a request starts is gone before the next twenty.
BUSY = range(9, 17)


RENDER_ANY = template.render_any


@pytest.fixture(autouse=True)
def _of_s_yaml(monkeypatch: pytest.MonkeyPatch, props: dict[str, Any]) -> None:
    monkeypatch.setattr(template, "render_any", lambda: props)
    monkeypatch.setenv("COLUMNS", "150")


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Monday of a T4 whose service times are known: twenty at once in BUSY hours, else one at a time."""
    lines = [line(MIDNIGHT_S, msg="ready", start_s=T4.cold_start_s)]
    for minute in range(5, 1440, 10):
        came = [MIDNIGHT_S + 60 * minute + 0.02 * at for at in range(20 if minute // 60 in BUSY else 1)]
        for instance, some in (("c-1", came[:10]), ("c-2", came[10:])):
            arrivals = [Arrival(at, 300 + 40 * n, 80 + 10 * n, instance) for n, at in enumerate(some)]
            lines += [one.line() for one in play(arrivals, T4)]
    log = tmp_path_factory.mktemp("office") / "log"
    log.write_text("".join(f"{one}\n" for one in lines))
    return log


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["plan", *words]) == 0
    return capsys.readouterr().out


def exported(out: str) -> dict[str, str]:
    (text,) = re.findall(r"^export (DEPLOY_MIN_INSTANCES=.*)$", out, re.M)
    return dict(word.split("=", 1) for word in shlex.split(text))


def test_the_known_optimum_is_found_and_the_doctor_takes_it(
    office: Path, capsys: pytest.CaptureFixture[str], render: Any
) -> None:
    out = printed(capsys, str(office), "--p95", "15", "--refused", "0.1%")
    env = exported(out)
    up, down = json.loads(env["DEPLOY_SCHEDULES"])
    assert (up["target"], up["scheduleExpression"]) == (2, "cron(0 57 8 * * *)"), "90 s of start"
    assert (down["target"], down["scheduleExpression"]) == (1, "cron(0 0 17 * * *)")
    assert (env["DEPLOY_MIN_INSTANCES"], json.loads(env["DEPLOY_POLICIES"])) == ("1", [])
    assert "FORECAST" not in out
    props = render(**env)
    assert props["provisionConfig"]["scheduledActions"] == [up, down] and check(props, {}) == []


def test_nothing_that_is_cheaper_meets_the_target(office: Path) -> None:
    """Played through with the known times: all pairs of minima up to 2, in spans that begin and end near BUSY ones."""
    columns = request_log.query([str(office)], plan.QUERY, fetch=lambda answer: answer.fetchnumpy())
    midnight = np.floor(columns["came_s"][0] / 3600) * 3600
    load = {name: columns[name] - (midnight if name == "came_s" else 0) for name in ("came_s", "prompt", "answer")}
    known = plan.Plan(plan.Load(load, 0, "Asia/Shanghai"), T4, SIZE, 10, 10, "CNY")
    target = plan.Target(p95=15.0, refused=0.001)
    with progress() as shown:
        best, _ = plan.search(known, target, shown)
    tried = [known.tried(least) for least in range(4)]
    for low, high in itertools.permutations(range(3), 2):
        for start, end in itertools.product((8, 9, 10), (16, 17, 18)):
            spans = (("a", start * 60 - 3, high), ("b", end * 60, low))
            tried.append(known.tried(low, [plan.action(*span, False, "Asia/Shanghai") for span in spans]))
    cheapest = min((one for one in tried if one.meets(target)), key=lambda one: one.paid)
    assert str(best) == str(cheapest) and best.paid == pytest.approx(cheapest.paid)


def test_a_policy_is_planned_where_load_has_no_hour_of_its_own(render: Any) -> None:
    """At another hour each day the load grows within sixteen minutes to 16 slots, and a start takes five."""
    chance = np.random.default_rng(1)
    rising = np.cumsum(chance.exponential(1.0, 2000))
    rising = 16 * 60 * np.sqrt(rising[rising < 400] / 400)  # the rate grows with the time
    came = np.concatenate([86_400 * day + 3600 * hour + rising for day, hour in enumerate((1, 8, 15, 22))])
    columns = {"came_s": came, "prompt": np.full(len(came), 300), "answer": np.full(len(came), 600)}
    slow = dataclasses.replace(T4, cold_start_s=300.0)
    known = plan.Plan(plan.Load(columns, 0, "Asia/Shanghai"), slow, SIZE, 10, 10, "CNY")
    with progress() as shown:
        best, others = plan.search(known, plan.Target(p95=30.0, refused=0.0), shown)
    (rule,) = best.policies
    assert str(best) == "1 to 3 at 40%" and best.schedules == []
    assert best.paid < min(one.paid for one in others if not one.policies)
    env = dict(word.split("=", 1) for word in shlex.split(best.exports())[1:])
    props = render(**env)
    assert props["provisionConfig"]["targetTrackingPolicies"] == [rule] and check(props, {}) == []


def test_a_bill_is_the_price_lists_arithmetic(office: Path) -> None:
    """Thirty days like the log's: busy seconds and starts at the full price, what is kept hibernated otherwise."""
    columns = {"came_s": np.arange(0, 86_400, 600.0) + 1, "prompt": np.full(144, 100), "answer": np.full(144, 101)}
    known = plan.Plan(plan.Load(columns, 0, "UTC"), T4, SIZE, 10, 10, "CNY")
    each = T4.wake_s + T4.step_s * 101 + T4.per_running_s * 101 + T4.per_prompt_token_s * 100 + fleet.ROUNDED_S
    active_h = 30 * 144 * each / 3600
    expected = price(SIZE.cu(active_h, 30 * 24 * 2 - active_h, 30 * 144), "CNY")
    assert known.tried(2).paid == pytest.approx(float(expected), rel=0.01)
    assert CU_PER_REQUEST > 0
    short = {name: values[:6] for name, values in columns.items()}
    hour = plan.Plan(plan.Load(short, 480, "UTC"), T4, SIZE, 10, 10, "CNY").tried(1)
    active_h = 30 * 6 * each / 3600
    expected = price(SIZE.cu(active_h, 720 - active_h, 180), "CNY")
    assert hour.paid == pytest.approx(float(expected), rel=0.05), "nobody comes in hours that the log does not have"


def test_working_days_are_planned_apart_where_the_log_has_weekends() -> None:
    times = itertools.product(range(7), range(24), range(6))
    came = [
        day * 86_400 + hour * 3600 + 600.0 * at + 0.02 * n
        for day, hour, at in times
        for n in range(20 if day < 5 and hour in BUSY else 1)
    ]
    columns = {"came_s": np.array(came), "prompt": np.full(len(came), 300), "answer": np.full(len(came), 100)}
    known = plan.Plan(plan.Load(columns, 0, "Asia/Shanghai"), T4, SIZE, 10, 10, "CNY")
    with progress() as shown:
        best, _ = plan.search(known, plan.Target(p95=15.0), shown)
    assert [rule["scheduleExpression"] for rule in best.schedules] == [
        "cron(0 57 8 * * MON,TUE,WED,THU,FRI)",
        "cron(0 0 17 * * MON,TUE,WED,THU,FRI)",
    ]


def test_the_schedules_of_s_yaml_are_what_is_simulated_without_a_target(
    office: Path, capsys: pytest.CaptureFixture[str], props: dict[str, Any]
) -> None:
    one = printed(capsys, str(office))
    assert re.search(r"^ +10 .* 3 +", one, re.M) is None and "40 started by requests" not in one
    rules = [plan.action("up", 537, 2, False, "Asia/Shanghai"), plan.action("down", 1020, 1, False, "Asia/Shanghai")]
    props["provisionConfig"]["scheduledActions"] = rules
    two = printed(capsys, str(office))
    assert " 0 started by requests" in two and " 0 started by requests" not in one
    assert " 0 started by requests" not in printed(capsys, str(office), "--min", "1"), "--min leaves schedules aside"


def test_three_times_the_load_needs_more(office: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = ("--p95", "15", "--refused", "0.1%", "--currency", "USD")
    paid = [
        float(re.findall(r"([\d,]+) USD a month", printed(capsys, str(office), *target, *more))[0].replace(",", ""))
        for more in ((), ("--times", "3"))
    ]
    assert paid[1] > 1.2 * paid[0]


def test_a_forecast_is_marked_wherever_it_prints(office: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("--rps", "0.2"), ("--rps", "0.2", "--p95", "30"), (str(office), "--p95", "60")):
        out = printed(capsys, "--assume", "t4", *words)
        # Times; a day and what is below it; and for a target what was compared and what is to be set.
        assert out.count("FORECAST") == (5 if "--p95" in words else 3), out
    assert "FORECAST" in ASSUMED["t4"].source


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ([], 2, "give a LOG to learn from, or --assume t4"),
        (["LOG", "--time-zone", "Asia/Nowhere"], 2, "'Asia/Nowhere' is no time zone"),
        (["LOG", "--time-zone", "../zone"], 2, "'../zone' is no time zone"),
        (["LOG", "--min", "11"], 2, "--min no larger than --max"),
        (["LOG", "--since", "2030-01-01"], 2, "nothing to plan"),
        (["LOG", "--p95", "0.5"], 1, "p95 0.5 s: not with 10 instances"),
        (["LOG", "--until", "2027-01-31T14:00"], 2, "nothing to plan"),
    ],
)
def test_wrong_words_and_what_cannot_be_are_told(
    office: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, text: str
) -> None:
    assert main(["plan", *(word.replace("LOG", str(office)) for word in words)]) == status
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("rules", ['[{"name": "a"}]', "[1]", '{"a": 1}', '"x"'])
@pytest.mark.parametrize("name", ["DEPLOY_SCHEDULES", "DEPLOY_POLICIES"])
def test_rules_of_s_yaml_that_the_api_would_refuse_are_named(
    s_command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, rules: str
) -> None:
    monkeypatch.setattr(template, "render_any", RENDER_ANY)  # s.yaml as it is
    monkeypatch.setenv(name, rules)
    assert main(["plan", "--assume", "t4", "--rps", "0.1"]) == 2
    assert "s.yaml cannot be planned with: provisionConfig." in capsys.readouterr().err


def test_a_log_without_a_start_asks_for_one(office: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    log.write_text("".join(one + "\n" for one in office.read_text().splitlines()[1:]))
    assert main(["plan", str(log)]) == 2
    assert "--cold-start" in capsys.readouterr().err
    assert "cold start" in printed(capsys, str(log), "--cold-start", "100")


def test_shares_are_written_as_percent_or_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert (plan.share("0.1%"), plan.share("0.001")) == (0.001, 0.001)
    with pytest.raises(SystemExit):
        main(["plan", "log", "--refused", "few"])
    assert "--refused: invalid share value: 'few'" in capsys.readouterr().err
