"""Known vulnerabilities in what the locks install, by pip-audit and PyPI's advisories.

Exit 0: none, or all explained below. 1: some. Where the advisories are out of reach nothing can be said: then 0 with a
plain warning, and 1 in CI (`CI` is set there), so that no release passes unaudited.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from infra import ROOT

LOCKS = ("code/requirements/cpu.txt", "code/requirements/cuda.txt", "tests/requirements.txt", "infra/requirements.txt")
#: Advisory -> why it does not concern this service. An entry that no lock needs any more is reported.
EXPLAINED: dict[str, str] = {}
#: pip-audit asks about a few packages a second.
LIMIT_S = 900


def arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> int:
    return report([path for lock in LOCKS if (path := ROOT / lock).exists()], bool(os.environ.get("CI")))


def audit(lock: Path) -> tuple[list[tuple[str, str]], int, int]:
    """((package, advisory) found, packages audited, packages nothing is known of) for one lock."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--progress-spinner", "off"]
    done = subprocess.run(
        [*command, "--format", "json", "--requirement", str(lock)], capture_output=True, text=True, timeout=LIMIT_S
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(done.stderr[-2000:], file=sys.stderr)
        return [], 0, 1
    known = [package for package in packages if "skip_reason" not in package]
    found = [
        (f"{package['name']} {package['version']}{_fixed(advisory['fix_versions'])}", advisory["id"])
        for package in known
        for advisory in package["vulns"]
    ]
    return found, len(known), len(packages) - len(known)


def _fixed(versions: list[str]) -> str:
    return f" (fixed in {', '.join(versions)})" if versions else " (no fix yet)"


def report(locks: Sequence[Path], in_ci: bool) -> int:
    """Print one line per lock and per advisory; return the exit status."""
    status, needed = 0, set()
    for lock in locks:
        found, audited, unknown = audit(lock)
        for package, advisory in found:
            reason = EXPLAINED.get(advisory)
            needed.add(advisory)
            print(f"{lock.name}: {advisory}: {package}: {reason or 'NOT EXPLAINED'}")
            status |= reason is None
        if not audited and unknown:
            print(f"{lock}: NOT AUDITED: the advisories are out of reach from here")
            status |= in_ci
        else:
            print(f"{lock}: {audited} packages audited, {len(found)} advisories, {unknown} packages unknown")
    for advisory in EXPLAINED.keys() - needed if status == 0 else ():
        print(f"{advisory}: explained, but in no lock any more; drop it from {Path(__file__).name}")
    return int(status)
