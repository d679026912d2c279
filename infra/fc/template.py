"""Renders s.yaml by the real `s preview`, so that everybody reads the values that `s deploy` would send.

No network is used and nothing is kept: `s` writes what it renders, secrets included, into its log folder, so
that folder is a temporary one here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra import ROOT
from infra.errors import InfraError
from infra.fc.serverless_devs import QUIET, find_s

S_YAML = ROOT / "s.yaml"
PREVIEW_LIMIT_S = 60  # one preview takes about a second; a busy machine several


def render(env: Mapping[str, str] | None = None, template: Path = S_YAML) -> dict[str, Any]:
    """The rendered props of the one function in the template. `env` replaces the environment (PATH and HOME stay).

    Raises InfraError with the words of `s`, and what to set, or how to install it.
    """
    base = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    with tempfile.TemporaryDirectory(prefix="s-preview-") as home:
        finished = subprocess.run(
            [find_s(), "preview", "-t", str(template), "-o", "json", "--silent"],
            env={**base, **(os.environ if env is None else env), "serverless_devs_config_home": home} | QUIET,
            cwd=template.parent,
            capture_output=True,
            text=True,
            timeout=PREVIEW_LIMIT_S,
            check=False,
        )
    text = finished.stdout + finished.stderr
    if unset := re.search(r"env\('(\w+)'\) not found", text):
        raise InfraError(f"{template.name} needs {unset[1]} in the environment: export {unset[1]}=...")
    try:
        finished.check_returncode()
        resources = list(json.loads(finished.stdout)["resources"].values())
    except (subprocess.CalledProcessError, json.JSONDecodeError) as error:
        raise InfraError(f"`s preview` failed on {template.name}:\n{text.strip()}") from error
    if len(resources) != 1:
        raise InfraError(f"{template.name} has {len(resources)} resources: keep one function in it")
    return dict(resources[0]["props"])


def render_any() -> dict[str, Any]:
    """The same where neither the image nor the log project matters, so that they need not be set."""
    return render({"DEPLOY_IMAGE": "none", "DEPLOY_LOG_PROJECT": "none", **os.environ})
