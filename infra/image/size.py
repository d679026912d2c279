"""Refuse an image that Function Compute would not take: `python -m infra size IMAGE`.

FC counts compressed layers: 15 GB by its page on instance types (the quota page says 30 GB), and its FAQ promises only
that less than 20 GB uncompressed works. What this image is made of, in GB:

                            uncompressed   compressed
    Debian, Python, gcc          0.4           0.1     measured: `make image-test`, 2026-11-28
    cuda.txt installed           6.6           3.6     measured there
    weights                      5.6           5.6     not measured: int4 and float16 hardly compress
    code, warm caches           <0.1          <0.1     measured there
    sum                         12.6           9.3     budget 20 and 15

Layers that are stored compressed count as they are; others are compressed as fast as possible, which errs upward.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tarfile
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import IO

from infra.errors import CheckFailed
from infra.fc.quotas import MAX_IMAGE_GB

UNCOMPRESSED_LIMIT_GB = 20.0  # FC, FAQ on GPU images: less than this normally deploys and works
BLOCK_BYTES = 16 << 20
ALREADY = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")  # gzip, zstandard


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image")


def run(args: argparse.Namespace) -> None:
    print(f"measuring {args.image}, which reads all of it ...", flush=True)
    print(check(args.image))


def measure(stream: IO[bytes], threads: int | None = None) -> tuple[int, int]:
    """(uncompressed, compressed) bytes of the layers in what `docker save` writes to `stream`."""
    sizes: dict[str, tuple[int, int]] = {}
    manifest: list[dict[str, list[str]]] = []
    workers = threads or os.cpu_count() or 1
    with tarfile.open(fileobj=stream, mode="r|") as archive, ThreadPoolExecutor(workers) as pool:
        for member in archive:
            content = archive.extractfile(member)
            if content is None:
                continue
            if member.name == "manifest.json":
                manifest = json.load(content)
                continue
            plain = compressed = 0
            pending: deque[Future[int]] = deque()
            stored: bytes | None = None
            for block in iter(partial(content.read, BLOCK_BYTES), b""):
                if stored is None:
                    stored = next((magic for magic in ALREADY if block.startswith(magic)), b"")
                    unpack = zlib.decompressobj(wbits=31) if stored == ALREADY[0] else None
                if stored:
                    compressed += len(block)
                    plain += len(unpack.decompress(block)) if unpack else len(block)
                    continue
                plain += len(block)
                pending.append(pool.submit(lambda data: len(zlib.compress(data, 1)), block))
                while len(pending) > 2 * workers:
                    compressed += pending.popleft().result()
            compressed += sum(future.result() for future in pending)
            sizes[member.name] = (plain, compressed)
    layers = {layer for image in manifest for layer in image["Layers"]}
    if not layers or layers - sizes.keys():
        raise CheckFailed("`docker save` wrote no image with layers: is this the name of an image?")
    return sum(sizes[layer][0] for layer in layers), sum(sizes[layer][1] for layer in layers)


def gate(plain: int, compressed: int) -> str:
    """One line with both sizes. Raises CheckFailed above a limit."""
    line = (
        f"{compressed / 1e9:.2f} GB compressed of {MAX_IMAGE_GB}, "
        f"{plain / 1e9:.2f} GB uncompressed of {UNCOMPRESSED_LIMIT_GB:.0f}"
    )
    if compressed / 1e9 >= MAX_IMAGE_GB or plain / 1e9 >= UNCOMPRESSED_LIMIT_GB:
        raise CheckFailed(f"the image is too big for Function Compute: {line}. `docker history` shows which layer")
    return line


def check(image: str) -> str:
    """Measure a local image (a minute or several) and apply the gate."""
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        try:
            sizes = measure(saving.stdout)
        except tarfile.TarError as error:
            raise CheckFailed(f"`docker save {image}` failed: build it first with `make image`") from error
    return gate(*sizes)
