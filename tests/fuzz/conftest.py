"""Fuzzing: how many bad inputs, against what, and what must hold afterwards.

`FUZZ_EXAMPLES` is the number of inputs of the whole folder: 2,000 in a test run, 50,000 in `make fuzz`.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

from launcher import Service  # noqa: E402

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "2000"))
#: The longest an answer to a bad input may take, seconds: a hang, on a machine that is busy with other things.
LIMIT_S = 20.0

settings.register_profile(
    "fuzz",
    deadline=None,  # a busy machine is slow; LIMIT_S finds hangs
    derandomize=EXAMPLES <= 2000,  # a test run finds today what it found yesterday, the nightly run looks further
    suppress_health_check=list(HealthCheck),
    database=None,
    print_blob=True,
)
settings.load_profile("fuzz")


def share(part: float) -> int:
    """This part of all the examples."""
    return max(10, int(EXAMPLES * part))


def check_error(status: int, body: bytes) -> None:
    """An answer to a bad input: fine, or an error of the client's in the OpenAI envelope."""
    assert status < 500 or status in (501, 503), f"{status}: {body[:500]!r}"
    if status >= 400:
        error = json.loads(body)["error"]
        assert {"message", "type", "param", "code"} <= set(error) and error["message"], body[:500]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The real process. Afterwards it must be as it was: nobody inside, no thread more, no unexpected error."""
    log = tmp_path_factory.mktemp("fuzz") / "log.txt"
    running = Service(log, read_timeout_s=3, max_running=8, max_waiting=64)
    try:
        running.wait_ready()
        warm_up(running)
        before = usage(running)
        yield running
        running.wait_idle()
        after = usage(running)
        assert after["threads"] <= before["threads"], (before, after)
        assert after["memory"] <= before["memory"] + 100e6, (before, after)
        for word in ("unexpected error", "Traceback", '"level": "error"', '"level": "critical"'):
            assert word not in running.log(), running.log()[running.log().find(word) - 300 :][:3000]
    finally:
        running.close()


def warm_up(service: Service) -> None:
    """Let the pool start every thread it will ever have."""
    from callers import Later, chat

    crowd = [Later(lambda: chat(service.port, 2, first_s=0.3)) for _ in range(72)]
    assert {answer.get().status for answer in crowd} <= {200, 429}
    for _ in range(200):
        service.health()


def usage(service: Service) -> dict[str, Any]:
    worker = service.worker
    return {"threads": worker.num_threads(), "memory": worker.memory_info().rss}
