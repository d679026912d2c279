"""Refuse an image that Function Compute would not take: `python -m infra size IMAGE`.

FC counts compressed layers: 15 GB by its page on instance types (the quota page says 30 GB), and its FAQ promises only
that less than 20 GB uncompressed works. What this image is made of, in GB:

                            uncompressed   compressed
    Debian, Python, gcc          0.4           0.1     measured: `make image-test`, 2026-11-28
    cuda.txt installed           6.6           3.6     measured there
    weights                      5.6           5.6     not measured: int4 and float16 hardly compress
    code, warm caches           <0.1          <0.1     measured there
    sum                         12.6           9.3     budget 20 and 15

Layers are compressed as fast as possible, which errs upward, and leaves those that are stored compressed as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import IO

from infra.errors import CheckFailed
from infra.fc.quotas import MAX_IMAGE_GB

UNCOMPRESSED_LIMIT_GB = 20.0  # FC, FAQ on GPU images: less than this normally deploys and works
GZIP = b"\x1f\x8b"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image")


def run(args: argparse.Namespace) -> None:
    print(f"measuring {args.image}, which reads all of it ...", flush=True)
    print(check(args.image))


def measure(stream: IO[bytes]) -> tuple[int, int]:
    """(uncompressed, compressed) bytes of the layers in what `docker save` writes to `stream`."""
    sizes: dict[str, tuple[int, int]] = {}
    layers: set[str] = set()
    workers = os.cpu_count() or 1
    with tarfile.open(fileobj=stream, mode="r|") as archive, ThreadPoolExecutor(workers) as pool:
        for member in archive:
            if member.name == "manifest.json" and (content := archive.extractfile(member)):
                layers = {layer for image in json.load(content) for layer in image["Layers"]}
            elif content := archive.extractfile(member):
                sizes[member.name] = _sizes(content, pool, workers)
    if not layers or layers - sizes.keys():
        raise CheckFailed("`docker save` wrote no image with layers: is this the name of an image?")
    return sum(sizes[layer][0] for layer in layers), sum(sizes[layer][1] for layer in layers)


def _sizes(content: IO[bytes], pool: ThreadPoolExecutor, workers: int) -> tuple[int, int]:
    blocks, unpack = iter(partial(content.read, 16 << 20), b""), None
    plain = compressed = 0
    while some := list(islice(blocks, workers)):
        if not plain and some[0].startswith(GZIP):
            unpack = zlib.decompressobj(wbits=31)
        plain += sum(len(unpack.decompress(block)) if unpack else len(block) for block in some)
        compressed += sum(pool.map(lambda block: len(zlib.compress(block, 1)), some))
    return plain, compressed


def gate(plain: int, compressed: int) -> str:
    """One line with both sizes. Raises CheckFailed above a limit."""
    whole, packed = plain / 1e9, compressed / 1e9
    line = f"{packed:.2f} GB compressed of {MAX_IMAGE_GB}, {whole:.2f} GB uncompressed of {UNCOMPRESSED_LIMIT_GB:.0f}"
    if packed >= MAX_IMAGE_GB or whole >= UNCOMPRESSED_LIMIT_GB:
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
