"""Every command and snippet in the README files, run as it stands there; only the address is another.

Against the real CPU engine where an answer is wanted. What needs a GPU or an account is marked so and skipped without.
"""

import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import readme
from client_envs import environment, made
from side_by_side import LIMIT_S, run, side_by_side, wanted_here

from infra.errors import InfraError
from infra.fc.serverless_devs import find_s
from launcher import ServiceProcess

ROOT = readme.ROOT
BLOCKS = readme.blocks()


def of(*kinds: str) -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in BLOCKS if block.kind in kinds]


def holds(output: str, block: readme.Block) -> None:
    for words in block.all("expect"):
        assert words in output, f"{words!r} is not in:\n{output}"


def snippet(server: ServiceProcess, folder: Path, block: readme.Block) -> str:
    """What it printed, run as it stands there but for the address."""
    code = block.code.replace(readme.LOCAL, server.url).replace("service.log", str(server.log_path))
    if block.kind == "node":
        program = made("node") / f"{block.document.replace('/', '-')}-{block.line}.mjs"
        program.write_text(code)
        return run(["node", str(program)], environment("node"), program.parent)
    if block.kind == "python":
        (packages,) = block.all("env") or ["python"]
        return run(["python", "-"], environment(packages), folder, code)
    code = re.sub(r"(python code/examples/rag/rag\.py)", rf"\1 --url {server.url}", code)
    operator = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    env = environment("python") if block.kind == "clients" else operator
    return run(["bash", "-euo", "pipefail"], env | {"LLM_USER_PATH": str(folder)}, ROOT, code)


@pytest.fixture(scope="module")
def printed(
    request: pytest.FixtureRequest, server: ServiceProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[str]]]:
    """What each snippet printed that a test of this run asks for."""
    with side_by_side(
        {
            str(block): functools.partial(snippet, server, tmp_path_factory.mktemp("snippet"), block)
            for block in BLOCKS
            if str(block) in wanted_here(request)
        }
    ) as running:
        yield running


@pytest.mark.engine
@pytest.mark.timeout(2 * LIMIT_S)
@pytest.mark.parametrize("block", of("curl", "clients", "python", "node"))
def test_snippet(block: readme.Block, printed: Mapping[str, Future[str]]) -> None:
    holds(printed[str(block)].result(), block)


@pytest.mark.parametrize("block", of("python", "node"))
def test_what_a_program_prints_is_no_chance(block: readme.Block) -> None:
    """Drawn by chance, a small model's answer runs past its limit once in a while, and a parsed one is none then."""
    assert re.search(r"temperature\W{1,4}0\b", block.code), f"{block} sets no temperature of 0"


@pytest.mark.engine
@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("block", of("bash"))
def test_walk_through(block: readme.Block, server: ServiceProcess, tmp_path: Path) -> None:
    """One after the other, as each goes on with what the one before has left."""
    holds(snippet(server, tmp_path, block), block)


@pytest.fixture
def made_run() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`make run` as a person runs it, on a free port; the scripted engine spares it the loading."""
    if subprocess.run(["make", "-q", ".venv/service"], cwd=ROOT, capture_output=True, check=False).returncode != 0:
        pytest.skip("nothing is installed in .venv, and `make run` would take minutes: `make setup` first")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("CHATBOT_", "MAKE"))}
    process = subprocess.Popen(
        ["make", "run", f"PORT={port}"],
        cwd=ROOT,
        env=env | {"CHATBOT_ENGINE": "scripted", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    yield process, port
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.process
@pytest.mark.parametrize("block", of("run"))
def test_make_run_prints_the_curl_of_the_first_screen_and_it_works(
    block: readme.Block, made_run: tuple[subprocess.Popen[str], int]
) -> None:
    process, port = made_run
    assert block.code.startswith("make run ")
    output = ""
    end = time.monotonic() + 120
    while "Any OpenAI client" not in output:
        assert process.stdout is not None and time.monotonic() < end, output
        line = process.stdout.readline()
        assert line, f"make run ended:\n{output}"
        output += line
    printed = output[output.index("  curl ") : output.index("Any OpenAI client")]
    assert "Paris" in run(["bash", "-euo", "pipefail"], dict(os.environ), ROOT, printed)
    shown = next(block for block in BLOCKS if block.kind == "curl")
    flat = [re.sub(r"[\s\\]+", " ", code).strip() for code in (printed, shown.code)]
    assert flat[0] == flat[1].replace("localhost:8000", f"localhost:{port}"), "README shows what `make run` prints"


@pytest.mark.parametrize("block", of("make", "cloud"))
def test_commands_are_well_formed_and_their_targets_can_be_made(block: readme.Block) -> None:
    run(["bash", "-n"], dict(os.environ), ROOT, block.code)
    for targets in re.findall(r"^make ([a-z -]+)", block.code, re.M):
        run(["make", "-n", *targets.split()], {**os.environ, "DEPLOY_REPOSITORY": "host/name/chatbot-llm"}, ROOT)


@pytest.mark.process
@pytest.mark.parametrize("block", of("infra"))
def test_operators_command_that_needs_no_account(block: readme.Block) -> None:
    try:
        find_s()
    except InfraError as missing:
        pytest.skip(str(missing))
    code = re.sub(r"\bpython3? -m", f"{sys.executable} -m", block.code)
    holds(run(["bash", "-euo", "pipefail"], dict(os.environ), ROOT, code), block)


@pytest.mark.cloud
@pytest.mark.timeout(2 * 3600)
def test_deploying_as_the_readme_says() -> None:
    wanted = ("ALIBABA_CLOUD_ACCESS_KEY_ID", "DEPLOY_REPOSITORY", "DEPLOY_LOG_PROJECT", "CHATBOT_API_KEYS")
    missing = [name for name in wanted if not os.environ.get(name)]
    if missing or os.environ.get("TEST_IN_THE_CLOUD") != "1":
        pytest.skip(
            f"needs an Alibaba Cloud account and costs money: set {', '.join((*wanted, 'TEST_IN_THE_CLOUD=1'))}"
        )
    for block in BLOCKS:
        if block.document != "infra/README.md" or block.kind != "cloud":
            continue
        if not any(word in block.code for word in ("login", "export", "example.com", " ID")):  # of one's own
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", block.code], cwd=ROOT, check=False)
            assert done.returncode == 0, str(block)


@pytest.mark.gpu
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("block", of("gpu"))
def test_docker_run(block: readme.Block) -> None:
    if not (shutil.which("docker") and shutil.which("nvidia-smi")):
        pytest.skip("needs Docker and an NVIDIA GPU")
    if subprocess.run(["docker", "image", "inspect", "chatbot-llm:local"], capture_output=True, check=False).returncode:
        pytest.skip("the image is not built: `make image` first")
    name = f"readme-{os.getpid()}"
    code = block.code.replace("docker run", f"docker run --detach --name {name}", 1)
    run(["bash", "-euo", "pipefail"], dict(os.environ), ROOT, code)
    try:
        end = time.monotonic() + 600
        while subprocess.run(["curl", "-sf", f"{readme.LOCAL}/health"], capture_output=True, check=False).returncode:
            assert time.monotonic() < end, "the container did not become ready"
            time.sleep(2)
        first = next(block for block in BLOCKS if block.kind == "curl")
        holds(run(["bash", "-euo", "pipefail"], dict(os.environ), ROOT, first.code), first)
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)
