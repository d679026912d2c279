"""The operator's command line: `python -m infra --help`.

Arguments in, exit code out; what a command does is in the module of its name. Exit codes: infra/errors.py.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console

from infra import cost, plan_report, ready, release, scale, smoke, status
from infra.errors import CheckFailed, InfraError
from infra.fc import LATEST, FunctionCompute
from infra.screen import progress
from infra.tables import cost_table, findings_table, smoke_table

Command = Callable[[argparse.Namespace, Console], None]

EPILOG = """exit codes: 0 good; 1 looked, not right; 2 wrong usage; 3 refused by Function Compute; 4 timed out

credentials: Alibaba's default chain (ALIBABA_CLOUD_ACCESS_KEY_ID, _SECRET, _SECURITY_TOKEN; OIDC; the aliyun
CLI's profile; an ECS role). The service's own key for smoke and release: CHATBOT_API_KEY.
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m infra",
        description="Run chatbot-llm on Alibaba Cloud Function Compute.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    account = argparse.ArgumentParser(add_help=False)
    account.add_argument("--function", default=os.environ.get("DEPLOY_FUNCTION", "chatbot-llm"))
    account.add_argument("--region", default=os.environ.get("DEPLOY_REGION", "cn-hangzhou"))
    account.add_argument("--endpoint", help="host of the control plane (default: fcv3.REGION.aliyuncs.com)")
    qualified = argparse.ArgumentParser(add_help=False)
    qualified.add_argument(
        "--qualifier", default=os.environ.get("DEPLOY_QUALIFIER", LATEST), help="LATEST, alias or version"
    )
    waiting = argparse.ArgumentParser(add_help=False)
    waiting.add_argument(
        "--timeout", type=float, default=ready.TIMEOUT_S, metavar="S", help="give up after (%(default).0f s)"
    )
    waiting.add_argument("--poll", type=float, default=ready.POLL_S, metavar="S", help=argparse.SUPPRESS)
    asking = argparse.ArgumentParser(add_help=False)
    asking.add_argument("--question", help=f"what to ask (default: {smoke.QUESTION})")
    asking.add_argument("--expect", default=smoke.EXPECT, help="word that the answer must hold (%(default)s)")
    priced = argparse.ArgumentParser(add_help=False)
    priced.add_argument("--currency", choices=sorted(cost.PRICES), default="CNY")

    def add(name: str, run: Command, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, parents=parents)
        command.set_defaults(run=run)
        return command

    add("doctor", run_doctor, "check s.yaml and the RAM policies before a deployment; no account")
    command = add(
        "wait-ready",
        run_wait,
        "wait until the function is active and its min instances stand",
        account,
        qualified,
        waiting,
    )
    command.add_argument("--at-least", type=int, default=0, metavar="N", help="fail if fewer are asked for")
    command = add("smoke", run_smoke, "ask it questions, judge the answers", account, qualified, asking)
    command.add_argument("target", metavar="URL|FUNCTION", help="https://... or the name of a function")
    command.add_argument(
        "--wait", type=float, default=0, metavar="S", help="how long /health may take to answer 200 (0 s)"
    )
    command = add("scale", run_scale, "set how many instances are kept, now or by clock", account, qualified)
    command.add_argument("count", type=int, nargs="?", metavar="N", help="min instances; 0 scales to zero")
    command.add_argument(
        "--schedule",
        nargs=3,
        metavar=("NAME", "WHEN", "N"),
        help="from WHEN on keep N, e.g. morning 'cron(0 30 8 * * MON-FRI)' 2",
    )
    command.add_argument("--unschedule", metavar="NAME", help="take a schedule away")
    command.add_argument("--time-zone", default="Asia/Shanghai", help="of WHEN (%(default)s)")
    command.add_argument("--start", default="2026-01-01T00:00:00Z", help="it holds from (%(default)s)")
    command.add_argument("--end", default="2036-01-01T00:00:00Z", help="... until (%(default)s)")
    command = add("release", run_release, "publish, try out, move the alias; back on failure", account, waiting, asking)
    command.add_argument("--alias", default="live", help="the alias that takes the traffic (%(default)s)")
    command.add_argument("--version", help="an existing version instead of publishing LATEST (a way back)")
    command.add_argument("--description", default="", help="of the published version, e.g. the image tag")
    add("status", run_status, "one screen: states, instances, errors, price so far", account, priced)
    command = add("cost", run_cost, "what it costs: a table from the published prices; no account", priced)
    command.add_argument("--hours-active", type=float, default=60, metavar="H", help="a month (%(default)s)")
    command.add_argument("--hours-hibernated", type=float, metavar="H", help="a month (default: the rest)")
    command.add_argument("--requests", type=float, default=0, metavar="N", help="a month (%(default)s)")
    command.add_argument("--tokens-per-second", type=float, metavar="R", help="measured, of all requests")
    for name, unit in (("vcpu", ""), ("memory", " MB"), ("gpu-memory", " MB"), ("disk", " MB")):
        command.add_argument(f"--{name}", type=float, metavar="N", help=f"{name}{unit} (default: s.yaml)")
    command = add("plan", run_plan, "a fleet's latency, refusals and cost, simulated from measurements", priced)
    plan_report.arguments(command)
    return top


def connect(args: argparse.Namespace) -> FunctionCompute:
    return FunctionCompute(args.region, args.endpoint)


def run_doctor(args: argparse.Namespace, console: Console) -> None:
    from infra.doctor import check, check_ram
    from infra.template import render

    findings = check(render(), os.environ) + check_ram()
    console.print(findings_table(findings))
    if any(finding.level == "error" for finding in findings):
        raise CheckFailed("not ready to deploy: see the errors above")


def run_wait(args: argparse.Namespace, console: Console) -> None:
    fc = connect(args)
    # A deployment changes LATEST, also where the traffic and the min instances are on an alias.
    others = [] if args.qualifier == LATEST else [(LATEST, 0)]
    with progress(console) as shown:
        for qualifier, at_least in [*others, (args.qualifier, args.at_least)]:
            done = ready.wait_ready(
                fc,
                args.function,
                qualifier,
                at_least=at_least,
                timeout_s=args.timeout,
                poll_s=args.poll,
                say=shown.say,
            )
            shown.done(done)


def run_smoke(args: argparse.Namespace, console: Console) -> None:
    key = os.environ.get("CHATBOT_API_KEY", "")
    words = asked(args)
    results: list[smoke.Result] = []
    with progress(console) as shown:

        def take(some: Iterable[smoke.Result]) -> None:
            for result in some:
                results.append(result)
                shown.say(f"{result.name}: {'ok' if result.ok else 'FAILED'}")

        url: str | None = args.target
        if not args.target.startswith(("http://", "https://")):
            fc = connect(args)
            url = smoke.trigger_url(fc, args.target, args.qualifier)
            take(smoke.over_invoke(fc, args.target, args.qualifier, words))
        if url is not None:
            take(smoke.over_http(smoke.Service(url, key), words, wait_s=args.wait))
    console.print(smoke_table(results))
    wrong = [result.name for result in results if not result.ok]
    if wrong:
        raise CheckFailed(f"smoke test of {args.target} failed: {', '.join(wrong)}")


def asked(args: argparse.Namespace) -> smoke.Words:
    # One question of the caller's own serves the chat and, as a text to go on with, /generate.
    own = args.question
    return smoke.Words(own or smoke.QUESTION, own or smoke.PROMPT, args.expect)


def run_scale(args: argparse.Namespace, console: Console) -> None:
    if args.count is None and args.schedule is None and args.unschedule is None:
        raise InfraError("scale what? give N, --schedule or --unschedule")
    add = None
    if args.schedule is not None:
        name, when, count = args.schedule
        if not count.isdigit():
            raise InfraError(f"--schedule {name}: {count!r} is no number of instances")
        add = scale.Schedule(name, when, int(count), args.start, args.end, args.time_zone)
    said = scale.scale(connect(args), args.function, args.qualifier, count=args.count, add=add, remove=args.unschedule)
    for line in said:
        console.print(line, markup=False, highlight=False)


def run_release(args: argparse.Namespace, console: Console) -> None:
    fc, words = connect(args), asked(args)

    def try_out(qualifier: str) -> None:
        results = list(smoke.over_invoke(fc, args.function, qualifier, words))
        url = smoke.trigger_url(fc, args.function, qualifier)
        if url is not None:
            service = smoke.Service(url, os.environ.get("CHATBOT_API_KEY", ""))
            results += smoke.over_http(service, words)
        console.print(smoke_table(results))
        wrong = "; ".join(f"{result.name}: {result.detail}" for result in results if not result.ok)
        if wrong:
            raise CheckFailed(f"smoke test of {qualifier} failed: {wrong}")

    with progress(console) as shown:
        step = release.Release(
            fc, args.function, args.alias, try_out, shown.say, timeout_s=args.timeout, poll_s=args.poll
        )
        version = step.run(args.version, args.description)
        shown.done(f"{args.function}@{args.alias} is version {version}")
    for warning in release.warnings(fc, args.function, args.alias):
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)


def run_status(args: argparse.Namespace, console: Console) -> None:
    status.show(console, status.collect(connect(args), args.function), args.currency)


def run_cost(args: argparse.Namespace, console: Console) -> None:
    console.print(
        cost_table(
            size_from(args),
            args.hours_active,
            args.hours_hibernated,
            args.requests,
            args.tokens_per_second,
            args.currency,
        )
    )


def run_plan(args: argparse.Namespace, console: Console) -> None:
    plan_report.run(args, console, rendered())


def size_from(args: argparse.Namespace) -> cost.Size:
    given = (args.vcpu, args.memory, args.gpu_memory, args.disk)
    if all(value is not None for value in given):
        return cost.Size(*given)
    pairs = zip(given, plan_report.sizes(rendered()), strict=True)
    return cost.Size(*(theirs if mine is None else mine for mine, theirs in pairs))


def rendered() -> dict[str, Any]:
    """s.yaml's props; placeholders, because neither the image nor the log project matters here."""
    from infra.template import render

    return render({"DEPLOY_IMAGE": "none", "DEPLOY_LOG_PROJECT": "none", **os.environ})


def chain(error: BaseException | None) -> list[str]:
    """Every failure on the way, first cause first: a failed clean-up must not hide why there was one."""
    said: list[str] = []
    while error is not None:
        if isinstance(error, InfraError) and not any(str(error) in line for line in said):
            said.insert(0, str(error))
        error = error.__cause__ or error.__context__
    return said


def interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    console, errors = Console(), Console(stderr=True)
    try:
        args.run(args, console)
    except InfraError as error:
        for line in chain(error):
            errors.print(f"error: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    except KeyboardInterrupt:
        errors.print("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    # A cancelled CI job sends SIGTERM: the candidate of a release must be removed then, too.
    signal.signal(signal.SIGTERM, interrupt)
    sys.exit(main())
