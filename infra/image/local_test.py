"""Start the image on this machine's GPU as Function Compute starts it, try it, take it down: `make local-test`.

FC's order, with the limits of s.yaml: environment, TCP connect, POST /initialize, the first health check (which may
not fail), traffic, POST /invoke, GET /pre-stop, SIGTERM. On a T4 also the acceptance run; what the run has compiled
is kept for the next image (infra/image/warm), and then flags are compared (variants.py). Without a GPU the same is
done with the CPU build; with --scripted it is the image, whose engine then answers from a script.
"""

from __future__ import annotations

import argparse
import re
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import requests
import yaml

from infra import ROOT
from infra.doctor import service
from infra.errors import CheckFailed, InfraError, TimedOut
from infra.fc.quotas import LISTEN_WITHIN_S
from infra.image import variants
from infra.image.target import Card, Container, Process, Target, gpu, shown

WARM = Path(__file__).with_name("warm")
EXIT_S = 30  # after SIGTERM; /pre-stop has drained already, so only closing is left


@dataclass(frozen=True)
class Plan:
    """What s.yaml says about a start and an end. Times in seconds."""

    initializer_s: int
    pre_stop_s: int
    health_path: str
    health_s: int
    timeout_s: int
    port: int
    environment: dict[str, str]  # the variables FC gives a container (FC docs 04/047), and the function's own

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Raises CheckFailed, naming the key, when s.yaml lacks one."""
        template = yaml.safe_load(path.read_text())
        try:
            (resource,) = template["resources"].values()
            props: dict[str, Any] = template["template"][resource["extend"]["name"]] | resource["props"]
            hooks, container = props["instanceLifecycleConfig"], props["customContainerConfig"]
            variables = props["environmentVariables"].items()
            return cls(
                initializer_s=hooks["initializer"]["timeout"],
                pre_stop_s=hooks["preStop"]["timeout"],
                health_path=container["healthCheckConfig"]["httpGetUrl"],
                health_s=container["healthCheckConfig"]["timeoutSeconds"],
                timeout_s=props["timeout"],
                port=container["port"],
                environment={
                    # What begins with ${ comes from the deployer's own environment.
                    **{name: str(value) for name, value in variables if not str(value).startswith("${")},
                    "FC_FUNCTION_NAME": "chatbot-llm",
                    "FC_REGION": "local",
                    "FC_ACCOUNT_ID": "0",
                    "FC_INSTANCE_ID": f"local-{uuid.uuid4().hex[:12]}",
                    "FC_FUNCTION_MEMORY_SIZE": str(props["memorySize"]),
                },
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckFailed(f"{path.name} does not say {error}: `python -m infra doctor` explains") from error


@dataclass(frozen=True)
class Drill:
    """One start and one end of one target, step by step; every step prints how long it took."""

    target: Target
    plan: Plan
    url: str

    def call(self, method: str, path: str, limit_s: float, body: dict[str, Any] | None = None) -> requests.Response:
        """A request with the headers FC adds. Raises CheckFailed unless it is answered with 2xx in time."""
        headers = {"x-fc-request-id": str(uuid.uuid4())}
        if path in ("/initialize", "/invoke"):  # health check and pre-stop come without (FC docs 04/079)
            headers["x-fc-control-path"] = path
        try:
            reply = requests.request(method, self.url + path, json=body, headers=headers, timeout=limit_s)
        except requests.RequestException as error:
            raise TimedOut(f"{method} {path} was not answered within {limit_s:.0f} s: {error}") from error
        if not reply.ok:
            raise CheckFailed(f"{method} {path} answered {reply.status_code}: {reply.text[:500]}")
        return reply

    def listen(self) -> str:
        host, port = self.url.removeprefix("http://").split(":")
        deadline = time.monotonic() + LISTEN_WITHIN_S
        while time.monotonic() < deadline:
            if not self.target.running():
                raise CheckFailed("it ended before it listened; its log is below")
            if listens(host, int(port)):
                return f"of {LISTEN_WITHIN_S} s allowed"
            time.sleep(0.2)
        raise TimedOut(f"nothing listens on the port after {LISTEN_WITHIN_S} s, which is all FC allows")

    def within(self, method: str, path: str, limit_s: int) -> str:
        self.call(method, path, limit_s)
        return f"of {limit_s} s allowed"

    def invoke(self) -> str:
        body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16}
        answer = self.call("POST", "/invoke", self.plan.timeout_s, body).json()
        return repr(answer["choices"][0]["message"]["content"][:60])

    def run(self, *checks: str) -> None:
        """`checks` are commands of `python -m infra` that take the service's URL."""
        plan = self.plan
        steps: dict[str, Callable[[], str]] = {
            "listen": self.listen,
            "initialize": partial(self.within, "POST", "/initialize", plan.initializer_s),
            "health": partial(self.within, "GET", plan.health_path, plan.health_s),
            "invoke": self.invoke,
            **{command: partial(self.outside, command) for command in checks},
            "pre-stop": lambda: str(self.call("GET", "/pre-stop", plan.pre_stop_s).json()["state"]),
            "SIGTERM": self.stop,
        }
        for name, act in steps.items():
            started = time.monotonic()
            outcome = act()
            print(f"{name:<12} {time.monotonic() - started:6.1f} s  {outcome}", flush=True)

    def outside(self, command: str) -> str:
        """One of the operator's own commands against the running service."""
        if subprocess.run([sys.executable, "-m", "infra", command, self.url], cwd=ROOT, check=False).returncode != 0:
            raise CheckFailed(f"`python -m infra {command}` failed; its output is above")
        return "passed"

    def stop(self) -> str:
        code = self.target.stop(EXIT_S)
        if code != 0:
            raise CheckFailed(f"exit code {code} after SIGTERM instead of 0 (137: it did not end within {EXIT_S} s)")
        return "exit code 0"


def listens(host: str, port: int) -> bool:
    """Whether somebody keeps a connection: Docker's proxy accepts for a container that is not up yet, and hangs up."""
    with suppress(OSError), socket.create_connection((host, port), timeout=1) as line:
        line.settimeout(0.2)
        try:
            return bool(line.recv(1))
        except TimeoutError:
            return True
    return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", default="chatbot-llm:local", help="local, or pulled (default: %(default)s)")
    parser.add_argument("--scripted", action="store_true", help="the image without a GPU and without its model")
    when = "those with WORD in their name (default: all on a T4, 40 minutes; else none)"
    parser.add_argument("--variants", nargs="?", const="", metavar="WORD", help=f"compare flags afterwards, {when}")
    parser.add_argument("--no-variants", action="store_true", help="not even on a T4")
    parser.add_argument("flags", nargs="*", help="vLLM flags after --, as for the image")


def run(args: argparse.Namespace) -> None:
    port = free_port()
    plan, url = Plan.read(ROOT / "s.yaml"), f"http://127.0.0.1:{port}"
    card = None if args.scripted else gpu()
    on_t4 = bool(card and card.capability == "7.5")
    if args.scripted:
        if not shutil.which("docker"):
            raise CheckFailed("docker is not installed here, and --scripted tries the image")
        print(f"the image {args.image} with the scripted engine: its container is tried, its model and vLLM are not")
    elif card:
        print(f"{card.name}, sm_{card.capability.replace('.', '')}, driver {card.driver}: the image {args.image}")
        if not on_t4:
            print("not a T4: the acceptance run, which judges a T4's arithmetic, is left out")
    else:
        instead = "this says nothing about the GPU image, whose container --scripted tries"
        print(f"no GPU with Docker here: the same steps with the CPU build; {instead}")

    def make(flags: Sequence[str], environment: Mapping[str, str]) -> tuple[Target, str]:
        """The image, or a process where there is neither a card nor a script, with flags beside the user's own."""
        flags, inner = [*args.flags, *flags], plan.port if card or args.scripted else port
        variables = {**plan.environment, "FC_CUSTOM_LISTEN_PORT": str(inner), **environment}
        if card or args.scripted:
            return Container(args.image, flags, variables, f"127.0.0.1:{port}:{inner}", args.scripted), url
        return Process(flags, variables, port), url

    target, _ = make([], {})
    try:
        target.start()
        Drill(target, plan, url).run("smoke", *(["acceptance"] if on_t4 else []))
        if on_t4 and isinstance(target, Container):
            shown("docker", "cp", f"{target.name}:/opt/warm/.", str(WARM))
            print(f"kept what the T4 compiled in {WARM.relative_to(ROOT)}: the next `make image` bakes it in")
    except InfraError:
        print(target.log(), file=sys.stderr)
        raise
    finally:
        target.remove()
    print("local-test passed")
    if (on_t4 or args.variants is not None) and not args.no_variants:
        compare(make, card, args.variants or "", plan.initializer_s)


def compare(make: variants.Start, card: Card | None, word: str, limit_s: int) -> None:
    """Flags against flags: the variants with `word` in their name. Raises CheckFailed."""
    shipped = {name: value or "" for name, value in service.profiles()["t4" if card else "cpu"].items()}
    effort = variants.Effort() if card else variants.DRY
    tried = [variant for variant in variants.variants(bool(card)) if word in variant.name]
    compared = variants.compare(make, tried, bool(card), limit_s, effort, shipped)
    name = re.sub(r"[^a-z0-9]+", "-", card.name.lower()) if card else "cpu"
    when = datetime.now(UTC).isoformat(timespec="seconds")
    about = {"when": when, "card": asdict(card) if card else "none: a dry run"}
    variants.write(ROOT / "build" / f"variants-{name}.json", about, compared)
