"""The image, built from light parts, and run without a right that it does not need, from start to end as on FC."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fc import FunctionCompute, StartFailed

import image as built
from callers import Later, chat_body
from image import MODEL, ROOT, Container, docker, run
from infra.image import size
from launcher import until

pytestmark = [pytest.mark.container, pytest.mark.process]
Props = dict[str, Any]
Deploy = Callable[..., FunctionCompute]

VERSION, REVISION = "v0.0.0-test", "0" * 40
LABELS = (f"--build-arg=VERSION={VERSION}", f"--build-arg=REVISION={REVISION}")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Built once, without a cache, so that every instruction runs."""
    if why := built.no_engine():
        pytest.skip(why)
    tag = f"chatbot-llm-test:{os.getpid()}"
    try:
        built.build(tag, built.checkout(tmp_path_factory.mktemp("image")), "--no-cache", *LABELS)
    except built.OutOfReach as gone:
        pytest.skip(str(gone))
    yield tag
    docker("image", "rm", "--force", tag)


@pytest.fixture
def deploy(image: str, tmp_path: Path) -> Iterator[Deploy]:
    """The FC double over containers of the image; the instance is not started yet."""
    begun: list[Container] = []
    made: list[FunctionCompute] = []

    def deployed(props: Props, **options: Any) -> FunctionCompute:
        def start(**how: Any) -> Container:
            begun.append(Container(tmp_path / f"container-{len(begun)}.log", image, **{**options, **how}))
            return begun[-1]

        made.append(FunctionCompute(props, start))
        return made[-1]

    yield deployed
    for function in made:
        function.close()
    for container in begun:
        container.close()
        print(f"--- {container.log_path.name}\n{container.log_path.read_text()[-4000:]}")


def question(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "What is the capital of France?"}], **fields}


@pytest.mark.parametrize("user", ["0", "65534:65534"], ids=["root", "nobody"])
def test_from_start_to_end_as_function_compute_runs_it_without_a_right_to_anything(
    deploy: Deploy, props: Props, user: str
) -> None:
    function = deploy(props, user=user)
    function.start_instance()  # its port, POST /initialize, the first GET /health; then it is frozen
    container = function.service
    assert isinstance(container, Container)
    assert container.state()["Paused"], "frozen before the first request"
    answer = function.http("POST", "/chat", question())
    assert answer.status == 200 and "Paris" in answer.json["choices"][0]["message"]["content"]
    assert function.http("GET", "/health").json["ready"] is True
    event = json.loads(function.invoke(json.dumps(question()).encode()))
    assert event["choices"] == answer.json["choices"]
    streamed = function.stream("/chat", chat_body(20, stream=True, token_s=0.01))
    assert len(streamed.words) == 20 and streamed.done
    assert container.state()["Paused"], "frozen after the last request"
    ended = function.stop_instance()
    assert ended.pre_stop is not None and ended.pre_stop.json == {"state": "drained", "cut_short": False}
    assert ended.exit_status == 0, container.log()
    assert "Traceback" not in container.log()


def test_a_stream_is_finished_before_the_container_ends(deploy: Deploy, props: Props) -> None:
    function = deploy(props)
    function.start_instance()
    last = Later(lambda: function.stream("/chat", chat_body(40, stream=True, token_s=0.05)))
    until(lambda: function.service.health()["running"] == 1, "a stream runs")
    ended = function.stop_instance()
    assert len(last.get().words) == 40 and last.get().done
    assert ended.exit_status == 0


def test_an_engine_that_cannot_load_fails_the_initializer_and_ends_the_container(deploy: Deploy, props: Props) -> None:
    function = deploy(props, script={"fail_load": "no kernel image for sm_75"})
    with pytest.raises(StartFailed, match="no kernel image for sm_75"):
        function.start_instance()
    assert function.service.wait_exit(10) != 0


def ends(image: str, *words: str) -> tuple[int, str, float]:
    """(status, what it said, seconds) of a container that ends by itself."""
    began = time.monotonic()
    ended = run("docker", "run", "--rm", "--network=none", "--cap-drop=ALL", *words, image)
    return ended.returncode, ended.stdout + ended.stderr, time.monotonic() - began


def test_without_a_gpu_it_ends_at_once_and_says_what_to_do(image: str) -> None:
    status, output, took_s = ends(image)
    assert status == 2
    assert "chatbot-llm: no NVIDIA device: run with --gpus all, or " in output and "Traceback" not in output
    assert took_s < 5, "a container's start, and a second"


def test_read_only_without_a_place_for_temporary_files_it_says_what_is_missing(image: str) -> None:
    status, output, _ = ends(image, "--read-only", "--env=CHATBOT_ENGINE=scripted")
    assert status == 2
    assert output.strip().endswith("beside --read-only give --tmpfs /tmp") and "Traceback" not in output


def test_it_holds_what_the_dockerfile_copies_and_nothing_else_of_the_checkout(image: str) -> None:
    container = docker("create", image)
    try:
        archive = subprocess.run(["docker", "export", container], capture_output=True, check=True, timeout=60).stdout
    finally:
        docker("rm", container)
    with tarfile.open(fileobj=io.BytesIO(archive)) as disk:
        files = {f"/{name}" for name in disk.getnames()}
    code = {name for name in files if name.startswith("/app/")}
    wanted = {f"/app/code/{path.relative_to(ROOT / 'code')}" for path in (ROOT / "code" / "chatbot_llm").rglob("*.py")}
    assert wanted <= code and "/app/code/gunicorn.conf.py" in code
    compiled = {name for name in code if name.endswith(".pyc")}
    assert len(compiled) >= len(wanted), "no start compiles"
    strange = {name for name in code - wanted - compiled if not name.endswith((".html", "__pycache__"))}
    assert {Path(name).suffix for name in strange} <= {"", ".py"}, strange
    assert f"/models/{MODEL}/config.json" in files
    assert {"/opt/warm/README.md", "/opt/warm/vllm/modelinfos/earlier.json"} <= files, "what a T4 has left comes along"
    assert "/usr/bin/gcc" in files, "Triton compiles its launcher"
    assert not [name for name in files if name.startswith("/var/lib/apt/lists/") and name.count("/") > 5]


def layers(image: str) -> list[str]:
    return list(json.loads(docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", image)))


def test_a_second_build_without_any_cache_has_the_same_layers_so_it_pushes_none(image: str, tmp_path: Path) -> None:
    """Another day's build: the sources are checked out anew, every file that it installs is newer."""
    again = f"{image}-again"
    built.build(again, built.checkout(tmp_path), "--no-cache", *LABELS)
    try:
        first, second = layers(image), layers(again)
    finally:
        docker("image", "rm", "--force", again)
    assert len(first) >= 6  # the base, the system, packages, weights, warm caches, the code
    assert first == second


def test_its_labels_say_what_it_was_built_from(image: str) -> None:
    shown = json.loads(docker("image", "inspect", "--format", "{{json .}}", image))
    labels = shown["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == VERSION
    assert labels["org.opencontainers.image.revision"] == REVISION
    assert (shown["Os"], shown["Architecture"]) == ("linux", "amd64")
    assert shown["Config"]["Entrypoint"] == ["python", "-m", "chatbot_llm"] and not shown["Config"]["Cmd"]


def test_its_size_is_measured_as_the_engine_saves_it(image: str) -> None:
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        plain, compressed = size.measure(saving.stdout)
    assert plain > 100e6 and plain / 10 < compressed < plain


def test_local_test_drills_the_image_without_a_gpu(image: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CHATBOT_", "FC_"))}
    command = [sys.executable, "-m", "infra", "local-test", "--scripted", "--image", image]
    drilled = run(*command, limit_s=120, cwd=ROOT, env=environment)
    assert drilled.returncode == 0, drilled.stdout + drilled.stderr
    assert "local-test passed" in drilled.stdout
    assert "local-test-" not in docker("ps", "--all", "--format", "{{.Names}}")
