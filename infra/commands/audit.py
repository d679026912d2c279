"""Known vulnerabilities in what the locks install, by pip-audit and PyPI's advisories.

Exit 0: none. 1: some. Where the advisories are out of reach nothing is known: then 0 with a plain warning, and 1 in CI
(`CI` is set there), so that no release passes unaudited.
"""

import argparse
import json
import os
import subprocess
import sys

from infra import ROOT

LOCKS = ("code/requirements/cpu.txt", "code/requirements/cuda.txt", "tests/requirements.txt", "infra/requirements.txt")
#: pip-audit looks up a few packages a second.
LIMIT_S = 900


def arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> int:
    """Print one line per lock and per advisory; return the exit status."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--progress-spinner", "off"]
    status = 0
    for lock in LOCKS:
        audited = [*command, "--format", "json", "--requirement", str(ROOT / lock)]
        done = subprocess.run(audited, capture_output=True, text=True, timeout=LIMIT_S)
        try:
            packages = json.loads(done.stdout)["dependencies"]
        except (ValueError, KeyError):
            packages = []
            print(done.stderr[-2000:], file=sys.stderr)
        known = [package for package in packages if "skip_reason" not in package]
        for package in known:
            for advisory in package["vulns"]:
                fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
                print(f"{lock}: {advisory['id']}: {package['name']} {package['version']}, fixed in {fixed}")
                status = 1
        if known:
            print(f"{lock}: {len(known)} packages audited, {len(packages) - len(known)} unknown")
        else:
            print(f"{lock}: NOT AUDITED: the advisories are out of reach from here")
            status |= bool(os.environ.get("CI"))
    return status
