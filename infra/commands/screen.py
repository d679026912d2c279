"""How progress reaches the operator: a spinner on a terminal, one line per change in a CI log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape


def console() -> Console:
    """Without emoji: `acs:ram::` is no picture."""
    return Console(emoji=False)


class Progress:
    """Says what is being waited for; repeats nothing, so a CI log stays readable."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._started = time.monotonic()
        self._last = ""
        self._spinner = console.status("", spinner="dots") if console.is_terminal else None

    def say(self, text: str) -> None:
        elapsed = f"{time.monotonic() - self._started:4.0f} s"
        if self._spinner is not None:
            self._spinner.update(f"{elapsed}  {escape(text)}")
        elif text != self._last:
            self.console.print(f"{elapsed}  {text}", markup=False, highlight=False, soft_wrap=True)
        self._last = text

    def done(self, text: str) -> None:
        elapsed = f"{time.monotonic() - self._started:4.0f} s"
        self.console.print(f"[green]ok[/]  {elapsed}  {escape(text)}", highlight=False, soft_wrap=True)


@contextmanager
def progress() -> Iterator[Progress]:
    shown = Progress(console())
    if shown._spinner is None:
        yield shown
        return
    with shown._spinner:
        yield shown
