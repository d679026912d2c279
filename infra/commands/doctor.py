"""What is wrong with a deployment, one line each. Also runs by itself before every `s deploy` (the hook in s.yaml)."""

from __future__ import annotations

import argparse
import os

from infra.doctor.rules import check
from infra.errors import CheckFailed
from infra.fc import keys, template


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hook", action="store_true", help="judge what the `s` that runs this would deploy, as it is")


def run(args: argparse.Namespace) -> None:
    env = os.environ if args.hook else keys.for_s(os.environ)
    findings = check(template.render(env), env)
    for finding in findings:
        print(finding)
    errors = sum(finding.level == "error" for finding in findings)
    print(f"doctor: {errors} error(s), {len(findings) - errors} warning(s)")
    if errors:
        raise CheckFailed("not ready to deploy: see the errors above")
