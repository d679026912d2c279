"""report: what the service did and what it cost, from its own request log: a page of text, and one of HTML with plots.

Times are as callers had them (TTFT: from arrival to the first token). Active seconds are those in which a card was
busy; the log's shares (`card_ms`) add up to them. Function Compute rounds each busy span up to whole seconds, half a
second on average, and a request that was let in alone began a span. A start is active too. Minimum instances hibernate
otherwise.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.commands import options, request_log
from infra.commands.screen import console, table
from infra.errors import InfraError
from infra.fc import template
from infra.fc.prices import CU_PER_REQUEST, ROUNDED_S, Size, price
from infra.fc.quotas import MAX_MIN_INSTANCES

#: Columns of `_QUERY` -> what the page calls them.
NAMES = {
    "requests": "requests",
    "failed": "not ok",
    "refused": "refused with 429",
    "prompt": "prompt tokens",
    "completion": "completion tokens",
    "cached": "prompt tokens found in the prefix cache",
}
#: Widest page, characters.
WIDTH = 120
TIMES = {
    "TTFT": "queue_ms + ttft_ms",
    "ITL": "CASE WHEN completion_tokens > 1 THEN decode_ms / (completion_tokens - 1) END",
    "total": "total_ms",
}
# One pass: by what shares are made of, whose rows are added up for the rest, and by step of time.
_QUERY = """
    , timed AS (SELECT *, msg = 'request' AS is_request, date_trunc('day', ended)::DATE AS day,
        coalesce(key, '') AS who, time_bucket(INTERVAL '$step minutes', ended) AS step FROM entries)
    SELECT day, route, who, step, min(ended) AS first, max(ended) AS last, count(*) FILTER (is_request) AS requests,
        count(*) FILTER (is_request AND outcome <> 'ok') AS failed,
        count(*) FILTER (outcome = 'overloaded') AS refused,
        count(*) FILTER (NOT is_request) AS starts, sum(start_s) AS start_s,
        max(start_s) AS longest_start_s, count(*) FILTER (cold AND queue_ms > 1000) AS waited,
        sum(prompt_tokens) AS prompt, sum(completion_tokens) AS completion, sum(cached_tokens) AS cached,
        sum(prompt_tokens) FILTER (cached_tokens IS NOT NULL) AS cacheable,
        sum(card_ms) / 1000 AS card_s, count(*) FILTER (running = 1) AS spans,
        histogram(coalesce(outcome, '-')) FILTER (is_request) AS outcomes, histogram(instance) AS instances, $times
    FROM timed GROUP BY GROUPING SETS ((day, route, who), (step)) ORDER BY ALL
"""
LABELS = {"day", "route", "who", "step"}
#: How the columns of rows are put together that are not added up.
TOGETHER: dict[str, Callable[[list[Any]], Any]] = {"first": min, "last": max, "longest_start_s": max}
#: Times are counted in bins of 2 % each (e^(1/50)): less memory than any other way to percentiles that was tried.
BINS = 50


def arguments(parser: argparse.ArgumentParser) -> None:
    options.currency(parser)
    options.span(parser)
    parser.add_argument("log", nargs="*", default=["-"], metavar="LOG", help="files, .gz too (standard input)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="the same as a page with plots")
    options.number(parser, "--step", 1, 1e6, "minutes of a point in the plots (%(default)s)", 60)
    options.number(parser, "--min", 0, MAX_MIN_INSTANCES, "min instances (default: s.yaml)")


def run(args: argparse.Namespace) -> None:
    """Print the page. Raises InfraError where the log holds no request of the span."""
    props = template.render_any()
    least = props["provisionConfig"]["defaultTarget"] if args.min is None else args.min
    report = make(args.log, Size.of(props), least, args.currency, (args.since, args.until), args.step)
    screen = console()  # a file or a pipe has no width of its own
    show(screen if screen.is_terminal else Console(width=WIDTH, emoji=False), report)
    if args.html:
        args.html.write_text(page(report), encoding="utf-8")


@dataclass(frozen=True)
class Report:
    """Rows of `_QUERY`, by `day`, `route`, `who` and `step`, and the bill: CU of all, and what they cost.

    Times in ms, `_s` seconds.
    """

    everything: dict[str, Any]
    rows: dict[str, list[dict[str, Any]]]
    size: Size
    currency: str
    cu: float
    hibernated_s: float
    paid: float
    step: int

    def cost(self, row: dict[str, Any]) -> float:
        """What a row's requests had of the card, and their invocations, at the mean price of a CU."""
        cu = (row["card_s"] or 0) * self.size.cu_per_second("active") + row["requests"] * CU_PER_REQUEST
        return cu * self.paid / self.cu if self.cu else 0.0


def active_s(row: dict[str, Any]) -> float:
    """Seconds that FC bills as active for the requests and starts of a row."""
    return float((row["card_s"] or 0) + ROUNDED_S * row["spans"] + (row["start_s"] or 0))


def make(
    logs: Sequence[str], size: Size, least: int, currency: str, span: tuple[str, str] = options.EVER, step: int = 60
) -> Report:
    """Read the log and work out the bill. `least`: min instances; `step`: minutes. Raises InfraError: no requests."""
    times = ", ".join(
        f"histogram(CAST({BINS} * ln(greatest({what}, 0.01)) AS INTEGER)) "
        f"FILTER (outcome = 'ok' AND ({what}) IS NOT NULL) AS {name}"
        for name, what in TIMES.items()
    )
    query = _QUERY.replace("$times", times).replace("$step", str(step))
    found = request_log.query(logs, query, span)
    shares = [row for row in found if not row["step"]]
    if not any(row["requests"] for row in shares):
        raise InfraError("no request of the service stands in this log, or none of this span: give the log of `s logs`")
    everything = together(shares)
    rows = {"step": [together([row]) for row in found if row["step"]]}
    for label in ("day", "route", "who"):
        values = sorted({row[label] for row in shares}, key=str)
        rows[label] = [together([row for row in shares if row[label] == value]) for value in values]
    months: dict[str, float] = {}
    hibernated_s = 0.0
    for day in rows["day"]:
        active = active_s(day)
        asleep = max(0.0, least * _seconds_of(day, everything) - active)
        hibernated_s += asleep
        month = f"{day['day']:%Y-%m}"
        months[month] = months.get(month, 0.0) + size.cu(active / 3600, asleep / 3600, day["requests"])
    paid = float(sum(price(cu, currency) for cu in months.values()))
    return Report(everything, rows, size, currency, sum(months.values()), hibernated_s, paid, step)


def together(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows of `_QUERY` as one, with its times as p50, p95 and p99."""
    one = dict(rows[0])
    for column in one.keys() - LABELS:
        values = [row[column] for row in rows if row[column] is not None]
        counted = bool(values) and isinstance(values[0], dict)
        add = (lambda counts: sum(map(Counter, counts), Counter())) if counted else TOGETHER.get(column, sum)
        one[column] = add(values) if values else None
    return one | {name: _quantiles(one[name]) for name in TIMES}


def _quantiles(bins: dict[int, int] | None) -> list[float] | None:
    """p50, p95 and p99 in ms, within 1 %, of times counted in bins."""
    if not bins:
        return None
    places = sorted(bins)
    below = list(itertools.accumulate(bins[place] for place in places))
    return [math.exp(places[bisect.bisect_left(below, share * below[-1])] / BINS) for share in (0.5, 0.95, 0.99)]


def _seconds_of(day: dict[str, Any], everything: dict[str, Any]) -> float:
    """How much of a day the log covers: of its first and last day, a part."""
    begin = datetime.combine(day["day"], datetime.min.time())
    since = max(0.0, (everything["first"] - begin).total_seconds())
    until = min(86_400.0, (everything["last"] - begin).total_seconds())
    return float(until - since)


def show(screen: Console, report: Report) -> None:
    """The page as text."""
    for part in (summary(report), times(report), outcomes(report)):
        screen.print(part)
    for label, title in (("day", "by day"), ("route", "by route"), ("who", "by key")):
        screen.print(shares(report, label, title))


def _short(tokens: int) -> str:
    return f"{tokens / 1e6:,.1f} M" if tokens >= 1e6 else f"{tokens:,}"


def summary(report: Report) -> Table:
    row, currency = report.everything, report.currency
    prompt, completion = row["prompt"] or 0, row["completion"] or 0
    hours = (row["last"] - row["first"]).total_seconds() / 3600
    title = f"{row['first']:%Y-%m-%d %H:%M} to {row['last']:%Y-%m-%d %H:%M} UTC ({hours:,.1f} h)"
    facts = {NAMES[what]: f"{row[what] or 0:,}" for what in NAMES} | {
        NAMES["refused"]: f"{row['refused']:,} ({row['refused'] / row['requests']:.2%})",
        NAMES["cached"]: hits(row),
        "instances": f"{len(row['instances'] or ()):,}",
        "cold starts; the longest; requests that waited for one": (
            f"{row['starts']:,}; {row['longest_start_s'] or 0:.1f} s; {row['waited']:,}"
        ),
        "active; hibernated": f"{active_s(row) / 3600:,.2f} h; {report.hibernated_s / 3600:,.2f} h",
        f"cost, {currency} (list price)": f"{report.paid:,.2f}",
    }
    for what, tokens in (("tokens", prompt + completion), ("completion tokens", completion)):
        facts[f"1,000 {what}, {currency}"] = f"{1000 * report.paid / tokens:.4f}" if tokens else "-"
    return table(title, "", ">", rows=facts.items())


def hits(row: dict[str, Any]) -> str:
    """The share of prompt tokens that were cached, of the requests that say so."""
    return f"{(row['cached'] or 0) / row['cacheable']:.1%}" if row["cacheable"] else "not in this log"


def times(report: Report) -> Table:
    found = {name: report.everything[name] for name in TIMES}
    rows = (
        [name, *(f"{value:,.0f}" for value in some)] if some else [name] + ["-"] * 3 for name, some in found.items()
    )
    return table("times of what ended well, ms", "", ">p50", ">p95", ">p99", rows=rows)


def outcomes(report: Report) -> Table:
    found, requests = report.everything["outcomes"].most_common(), report.everything["requests"]
    rows = ((escape(outcome), f"{count:,}", f"{count / requests:.2%}") for outcome, count in found)
    return table("outcomes", "", ">requests", ">share", rows=rows)


def shares(report: Report, label: str, title: str) -> Table:
    """What each day, route or key had of the card; nobody's are starts, rounding, hibernation."""

    def share(cost: float) -> list[str]:
        return [f"{cost:,.2f}", f"{cost / report.paid:.1%}" if report.paid else "-"]

    rows, left = list[list[str]](), report.paid
    for row in report.rows[label]:
        if row["requests"]:
            left -= report.cost(row)
            tokens = (_short(row[name] or 0) for name in ("prompt", "completion"))
            slow = f"{row['total'][1] / 1000:.2f}" if row["total"] else "-"
            name, busy = escape(str(row[label] or "no key")), f"{row['card_s'] or 0:,.0f}"
            rows.append([name, f"{row['requests']:,}", *tokens, slow, busy, *share(report.cost(row))])
    headings = ("", ">requests", ">prompt", ">answer", ">p95 s", ">card s", f">{report.currency}", ">share")
    return table(title, *headings, rows=[*rows, ["nobody's", *[""] * 5, *share(left)]])


def page(report: Report) -> str:
    """The page as one HTML file, nothing fetched."""
    screen = Console(file=StringIO(), record=True, width=WIDTH, emoji=False)
    show(screen, report)
    text = screen.export_html(inline_styles=True)
    return text.replace("</body>", plots(report) + "</body>")


def plots(report: Report) -> str:
    """Requests, times, busy cards and tokens over time, as SVG."""
    import matplotlib  # slow to import, and only a plot needs it

    matplotlib.use("agg")
    from matplotlib import pyplot

    steps = [row for row in report.rows["step"] if row["requests"]]
    step_s = 60 * report.step
    curves = (
        {name: [row[name] for row in steps] for name in ("requests", "failed", "refused")},
        {f"{name} p95, s": [row[name] and row[name][1] / 1000 for row in steps] for name in ("TTFT", "total")},
        {"cards busy, mean": [(row["card_s"] or 0) / step_s for row in steps]},
        {"tokens/s": [(row["completion"] or 0) / step_s for row in steps]},
    )
    figure, axes = pyplot.subplots(len(curves), 1, sharex=True, figsize=(11, 11))
    for axis, lines in zip(axes, curves, strict=True):
        for label, values in lines.items():
            axis.plot([row["step"] for row in steps], values, marker=".", label=label)
        axis.set_ylim(bottom=0)
        axis.legend(loc="upper left")
    figure.autofmt_xdate()
    figure.tight_layout()
    drawn = StringIO()
    figure.savefig(drawn, format="svg")
    pyplot.close(figure)
    return drawn.getvalue()[drawn.getvalue().index("<svg") :]
