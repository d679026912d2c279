"""One file over HTTP, resumed where the last attempt stopped. Standard library only; see bake.py."""

from __future__ import annotations

import errno
import http.client
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

#: A connection that is silent for this long is given up and resumed.
SILENCE_S = 60
#: Attempts in a row that bring nothing.
ATTEMPTS = 5
#: Between two lines of progress.
REPORT_S = 5.0
#: What another attempt may cure.
PASSING = (OSError, http.client.HTTPException)


class BakeError(Exception):
    """What went wrong and what to change, in one sentence."""


def size_text(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def get_json(url: str) -> Any:
    """A small JSON document. Raises BakeError."""
    for attempt in range(ATTEMPTS):
        try:
            with _open(url, 0) as response:
                return json.load(response)
        except PASSING as error:
            failure = error
            _pause(attempt)
        except ValueError as error:
            raise BakeError(f"{url} did not answer with JSON: is a proxy or a login page in between?") from error
    raise BakeError(f"{url} did not answer after {ATTEMPTS} attempts: {failure}")


def download(url: str, part: Path, size: int, name: str) -> None:
    """Fill `part` up to `size` bytes, going on from what it already holds. Raises BakeError; `part` then stays."""
    failures = 0
    part.touch()
    while (have := part.stat().st_size) != size:
        try:
            _receive(url, part, have if have < size else 0, size, name)
        except PASSING as failure:
            got = part.stat().st_size
            if getattr(failure, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                full = f"the disk is full at {part}: {size_text(size - got)} of {name} were still to come"
                raise BakeError(f"{full}. Make room and run again; what is there is kept") from failure
            failures = 0 if got > have else failures + 1
            if failures == ATTEMPTS:
                stopped = f"{name} stopped at {size_text(got)} of {size_text(size)}"
                nothing = f"{ATTEMPTS} attempts brought nothing: {failure}"
                raise BakeError(f"{stopped} and {nothing}. Run again to go on from there") from failure
            print(f"{name}  interrupted at {size_text(got)} ({failure}), going on", flush=True)
            _pause(failures)


def _receive(url: str, part: Path, have: int, size: int, name: str) -> None:
    with _open(url, have) as response:
        if response.status != 206:
            have = 0  # the server does not resume: from the beginning
        with part.open("ab" if have else "wb") as file:
            started = reported = time.monotonic()
            begun = have
            while chunk := response.read1(1 << 20):
                have += file.write(chunk)
                if have > size:
                    raise BakeError(f"{name} is longer than the {size} bytes that were pinned: is the source right?")
                if (now := time.monotonic()) - reported >= REPORT_S:
                    reported, speed = now, size_text((have - begun) / (now - started))
                    share = f"{size_text(have)} of {size_text(size)}  {have * 100 // size} %"
                    print(f"{name}  {share}  {speed}/s", flush=True)
    if have < size:
        raise ConnectionError("the connection was closed early")


def _open(url: str, have: int) -> http.client.HTTPResponse:
    """GET from byte `have` on. Raises one of PASSING, or BakeError for what no other attempt cures."""
    wanted = {"Range": f"bytes={have}-"} if have else {}
    request = urllib.request.Request(url, headers={"User-Agent": "chatbot-llm-bake", **wanted})
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=SILENCE_S)
        return response
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 429 or error.code >= 500:
            raise ConnectionError(f"HTTP {error.code}") from error
        check = "check the repository, the revision and the mirror"
        raise BakeError(f"{url} answered HTTP {error.code}: {check}") from error


def _pause(failures: int) -> None:
    time.sleep(min(0.5 * 2**failures, 30))
