"""A run's folder on disk: who works in it, and how finished stages move in and out of it."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from redline.data.files import lock_file
from redline.engine.processes import this_process
from redline.errors import cannot_write
from redline.run.files import RunFiles
from redline.run.state import Done, State

SHARED = ("data", "edit", "label", "sft", "reward")  # what the runs of an experiment have in common
TAKEN_OVER = ("data", "edit", "label", "sft", "reward", "policy", "compare")  # not the report, which is quick
APPENDED = (".sqlite",)  # files that are written in place: a hard link would change in both folders


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes than those of this run out of its folder; a killed one lets go of it by itself."""
    if not this_process().is_main_process:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = RunFiles(folder).lock.open("a")
    except OSError as error:
        raise cannot_write(folder, error, "Choose another --out.") from error
    with lock:
        lock_file(
            lock, f"{folder}: another process is working on this run. Wait for it, or choose another --out."
        )
        yield


def made_with(model: str) -> str:
    """What tells a model from others: of one that a run made, the settings it was made with; else its
    name."""
    run, stage = RunFiles(Path(model).expanduser().parent), Path(model).name
    if run.state.exists() and stage in (state := State(run)).done:
        return f"{stage} {state.done[stage].digest}"
    return model


def finished_stages(runs: Iterable[Path]) -> Iterator[tuple[Path, str, Done]]:
    """The stages that some runs have done and that others may take over: the run's folder, the stage, and
    with which settings it was done."""
    for run in runs:
        for name, done in State(RunFiles(run)).done.items():
            if name in TAKEN_OVER:
                yield run, name, done


def take_over(stage: str, source: RunFiles, files: RunFiles) -> None:
    """Hard links (on another disk, copies) of a finished stage's files, in place of what is there."""
    for path in source.of(stage):
        for file in [path] if path.is_file() else list(path.rglob("*")):
            inside = file.relative_to(source.folder)
            if file.is_file() and "checkpoints" not in inside.parts:  # those are on their way out
                _link(file, files.folder / inside)


def _link(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    to.unlink(missing_ok=True)
    same_disk = to.parent.stat().st_dev == file.stat().st_dev
    if same_disk and file.suffix not in APPENDED:
        to.hardlink_to(file)
    else:
        shutil.copy2(file, to)


def set_aside(stages: Sequence[str], state: State) -> Path | None:
    """Move the files of some stages into a new folder of `previous/`, where they can be found again, and note
    that the stages are not done. Returns that folder; None where there was nothing to move."""
    files = state.files
    held = [stage for stage in stages if files.of(stage)]
    if held:
        aside = State(RunFiles(_next(files.previous)))
        aside.files.folder.mkdir(parents=True)
        for stage in held:
            if stage in state.done:
                aside.done[stage] = state.done[stage]
            for path in files.of(stage):
                to = aside.files.folder / path.relative_to(files.folder)
                to.parent.mkdir(parents=True, exist_ok=True)
                path.rename(to)
        if files.recipe.exists():
            shutil.copy2(files.recipe, aside.files.recipe)
        aside.write()
    for stage in stages:
        state.forget(stage)
    return aside.files.folder if held else None


def previous(files: RunFiles) -> list[Path]:
    """The folders with what was set aside, newest first."""
    folders = [path for path in files.previous.glob("[0-9]*") if path.name.isdigit()]
    return sorted(folders, key=lambda path: -int(path.name))


def _next(folder: Path) -> Path:
    numbers = [int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit()]
    return folder / str(max(numbers, default=0) + 1)
