"""Throw-away environments for client libraries, so that none of them becomes a dependency of the product.

Each is made once under build/clients/ and made anew when its packages change. Out of reach of the registry a test skips
and says so; a package that cannot be installed for another reason is a failure.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "build" / "clients"
#: Versions known to work; newer ones are tried by changing them here.
#: (litellm: its tools need mcp, which it does not name)
PYTHON = {
    "openai": ("openai==3.54.0", "requests"),
    "langchain": ("langchain-openai==1.7.3",),
    "llamaindex": ("llama-index-llms-openai-like==0.8.1",),
    "litellm": ("litellm==1.106.2", "mcp"),
    "llm": ("llm==0.36",),
    "agents": ("openai-agents==0.24.0",),
    "pydantic_ai": ("pydantic-ai-slim[openai]==2.68.0",),
    "anthropic": ("anthropic==2.10.0",),
}
NODE = {"js": ("openai@6.49.0",), "ai": ("ai@7.0.173", "@ai-sdk/openai@4.0.118", "zod@4.6.7")}
INSTALL_LIMIT_S = 280
#: What pip and npm say when nobody answers.
OUT_OF_REACH = re.compile(
    r"NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|Temporary failure in name resolution|"
    r"NameResolutionError|Network is unreachable|ENOTFOUND|ECONNREFUSED|ETIMEDOUT|EAI_AGAIN|ECONNRESET"
)


def environment(name: str) -> dict[str, str]:
    """Variables for a program that uses the client library `name`; its interpreter comes first on PATH."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("CHATBOT_", "OPENAI_", "PYTHON"))}
    folder = _made(name)
    if name in NODE:
        return env
    # LiteLLM fetches a price list at import unless it is told to use its own copy.
    env["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    return env | {"PATH": f"{folder / 'bin'}:{env['PATH']}", "VIRTUAL_ENV": str(folder)}


def folder(name: str) -> Path:
    """Where the packages of `name` are; programs for Node must lie below it to find them."""
    return _made(name)


def _made(name: str) -> Path:
    packages = PYTHON.get(name) or NODE[name]
    if name in NODE and not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("Node.js with npm is not installed here")
    digest = hashlib.sha256(" ".join((sys.version, *packages)).encode()).hexdigest()[:12]
    target = HOME / f"{name}-{digest}"
    if (target / "complete").exists():
        return target
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    if name in NODE:
        (target / "package.json").write_text('{"private": true, "type": "module"}')
        _install(name, ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages], target)
    else:
        subprocess.run([sys.executable, "-m", "venv", target], check=True, timeout=INSTALL_LIMIT_S)
        pip = [target / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _install(name, [*map(str, pip), *packages], target)
    (target / "complete").touch()
    return target


def _install(name: str, command: list[str], target: Path) -> None:
    done = subprocess.run(command, cwd=target, capture_output=True, text=True, check=False, timeout=INSTALL_LIMIT_S)
    if done.returncode == 0:
        return
    said = done.stdout + done.stderr
    if OUT_OF_REACH.search(said):
        pytest.skip(f"the registry is out of reach, so {name} cannot be installed")
    pytest.fail(f"{' '.join(command)} failed:\n{said[-3000:]}")
