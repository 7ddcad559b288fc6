"""What people see while they wait: one console on stderr, and progress bars with a rate and an estimate."""

import json
import logging
import math
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

MAIN = os.environ.get("RANK", "0") == "0"  # of several processes, one speaks
# lines are not broken: a terminal does that by itself, and in a log file one message is one line
console = Console(stderr=True, quiet=not MAIN, soft_wrap=True)
LIBRARIES = ("bitsandbytes", "transformers", "datasets", "trl", "peft", "accelerate", "httpx", "openai")
# It says on import, also from Python, that a package is missing which nothing here needs.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
FIRST_LINE, LAST_LINE = 15.0, 300.0  # seconds between two lines of progress in a log file: at first, at most
T = TypeVar("T")
_verbose = False


def speak(quiet: bool = False, verbose: bool = False) -> None:
    """Say less (results and warnings only), or more (also what libraries say)."""
    global _verbose
    _verbose = verbose
    console.quiet = quiet or not MAIN
    level = logging.INFO if verbose else logging.ERROR
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(level)


def is_verbose() -> bool:
    """Whether --verbose was given."""
    return _verbose


def warn(text: str) -> None:
    """A line that a user should not miss, also with --quiet."""
    if not MAIN:
        return
    quiet, console.quiet = console.quiet, False
    console.print(text, style="yellow", highlight=False, markup=False)
    console.quiet = quiet


def say(text: str) -> None:
    """A plain line on stderr: nothing in it is markup."""
    console.print(text, highlight=False, markup=False)


def print_json(value: object) -> None:
    """Print figures as JSON on stdout, for programs; what is no number there (NaN) is null."""
    print(json.dumps(_finite(value), ensure_ascii=False, indent=2, default=str))


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def span(seconds: float) -> str:
    """A span of time for people: 42 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if speed is None or (task.elapsed or 0.0) < 1:  # of a moment's work a rate says nothing
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / max(speed, 1e-9):.1f} s each")


class Bar:
    """A running progress bar: ``advance()`` after each step, ``note()`` for the figures beside it.

    Where stderr is no terminal (a log file, CI), it prints a line now and then instead of redrawing one.
    """

    def __init__(self, progress: Progress, title: str, total: int | None, done: int):
        self._progress, self._title, self._total, self._done = progress, title, total, done
        self._task = progress.add_task(title, total=total, completed=done, note="")
        self._note, self._before = "", done
        self._begun = self._printed = time.monotonic()

    def advance(self, steps: int = 1) -> None:
        """Count finished steps."""
        self._done += steps
        self._progress.update(self._task, advance=steps)
        if not console.is_terminal and self._is_time_for_a_line():
            self._printed = time.monotonic()
            say(self._line())

    def note(self, text: str) -> None:
        """The figures beside the bar."""
        self._note = text
        self._progress.update(self._task, note=text)

    def _is_time_for_a_line(self) -> bool:
        """Now and then: more seldom the longer it takes, and at the end."""
        now = time.monotonic()
        wait = min(max(FIRST_LINE, (now - self._begun) / 20), LAST_LINE)
        return now - self._printed > wait or self._done == self._total

    def _line(self) -> str:
        elapsed, steps = time.monotonic() - self._begun, self._done - self._before
        line = f"{self._title}: {self._done:,}"
        if self._total:
            line += f"/{self._total:,}"
        line += f", {span(elapsed)}"
        if self._total and self._done < self._total and steps:
            line += f", about {span(elapsed / steps * (self._total - self._done))} left"
        return f"{line}, {self._note}" if self._note else line


@contextmanager
def progress_bar(title: str, total: int | None = None, done: int = 0, show: bool = True) -> Iterator[Bar]:
    """A progress bar over ``total`` steps of which ``done`` are behind us; ``show=False`` on other processes
    than the main."""
    if total is None:  # a file that is read as it goes: nobody knows how long it is
        count: list[ProgressColumn] = [TextColumn("{task.completed:,.0f}")]
        remaining: list[ProgressColumn] = []
    else:
        count = [MofNCompleteColumn()]
        remaining = [TextColumn("eta"), TimeRemainingColumn()]
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        *count,
        _Rate(),
        TimeElapsedColumn(),
        *remaining,
        TextColumn("{task.fields[note]}", markup=False),
    ]
    hidden = not (show and console.is_terminal) or console.quiet
    with Progress(*columns, console=console, disable=hidden) as progress:
        yield Bar(progress, title, total, done)


def track(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar."""
    known = total if total is not None else len(items) if isinstance(items, Sized) else None
    with progress_bar(title, known) as bar:
        for item in items:
            yield item
            bar.advance()
