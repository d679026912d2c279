"""`make image` whole: vLLM's CUDA packages as locked, and a made-up hub's weights. 15 minutes: `make image-test`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

import image as built
from image import ROOT, docker, run
from infra.image import size

pytestmark = [
    pytest.mark.container,
    pytest.mark.process,
    pytest.mark.timeout(2 * 3600),
    pytest.mark.skipif("WHOLE_IMAGE" not in os.environ, reason="15 minutes and 25 GB of disk: make image-test"),
]
#: The wheels in pip's cache, the packages in their own stage and in the image's layer, and room for one more copy.
NEEDED_GB = 25


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if why := built.no_engine():
        pytest.skip(why)
    if (free := shutil.disk_usage("/var").free / 1e9) < NEEDED_GB:
        pytest.skip(f"{free:.0f} GB are free, {NEEDED_GB} are needed")
    tag = f"chatbot-llm-test:whole-{os.getpid()}"
    print(built.build(tag, built.checkout(tmp_path_factory.mktemp("image"), whole=True), limit_s=5400)[-20_000:])
    yield tag
    docker("image", "rm", "--force", tag)


def test_its_size_is_what_is_written_there(image: str) -> None:
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        measured = [part / 1e9 for part in size.measure(saving.stdout)]
    print(f"{measured[0]:.2f} GB uncompressed, {measured[1]:.2f} GB compressed, weights apart")
    rows = re.findall(r"^ {4}(\S.*?)\s+<?(\d+\.\d)\s+<?(\d+\.\d)\s", size.__doc__ or "", re.M)
    parts = {name.split()[0]: (float(plain), float(compressed)) for name, plain, compressed in rows}
    for column in (0, 1):
        assert measured[column] == pytest.approx(parts["sum"][column] - parts["weights"][column], abs=0.3)


def test_vllm_has_noted_what_the_models_class_can_do(image: str) -> None:
    look = ["run", "--rm", "--entrypoint=find", image, "/opt/warm/vllm", "-name", "*Qwen2ForCausalLM*"]
    assert docker(*look), "else every start of an instance imports vLLM twice"


def test_without_a_gpu_it_ends_at_once_and_all_flags_are_told(image: str) -> None:
    ended = run("docker", "run", "--rm", "--network=none", image)
    assert ended.returncode == 2 and "no NVIDIA device: run with --gpus all, or " in ended.stdout + ended.stderr
    reported = run("docker", "run", "--rm", "--network=none", image, "--help=all", limit_s=300)
    assert reported.returncode == 0 and "--max-model-len" in reported.stdout, reported.stderr[-2000:]


def test_it_starts_and_ends_as_on_function_compute(image: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CHATBOT_", "FC_"))}
    command = [sys.executable, "-m", "infra", "local-test", "--scripted", "--image", image]
    drilled = run(*command, limit_s=300, cwd=ROOT, env=environment)
    print(drilled.stdout)
    assert drilled.returncode == 0, drilled.stdout + drilled.stderr
