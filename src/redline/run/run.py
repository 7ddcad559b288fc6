"""A run: the stages of a recipe in order, which of them are done, and what comes next."""

import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from redline.console import console, say
from redline.data.chat_template import pinned_date
from redline.data.files import whole_file
from redline.engine.processes import check_launch, this_process, wait_for_everyone
from redline.errors import UserError
from redline.recipe import Recipe, as_yaml, load_recipe
from redline.run.check import check_run
from redline.run.depends import Change, Depends, Settings, changes, digest
from redline.run.files import RunFiles
from redline.run.folder import SHARED, alone_in, finished_stages, made_with, previous, set_aside, take_over
from redline.run.job import Job
from redline.run.machine import machine
from redline.run.reuse import keep_edits
from redline.run.stages import TRAINING, Stage, free_memory, stages_of
from redline.run.state import Done, State, started_on


@dataclass(frozen=True)
class Outcome:
    """What a call did: the run's files, the stages that it did, and those that were done before."""

    files: RunFiles
    did: tuple[str, ...]
    before: tuple[str, ...]


def run_file(
    path: Path,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    only: str | None = None,
    start: str | None = None,
    reuse: Sequence[Path] = (),
) -> Outcome:
    """Run every stage of a recipe's file that is not done yet, or only the stage ``only`` (after data and
    labels). In Python ``redline.run_recipe`` takes a recipe in other forms as well.

    ``start``: this stage and those after it are done again. ``reuse``: folders of runs whose stages are taken
    over where they were done with the same settings. See ``Run.go`` for what it raises.
    """
    recipe = load_recipe(path, list(overrides))
    return Run(recipe, out or Path("runs") / recipe.name).go(only, reuse, start)


class Run:
    """One run in its folder. A finished stage is noted with the settings that its result depends on."""

    def __init__(self, recipe: Recipe, folder: Path):
        self.recipe, self.folder = recipe, folder
        self.files = RunFiles(folder)
        self.job = Job(recipe, self.files)
        self.stages: dict[str, Stage] = stages_of(self.job)

    def go(self, only: str | None = None, others: Iterable[Path] = (), start: str | None = None) -> Outcome:
        """Do what is not done and cannot be taken over from the folders of ``others``.

        A stage whose settings have changed is done again; what it wrote before is set aside in `previous/`.
        Raises UserError when the recipe has no such stage, when a stage before ``only`` is not done, or when
        another process works in the folder.
        """
        self._check_names(only, start)
        with alone_in(self.folder):
            others = list(others)
            check_launch()
            self.check(only, others, start)
            if this_process().is_main_process:
                self._set_aside(only, start)
                self.take_over([*previous(self.files), *others] if start is None else others)
                started_on(self.files)
            # the main process writes the state as it goes: all have to begin with the same one
            wait_for_everyone()
            with pinned_date(started_on(self.files)):
                return self._go(only)

    def settings(self, stage: str) -> Settings:
        """What the result of a stage depends on, by value."""
        return Depends(self.recipe, made_with).settings(stage)

    def is_done(self, stage: str) -> bool:
        """Whether a stage is done, with the settings that the recipe has now."""
        done = State(self.files).done.get(stage)
        return done is not None and not changes(done.settings, self.settings(stage))

    def changed(self) -> dict[str, list[Change]]:
        """The stages that are done or begun with other settings than the recipe's, and what has changed, in
        the order of the stages."""
        state = State(self.files)
        before = {name: done.settings for name, done in state.done.items()}
        if state.under_way:
            stage, settings = state.under_way
            before[stage] = settings
        found = {name: changes(before[name], self.settings(name)) for name in self.stages if name in before}
        return {name: differences for name, differences in found.items() if differences}

    def todo(self, others: Iterable[Path] = (), start: str | None = None) -> list[str]:
        """The stages that are not done with the recipe's settings, here or in the folders of ``others``, or
        that are to be done again from ``start`` on."""
        done = State(self.files).done
        there = {(name, entry.digest) for _, name, entry in finished_stages([*previous(self.files), *others])}
        names, todo = list(self.stages), []
        for name in names:
            settings = self.settings(name)
            is_done = name in done and not changes(done[name].settings, settings)
            again = start is not None and names.index(name) >= names.index(start)
            if again or not (is_done or (name, digest(settings)) in there):
                todo.append(name)
        return todo

    def check(self, only: str | None = None, others: Iterable[Path] = (), start: str | None = None) -> None:
        """Check all that is needed by what there is to do. Raises Problems."""
        names = list(self.stages)
        todo = self.todo(others, start)
        if only is not None:
            todo = [name for name in todo if names.index(name) <= names.index(only)]
        if todo:
            check_run(self.job, set(todo))

    def missing(self, others: Iterable[Path] = ()) -> set[tuple[str, str]]:
        """The stages that runs may have in common and that are done neither here nor in the folders of
        ``others``, each with what tells its settings from others."""
        wanted = {(name, digest(self.settings(name))) for name in self.stages if name in SHARED}
        there = {(name, done.digest) for _, name, done in finished_stages([self.folder, *others])}
        return wanted - there

    def take_over(self, others: Iterable[Path]) -> None:
        """Take over from other folders the stages that were done there with the same settings."""
        state = State(self.files)
        others = [other for other in others if other.resolve() != self.folder.resolve()]
        for other, name, done in finished_stages(others):
            if name not in self.stages or name in state.done or done.digest != digest(self.settings(name)):
                continue
            take_over(name, RunFiles(other), self.files)
            state.done[name] = replace(done, taken_from=done.taken_from or str(other))
            state.done = {stage: state.done[stage] for stage in self.stages if stage in state.done}
            state.write()
            say(f"{name}: taken over from {other}")

    def _check_names(self, *stages: str | None) -> None:
        for stage in stages:
            if stage is not None and stage not in self.stages:
                hint = " Add an `sft:` section." if stage == "sft" else ""
                raise UserError(
                    f"{self.recipe.name}: this recipe has no stage `{stage}` (it has "
                    f"{', '.join(self.stages)}).{hint}"
                )

    def _set_aside(self, only: str | None, start: str | None) -> None:
        """Set aside what was done with other settings, and what is to be done again."""
        changed, names = self.changed(), list(self.stages)
        if only is not None:
            self._check_before(only, changed)
            changed = {name: why for name, why in changed.items() if names.index(name) <= names.index(only)}
        again = set(changed)
        if start is not None:
            # edits that an LLM was paid for are made again only where they are named
            again |= {name for name in names[names.index(start) :] if name != "edit" or start == "edit"}
        state = State(self.files)
        again &= state.done.keys() | ({state.under_way[0]} if state.under_way else set())
        if not again:
            return
        aside = set_aside([name for name in names if name in again], state)
        for name in names:
            if name in again:
                why = _text(changed.get(name, [])) or f"--from {start} asks for it"
                say(f"{name} is done again: {why}")
        if aside is None:
            return
        say(f"what was there is kept in {aside}")
        if "edit" in again and start != "edit":
            keep_edits(self.job, RunFiles(aside), changed["edit"])

    def _check_before(self, only: str, changed: dict[str, list[Change]]) -> None:
        names = list(self.stages)
        for name in names[: names.index(only)]:
            if name in TRAINING and name in changed:
                raise UserError(
                    f"{self.folder}: `{name}` comes before `{only}` and was done with other settings "
                    f"({_text(changed[name])}). Put them back, or run: redline train {name} with the same "
                    "recipe and --out."
                )

    def _go(self, only: str | None) -> Outcome:
        state, names = State(self.files), list(self.stages)
        before = [name for name in names if name in state.done]
        todo = [name for name in names if name not in state.done]
        if only is not None:
            todo = [name for name in todo if names.index(name) <= names.index(only)]
            todo = [name for name in todo if name == only or name not in TRAINING or self._refuse(name, only)]
        main = this_process().is_main_process
        self._say(before, todo)
        if main and todo:
            with whole_file(self.files.recipe) as out:
                out.write(as_yaml(self.recipe))
        for name in todo:
            console.print(f"{names.index(name) + 1}/{len(names)} {name}", style="bold", highlight=False)
            begun, settings = time.monotonic(), self.settings(name)
            if main:
                state.begin(name, settings)
            if main or name in TRAINING:
                self.stages[name](self.job)
                free_memory()
            wait_for_everyone()
            if main:
                seconds = round(time.monotonic() - begun, 1)
                state.finish(name, Done(settings, seconds, None, str(date.today()), machine()))
                self._drop_checkpoints(name)
        return Outcome(self.files, tuple(todo), tuple(before))

    def _refuse(self, stage: str, only: str) -> bool:
        raise UserError(
            f"{self.folder}: the stage `{stage}` comes before `{only}` and is not done. "
            f"Run: redline train {stage} with the same recipe and --out."
        )

    def _say(self, before: Sequence[str], todo: Sequence[str]) -> None:
        """What is done, and what comes."""
        if before and todo:
            say(f"{self.folder}: done already: {', '.join(before)}")
        elif not todo:
            say(
                f"{self.folder}: nothing to do. Done already: {', '.join(before)}. To do a stage and those "
                "after it again, give --from STAGE."
            )

    def _drop_checkpoints(self, stage: str) -> None:
        """A finished stage needs its checkpoints no more."""
        if stage == "policy":
            shutil.rmtree(self.files.policy.checkpoints, ignore_errors=True)
        if stage == "reward":
            shutil.rmtree(self.files.reward.checkpoints, ignore_errors=True)
            self.files.reward.best.unlink(missing_ok=True)


def _text(changes: Sequence[Change]) -> str:
    return "; ".join(str(change) for change in changes)
