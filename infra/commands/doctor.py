"""What is wrong with a deployment, one line each. Also runs by itself before every `s deploy` (the hook in s.yaml)."""

from __future__ import annotations

import argparse
import os

from infra.doctor.policies import check_ram
from infra.doctor.rules import check
from infra.errors import CheckFailed
from infra.fc import template


def arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> None:
    findings = check(template.render(), os.environ) + check_ram()
    for finding in findings:
        print(finding)
    errors = sum(finding.level == "error" for finding in findings)
    print(f"doctor: {errors} error(s), {len(findings) - errors} warning(s)")
    if errors:
        raise CheckFailed("not ready to deploy: see the errors above")
