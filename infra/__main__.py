"""The operator's command line: `python -m infra --help`.

A command's module is imported when it is the one that was chosen, so that help and a mistyped name are answered at
once, and `push` or `size` need nothing but Python.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from infra import ROOT
from infra.errors import InfraError, WrongUsage

#: Name -> module and what it does; the module has `arguments(parser)` and `run(args)`.
COMMANDS = {
    "doctor": ("infra.commands.doctor", "check s.yaml before a deployment; no account"),
    "bake": ("infra.image.bake", "fetch the model that the image carries, or lock its checksums"),
    "size": ("infra.image.size", "measure an image against what Function Compute takes"),
    "local-test": ("infra.image.local_test", "start the image here as Function Compute does, try it, take it down"),
    "push": ("infra.image.push", "push the image under a tag that never moves"),
    "digest": ("infra.commands.digest", "API keys as the digests that a deployment gets"),
    "s": ("infra.commands.s", "any command of Serverless Devs, quiet and with the whole credential"),
    "deploy": ("infra.commands.deploy", "deploy s.yaml to what nobody calls yet, wait until all of it stands, try it"),
    "wait-ready": ("infra.commands.wait_ready", "wait until the function is active and its min instances stand"),
    "smoke": ("infra.commands.smoke", "ask it questions, judge the answers"),
    "acceptance": ("infra.commands.acceptance", "200 prompts at 1, 4 and 10 at once: is a T4's arithmetic sound?"),
    "release": ("infra.commands.release", "publish, try out, move the alias; back on failure"),
    "domain": ("infra.commands.domain", "a custom domain and its certificate"),
    "scale": ("infra.commands.scale", "set how many instances are kept, now or by clock"),
    "status": ("infra.commands.status", "one screen: states, instances, errors, what is paid for"),
    "observe": ("infra.commands.observe", "queries, dashboard and alerts over the request log, put into SLS"),
    "destroy": ("infra.commands.destroy", "delete the function and what hangs on it, and look whether it is gone"),
    "report": ("infra.commands.report", "what it did and what it cost, from its own request log"),
    "replay": ("infra.commands.replay", "send a log's requests again, here or elsewhere, and compare"),
    "batch": ("infra.commands.batch", "send a file of requests as OpenAI's batches have it, go on where it stopped"),
    "plan": ("infra.commands.plan", "what a fleet will do with a log's load, and the cheapest for a target"),
}

EPILOG = """exit codes: 0 good; 1 looked, not right; 2 wrong usage; 3 refused by Function Compute; 4 timed out

credentials: Alibaba's default chain (ALIBABA_CLOUD_ACCESS_KEY_ID, _SECRET, _SECURITY_TOKEN; OIDC; the aliyun
CLI's profile; an ECS role). The service's own key for deploy, smoke and release: CHATBOT_API_KEY.
"""

DOTENV = ROOT / ".env"


def parse(words: Sequence[str]) -> argparse.Namespace:
    """What to run, as `run`, and with what. Ends the process on wrong usage, as argparse does."""
    top = argparse.ArgumentParser(
        prog="python -m infra",
        description="Run chatbot-llm on Alibaba Cloud Function Compute.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name in words[:1]:
            chosen = importlib.import_module(module)
            chosen.arguments(command)
            command.set_defaults(run=chosen.run)
    return top.parse_args(words)


def chain(error: BaseException | None) -> list[str]:
    """Every failure on the way, first cause first: a failed clean-up must not hide why there was one."""
    lines: list[str] = []
    while error is not None:
        if isinstance(error, InfraError) and not any(str(error) in line for line in lines):
            lines.insert(0, str(error))
        error = error.__cause__ or error.__context__
    return lines


def main(words: Sequence[str]) -> int:
    try:
        if DOTENV.is_file():  # as `s` does: what the shell has counts, and every command looks at the same function
            with suppress(ImportError):  # `push` and `size` need nothing but Python: make hands them what they read
                from dotenv import load_dotenv

                try:
                    load_dotenv(DOTENV)
                except UnicodeDecodeError:
                    raise WrongUsage(f"{DOTENV} is not UTF-8: save it as that") from None
        args = parse(words)
        return args.run(args) or 0
    except InfraError as error:
        for line in chain(error):
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a file that cannot be read or written, a program that is not here
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    # A cancelled CI job sends SIGTERM: the candidate of a release must be removed then, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
