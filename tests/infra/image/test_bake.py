"""The weights in the image: pinned, resumed, checked, or refused."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_hub import REPOSITORY, REVISION, WEIGHTS, Hub, hub
from infra import ROOT
from infra.__main__ import main
from infra.image import bake, transfer

FILES = {
    WEIGHTS: bytes(range(256)) * 12_000,  # 3 MB: several reads
    "config.json": b'{"model_type": "qwen2"}',
    "merges.txt": b"#version: 0.2\n",
    "README.md": b"not needed by an engine",
    "configuration.json": b'{"framework": "pytorch"}',
    "figures/score.json": b"{}",
}
NEEDED = {WEIGHTS, "config.json", "merges.txt", "figures/score.json"}


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub(FILES) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
        monkeypatch.setattr(transfer, "_pause", lambda failures: None)
        monkeypatch.setattr(bake, "SPARE_BYTES", 0)
        yield server


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({"repository": REPOSITORY, "revision": REVISION, "files": {}}))
    return path


def run(*words: str | Path) -> int:
    return main(["bake", *map(str, words)])


def fetched(folder: Path) -> dict[str, bytes]:
    base = folder / REPOSITORY
    return {str(path.relative_to(base)): path.read_bytes() for path in base.rglob("*") if path.is_file()}


def test_the_model_is_pinned_to_a_commit() -> None:
    pinned = bake.Manifest.read(bake.MANIFEST)
    assert pinned.repository == "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4"
    assert len(pinned.revision) == 40


def test_a_branch_name_is_no_pin(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest.write_text(manifest.read_text().replace(REVISION, "main"))
    assert run("fetch", "--to", tmp_path / "to", "--manifest", manifest) == 1
    assert "commit of 40 hex digits" in capsys.readouterr().err


def test_only_what_an_engine_reads_is_fetched(source: Hub, manifest: Path, tmp_path: Path) -> None:
    assert run("fetch", "--to", tmp_path / "to", "--manifest", manifest) == 0
    assert fetched(tmp_path / "to") == {name: FILES[name] for name in NEEDED}


def test_a_second_fetch_downloads_nothing(source: Hub, manifest: Path, tmp_path: Path) -> None:
    run("fetch", "--to", tmp_path / "to", "--manifest", manifest)
    source.received.clear()
    assert run("fetch", "--to", tmp_path / "to", "--manifest", manifest) == 0
    assert source.ranges() == []


def test_a_killed_fetch_goes_on_where_it_stopped(source: Hub, manifest: Path, tmp_path: Path) -> None:
    source.hold_at = 2_000_000
    program = "import infra.image.bake as b, sys; b.SPARE_BYTES = 0; sys.exit(b.main())"
    command = [sys.executable, "-c", program, "fetch", "--to", str(tmp_path / "to"), "--manifest", str(manifest)]
    part = tmp_path / "to" / REPOSITORY / f"{WEIGHTS}.part"
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as first:
        assert source.held.wait(30)
        while not part.exists() or part.stat().st_size < 1_000_000:
            assert first.poll() is None
        first.send_signal(signal.SIGKILL)
    source.go_on.set()
    kept = part.stat().st_size
    assert 0 < kept <= 2_000_000
    assert not part.with_suffix("").exists()

    assert subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode == 0
    assert source.ranges() == ["", f"bytes={kept}-"]
    assert fetched(tmp_path / "to")[WEIGHTS] == FILES[WEIGHTS]


def test_a_connection_that_breaks_is_resumed_at_once(source: Hub, manifest: Path, tmp_path: Path) -> None:
    source.cut_at = 1_500_000
    assert run("fetch", "--to", tmp_path / "to", "--manifest", manifest) == 0
    assert source.ranges() == ["", "bytes=1500000-"]
    assert fetched(tmp_path / "to")[WEIGHTS] == FILES[WEIGHTS]


def test_a_server_that_cannot_resume_is_asked_from_the_beginning(source: Hub, manifest: Path, tmp_path: Path) -> None:
    source.cut_at, source.resumes = 1_500_000, False
    assert run("fetch", "--to", tmp_path / "to", "--manifest", manifest) == 0
    assert fetched(tmp_path / "to")[WEIGHTS] == FILES[WEIGHTS]


def test_a_busy_hub_is_asked_again(source: Hub, manifest: Path, tmp_path: Path) -> None:
    source.busy = 3
    assert run("fetch", "--to", tmp_path / "to", "--manifest", manifest) == 0


def test_a_hub_out_of_reach_is_named(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(transfer, "_pause", lambda failures: None)
    assert run("fetch", "--to", tmp_path / "to", "--manifest", manifest) == 1
    assert "http://127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_changed_file_is_refused_and_removed(
    name: str, source: Hub, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Large files are tied to the commit by sha256, small ones by git's object id."""
    source.served[name] = b"!" + FILES[name][1:]
    assert run("fetch", "--to", tmp_path / "to", "--manifest", manifest) == 1
    assert f"{name} is not the file that was pinned" in capsys.readouterr().err
    assert not list((tmp_path / "to").rglob(f"{name}*"))

    source.served.clear()
    assert run("fetch", "--to", tmp_path / "to", "--manifest", manifest) == 0


def test_a_file_that_rots_on_disk_is_found(source: Hub, manifest: Path, tmp_path: Path) -> None:
    run("fetch", "--to", tmp_path / "to", "--manifest", manifest)
    (tmp_path / "to" / REPOSITORY / "config.json").write_bytes(b'{"model_type": "qwenX"}')
    assert run("fetch", "--to", tmp_path / "to", "--manifest", manifest) == 1
    assert run("fetch", "--to", tmp_path / "to", "--manifest", manifest) == 0


def test_too_little_room_is_said_before_the_download(
    source: Hub, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("lock", "--manifest", manifest)
    locked = json.loads(manifest.read_text())
    locked["files"][WEIGHTS]["size"] = 10**18  # no disk has that
    manifest.write_text(json.dumps(locked))
    assert run("fetch", "--to", tmp_path / "to", "--manifest", manifest) == 1
    assert "make room" in capsys.readouterr().err
    assert source.ranges() == []


def test_a_disk_that_fills_up_on_the_way_is_said(
    source: Hub, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "to" / REPOSITORY
    folder.mkdir(parents=True)
    (folder / f"{WEIGHTS}.part").symlink_to("/dev/full")
    assert run("fetch", "--to", tmp_path / "to", "--manifest", manifest) == 1
    assert "the disk is full" in capsys.readouterr().err


def test_locking_writes_every_checksum_and_then_no_list_is_asked_for(
    source: Hub, manifest: Path, tmp_path: Path
) -> None:
    assert run("lock", "--manifest", manifest) == 0
    files = json.loads(manifest.read_text())["files"]
    assert files == {
        name: {"size": len(FILES[name]), "sha256": hashlib.sha256(FILES[name]).hexdigest()} for name in sorted(NEEDED)
    }
    assert source.ranges() == []  # the large files' checksums are the hub's record of the commit
    source.received.clear()
    assert run("fetch", "--to", tmp_path / "to", "--manifest", manifest) == 0
    assert not [path for path, _ in source.received if "/tree/" in path]


def test_modelscope_delivers_the_same_bytes_once_locked(source: Hub, manifest: Path, tmp_path: Path) -> None:
    run("lock", "--manifest", manifest)
    assert run("fetch", "--source", "modelscope", "--to", tmp_path / "to", "--manifest", manifest) == 0
    assert fetched(tmp_path / "to") == {name: FILES[name] for name in NEEDED}


def test_modelscope_with_other_bytes_is_refused(source: Hub, manifest: Path, tmp_path: Path) -> None:
    run("lock", "--manifest", manifest)
    source.files[WEIGHTS] = b"?" * len(FILES[WEIGHTS])
    assert run("fetch", "--source", "modelscope", "--to", tmp_path / "to", "--manifest", manifest) == 1


def test_modelscope_before_locking_is_refused_with_the_way_out(
    source: Hub, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fetch", "--source", "modelscope", "--to", tmp_path / "to", "--manifest", manifest) == 1
    assert "bake lock" in capsys.readouterr().err
    assert run("lock", "--source", "modelscope", "--manifest", manifest) == 0
    assert set(json.loads(manifest.read_text())["files"]) == NEEDED
    assert run("fetch", "--source", "modelscope", "--to", tmp_path / "to", "--manifest", manifest) == 0


def test_installing_leaves_the_same_layer_however_often_it_is_built(
    source: Hub, manifest: Path, tmp_path: Path
) -> None:
    """Contents, modes and times make a layer's digest; a stray file in the download folder must not."""
    for target in ("one", "two"):
        run("fetch", "--to", tmp_path / "to", "--install", tmp_path / target, "--manifest", manifest)
        (tmp_path / "to" / REPOSITORY / "left-over.part").write_bytes(b"x")

    def layer(target: str) -> dict[str, tuple[int, int, bytes]]:
        root = tmp_path / target
        return {
            str(path.relative_to(root)): (
                path.stat().st_mode,
                int(path.stat().st_mtime),
                path.read_bytes() if path.is_file() else b"",
            )
            for path in [root, *root.rglob("*")]
        }

    assert layer("one") == layer("two")
    assert {time for _, time, _ in layer("one").values()} == {bake.FILE_TIME_S}
    assert f"{REPOSITORY}/weights.json" in layer("one")


def test_progress_names_file_size_share_and_speed(
    source: Hub, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(transfer, "REPORT_S", 0.0)
    run("fetch", "--to", tmp_path / "to", "--manifest", manifest)
    assert f"{WEIGHTS}  3.07 MB of 3.07 MB  100 %" in capsys.readouterr().out.replace("3 MB", "3.07 MB")


def test_a_login_page_instead_of_a_list_is_recognised(
    source: Hub, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{source.url}/nowhere")
    assert run("fetch", "--to", tmp_path / "to", "--manifest", manifest) == 1
    assert "HTTP 404" in capsys.readouterr().err
    assert not os.path.exists(tmp_path / "to" / REPOSITORY / WEIGHTS)
