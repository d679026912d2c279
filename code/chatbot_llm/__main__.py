"""`python -m chatbot_llm [any flag of vLLM's serve]`: the service under gunicorn, in the foreground.

The image's ENTRYPOINT, what `make run` starts and what the tests start. `--host` and `--port` are ours; every other
flag goes to vLLM unchanged.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("CHATBOT_STARTED_AT", repr(time.time()))

from gunicorn.app.base import BaseApplication  # noqa: E402

from chatbot_llm import settings  # noqa: E402
from chatbot_llm.engine import profiles
from chatbot_llm.errors import UsageError  # noqa: E402

HELP = """usage: python -m chatbot_llm [--host HOST] [--port PORT] [vLLM flags]

  --host HOST   address to listen on (0.0.0.0)
  --port PORT   port to listen on (FC_CUSTOM_LISTEN_PORT, else 8000)
  --help        this text; --help=all: vLLM's flags as well (needs vLLM but no GPU, takes some seconds)

Every other flag is vLLM's, for example --model PATH --max-model-len 8192 --dtype half.
Settings are environment variables:
"""


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn, configured by gunicorn.conf.py, serving one app made in the worker."""

    def __init__(self, address: str, argv: list[str]) -> None:
        self._address = address
        self._argv = argv
        super().__init__()

    def load_config(self) -> None:
        path = Path(__file__).resolve().parents[1] / "gunicorn.conf.py"
        variables: dict[str, Any] = {"__file__": str(path), "__name__": "gunicorn_conf"}
        exec(compile(path.read_text(), str(path), "exec"), variables)
        for name, value in variables.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)
        self.cfg.set("bind", self._address)

    def load(self) -> Any:
        from chatbot_llm.app import create_app
        from chatbot_llm.server.door import Door

        current = settings.load()
        return Door(create_app(current, make_engine(current, self._argv)))


def make_engine(current: settings.Settings, argv: list[str]) -> Any:
    """The engine the settings ask for; imports neither engine's libraries yet."""
    if current.engine == "scripted":
        from chatbot_llm.engine.scripted import ScriptedEngine

        return ScriptedEngine(current)
    from chatbot_llm.engine.vllm_engine import VllmEngine

    return VllmEngine(current, argv)


def address(argv: list[str]) -> tuple[str, list[str]]:
    """(host:port, the other flags). Raises UsageError when the port is no port."""
    host, argv = profiles.take(argv, "--host")
    port, argv = profiles.take(argv, "--port")
    port = port or os.environ.get("FC_CUSTOM_LISTEN_PORT") or "8000"
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"--port must be a number from 1 to 65535, not {port!r}")
    return f"{host or '0.0.0.0'}:{port}", argv


def require_room() -> None:
    """gunicorn and vLLM both keep temporary files. Raises UsageError where none can be written."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise UsageError("no folder for temporary files can be written: beside --read-only give --tmpfs /tmp") from None


def main(argv: list[str]) -> int:
    try:
        if {"--help", "-h", "--help=all"} & set(argv):
            print(HELP + settings.table())
            if "--help=all" in argv:
                from chatbot_llm.engine.vllm_engine import print_flags

                print_flags()
            return 0
        current = settings.load()
        where, rest = address(argv)
        require_room()
        if current.engine == "vllm":
            profiles.require_device(profiles.pick(current.profile))
        make_engine(current, rest)
    except UsageError as error:
        print(f"chatbot-llm: {error}", file=sys.stderr)
        return 2
    Server(where, rest).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
