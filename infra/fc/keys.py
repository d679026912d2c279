"""API keys on their way to the function: their SHA-256 digests travel, the keys stay with whoever calls.

fc3 prints every variable of a function and keeps it in ~/.s/logs, readable by all. So s.yaml reads DEPLOY_KEY_DIGESTS,
and the two variables that may hold a plain key are never handed to `s`. The service needs no more than a digest to
compare with (code/chatbot_llm/settings.py); as it is not salted, a key must be random, not a password.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping

from infra.errors import WrongUsage

KEYS, DIGESTS = "CHATBOT_API_KEYS", "DEPLOY_KEY_DIGESTS"
#: The one key that this machine's own questions carry (smoke, release, acceptance).
OWN = "CHATBOT_API_KEY"
SHORTEST = 16  # characters; settings.py refuses shorter keys
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def listed(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",") if entry.strip()]


def digest(key: str) -> str:
    """`sha256:<64 hex>` of a key; a digest stays what it is. Raises WrongUsage, which never repeats the key."""
    if DIGEST.fullmatch(key.lower()):
        return key.lower()
    if key.lower().startswith("sha256:"):
        raise WrongUsage("what begins with sha256: must go on with 64 hexadecimal digits: `python -m infra digest`")
    if re.search(r"\s", key):
        raise WrongUsage("a key has a space or a line break in it: separate keys by commas, on one line")
    if len(key) < SHORTEST:
        refuse = "and the service would refuse to start: make one with `python -m infra digest --new`"
        raise WrongUsage(f"a key is under {SHORTEST} characters, {refuse}")
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def digests(text: str) -> str:
    """Comma-separated keys, plain or digests, as comma-separated digests. Raises WrongUsage."""
    return ",".join(digest(key) for key in listed(text))


def for_s(env: Mapping[str, str]) -> dict[str, str]:
    """The environment that `s` may see: digests in place of keys. Raises WrongUsage."""
    known = {DIGESTS: digests(env[KEYS])} if env.get(KEYS) else {}
    return {**env, KEYS: "", OWN: "", **known}  # empty: what is not there, `s` takes from .env


def own(env: Mapping[str, str] = os.environ) -> str:
    """The key to call with: CHATBOT_API_KEY, else the first plain one of CHATBOT_API_KEYS, else none ("")."""
    plain = [key for key in listed(env.get(KEYS, "")) if not DIGEST.fullmatch(key.lower())]
    return env.get(OWN) or (plain[0] if plain else "")


def check_own(env: Mapping[str, str] = os.environ) -> None:
    """Raises WrongUsage unless the key to call with is one that the function will know, before it all begins."""
    known = listed(digests(env.get(KEYS) or env.get(DIGESTS, "")))
    if known and not own(env):
        raise WrongUsage(f"the smoke test needs one of the keys: export {OWN}=..., it goes to the service only")
    if known and digest(own(env)) not in known:
        raise WrongUsage(f"{OWN} is none of the keys that the function would know: add its digest to {KEYS}")
