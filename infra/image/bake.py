"""Fetch the model that the image carries: pinned, resumable, checked byte by byte, or not at all.

    python -m infra bake fetch --to DIR [--source huggingface|modelscope] [--install DIR]
    python -m infra bake lock          write every file's size and sha256 into weights.json; review and commit it

weights.json names the repository and its commit. While its `files` are empty, a fetch takes the expected checksums
from the hub's own record of that commit (sha256 of large files, git's object id of small ones), which ties the bytes
to the commit; ModelScope knows no such commit, so from there only a locked list is fetched. Once locked, both hubs,
and any mirror named by HF_ENDPOINT or MODELSCOPE_ENDPOINT, must deliver the same bytes, and no list is fetched.

Runs inside the image build too, as `python -m infra.image.bake`: beside transfer.py alone and before any package is
installed, hence a `main` of its own and the standard library only.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from infra.image.transfer import BakeError, download, get_json, size_text

MANIFEST = Path(__file__).with_name("weights.json")
DOWNLOADS = Path("build/weights")
#: What vLLM and transformers read; the rest of a repository (figures, other formats) stays where it is.
WANTED = ("*.safetensors", "*.json", "*.txt", "LICENSE*")
#: ModelScope's own file, unknown to Hugging Face.
UNWANTED = "configuration.json"
#: The hubs: who names a mirror, and the hub's own address.
HUBS = {
    "huggingface": ("HF_ENDPOINT", "https://huggingface.co"),
    "modelscope": ("MODELSCOPE_ENDPOINT", "https://modelscope.cn"),
}
#: 2026-01-01. One time for all files makes the image layer's digest depend on nothing but their content,
#: so a rebuild without cache pushes no weights again.
FILE_TIME_S = 1_767_225_600
#: Kept free beside the weights, for the rest of the build.
SPARE_BYTES = 1 << 30


@dataclass(frozen=True)
class File:
    """What one file must be. `sha256` or `git_object_id` (a SHA-1) is known, or both."""

    path: str
    size: int
    sha256: str = ""
    git_object_id: str = ""


@dataclass(frozen=True)
class Manifest:
    repository: str
    revision: str
    files: tuple[File, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Manifest:
        try:
            raw = json.loads(path.read_text())
            files = tuple(File(name, entry["size"], entry["sha256"]) for name, entry in raw["files"].items())
            manifest = cls(raw["repository"], raw["revision"], files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BakeError(f"{path} is not a list of weights: {error!r}") from error
        if len(manifest.revision) != 40 or set(manifest.revision) - set("0123456789abcdef"):
            raise BakeError(f"{path}: `revision` must be a commit of 40 hex digits, not {manifest.revision!r}")
        return manifest

    def text(self) -> str:
        files = {file.path: {"size": file.size, "sha256": file.sha256} for file in self.files}
        return json.dumps({"repository": self.repository, "revision": self.revision, "files": files}, indent=2) + "\n"


@dataclass(frozen=True)
class Hub:
    """Where a hub lists a repository's files; `content` is the address of one of them up to its path."""

    name: str
    listing: str
    content: str

    @classmethod
    def of(cls, name: str, manifest: Manifest) -> Hub:
        base = (os.environ.get(HUBS[name][0]) or HUBS[name][1]).rstrip("/")
        if name == "huggingface":
            tree = f"{base}/api/models/{manifest.repository}/tree/{manifest.revision}?recursive=true"
            return cls(name, tree, f"{base}/{manifest.repository}/resolve/{manifest.revision}/")
        # The same repository by name. Its branch `master` has its own history, hence checksums instead of commits.
        api = f"{base}/api/v1/models/{manifest.repository}/repo"
        return cls(name, f"{api}/files?Revision=master&Recursive=true", f"{api}?Revision=master&FilePath=")

    def files(self) -> list[File]:
        """Raises BakeError, and KeyError or TypeError when the answer is not what the hub documents."""
        answer = get_json(self.listing)
        if self.name == "modelscope":
            entries = [entry for entry in answer["Data"]["Files"] if entry["Type"] == "blob"]
            return [File(entry["Path"], entry["Size"], sha256=entry["Sha256"]) for entry in entries]
        return [
            File(entry["path"], entry["size"], sha256=entry["lfs"]["oid"].removeprefix("sha256:"))
            if entry.get("lfs")
            else File(entry["path"], entry["size"], git_object_id=entry["oid"])
            for entry in answer
            if entry["type"] == "file"
        ]


def listed(hub: Hub) -> list[File]:
    """The hub's files that an engine needs. Raises BakeError when the hub's answer is not what it documents."""
    try:
        files = sorted(hub.files(), key=lambda file: file.path)
    except (KeyError, TypeError) as error:
        raise BakeError(f"{hub.name} answered with a list of files in an unknown form: {error!r}") from error
    wanted = [file for file in files if any(fnmatch.fnmatch(file.path, pattern) for pattern in WANTED)]
    if not any(file.path.endswith(".safetensors") for file in wanted):
        raise BakeError(f"{hub.name} lists no weights for this model: is the repository's name right?")
    return [file for file in wanted if file.path != UNWANTED]


def check(path: Path, file: File) -> File:
    """The file with its sha256 filled in. Removes it and raises BakeError when it is not what it must be."""
    size, git_object_id = path.stat().st_size, ""
    with path.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    if file.git_object_id:  # of small files only
        git_object_id = hashlib.sha1(b"blob %d\0" % size + path.read_bytes(), usedforsecurity=False).hexdigest()
    for kind, expected, found in (
        ("size", file.size, size),
        ("sha256", file.sha256, sha256),
        ("git object id", file.git_object_id, git_object_id),
    ):
        if expected and expected != found:
            path.unlink()
            raise BakeError(
                f"{file.path} is not the file that was pinned: {kind} {found} instead of {expected}. It was removed. "
                "Run again; if it repeats, the source is damaged or was changed: try the other --source"
            )
    return replace(file, size=size, sha256=sha256)


def fetch(manifest: Manifest, source: str, to: Path) -> tuple[Path, Manifest]:
    """Download what is missing below `to`/<org>/<name>; every file there is then checked."""
    hub = Hub.of(source, manifest)
    if not manifest.files and source == "modelscope":
        raise BakeError(
            "ModelScope does not know the pinned commit and weights.json holds no checksums yet: "
            "run `python -m infra bake lock` (add --source modelscope where Hugging Face is out of reach), "
            "review and commit weights.json, then build again"
        )
    wanted = manifest.files or listed(hub)
    folder = to / manifest.repository
    folder.mkdir(parents=True, exist_ok=True)
    missing = sum(file.size - _there(folder, file) for file in wanted)
    free, needed = shutil.disk_usage(folder).free, missing + SPARE_BYTES
    if missing and needed > free:
        raise BakeError(
            f"{size_text(missing)} are still to come and {folder} has {size_text(free)} free: make room for "
            f"{size_text(needed)}, or name another folder"
        )
    print(f"{manifest.repository} at {manifest.revision[:12]} from {source}: {size_text(missing)} to fetch", flush=True)
    return folder, replace(manifest, files=tuple(_fetched(hub, file, folder / file.path) for file in wanted))


def _there(folder: Path, file: File) -> int:
    paths = (folder / file.path, folder / f"{file.path}.part")
    return next((min(path.stat().st_size, file.size) for path in paths if path.exists()), 0)


def _fetched(hub: Hub, file: File, path: Path) -> File:
    """The file with its sha256, once it lies, checked, at `path`."""
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        checked = check(path, file)
    else:
        download(hub.content + quote(file.path), part, file.size, file.path)
        checked = check(part, file)
        part.replace(path)
    print(f"{file.path}  {size_text(checked.size)}  ok", flush=True)
    return checked


def install(folder: Path, manifest: Manifest, to: Path) -> None:
    """Copy the checked files, and nothing else, to `to`/<org>/<name>, with times that never change."""
    target = to / manifest.repository
    for file in manifest.files:
        copy = target / file.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / file.path, copy)
        copy.chmod(0o644)
    # Last, so that its presence says: whole.
    (target / "weights.json").write_text(manifest.text())
    for path in [to, *to.rglob("*")]:
        os.utime(path, (FILE_TIME_S, FILE_TIME_S))


def lock(manifest: Manifest, source: str) -> Manifest:
    """The manifest with every size and sha256; fetches only the small files that the hub lists without a sha256."""
    hub = Hub.of(source, manifest)
    with tempfile.TemporaryDirectory() as scratch:
        files = [file if file.sha256 else _fetched(hub, file, Path(scratch) / file.path) for file in listed(hub)]
    return replace(manifest, files=tuple(files))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("act", choices=("fetch", "lock"))
    parser.add_argument("--source", choices=tuple(HUBS), default="huggingface", help="default: %(default)s")
    parser.add_argument("--to", type=Path, default=DOWNLOADS, help="where downloads are kept and resumed (%(default)s)")
    parser.add_argument("--install", type=Path, help="also copy the checked files there (fetch)")
    parser.add_argument("--manifest", type=Path, default=MANIFEST, help="default: weights.json beside this file")


def run(args: argparse.Namespace) -> int:
    try:
        manifest = Manifest.read(args.manifest)
        if args.act == "lock":
            args.manifest.write_text(lock(manifest, args.source).text())
            print(f"{args.manifest} is locked: review it and commit it")
        else:
            folder, found = fetch(manifest, args.source, args.to)
            if args.install:
                install(folder, found, args.install)
    except BakeError as error:
        print(f"bake: {error}", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Fetch the model that the image carries.")
    arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
