"""The proof of sm_75 code: made-up fat binaries in, a build that goes on or fails out."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from infra.image import prove_sm75


def fat_binary(*architectures: int, kind: int = 2) -> bytes:
    entries = b""
    for architecture in architectures:
        header = struct.pack("<HHIQ", kind, 0x101, 64, 32) + b"\0" * 12 + struct.pack("<I", architecture)
        entries += header.ljust(64, b"\0") + b"\x7fELF".ljust(32, b"\0")
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entries)) + entries


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages as the build installs them, with two fat binaries each, noise around them and PTX."""
    for name in ("torch/lib/libtorch_cuda.so", "vllm/_C_stable_libtorch.abi3.so"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        noise = prove_sm75.MAGIC + b"by chance"
        path.write_bytes(b"\x7fELF" + noise + fat_binary(75, 80) + b"\0" * 40 + fat_binary(75, 90) + prove_sm75.MAGIC)
    monkeypatch.setattr(prove_sm75, "folder", lambda package: tmp_path / package)
    return tmp_path


def test_machine_code_is_counted_by_architecture(packages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prove_sm75.architectures(packages / "torch/lib/libtorch_cuda.so") == {75: 2, 80: 1, 90: 1}
    assert prove_sm75.main() == 0
    assert "sm_75: 2" in capsys.readouterr().out


@pytest.mark.parametrize("package", ["torch", "vllm"])
@pytest.mark.parametrize("content", [fat_binary(80, 90), fat_binary(75, kind=1), b"no CUDA at all"])
def test_a_library_without_code_for_the_t4_fails_the_build(
    package: str, content: bytes, packages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PTX for sm_75 (kind 1) does not count: the driver would have to compile it on every start."""
    (library,) = (packages / package).rglob("*.so")
    library.write_bytes(content)
    assert prove_sm75.main() == 1
    assert f"{package} has no machine code for sm_75" in capsys.readouterr().err


def test_a_missing_library_fails_the_build(packages: Path) -> None:
    (packages / "vllm/_C_stable_libtorch.abi3.so").unlink()
    assert prove_sm75.main() == 1


def test_a_libcuda_in_the_packages_fails_the_build(packages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (packages / "libcuda.so.1").write_bytes(b"")
    assert prove_sm75.main() == 1
    assert "shadows the driver's" in capsys.readouterr().err
