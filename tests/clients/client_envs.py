"""Throw-away environments for client libraries, so that none of them becomes a dependency of the product.

`python`, `openai2` (what wants an older openai) and `node` are made once under build/clients/ and made anew when their
packages change. Out of reach of the registry a test skips and says so; a package that cannot be installed for another
reason is a failure.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "build" / "clients"
#: What they hold: NAME.txt for pip, the folder node for npm. `make lock` makes them from what lies beside.
LOCKS = Path(__file__).with_name("locks")
INSTALL_LIMIT_S = 280
#: What pip and npm say when nobody answers.
OUT_OF_REACH = re.compile(
    r"NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|Temporary failure in name resolution|"
    r"NameResolutionError|Network is unreachable|ENOTFOUND|ECONNREFUSED|ETIMEDOUT|EAI_AGAIN|ECONNRESET"
)


def environment(name: str) -> dict[str, str]:
    """Variables for a program that uses a client library; the interpreter comes first on PATH."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("CHATBOT_", "OPENAI_", "PYTHON"))}
    folder = made(name)
    if name == "node":
        return env
    # LiteLLM fetches a price list at import unless it is told to use its own copy.
    env["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    return env | {"PATH": f"{folder / 'bin'}:{env['PATH']}", "VIRTUAL_ENV": str(folder)}


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Nobody else makes an environment meanwhile, in this process or another one."""
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@_alone()
def made(name: str) -> Path:
    """Where the packages are; programs for Node must lie below it to find them."""
    node = name == "node"
    if node and not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("Node.js with npm is not installed here")
    lock = LOCKS / name / "package-lock.json" if node else LOCKS / f"{name}.txt"
    digest = hashlib.sha256(sys.version.encode() + lock.read_bytes()).hexdigest()[:12]
    target = HOME / f"{name}-{digest}"
    if (target / "complete").exists():
        return target
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    if node:
        for file in (lock, lock.with_name("package.json")):
            shutil.copy(file, target)
        _install(name, ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], target)
    else:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", target], check=True, timeout=INSTALL_LIMIT_S)
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(target),
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        _install(name, [*pip, "--no-compile", "--no-deps", "--require-hashes", "-r", str(lock)], target)
    (target / "complete").touch()
    return target


def _install(name: str, command: list[str], target: Path) -> None:
    done = subprocess.run(command, cwd=target, capture_output=True, text=True, check=False, timeout=INSTALL_LIMIT_S)
    if done.returncode == 0:
        return
    output = done.stdout + done.stderr
    if OUT_OF_REACH.search(output):
        pytest.skip(f"the registry is out of reach, so {name} cannot be installed")
    pytest.fail(f"{' '.join(command)} failed:\n{output[-3000:]}")
