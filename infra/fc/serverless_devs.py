"""Runs the pinned `s` (Serverless Devs) so that it stays quiet and keeps short-lived credentials whole.

Four things `s` 3.1.10 does by itself, and what is done about each here:
- it reports every command line, and the account, to a log service over plain HTTP, and looks for updates of
  itself and of the component: NODE_ENV=test is the one switch that stops all of it;
- given AccountID/AccessKeyID/AccessKeySecret it drops the SecurityToken, so a role's credential is refused;
  a JSON in a variable that ends in _serverless_devs_key, named with `-a`, keeps it;
- FC_CLIENT_CUSTOM_ENDPOINT, left over from a rehearsal, would send a real deployment elsewhere;
- fc3 loads the component fc3-domain whatever is deployed, in its newest version, with the credential at hand, and logs
  are readable by every user of the machine: so `s` gets a home of its own, closed to others, with an empty fc3-domain
  in it. A profile made with `s config add` is linked there.

What it may see of the API keys: keys.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra import ROOT
from infra.errors import InfraError
from infra.fc import keys

PINNED = ROOT / "infra" / "node_modules" / ".bin" / "s"
ACCESS = "chatbot_llm_serverless_devs_key"
#: The names that `s` has for the parts of a credential, and Alibaba's own.
CREDENTIAL = {
    "AccountID": "ALIBABA_CLOUD_ACCOUNT_ID",
    "AccessKeyID": "ALIBABA_CLOUD_ACCESS_KEY_ID",
    "AccessKeySecret": "ALIBABA_CLOUD_ACCESS_KEY_SECRET",
    "SecurityToken": "ALIBABA_CLOUD_SECURITY_TOKEN",
}
QUIET = {"NODE_ENV": "test"}  # an `s` that neither reports nor updates itself
REDIRECTING = "FC_CLIENT_CUSTOM_ENDPOINT"
HOME = "serverless_devs_config_home"  # the folder in which `s` keeps its .s
DOMAIN = Path("components/devsapp.cn/v3/fc3-domain")  # where `s` looks before its registry


def find_s() -> str:
    """Path of `s`: the pinned one of infra/node_modules, else the first on PATH. Raises InfraError: how to get it."""
    found = str(PINNED) if PINNED.exists() else shutil.which("s")
    if found is None:
        get = "is not installed: install Node.js 20+, then run `npm ci --prefix infra`"
        raise InfraError(f"Serverless Devs (`s`) {get}")
    if shutil.which("node") is None:
        raise InfraError("`s` needs Node.js 20 or newer, and there is no `node` on PATH: install Node.js")
    return found


def with_credential(env: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Environment and extra arguments that hand `s` the credential in ALIBABA_CLOUD_*, its token included.

    Without ALIBABA_CLOUD_ACCESS_KEY_ID nothing changes: `s` then uses the profile that s.yaml names.
    Raises InfraError.
    """
    credential = {key: value for key, name in CREDENTIAL.items() if (value := env.get(name))}
    if "AccessKeyID" not in credential:
        return dict(env), []
    if missing := [name for key, name in CREDENTIAL.items() if key not in {*credential, "SecurityToken"}]:
        profile = "unset them all to use the profile from `s config add`"
        raise InfraError(f"ALIBABA_CLOUD_ACCESS_KEY_ID is set but {' and '.join(missing)} is not: set it, or {profile}")
    # The plain four win over -a, and lose the token: they must not be there at all.
    kept = {name: value for name, value in env.items() if name not in CREDENTIAL}
    return {**kept, ACCESS: json.dumps(credential)}, ["-a", ACCESS]


def own_home(env: Mapping[str, str]) -> str:
    """A home for `s` that is there, empty but for an fc3-domain that does nothing, and closed to other users."""
    person = Path(env.get("HOME") or Path.home())
    home = person / ".chatbot-llm"
    domain, profile = home / ".s" / DOMAIN, home / ".s" / "access.yaml"
    home.mkdir(mode=0o700, exist_ok=True)
    domain.mkdir(parents=True, exist_ok=True)
    (domain / "index.js").write_text("module.exports = class Fc3Domain {};\n", encoding="utf-8")
    (domain / ".s.lock").write_text("{}", encoding="utf-8")
    if not profile.is_symlink() and not profile.exists():
        (person / ".s").mkdir(exist_ok=True)
        profile.symlink_to(person / ".s" / "access.yaml")
    return str(home)


def run(arguments: Sequence[str], env: Mapping[str, str]) -> int:
    """Run `s` in the project; its exit status. Raises InfraError, WrongUsage."""
    if REDIRECTING in env:
        raise InfraError(f"{REDIRECTING} is set: every call would go there. Unset it to deploy")
    ready, access = with_credential(keys.for_s(env) | QUIET)
    # `s` runs the doctor as a hook: with this interpreter, which has what the doctor imports.
    ready.setdefault("PYTHON", sys.executable)
    if HOME not in ready:
        ready[HOME] = own_home(env)
    return subprocess.run([find_s(), *arguments, *access], env=ready, cwd=ROOT, check=False).returncode
