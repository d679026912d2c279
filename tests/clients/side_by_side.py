"""Programs that ask the same service, run at the same time: the engine answers several in the time of one."""

import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

#: Programs under way at once.
AT_ONCE = 4
#: Of one program, seconds: on two busy cores an answer takes some.
LIMIT_S = 600


def wanted_here(request: pytest.FixtureRequest) -> set[str]:
    """The ids of this run's tests that use the fixture which asks."""
    items: list[Any] = request.session.items
    return {
        item.callspec.id for item in items if item.path == request.path and request.fixturename in item.fixturenames
    }


@contextmanager
def side_by_side(programs: Mapping[str, Callable[[], str]]) -> Iterator[Mapping[str, Future[str]]]:
    """What each of them printed, by its name; the result of one that failed raises what it did."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield {name: pool.submit(program) for name, program in programs.items()}
    finally:  # where the run was interrupted, what has not begun need not
        pool.shutdown(cancel_futures=True)


def run(command: list[str], env: Mapping[str, str], cwd: Path, code: str | None = None) -> str:
    """What a program printed. Fails unless it ended well."""
    done = subprocess.run(
        command, input=code, env=env, cwd=cwd, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr[-4000:]}"
    return done.stdout
