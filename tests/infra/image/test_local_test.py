"""`make local-test`: the real entry point started, tried and ended in Function Compute's order."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from infra import ROOT
from infra.errors import CheckFailed
from infra.fc.quotas import MAX_INITIALIZER_S, MAX_PRE_STOP_S
from infra.image.local_test import Drill, Plan, listens
from infra.image.target import Process

pytestmark = pytest.mark.process

STEPS = ["listen", "initialize", "health", "invoke", "smoke", "pre-stop", "SIGTERM"]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """local-test as a user runs it, with the scripted engine and only the programs in tmp_path before PATH."""

    def started(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("CHATBOT_", "FC_"))}
        path = f"{tmp_path}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}/usr/bin{os.pathsep}/bin"
        return subprocess.run(
            [sys.executable, "-m", "infra", "local-test", *flags],
            cwd=ROOT,
            env={**inherited, "PATH": path, "TMPDIR": str(tmp_path), "CHATBOT_ENGINE": "scripted", **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return started


def steps(out: str) -> list[str]:
    """The steps in the order they ended; smoke's own table is indented."""
    return re.findall(r"^([\w-]+) +\d+\.\d s  ", out, flags=re.M)


def left_behind(folder: Path) -> list[Path]:
    """Processes that were given this folder for temporary files."""
    wanted, found = f"TMPDIR={folder}\0".encode(), list[Path]()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            found += [environment] if wanted in environment.read_bytes() else []
    return found


def test_without_a_gpu_the_cpu_build_goes_through_every_step(run: Run, tmp_path: Path) -> None:
    finished = run()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "this says nothing about the GPU image" in finished.stdout
    assert steps(finished.stdout) == STEPS
    assert "local-test passed" in finished.stdout
    assert left_behind(tmp_path) == []


def test_flags_are_compared_when_asked_to_and_a_file_is_left(run: Run, tmp_path: Path) -> None:
    finished = run("--variants", "k = 2")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    file = ROOT / "build" / "variants-cpu.json"
    found = json.loads(file.read_text())
    file.unlink()
    assert found["card"] == "none: a dry run"
    assert [each["name"] for each in found["variants"]] == ["as shipped", "n-gram, k = 2", "as shipped, again"]
    for each in found["variants"]:
        assert each["fault"] == "" and all(each["ttft_ms"].values()) and all(each["tokens_per_s"].values())
        assert f"| {each['name']} | " in finished.stdout
    assert left_behind(tmp_path) == []


def test_an_engine_that_cannot_load_fails_with_its_log(run: Run) -> None:
    finished = run(CHATBOT_SCRIPT='{"fail_load": "no kernel image for this card"}')
    assert finished.returncode != 0
    assert "no kernel image for this card" in finished.stderr
    assert "local-test passed" not in finished.stdout


def test_a_process_that_ends_at_once_is_not_waited_for(run: Run) -> None:
    finished = run("--", "--max-model-len", "8192", CHATBOT_HANG_S="a while")
    assert finished.returncode == 1
    assert "it ended before it listened" in finished.stderr
    assert "CHATBOT_HANG_S" in finished.stderr


def test_an_answer_that_is_no_language_fails(run: Run) -> None:
    finished = run(CHATBOT_SCRIPT='{"text": "!!!!!!!!!!!!!!!!"}', CHATBOT_SELF_TEST="false")
    assert finished.returncode == 1
    assert "smoke` failed" in finished.stderr


def test_an_end_by_force_is_a_failure() -> None:
    class Stubborn(Process):
        def stop(self, limit_s: int) -> int:
            return 137

    drill = Drill(Stubborn([], {}, 1), Plan.read(ROOT / "s.yaml"), "http://127.0.0.1:1")
    with pytest.raises(CheckFailed, match="exit code 137"):
        drill.stop()


def test_a_proxy_that_hangs_up_is_nobody_who_listens() -> None:
    """Docker's, in front of a container that has not begun to listen."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        port = proxy.getsockname()[1]

        def hang_up() -> None:
            proxy.accept()[0].close()

        answering = threading.Thread(target=hang_up)
        answering.start()
        assert not listens("127.0.0.1", port)
        answering.join()
        assert listens("127.0.0.1", port), "it waits to be spoken to"
    assert not listens("127.0.0.1", port)


# --- with a GPU: doubles of docker and nvidia-smi, the real entry point inside ---

DOCKER = '''
    #!{python}
    """Runs the image's ENTRYPOINT as a process; notes its command lines."""
    import os, pathlib, signal, subprocess, sys, time
    here, words = pathlib.Path({folder!r}), sys.argv[1:]
    with (here / "commands").open("a") as commands:
        commands.write(" ".join(words) + "\\n")
    def pid():
        return int((here / "pid").read_text())
    if words[:2] == ["image", "inspect"]:
        sys.exit(0 if (here / "image").exists() else 1)
    elif words[0] in ("pull", "build"):
        (here / "image").touch()
    elif words[0] == "run":
        image = words.index({image!r})
        given = {{}}
        for place, word in enumerate(words[:image]):
            if word == "--env":
                name, _, value = words[place + 1].partition("=")
                given[name] = value
        _, outer, inner = words[words.index("--publish") + 1].split(":")
        assert given["FC_CUSTOM_LISTEN_PORT"] == inner
        environment = {{**os.environ, **given, "PYTHONPATH": {code!r}}}
        command = [{python!r}, "-m", "chatbot_llm", "--host", "127.0.0.1", "--port", outer, *words[image + 1 :]]
        with (here / "log").open("wb") as log:
            watched = (
                "import pathlib, subprocess, sys; code = subprocess.call(sys.argv[2:]);"
                "pathlib.Path(sys.argv[1]).write_text(str(code))"
            )
            process = subprocess.Popen(
                [{python!r}, "-c", watched, str(here / "code"), *command], env=environment, stdout=log, stderr=log,
                start_new_session=True,
            )
        (here / "pid").write_text(str(process.pid))
        print("0123abcd")
    elif words[0] == "inspect":
        print((here / "code").read_text() if "ExitCode" in words[2] else str(not (here / "code").exists()).lower())
    elif words[0] == "logs":
        print((here / "log").read_text())
    elif words[0] == "stop":
        inside = subprocess.run(["pgrep", "-P", str(pid())], capture_output=True, text=True).stdout.split()
        os.kill(int(inside[0]), signal.SIGTERM)
        while not (here / "code").exists() or not (here / "code").read_text():
            time.sleep(0.05)
    elif words[0] == "rm":
        try:
            os.killpg(pid(), signal.SIGKILL)
        except ProcessLookupError:
            pass
'''
IMAGE = "registry.example/chatbot-llm:v1.2.3"


@pytest.fixture
def docker(tmp_path: Path) -> Callable[[str, str], None]:
    def put(card: str, capability: str) -> None:
        text = DOCKER.format(python=sys.executable, folder=str(tmp_path), image=IMAGE, code=str(ROOT / "code"))
        for name, script in (
            ("docker", textwrap.dedent(text).lstrip()),
            ("nvidia-smi", f"#!/bin/sh\necho '{card}, {capability}, 580.95.05'\n"),
        ):
            (tmp_path / name).write_text(script)
            (tmp_path / name).chmod(0o755)

    return put


def test_with_a_gpu_the_image_runs_with_the_cards_and_fcs_environment(
    run: Run, docker: Callable[[str, str], None], tmp_path: Path
) -> None:
    docker("NVIDIA L4", "8.9")
    finished = run("--image", IMAGE)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    commands = (tmp_path / "commands").read_text()
    assert f"pull {IMAGE}" in commands
    (started,) = [line for line in commands.splitlines() if line.startswith("run ")]
    for words in ("--gpus all", "--ipc=host", "--cap-drop=ALL", "--env FC_FUNCTION_NAME=", "--env CHATBOT_DRAIN_S=80"):
        assert words in started
    assert "acceptance run, which judges a T4's arithmetic, is left out" in finished.stdout
    assert "cp " not in commands
    assert "rm --force" in commands


def test_without_a_gpu_the_image_itself_goes_through_every_step_when_asked_to(
    run: Run, docker: Callable[[str, str], None], tmp_path: Path
) -> None:
    docker("NVIDIA L4", "8.9")
    finished = run("--image", IMAGE, "--scripted", CHATBOT_ENGINE="vllm")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert steps(finished.stdout) == STEPS
    assert "its model and vLLM are not" in finished.stdout
    commands = (tmp_path / "commands").read_text()
    (started,) = [line for line in commands.splitlines() if line.startswith("run ")]
    assert "--gpus" not in started
    for words in ("--read-only --tmpfs /tmp", "--cap-drop=ALL", "--env CHATBOT_ENGINE=scripted"):
        assert words in started
    assert "rm --force" in commands


def test_without_docker_the_image_cannot_be_tried(run: Run) -> None:
    finished = run("--scripted", PATH=str(Path(sys.executable).parent))
    assert finished.returncode == 1
    assert finished.stderr == "error: docker is not installed here, and --scripted tries the image\n"


@pytest.mark.skipif(shutil.which("pgrep") is None, reason="procps is not installed")
def test_on_a_t4_the_acceptance_run_comes_too_and_its_caches_are_kept(
    run: Run, docker: Callable[[str, str], None], tmp_path: Path
) -> None:
    """The scripted engine knows one answer to everything, which the acceptance run must not let pass."""
    docker("Tesla T4", "7.5")
    finished = run("--image", IMAGE)
    assert finished.returncode == 1
    assert "plain questions right" in finished.stderr
    assert "VLLM_MARLIN_INPUT_DTYPE=int8" in finished.stderr
    commands = (tmp_path / "commands").read_text()
    assert "cp " not in commands, "caches of a run that failed are not kept"
    assert "rm --force" in commands


# --- what s.yaml says ---


def test_the_limits_are_those_of_s_yaml(tmp_path: Path) -> None:
    plan = Plan.read(ROOT / "s.yaml")
    assert 0 < plan.initializer_s <= MAX_INITIALIZER_S
    assert 0 < plan.pre_stop_s <= MAX_PRE_STOP_S
    assert "CHATBOT_DEADLINE_S" in plan.environment
    assert not any("${" in value for value in plan.environment.values())

    template = yaml.safe_load((ROOT / "s.yaml").read_text())
    (resource,) = template["resources"].values()
    resource["props"]["instanceLifecycleConfig"]["initializer"]["timeout"] = 7
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(template))
    assert Plan.read(tmp_path / "s.yaml").initializer_s == 7

    del resource["props"]["instanceLifecycleConfig"]["preStop"]
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(template))
    with pytest.raises(CheckFailed, match="preStop"):
        Plan.read(tmp_path / "s.yaml")
