"""Asks /health ten times a second from a process of its own, so that the load generator's work is not in the answer."""

import json
import sys
import time

from bench.servers import ask

PAUSE_S = 0.1


def main(port: int, seconds: float) -> None:
    took = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.perf_counter()
        ask(port, "GET", "/health", None, 10)
        took.append(1000 * (time.perf_counter() - begun))
        time.sleep(PAUSE_S)
    print(json.dumps(took))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
