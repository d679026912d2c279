"""`.ci/with-engine`: whatever becomes of the Docker engine, the command runs, its status counts, and nothing stays."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
Ended = subprocess.CompletedProcess[str]


@pytest.fixture
def ci(tmp_path: Path) -> Callable[..., Ended]:
    """Run it with programs of these names replaced by these shell scripts."""

    def run(**programs: str) -> Ended:
        for name, script in programs.items():
            (tmp_path / name.replace("_", "-")).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name.replace("_", "-")).chmod(0o755)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
        return subprocess.run(
            [ROOT / ".ci" / "with-engine", "sh", "-c", "echo host=$DOCKER_HOST; exit 7"],
            env={**environment, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


def left() -> set[Path]:
    return set(Path("/var/tmp").glob("engine.*"))


def test_an_engine_that_answers_is_used_as_it_is(ci: Callable[..., Ended]) -> None:
    ended = ci(docker="exit 0", id="echo 1000")
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "host=\n", "")


def test_who_may_start_none_goes_on_without(ci: Callable[..., Ended]) -> None:
    ended = ci(docker="exit 1", id="echo 1000")
    assert (ended.returncode, ended.stdout) == (7, "host=\n")
    assert ended.stderr == "no Docker engine for the tests of the image: only root may start one\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gets that far")
def test_packages_that_cannot_be_fetched_harm_nothing(ci: Callable[..., Ended]) -> None:
    before = left()
    ended = ci(docker="exit 1", apt_get="echo 'E: no such mirror' >&2; exit 100")
    assert ended.returncode == 7 and ended.stdout.splitlines()[-1] == "host="
    assert "no Docker engine for the tests of the image: " in ended.stderr
    assert left() <= before
