"""A run's folder on disk: who works in it, which stages are done there, and how another run takes them
over."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redline.data.files import lock_file, read_json
from redline.engine.processes import this_process
from redline.errors import UserError

SHARED = {
    "data": "data",
    "edit": "data",
    "label": "labels",
    "sft": "sft",
    "reward": "reward",
}  # what runs may have in common


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes than those of this run out of its folder; a killed one lets go of it by itself."""
    if not this_process().is_main_process:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}). Choose another --out."
        ) from error
    with lock:
        lock_file(
            lock, f"{folder}: another process is working on this run. Wait for it, or choose another --out."
        )
        yield


def made_with(model: str) -> str:
    """The settings with which a run made a model; of one that is no run's, its name."""
    state = Path(model).parent / "state.json"
    made = read_json(state).get(Path(model).name, {}) if state.exists() else {}
    return str(made.get("settings", model))


def finished_stages(runs: Iterable[Path]) -> Iterator[tuple[Path, str, str, dict[str, Any]]]:
    """The stages that some runs have done and that others may take over: the run's folder, the stage, its
    settings, its entry."""
    for run in runs:
        state = read_json(run / "state.json") if (run / "state.json").exists() else {}
        yield from ((run, name, entry["settings"], entry) for name, entry in state.items() if name in SHARED)


def link(source: Path, to: Path) -> None:
    """Hard links (on another disk, copies) of a finished stage's files in another folder, in place of what is
    there."""
    for file in source.rglob("*"):
        inside = file.relative_to(source)
        if file.is_file() and inside.parts[0] != "checkpoints":  # those are on their way out
            here = to / inside
            here.parent.mkdir(parents=True, exist_ok=True)
            here.unlink(missing_ok=True)
            if here.parent.stat().st_dev == file.stat().st_dev:
                here.hardlink_to(file)
            else:
                shutil.copy2(file, here)
