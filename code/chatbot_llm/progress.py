"""For a person at a terminal: follows a starting service and, once it is ready, prints a curl to paste."""

import argparse
import json
import sys
import time
import urllib.error
import urllib.request

#: How long to follow a start before giving up, seconds; the first start unpacks the model as well.
PATIENCE_S = 900

CURL = """
Ready after {seconds:.0f} s. Try it in another terminal:

  curl -s http://localhost:{port}/chat -H 'Content-Type: application/json' \\
    -d '{{"messages": [{{"role": "user", "content": "What is the capital of France?"}}], "temperature": 0}}'

Any OpenAI client works with base_url http://localhost:{port}/v1. Ctrl-C stops the service.
"""


def look(port: int) -> dict[str, object]:
    """The body of /health, whatever its status; empty while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            found: dict[str, object] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        return dict(json.load(error))
    except (OSError, ValueError):
        return {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    port = parser.parse_args().port
    began, shown = time.monotonic(), ""
    while time.monotonic() - began < PATIENCE_S:
        health = look(port)
        if health.get("ready"):
            print(CURL.format(seconds=time.monotonic() - began, port=port), flush=True)
            return 0
        if health.get("state") == "failed":
            return 1
        phase = str(health.get("phase") or "starting")
        if phase != shown:
            print(f"... {phase.replace('_', ' ')} ({time.monotonic() - began:.0f} s)", flush=True)
            shown = phase
        time.sleep(0.5)
    return 1


if __name__ == "__main__":
    sys.exit(main())
