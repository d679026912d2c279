"""The process that is fuzzed, and what must hold of it afterwards."""

from collections.abc import Iterator

import fuzzing
import pytest

from figures import Figure
from launcher import THREADS, ServiceProcess

#: The most memory a run may cost, bytes: some for caches, far less than a leak per input would come to.
GROWTH = 100e6


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, figure: Figure) -> Iterator[ServiceProcess]:
    """The real process. Afterwards it must be as it was: nobody inside, no thread too many, no unexpected error."""
    options = {"read_timeout_s": 3, "max_running": 8, "max_waiting": 8}
    running = ServiceProcess(tmp_path_factory.mktemp("fuzz") / "log.txt", **options)
    try:
        worker = running.wait_ready().worker
        for _ in range(100):
            running.call("POST", "/chat", {"messages": [{"role": "user", "content": "Hello"}]})
        before, sent = worker.memory_info().rss, fuzzing.count["inputs"]
        yield running
        running.wait_idle()
        assert worker.is_running(), "it has been restarted"
        assert worker.num_threads() <= THREADS
        grown = worker.memory_info().rss - before
        assert grown < GROWTH
        for word in ("unexpected error", "Traceback", '"level": "error"', '"level": "critical"'):
            at = running.log().find(word)
            assert at < 0, running.log()[max(0, at - 300) : at + 3000]
        figure("fuzz_inputs", fuzzing.count["inputs"] - sent, "inputs")
        figure("fuzz_memory", grown / 1e6, "MB")
    finally:
        running.close()
