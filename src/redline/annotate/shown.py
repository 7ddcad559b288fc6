"""How times, shares and verdicts are written on the pages."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from redline.annotate.markdown import render

VERDICTS = {
    "edited": "edited",
    "fine": "already fine",
    "unfixable": "cannot be fixed by editing",
    "a": "A is better",
    "b": "B is better",
    "tie": "a tie",
    "up": "thumb up",
    "down": "thumb down",
}
SEEN = VERDICTS | {"a": "one preferred", "b": "one preferred"}  # for who does not know which one is A
ACTS = {
    "submitted": "submitted",
    "skipped": "skipped",
    "undone": "took it back",
    "told": "was told",
    "refused": "refused",
    "accepted": "accepted again",
    "returned": "sent back",
    "passed on": "gave the item",
    "gold": "decided",
    "gold undone": "took the decision back",
}


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def duration(seconds: float | None) -> str:
    if not seconds:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def start_of(text: str, length: int = 120) -> str:
    """The first characters of a text, on one line."""
    line = " ".join(text[: 4 * length].split())
    return line if len(line) <= length else f"{line[:length]}…"


FILTERS: dict[str, Callable[..., Any]] = {
    "markdown": render,
    "moment": moment,
    "share": share,
    "duration": duration,
    "start_of": start_of,
    "verdict": lambda verdict: VERDICTS.get(verdict, verdict),
    "seen": lambda verdict: SEEN.get(verdict, verdict),
    "act": lambda act: ACTS.get(act, act),
}
