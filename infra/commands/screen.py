"""How results and progress reach the operator: tables; a spinner on a terminal, one line per change in a CI log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

Report = Callable[[str], None]  # takes one line of progress


def console() -> Console:
    """Without emoji: `acs:ram::` is no picture."""
    return Console(emoji=False)


def table(title: str, *headings: str, rows: Iterable[Iterable[str]] = ()) -> Table:
    """A column a heading: `>` before it puts numbers, which are never broken, to the right. Cells are rich's markup."""
    made = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for heading in headings:
        right = heading.startswith(">")
        made.add_column(heading.removeprefix(">"), justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


class Progress:
    """Shows what is being waited for; repeats nothing, so a CI log stays readable."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._started = time.monotonic()
        self._last = ""
        self._spinner = console.status("", spinner="dots") if console.is_terminal else None

    def report(self, text: str) -> None:
        if self._spinner is not None:
            self._spinner.update(self._timed(text))
        elif text != self._last:
            self.console.print(self._timed(text), highlight=False, soft_wrap=True)
        self._last = text

    def done(self, text: str) -> None:
        self.console.print(f"[green]ok[/]  {self._timed(text)}", highlight=False, soft_wrap=True)

    def _timed(self, text: str) -> str:
        return f"{time.monotonic() - self._started:4.0f} s  {escape(text)}"


@contextmanager
def progress() -> Iterator[Progress]:
    shown = Progress(console())
    with shown._spinner or nullcontext():
        yield shown
