"""Every setting of the service, once: name, type, default and meaning.

A setting is an environment variable `CHATBOT_<NAME>`; the table in code/README.md is generated from this file.
What belongs to the engine (context length, dtype, parsers ...) is a vLLM flag, not a setting.
Nothing here reads a file or touches the network.
"""

import hashlib
import ipaddress
import os
import re
from functools import cached_property
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from chatbot_llm.errors import UsageError


class Settings(BaseSettings):
    """The service's settings. Times are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(env_prefix="CHATBOT_", frozen=True, extra="ignore")

    engine: Literal["vllm", "scripted"] = Field("vllm", description="`vllm`, or `scripted` for tests without a model.")
    profile: Literal["auto", "cpu", "gpu", "t4", "none"] = Field(
        "auto", description="Set of default vLLM flags; `auto` takes `gpu` when an NVIDIA device is there, else `cpu`."
    )
    model_dir: str = Field("/models", description="Where baked models lie, as `<org>/<name>` folders.")
    cache_dir: str = Field("", description="Where the bundled model is unpacked; empty is `~/.cache/chatbot-llm`.")
    max_running: int = Field(10, ge=1, le=1024, description="Requests generating at once.")
    max_waiting: int = Field(32, ge=0, le=1024, description="Requests that may wait for a slot; more get 429.")
    deadline_s: float = Field(350, gt=0, description="A request ends by then, with what was generated so far.")
    drain_s: float = Field(80, ge=0, description="How long /pre-stop and SIGTERM let running requests finish.")
    hang_s: float = Field(20, gt=0, description="An engine silent for this long is declared dead.")
    read_timeout_s: float = Field(30, gt=0, description="A client must have sent its whole request by then.")
    max_body_bytes: int = Field(4 << 20, ge=1024, le=32 << 20, description="Largest request body; more gets 413.")
    max_prompt_chars: int = Field(400_000, ge=1, description="Longest text in a request, all messages together.")
    max_tokens_cap: int = Field(4096, ge=1, description="Largest `max_tokens` a request may ask for.")
    max_choices: int = Field(8, ge=1, description="Largest `n`, and most prompts in one completion request.")
    api_keys: SecretStr = Field(
        SecretStr(""),
        description="Comma-separated keys, or `sha256:` and their SHA-256 in hex (`python -m infra digest`); a request "
        "must carry one. Empty: no key is asked for.",
    )
    cors_origins: str = Field(
        "",
        description="Comma-separated origins (`https://app.example.com`) browsers may call from; `*`: all. Empty: none",
    )
    metrics_from: str = Field(
        "",
        description="Comma-separated addresses or networks, beside this machine, that need no key for `/metrics`.",
    )
    raw_grammars: bool = Field(
        False, description="Take `regex` and `grammar` from callers: programs that run in the engine."
    )
    playground: bool = Field(True, description="Serve the playground page at `/`.")
    self_test: bool = Field(True, description="Generate a few words after loading and refuse to serve garbage.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged.")
    script: str = Field("{}", description="JSON for the scripted engine; see `engine/scripted.py`.")

    @field_validator("api_keys")
    @classmethod
    def _keys_are_long_enough(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if text and not _listed(text):  # variables that were not set, most likely: nobody means the door to stand open
            raise ValueError("holds no key; leave it empty to ask for none")
        for entry in _listed(text):
            if _is_digest(entry):
                if not re.fullmatch(r"[0-9a-fA-F]{64}", entry.partition(":")[2]):
                    raise ValueError("what begins with sha256: must go on with the 64 hexadecimal digits of a SHA-256")
            elif len(entry) < 16:
                raise ValueError("every key must have at least 16 characters; `openssl rand -hex 24` makes one")
            elif not re.fullmatch(r"[!-~]+", entry):
                raise ValueError("every key must be of characters that a header can carry: ASCII, without spaces")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_origins(cls, value: str) -> str:
        for origin in _listed(value):
            if not re.fullmatch(r"\*|null|[a-z][a-z0-9+.-]*://[a-z0-9.\[\]:_-]+", origin):
                raise ValueError(
                    "every origin must be `*` or as a browser sends it: scheme://host[:port], in lower case"
                )
        return value

    @field_validator("metrics_from")
    @classmethod
    def _scrapers_are_networks(cls, value: str) -> str:
        try:
            for network in _listed(value):
                ipaddress.ip_network(network)
        except ValueError:
            raise ValueError("every entry must be an address or a network, such as 10.0.0.0/8") from None
        return value

    @cached_property
    def keys(self) -> tuple[bytes, ...]:
        """The SHA-256 of every key, 32 bytes each: all that is needed to know a key again."""
        listed = _listed(self.api_keys.get_secret_value())
        return tuple(bytes.fromhex(one.partition(":")[2]) if _is_digest(one) else digest(one) for one in listed)

    @property
    def origins(self) -> tuple[str, ...]:
        return _listed(self.cors_origins)

    @property
    def scrapers(self) -> tuple[str, ...]:
        return _listed(self.metrics_from)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _is_digest(entry: str) -> bool:
    return entry.lower().startswith("sha256:")


def digest(key: str) -> bytes:
    """SHA-256 of a key as a client sends it, 32 bytes."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def load(**overrides: Any) -> Settings:
    """Read the environment. Raises UsageError naming the variable and what it must be."""
    known = {f"CHATBOT_{name.upper()}" for name in Settings.model_fields}
    reserved = {"CHATBOT_STARTED_AT", "CHATBOT_PHASE_SOCKET", "CHATBOT_API_KEY"}
    strange = sorted(name for name in os.environ if name.startswith("CHATBOT_") and name not in known | reserved)
    if strange:
        raise UsageError(f"unknown setting {', '.join(strange)}: the settings are {', '.join(sorted(known))}")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False, include_input=False):
            name = f"CHATBOT_{str(problem['loc'][0]).upper()}: " if problem["loc"] else ""
            lines.append(f"{name}{problem['msg'].removeprefix('Value error, ')}")
        raise UsageError("; ".join(lines)) from None


def on_function_compute() -> bool:
    """Whether the platform started this process (FC injects these names and refuses them from users)."""
    return "FC_FUNCTION_NAME" in os.environ and "FC_INSTANCE_ID" in os.environ


def table() -> str:
    """Every setting, its default and its meaning, as a Markdown table (code/README.md and `--help`)."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        shown = f"`{default}`" if default != "" else "empty"
        rows.append(f"| `CHATBOT_{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows)
