"""What guards the image on its way out: proof of sm_75 code, the size, the tag that never moves."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from infra.errors import CheckFailed
from infra.image import prove_sm75, push, size
from infra.image_name import IMMUTABLE_TAG
from infra.limits import MAX_IMAGE_GB

# --- proof of sm_75 ---


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


# --- the size ---


def saved(*layers: bytes, names: list[str] | None = None) -> io.BytesIO:
    """What `docker save` writes: blobs, then the list of the image's layers."""
    out = io.BytesIO()
    files = {f"blobs/sha256/{index}": layer for index, layer in enumerate(layers)}
    files["manifest.json"] = json.dumps([{"Layers": names or list(files)}]).encode()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in {**files, "blobs/sha256/config": b"{}" * 1000}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    out.seek(0)
    return out


def test_layers_are_compressed_to_be_counted_unless_they_are_already() -> None:
    plain = os.urandom(40_000) + b"\0" * (40 << 20)  # three blocks
    gzipped = zlib.compress(os.urandom(5_000), wbits=31)
    uncompressed, compressed = size.measure(saved(plain, gzipped), threads=2)
    assert uncompressed == len(plain) + 5_000
    assert 45_000 < compressed < 400_000
    assert compressed > len(gzipped)


def test_a_layer_twice_in_the_image_counts_once() -> None:
    layer = os.urandom(10_000)
    assert size.measure(saved(layer, names=["blobs/sha256/0", "blobs/sha256/0"]))[0] == 10_000


@pytest.mark.parametrize(("plain", "compressed"), [(12e9, MAX_IMAGE_GB * 1e9), (size.UNCOMPRESSED_LIMIT_GB * 1e9, 9e9)])
def test_an_image_above_a_limit_is_refused(plain: float, compressed: float) -> None:
    with pytest.raises(CheckFailed, match="too big for Function Compute"):
        size.gate(int(plain), int(compressed))


def test_the_sizes_in_the_description_add_up_below_the_budget() -> None:
    rows = re.findall(r"^ {4}\S.*?\s<?(\d+\.\d)\s+<?(\d+\.\d)\s", size.__doc__ or "", flags=re.M)
    *parts, total = [(float(plain), float(compressed)) for plain, compressed in rows]
    for column, limit in ((0, size.UNCOMPRESSED_LIMIT_GB), (1, MAX_IMAGE_GB)):
        assert sum(part[column] for part in parts) == pytest.approx(total[column], abs=0.15)
        assert total[column] < limit


# --- pushing ---


class Docker:
    """A `docker` and a `git` on PATH that note what they are asked and answer as told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: dict[str, tuple[int, str]] = {}
        self.tell("git describe", 0, "v1.2.3")
        self.tell("docker manifest", 1, "no such manifest: registry/x")
        self.tell("docker image", 0, "linux/amd64")

    def tell(self, command: str, code: int, text: str) -> None:
        self.answers[command] = (code, text)
        for program in ("docker", "git"):
            cases = "".join(
                f"  '{asked.split()[1]}') echo '{said}' {'>&2' if code else ''}; exit {code} ;;\n"
                for asked, (code, said) in self.answers.items()
                if asked.startswith(program)
            )
            script = self.folder / program
            script.write_text(f'#!/bin/sh\necho "{program} $*" >> {self.folder}/asked\ncase "$1" in\n{cases}esac\n')
            script.chmod(0o755)

    def asked(self) -> str:
        return (self.folder / "asked").read_text()


REPOSITORY = "registry.cn-hangzhou.aliyuncs.com/example/chatbot-llm"


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(size, "check", lambda image: "9.10 GB compressed")
    return Docker(tmp_path)


def test_a_new_tag_is_pushed_and_named_for_the_deployment(docker: Docker, capsys: pytest.CaptureFixture[str]) -> None:
    assert push.main([REPOSITORY]) == 0
    assert f"docker push {REPOSITORY}:v1.2.3" in docker.asked()
    assert f"DEPLOY_IMAGE={REPOSITORY}:v1.2.3" in capsys.readouterr().out
    assert IMMUTABLE_TAG.fullmatch("v1.2.3")


def test_an_existing_tag_is_never_overwritten(docker: Docker, capsys: pytest.CaptureFixture[str]) -> None:
    docker.tell("docker manifest", 0, "{}")
    assert push.main([REPOSITORY]) == 1
    assert "tags do not move" in capsys.readouterr().err
    assert push.main([REPOSITORY, "--existing-ok"]) == 0
    assert "docker push" not in docker.asked()


@pytest.mark.parametrize("said", ["denied: requested access to the resource is denied", "i/o timeout"])
def test_a_registry_that_does_not_answer_is_no_permission_to_push(
    said: str, docker: Docker, capsys: pytest.CaptureFixture[str]
) -> None:
    docker.tell("docker manifest", 1, said)
    assert push.main([REPOSITORY]) == 3
    assert "docker login" in capsys.readouterr().err
    assert "docker push" not in docker.asked()


def test_uncommitted_work_has_no_tag(docker: Docker, capsys: pytest.CaptureFixture[str]) -> None:
    docker.tell("git describe", 0, "v1.2.3-4-gabcdef012345-dirty")
    assert push.main([REPOSITORY]) == 1
    assert "commit first" in capsys.readouterr().err


def test_an_image_for_another_platform_is_not_pushed(docker: Docker, capsys: pytest.CaptureFixture[str]) -> None:
    docker.tell("docker image", 0, "linux/arm64")
    assert push.main([REPOSITORY]) == 1
    assert "linux/amd64" in capsys.readouterr().err


def test_an_image_that_is_too_big_is_not_pushed(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_big(image: str) -> Any:
        return size.gate(0, int(16e9))

    monkeypatch.setattr(size, "check", too_big)
    assert push.main([REPOSITORY]) == 1
    assert "docker push" not in docker.asked()


def test_without_a_repository_it_says_what_to_export(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DEPLOY_REPOSITORY", raising=False)
    with pytest.raises(SystemExit):
        push.main([])
    assert "export DEPLOY_REPOSITORY=" in capsys.readouterr().err
    monkeypatch.setenv("DEPLOY_REPOSITORY", REPOSITORY)
    assert push.main([]) == 0
    assert f"docker push {REPOSITORY}:v1.2.3" in docker.asked()
