"""The tag that never moves: what is pushed, and what is not."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from infra import ROOT
from infra.__main__ import main
from infra.doctor.rules import IMMUTABLE_TAG
from infra.image import size
from infra.image.push import COMMIT_LABEL


class Docker:
    """A `docker` and a `git` on PATH that note their command lines and answer as `tell` has it."""

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
                f"  '{known.split()[1]}') echo '{text}' {'>&2' if code else ''}; exit {code} ;;\n"
                for known, (code, text) in self.answers.items()
                if known.startswith(program)
            )
            script = self.folder / program
            script.write_text(f'#!/bin/sh\necho "{program} $*" >> {self.folder}/commands\ncase "$1" in\n{cases}esac\n')
            script.chmod(0o755)

    def commands(self) -> str:
        return (self.folder / "commands").read_text()


REPOSITORY = "registry.cn-hangzhou.aliyuncs.com/example/chatbot-llm"


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(size, "check", lambda image: "9.10 GB compressed")
    return Docker(tmp_path)


def test_a_new_tag_is_pushed_and_named_for_the_deployment(docker: Docker, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", REPOSITORY]) == 0
    assert f"docker push {REPOSITORY}:v1.2.3" in docker.commands()
    assert f"DEPLOY_IMAGE={REPOSITORY}:v1.2.3" in capsys.readouterr().out
    assert IMMUTABLE_TAG.fullmatch("v1.2.3")


def test_the_build_that_has_its_layers_at_hand_pushes_them(docker: Docker) -> None:
    assert main(["push", REPOSITORY, "--by", "docker", "buildx", "build", "--push", "."]) == 0
    assert docker.commands().splitlines()[-1] == f"docker buildx build --push . --tag {REPOSITORY}:v1.2.3"
    assert "docker push" not in docker.commands()


def test_it_is_asked_to_push_what_it_has_built() -> None:
    """Otherwise every stage would be built again."""

    def made(target: str) -> str:
        command = ["make", "-n", target, "CACHE=registry", "DEPLOY_REPOSITORY=host/space/name"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    (image,) = re.findall(r"docker buildx build .*?(?= --cache-from)", made("image"))
    (push,) = re.findall(r"push +--by (docker buildx build .*) --push \.$", made("push"), re.M)
    assert push == image.strip()
    plain = subprocess.run(["make", "-n", "push"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--by" not in plain, "without a builder of its own, `docker push`"


COMMIT = "0f" * 20


@pytest.mark.parametrize(
    ("labels", "good"),
    [
        ({"org.opencontainers.image.revision": COMMIT}, True),
        ({"org.opencontainers.image.revision": "1e" * 20}, False),
        ({}, False),
        (None, False),
    ],
)
def test_a_tag_that_is_there_is_fine_if_it_is_this_commit_and_never_overwritten(
    docker: Docker, capsys: pytest.CaptureFixture[str], labels: dict[str, str] | None, good: bool
) -> None:
    docker.tell("docker manifest", 0, "{}")
    docker.tell("docker buildx", 0, json.dumps(labels))
    docker.tell("git rev-parse", 0, COMMIT)
    assert main(["push", REPOSITORY]) == (0 if good else 1)
    captured = capsys.readouterr()
    assert "tags do not move" in captured.err if not good else f"DEPLOY_IMAGE={REPOSITORY}:v1.2.3" in captured.out
    assert "docker push" not in docker.commands()


def test_a_run_is_repeated_where_the_image_is_no_longer_at_hand(docker: Docker) -> None:
    docker.tell("docker manifest", 0, "{}")
    docker.tell("docker image", 1, "no such image")
    docker.tell("docker buildx", 0, json.dumps({"org.opencontainers.image.revision": COMMIT}))
    docker.tell("git rev-parse", 0, COMMIT)
    assert main(["push", REPOSITORY]) == 0


def test_a_registry_that_does_not_show_the_labels_does_not_overwrite_either(docker: Docker) -> None:
    docker.tell("docker manifest", 0, "{}")
    docker.tell("docker buildx", 1, "not found")
    docker.tell("git rev-parse", 0, COMMIT)
    assert main(["push", REPOSITORY]) == 1
    assert "docker push" not in docker.commands()


def test_the_image_bears_its_commit() -> None:
    dry = subprocess.run(["make", "-n", "image"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"--build-arg REVISION={commit.strip()}" in dry
    assert f"{COMMIT_LABEL}=${{REVISION}}" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["denied: requested access to the resource is denied", "i/o timeout"])
def test_a_registry_that_does_not_answer_is_no_permission_to_push(
    text: str, docker: Docker, capsys: pytest.CaptureFixture[str]
) -> None:
    docker.tell("docker manifest", 1, text)
    assert main(["push", REPOSITORY]) == 3
    assert "docker login" in capsys.readouterr().err
    assert "docker push" not in docker.commands()


def test_uncommitted_work_has_no_tag(docker: Docker, capsys: pytest.CaptureFixture[str]) -> None:
    docker.tell("git describe", 0, "v1.2.3-4-gabcdef012345-dirty")
    assert main(["push", REPOSITORY]) == 1
    assert "commit first" in capsys.readouterr().err


def test_an_image_for_another_platform_is_not_pushed(docker: Docker, capsys: pytest.CaptureFixture[str]) -> None:
    docker.tell("docker image", 0, "linux/arm64")
    assert main(["push", REPOSITORY]) == 1
    assert "linux/amd64" in capsys.readouterr().err


def test_an_image_that_is_too_big_is_not_pushed(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_big(image: str) -> Any:
        return size.gate(0, int(16e9))

    monkeypatch.setattr(size, "check", too_big)
    assert main(["push", REPOSITORY]) == 1
    assert "docker push" not in docker.commands()


def test_without_a_repository_it_says_what_to_export(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DEPLOY_REPOSITORY", raising=False)
    assert main(["push"]) == 2
    assert "export DEPLOY_REPOSITORY=" in capsys.readouterr().err
    monkeypatch.setenv("DEPLOY_REPOSITORY", REPOSITORY)
    assert main(["push"]) == 0
    assert f"docker push {REPOSITORY}:v1.2.3" in docker.commands()
