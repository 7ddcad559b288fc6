"""When and on what a run was done, as its files say."""

from collections.abc import Iterable

from redline.data.files import read_json
from redline.run.files import RunFiles
from redline.types import JsonObject


def dates_and_machines(runs: Iterable[RunFiles]) -> str:
    """``2026-11-29 to 2026-11-30, on NVIDIA H200, Linux``; what earlier versions of Redline did not note is
    left out. Stages that were done on several machines name each."""
    dates: set[str] = set()
    machines: dict[str, None] = {}  # in the order in which they were used
    for files in runs:
        if files.started.exists():
            dates.add(str(read_json(files.started).get("date", "")))
        for stage in _stages(files):
            dates.add(str(stage.get("date", "")))
            machines[str(stage.get("machine", ""))] = None
    days = sorted(dates - {""})
    names = [name for name in machines if name]
    parts = []
    if days:
        first_and_last = dict.fromkeys([days[0], days[-1]])  # one day is named once
        parts.append(" to ".join(first_and_last))
    if names:
        parts.append(f"on {' and '.join(names)}")
    return ", ".join(parts)


def _stages(files: RunFiles) -> list[JsonObject]:
    """What state.json says of each finished stage."""
    if not files.state.exists():
        return []
    return [stage for stage in read_json(files.state).values() if isinstance(stage, dict)]
