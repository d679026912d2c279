"""Fuzzing: how many bad inputs, and what must hold for the answer to each.

`FUZZ_EXAMPLES` is the number of inputs of the whole folder: 2,000 in a test run, 50,000 in `make fuzz`.
"""

import functools
import json
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "2000"))
#: The longest an answer to a bad input may take, seconds: a hang, on a machine that is busy with other things.
LIMIT_S = 20.0
#: What has been sent so far.
count: Counter[str] = Counter()


def examples(part: float) -> Callable[[Any], Any]:
    """For a test that takes this part of all inputs; `count` counts them as they are sent."""
    chosen = settings(
        max_examples=max(10, round(EXAMPLES * part)),
        deadline=None,  # a busy machine is slow; LIMIT_S finds hangs
        derandomize=EXAMPLES <= 2000,  # a test run finds today what it found yesterday, the nightly run looks further
        suppress_health_check=list(HealthCheck),
        database=None,
        print_blob=True,
    )

    def decorate(test: Any) -> Any:
        inner = test.hypothesis.inner_test

        @functools.wraps(inner)
        def counted(*args: Any, **kwargs: Any) -> Any:
            count["inputs"] += 1
            return inner(*args, **kwargs)

        test.hypothesis.inner_test = counted
        return chosen(test)

    return decorate


def check_error(status: int, body: bytes, half_closed: bool = False) -> None:
    """An answer to a bad input: fine, or an error of the client's in OpenAI's envelope or Anthropic's.

    A client that has closed its side counts as gone: its request may have been ended (504).
    """
    assert status < 500 or status in (501, 503) or (half_closed and status == 504), f"{status}: {body[:500]!r}"
    if status >= 400:
        answer = json.loads(body)
        error = answer["error"]
        known = {"message", "type"} if answer.get("type") == "error" else {"message", "type", "param", "code"}
        assert known <= set(error) and error["message"], body[:500]
