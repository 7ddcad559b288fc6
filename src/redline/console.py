"""What people see while they wait: one console on stderr, and progress bars with a rate and an estimate."""

import os
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")  # of several processes, one speaks
T = TypeVar("T")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(
            "" if speed is None else f"{speed:.1f}/s" if speed >= 1 else f"{1 / max(speed, 1e-9):.1f} s each"
        )


class Bar:
    """A running progress bar: ``advance()`` after each step, ``note()`` for the figures beside it.

    Where stderr is no terminal (a log file, CI), it prints a line now and then instead of redrawing one.
    """

    def __init__(self, progress: Progress, title: str, total: int | None, done: int):
        self._progress, self._title, self._total, self._done = progress, title, total, done
        self._task = progress.add_task(title, total=total, completed=done, note="")
        self._note, self._printed = "", time.monotonic()

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        self._progress.update(self._task, advance=steps)
        if not console.is_terminal and (time.monotonic() - self._printed > 15 or self._done == self._total):
            self._printed = time.monotonic()
            of = f"/{self._total}" if self._total else ""
            console.print(f"{self._title}: {self._done}{of} {self._note}", highlight=False, markup=False)

    def note(self, text: str) -> None:
        self._note = text
        self._progress.update(self._task, note=text)


@contextmanager
def progress_bar(title: str, total: int | None = None, done: int = 0, show: bool = True) -> Iterator[Bar]:
    """A progress bar over ``total`` steps of which ``done`` are behind us; ``show=False`` on other processes
    than the main."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, disable=not (show and console.is_terminal)) as progress:
        yield Bar(progress, title, total, done)


def track(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar."""
    known = total if total is not None else len(items) if isinstance(items, Sized) else None
    with progress_bar(title, known) as bar:
        for item in items:
            yield item
            bar.advance()
