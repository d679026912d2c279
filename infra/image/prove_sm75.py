"""Prove that the installed torch and vLLM hold machine code for the T4 (sm_75), without a GPU and without CUDA tools.

A CUDA library carries its kernels in "fat binaries": a header (magic 0xBA55ED50, version, header size, length), then
one entry per architecture (kind 1 = PTX, 2 = machine code; header size; length; at byte 28 the architecture).
Those headers are not compressed, so counting them needs no cuobjdump. Importing the libraries would prove nothing and
fails anyway: libcuda comes from the host's driver, which a build does not have.

Also refuses libcuda in the packages: it would shadow the driver's own.

Runs inside the image build, where nothing else of infra/ is: by itself, with the standard library.
"""

from __future__ import annotations

import importlib.util
import mmap
import struct
import sys
from collections import Counter
from pathlib import Path

MAGIC = struct.pack("<I", 0xBA55ED50)
HEADER = struct.Struct("<IHHQ")
ENTRY = struct.Struct("<HHIQ")
MACHINE_CODE = 2
SM_75 = 75
#: One group per line of proof: at least one library of the group must hold sm_75 code.
#: torch's kernels; vLLM's own (Marlin, the KV cache, norms, rotary); the name changed over vLLM's versions.
GROUPS = {"torch": ("lib/libtorch_cuda.so",), "vllm": ("_C_stable_libtorch.abi3.so", "_C.abi3.so")}


def architectures(library: Path) -> Counter[int]:
    """How many pieces of machine code the library holds for each architecture (75 = sm_75)."""
    found: Counter[int] = Counter()
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(MAGIC)
        while 0 <= at <= len(data) - HEADER.size:
            _, version, header, length = HEADER.unpack_from(data, at)
            end = at + header + length
            if version != 1 or header != HEADER.size or end > len(data):
                at = data.find(MAGIC, at + 4)  # the four bytes occur by chance, too
                continue
            entry = at + header
            while entry + 32 <= end:
                kind, _, entry_header, entry_length = ENTRY.unpack_from(data, entry)
                if kind == MACHINE_CODE:
                    found[struct.unpack_from("<I", data, entry + 28)[0]] += 1
                if entry_header < ENTRY.size:
                    break
                entry += entry_header + entry_length
            at = data.find(MAGIC, end)
    return found


def folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)  # finds it, does not import it
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"prove_sm75: {package} is not installed")
    return Path(spec.submodule_search_locations[0])


def main() -> int:
    failures = []
    for package, names in GROUPS.items():
        root = folder(package)
        found = {name: architectures(root / name) for name in names if (root / name).is_file()}
        for name, counted in found.items():
            listing = ", ".join(f"sm_{architecture}: {count}" for architecture, count in sorted(counted.items()))
            print(f"{package}/{name}: {listing or 'no machine code'}")
        if not any(counted[SM_75] for counted in found.values()):
            failures.append(f"{package} {'has no machine code for sm_75' if found else 'lacks ' + names[0]}")
    packages = folder("torch").parent
    failures += [f"{path} shadows the driver's libcuda: remove its package" for path in packages.rglob("libcuda.so*")]
    for failure in failures:
        print(f"prove_sm75: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
