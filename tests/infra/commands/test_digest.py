"""digest: keys in by pipe or prompt, digests out."""

from __future__ import annotations

import hashlib
import io
import os
import pty
import re
import subprocess
import sys

import pytest

from infra import ROOT
from infra.__main__ import main

ONE, TWO = "first-key-of-this-test", "second-key-of-this-test"
DIGESTS = ",".join(f"sha256:{hashlib.sha256(key.encode()).hexdigest()}" for key in (ONE, TWO))


def test_keys_come_from_a_pipe_one_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ONE}\n\n  {TWO}\n"))
    assert main(["digest"]) == 0
    assert capsys.readouterr().out == DIGESTS + "\n"


@pytest.mark.parametrize("typed", ["", "\n", "too-short\n"])
def test_no_key_or_a_bad_one_is_wrong_usage(
    typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert main(["digest"]) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.startswith("error: ") and "too-short" not in captured.err


@pytest.mark.timeout(60)
def test_a_prompt_shows_nothing_of_what_is_typed() -> None:
    here, there = pty.openpty()
    prompt = subprocess.Popen(
        [sys.executable, "-m", "infra", "digest"],
        cwd=ROOT,
        stdin=there,
        stdout=subprocess.PIPE,
        stderr=there,
        start_new_session=True,
    )
    os.close(there)
    shown = b""
    for key in (ONE, TWO, ""):
        while not shown.endswith(b"done): "):
            shown += os.read(here, 1024)
        os.write(here, key.encode() + b"\n")
        shown += os.read(here, 1)
    out, _ = prompt.communicate(timeout=20)
    os.close(here)
    assert out.decode() == DIGESTS + "\n"
    assert ONE.encode() not in shown and TWO.encode() not in shown


def test_a_new_key_comes_with_its_digest_as_a_shell_takes_them() -> None:
    made = subprocess.run(
        [sys.executable, "-S", "-m", "infra", "digest", "--new"], cwd=ROOT, capture_output=True, check=True
    )
    shell = 'eval "$1"; echo "$CHATBOT_API_KEY $CHATBOT_API_KEYS"'
    done = subprocess.run(["bash", "-c", shell, "-", made.stdout], capture_output=True, text=True, check=True)
    key, digest = done.stdout.split()
    assert re.fullmatch("[0-9a-f]{48}", key) and digest == f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def test_a_key_on_the_command_line_is_refused() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["digest", ONE])
    assert ended.value.code == 2
