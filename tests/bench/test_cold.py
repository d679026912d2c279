"""What a start has read: each file once."""

import sysconfig
from pathlib import Path

import pytest

from bench import cold


def test_a_file_below_two_of_the_folders_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = tmp_path / "lib" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "module.py").write_text("x = 1\n" * 1000)
    folders = {"stdlib": str(tmp_path / "lib"), "platstdlib": str(tmp_path / "lib"), "purelib": str(packages)}
    monkeypatch.setattr(sysconfig, "get_paths", lambda: folders)
    monkeypatch.setattr(cold, "ROOT", tmp_path / "nothing")
    monkeypatch.setattr(cold, "model_path", lambda: str(tmp_path / "nothing"))
    assert list(cold.resident()) == [8192], "6000 bytes, just written, are two pages"
