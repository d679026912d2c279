"""One way to put something of ours in the place of something of vLLM's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stand_in(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give `owner.name` another value for a while."""
    usual = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, usual)
