"""Changes of other people's code, one file each. Each begins with what it wins, what it is bound to, when it can go.

A patch that wins less than a tenth of something a user notices is deleted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give `owner.name` another value for a while."""
    usual = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, usual)
