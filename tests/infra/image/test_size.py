"""What Function Compute would count as the image's size, and the gate."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import zlib

import pytest

from infra.errors import CheckFailed
from infra.fc.quotas import MAX_IMAGE_GB
from infra.image import size


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
    plain = os.urandom(40_000) + b"\0" * (40 << 20)  # three blocks, for any number of cores
    gzipped = zlib.compress(os.urandom(5_000), wbits=31)
    uncompressed, compressed = size.measure(saved(plain, gzipped))
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
