"""The one trainer of all methods without PPO: rounds of rows, steps over them, checkpoints, and the log."""

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from redline.console import progress_bar
from redline.data.files import read_jsonl, write_jsonl
from redline.data.records import Record
from redline.direct.batch import Batch, joined
from redline.direct.method import Method
from redline.direct.room import Room
from redline.direct.rows import SAVED, Row, in_one, in_units
from redline.engine.batching import epoch_order
from redline.engine.checkpoints import (
    Checkpoints,
    intact,
    keep_batch,
    not_finite,
    same_settings,
    seal,
    writing,
)
from redline.engine.processes import wait_for_everyone
from redline.engine.schedule import scheduler
from redline.engine.settings import Optimizer
from redline.engine.steps import SummingStepper
from redline.errors import UserError
from redline.policy.files import PolicyFiles
from redline.policy.log import RunLog
from redline.policy.watch import Watch
from redline.types import JsonObject

POINTS = 6  # measurements of the gold score in a training, and checkpoints with them
WARMUP = 0.05
MOST_NORM = 1.0  # of gradients
ROWS = "pairs.jsonl"


class Kept(Record):
    """A line of a round's file: a row, as ``Row.plain`` gives it, and its text for people to read."""


def points(steps: int, number: int, rounds: int) -> set[int]:
    """After which of a round's steps the gold score is measured: of all rounds together at ``(k / POINTS) **
    2`` of the way, so that the first measurements lie close together, where a policy moves fastest away from
    its start."""
    measured = set()
    for point in range(1, POINTS + 1):
        place = (point / POINTS) ** 2 * rounds - number
        if 0 < place <= 1:
            measured.add(math.ceil(place * steps - 1e-9))
    return measured


@dataclass(frozen=True)
class Round:
    """A round that is trained on: its rows, in units that stay together, and what takes its ``steps``."""

    number: int
    units: list[list[Row]]
    steps: int
    stepper: SummingStepper
    checkpoints: Checkpoints


class DirectTrainer:
    """One training. ``model`` is the actor, with the method's head beside it where it has one.

    ``settings`` is what must not change between start and resume. Each process computes its share of every
    step, and gradients are added up over all: what is computed together, and by how many processes, changes
    rounding only."""

    def __init__(
        self,
        method: Method,
        room: Room,
        batch_size: int,
        rates: Sequence[float],
        out: Path,
        settings: JsonObject,
    ):
        self.method, self.room = method, room
        self.batch_size, self.rates = batch_size, rates
        self.accelerator = room.accelerator
        self.files = PolicyFiles(out)
        self.settings = settings
        actor = room.anchors.actor
        parts: dict[str, nn.Module] = {"actor": actor}
        if method.head is not None:
            parts["head"] = method.head.to(self.accelerator.device)
        self.model = nn.ModuleDict(parts)
        self.trained = []
        for name, parameter in actor.named_parameters():
            if parameter.requires_grad and not name.startswith("value_head"):
                self.trained.append(parameter)
        self.done = 0

    def run(self, watch: Callable[[int], Watch] | None) -> None:
        """All rounds that are not done yet. ``watch`` gives what measures the gold score in a training of
        which so many steps are done."""
        state = self._checkpoints(self._stepper(0, 1)).noted()
        number, step = 0, 0
        if state:
            number, step, self.done = state["round"], state["step"], state["done"]
            self._restore(state, number, step)
        log = RunLog(self.files.folder, self.done, self.accelerator.is_main_process)
        measuring = None
        if watch is not None and number < self.method.rounds:
            measuring = watch(self.done)
        if not state:
            self.method.start(self.room)
        for current in range(number, self.method.rounds):
            self._round(current, step, log, measuring)
            step = 0

    def _round(self, number: int, start: int, log: RunLog, watch: Watch | None) -> None:
        """Train on a round from its step ``start`` on."""
        method = self.method
        current = self._open(number, start)
        steps = current.steps
        measured = points(steps, number, method.rounds) | {steps}
        title = "policy"
        if method.rounds > 1:
            title = f"policy, round {number + 1} of {method.rounds}"
        with progress_bar(title, steps, start, self.accelerator.is_main_process) as bar:
            for step in range(start, steps):
                begun = time.perf_counter()
                batch, line = self._step(current, step)
                line["seconds"] = time.perf_counter() - begun
                self.done += 1
                over = method.ends_round(batch) or step + 1 == steps
                pause = over or step + 1 in measured
                if watch is not None and pause:
                    line |= watch.after(self.done)
                self._log(log, number, line)
                bar.advance()
                bar.note(f"loss {line['loss']:.3f}")
                if over:
                    self._save(current.checkpoints, number + 1, 0)
                    return
                if pause:
                    self._save(current.checkpoints, number, step + 1)

    def _open(self, number: int, start: int) -> Round:
        """A round, ready for its step ``start``."""
        method, room = self.method, self.room
        if not start:
            method.begin(room, number)
            room.rounds.append(self._rows(number))
        rows = room.rounds[number]
        units = in_units(rows)
        steps = self._steps(len(units), number)
        stepper = self._stepper(number, steps)
        checkpoints = self._checkpoints(stepper)
        if start:
            checkpoints.load()
        if method.prepares:
            room.prepare(rows, method.against)
        return Round(number, units, steps, stepper, checkpoints)

    def _step(self, current: Round, step: int) -> tuple[Batch, JsonObject]:
        """One optimizer step; returns its whole batch, and its line in the log."""
        method, room = self.method, self.room
        rows = method.before_step(room, self._drawn(current, step), step, current.steps)
        parts, total, terms = self._backward(rows, current.stepper)
        rate = current.stepper.learning_rate
        norm = current.stepper.step(terms)
        if not math.isfinite(norm):
            raise self._not_finite(rows, current.checkpoints)
        batch = joined(room.gathered(parts))
        counts = room.counts
        counts.trained += len(rows)
        counts.learned += batch.groups
        return batch, {
            "loss": total / max(terms, 1.0),
            "lr": rate,
            "gradient_norm": norm,
            "samples": counts.drawn if method.draws else counts.learned,
            "trained_rows": counts.trained,
            "reward_calls": counts.scored,
            **method.after_step(room, batch),
            **room.notes,
        }

    def _backward(self, rows: list[Row], stepper: SummingStepper) -> tuple[list[Batch], float, float]:
        """Add up the gradients of this process's share of some rows. Returns what its losses saw, and, over
        all processes, the sum of the losses and the number of their terms."""
        method, passes = self.method, self.room.passes
        mine = in_units(rows)[self.accelerator.process_index :: self.accelerator.num_processes]
        total, terms = 0.0, 0.0
        parts: list[Batch] = []
        for group in passes.groups(in_one(mine)):
            with self.accelerator.autocast():
                batch = passes.batch(group, method.against, method.neutral, method.pooled)
                loss = method.loss(batch)
            stepper.backward(loss.total)
            total += float(loss.total.detach())
            terms += float(loss.terms)
            parts.append(batch.detached())
        return parts, self._sum(total), self._sum(terms)

    def _log(self, log: RunLog, number: int, line: JsonObject) -> None:
        """A step of round ``number`` in the log; trackers get the figures that are known."""
        log.metrics({"update": self.done, "round": number, **line})
        known = {name: value for name, value in line.items() if value is not None}
        self.accelerator.log(known, step=self.done)

    def _not_finite(self, rows: list[Row], checkpoints: Checkpoints) -> UserError:
        """What ends a training before the step is taken; the step's batch is kept."""
        step = self.done + 1
        texts = [{"step": step, "text": self.room.tokenizer.decode(row.ids)} for row in rows]
        path = keep_batch(self.files.folder, texts)
        return not_finite(
            "direct",
            f"the gradient of step {step} is not finite",
            f"its batch is in {path}",
            checkpoints.newest(self.done),
            "Lower direct.lr, or use dtype float32",
        )

    def _rows(self, number: int) -> list[Row]:
        """The rows of a round: read where an earlier start has made them, else made, and kept."""
        folder = self.files.round(number)
        if (folder / "manifest.json").exists() and (manifest := intact(folder)) is not None:
            same_settings(folder, manifest["settings"], self.settings)
            self.room.load_state(manifest["room"])
            return read_rows(folder)
        rows = self.method.collect(self.room, number)
        wait_for_everyone()  # nobody writes while another still looks whether the file is there
        if self.accelerator.is_main_process:
            aside = folder.with_name(f".{folder.name}.part")
            with writing(folder):
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True)
                write_jsonl(aside / ROWS, [self._readable(row) for row in rows])
                seal(aside, {"settings": self.settings, "room": self.room.state()})
                shutil.rmtree(folder, ignore_errors=True)
                aside.rename(folder)
        wait_for_everyone()
        return rows

    def _readable(self, row: Row) -> Kept:
        """A row with its text, for people to read."""
        text = self.room.tokenizer.decode(row.response, skip_special_tokens=True)
        return Kept.model_validate(row.plain() | {"text": text})

    def _drawn(self, current: Round, step: int) -> list[Row]:
        """The rows of a step: each epoch has its own order, and its last step may be smaller."""
        units = current.units
        epoch, place = divmod(step, self._steps_of_a_pass(len(units)))
        order = epoch_order(len(units), self.room.seed, current.number * 1000 + epoch)
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        return in_one([units[unit] for unit in chosen])

    def _steps_of_a_pass(self, units: int) -> int:
        return math.ceil(units / self.batch_size)

    def _steps(self, units: int, number: int) -> int:
        epochs = self.method.epochs[min(number, len(self.method.epochs) - 1)]
        return max(1, math.ceil(epochs * self._steps_of_a_pass(units)))

    def _stepper(self, number: int, steps: int) -> SummingStepper:
        """A new one for each round: moments of the last round would point where that one went."""
        rate = self.rates[min(number, len(self.rates) - 1)]
        groups: list[JsonObject] = [{"params": self.trained, "lr": rate}]
        if self.method.head is not None:
            groups.append({"params": list(self.method.head.parameters()), "lr": rate * self.method.head_rate})
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        schedule = scheduler(optimizer, Optimizer(warmup=WARMUP, decay="cosine"), steps)
        return SummingStepper(self.accelerator, self.model, optimizer, schedule, MOST_NORM)

    def _checkpoints(self, stepper: SummingStepper) -> Checkpoints:
        return Checkpoints(
            self.files.checkpoints,
            self.accelerator,
            self.settings,
            self.model,
            stepper.optimizer,
            stepper.schedule,
        )

    def _save(self, checkpoints: Checkpoints, number: int, step: int) -> None:
        state: JsonObject = {"round": number, "step": step, "done": self.done}
        state |= {"room": self.room.state(), "method": self.method.state()}
        checkpoints.save(self.done, state, self.room.anchors.state())

    def _restore(self, state: JsonObject, number: int, step: int) -> None:
        """Put back everything but the optimizer, which a round makes for itself."""
        checkpoints = self._checkpoints(self._stepper(number, 1))
        checkpoints.load()
        self.room.anchors.load_state(checkpoints.tensors)
        self.room.load_state(state["room"])
        self.method.load_state(state["method"])
        begun = number + 1 if step else number
        self.room.rounds = [read_rows(self.files.round(earlier)) for earlier in range(begun)]

    def _sum(self, value: float) -> float:
        """Over all processes."""
        if self.accelerator.num_processes == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.reduce(tensor, "sum"))


def read_rows(folder: Path) -> list[Row]:
    """The rows that a round kept in its folder."""
    rows = []
    for line in read_jsonl(folder / ROWS, Kept):
        values = {name: value for name, value in line if name in SAVED}
        rows.append(Row(**values))
    return rows
