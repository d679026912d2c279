"""The command line: every command is there, found at once, and ends with the exit code that its failure has."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dotenv import dotenv_values

from fake_fc import FakeFC
from infra import ROOT
from infra.__main__ import COMMANDS, main
from infra.fc import keys, serverless_devs
from log_lines import line

NAME = "chatbot-llm"


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"s"}))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert "usage: python -m infra " + command in capsys.readouterr().out


def test_whatever_follows_s_is_for_serverless_devs(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[list[str]] = []
    monkeypatch.setattr(serverless_devs, "run", lambda words, env: handed.append(list(words)) or 7)
    for words in (["deploy", "-y", "--skip-push"], ["--version"], ["-h"], ["invoke", "-e", "{}", "--", "x"]):
        assert main(["s", *words]) == 7
        assert handed.pop() == words


def test_help_imports_no_command_and_pushing_needs_nothing_but_python() -> None:
    for words in ([], ["push"], ["size"]):
        command = [sys.executable, "-S", "-X", "importtime", "-m", "infra", *words, "--help"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
        assert "infra.errors" in imported and not {"infra.commands", "rich", "requests"} & imported


def test_a_dotenv_is_read_by_every_command_as_by_s_and_the_shell_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, connected: FakeFC, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DEPLOY_FUNCTION", "CHATBOT_API_KEYS"):
        monkeypatch.setenv(name, "put back as it was, afterwards")
        monkeypatch.delenv(name)
    (tmp_path / ".env").write_text("# mine\nexport DEPLOY_FUNCTION=another\nCHATBOT_API_KEYS='secret-key-1234567'\n")
    assert main(["status"]) == 3
    err = capsys.readouterr().err
    assert "FunctionNotFound" in err and "secret-key" not in err
    assert keys.own() == "secret-key-1234567"
    monkeypatch.setenv("DEPLOY_FUNCTION", NAME)
    assert main(["wait-ready", "--qualifier", "LATEST"]) == 0


def test_a_dotenv_that_is_no_text_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("infra.__main__.DOTENV", tmp_path / ".env")
    (tmp_path / ".env").write_bytes(b"DEPLOY_FUNCTION=caf\xe9\n")
    assert main(["digest"]) == 2 and "is not UTF-8" in capsys.readouterr().err


def test_pushing_beside_a_dotenv_needs_nothing_but_python(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DEPLOY_FUNCTION=another\n")
    code = f"import pathlib, infra.__main__ as m; m.DOTENV = pathlib.Path({str(tmp_path / '.env')!r}); "
    code += "m.main(['push', '--help'])"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "usage: python -m infra push" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("text", "shell", "seen"),
    [
        ("DEPLOY_REPOSITORY=host/a/b\n", {}, "host/a/b host/a/b:"),
        ("# mine\nexport DEPLOY_REPOSITORY = 'host/a/b' # ours\n", {}, "host/a/b host/a/b:"),
        ('DEPLOY_IMAGE="host/a/b@sha256:1"\nOTHER=1\n', {}, " host/a/b@sha256:1"),
        ("DEPLOY_REPOSITORY=host/a/b\n", {"DEPLOY_REPOSITORY": "host/c/d"}, "host/c/d host/c/d:"),
        ("DEPLOY_IMAGE=host/a/b:1\n", {"DEPLOY_IMAGE": "host/c/d:1"}, " host/c/d:1"),
        ("NOT_DEPLOY_IMAGE=host/a/b:1\n", {}, " :"),
    ],
)
def test_make_reads_the_dotenv_as_the_commands_do(text: str, shell: dict[str, str], seen: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(text)
    env = {name: value for name, value in os.environ.items() if not name.startswith("DEPLOY_")} | shell
    rule = "shown: ; @echo '$(DEPLOY_REPOSITORY) $(DEPLOY_IMAGE)'"
    command = ["make", "-s", "-f", str(ROOT / "Makefile"), "--eval", rule, "shown"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.rstrip("\n") == seen
    values = {**dotenv_values(tmp_path / ".env"), **shell}
    assert (values.get("DEPLOY_IMAGE") or f"{values.get('DEPLOY_REPOSITORY', '')}:") == seen.split(" ")[1]


@pytest.mark.parametrize("page", ["/nowhere/page.html", "/", "/dev/full"])
def test_a_file_that_cannot_be_written_is_one_red_line(
    page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").write_text(line() + "\n")
    assert main(["report", str(tmp_path / "log"), "--min", "1", "--html", page]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize("command", [["size", "an-image"], ["push", "a/b"]])
def test_a_program_that_is_not_here_is_one_red_line(
    command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(command) == 1
    assert capsys.readouterr().err.startswith("error: ")


def numbers() -> Iterator[tuple[str, str, str]]:
    """(command, option, a number that it cannot mean): whatever argparse reads with a `type` that is no path."""
    for name, (module, _) in COMMANDS.items():
        command = argparse.ArgumentParser()
        importlib.import_module(module).arguments(command)
        for action in command._actions:
            if action.option_strings and action.type not in (None, Path):
                for value in ("nan", "inf", "-inf", "1e400", "-1", "1e300", "x", ""):
                    yield name, action.option_strings[0], value


def test_every_option_that_is_a_number_is_held_to_a_range() -> None:
    found = {option for _, option, _ in numbers()}
    assert {"--speed", "--times", "--rps", "--p95", "--refused", "--patience", "--at-once", "--step", "--wait"} <= found


@pytest.mark.parametrize(("command", "option", "value"), list(numbers()))
def test_a_number_that_cannot_be_meant_is_wrong_usage(
    command: str, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, f"{option}={value}"])
    assert caught.value.code == 2
    assert f"argument {option}: " in capsys.readouterr().err


def test_a_mistyped_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["realease"])
    assert caught.value.code == 2
    assert "realease" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reason", "arguments", "code"),
    [
        ("image not found", ["wait-ready"], 1),
        ("timed", ["wait-ready", "--timeout", "0"], 4),
        ("FunctionNotFound", ["status", "--function", "another"], 3),
        ("give N", ["scale"], 2),
        ("no number", ["scale", "--schedule", "a", "cron(0 0 8 * * *)", "many"], 2),
    ],
)
def test_each_kind_of_failure_has_its_exit_code_and_one_red_line(
    connected: FakeFC, capsys: pytest.CaptureFixture[str], reason: str, arguments: list[str], code: int
) -> None:
    function = connected.state.functions[NAME]
    if code == 4:
        function.state, reason = "Pending", "not ready after 0 s"
    else:
        function.state, function.state_reason = "Failed", "image not found"
    assert main(arguments) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ") and reason in err and err.count("\n") == 1
