"""The one trainer of all methods without PPO: rounds of rows, steps over them, checkpoints, and the log."""

import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from redline.console import progress_bar
from redline.data.files import read_jsonl, write_jsonl
from redline.data.records import Record
from redline.direct.batch import Batch, joined
from redline.direct.method import Method
from redline.direct.room import Room
from redline.direct.rows import SAVED, Row, in_units
from redline.engine.batching import epoch_order
from redline.engine.checkpoints import Checkpoints, intact, keep_batch, same_settings, seal, writing
from redline.engine.processes import wait_for_everyone
from redline.engine.schedule import scheduler
from redline.engine.settings import Optimizer
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
    found = set()
    for point in range(1, POINTS + 1):
        place = (point / POINTS) ** 2 * rounds - number
        if 0 < place <= 1:
            found.add(math.ceil(place * steps - 1e-9))
    return found


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
        self.method, self.room, self.batch_size, self.rates = method, room, batch_size, rates
        self.accelerator, self.files, self.settings = room.accelerator, PolicyFiles(out), settings
        actor = room.anchors.actor
        parts: dict[str, nn.Module] = {"actor": actor}
        if method.head is not None:
            parts["head"] = method.head.to(self.accelerator.device)
        self.model = nn.ModuleDict(parts)
        self.trained = [
            parameter
            for name, parameter in actor.named_parameters()
            if parameter.requires_grad and not name.startswith("value_head")
        ]

        self.done = 0

    def run(self, watch: Callable[[int], Watch] | None) -> None:
        """All rounds that are not done yet. ``watch`` gives what measures the gold score in a training of
        which so many steps are done."""
        state = self._checkpoints(*self._optimizer(0, 1)).noted()
        number, step = 0, 0
        if state:
            number, step, self.done = state["round"], state["step"], state["done"]
            self._restore(state, number, step)
        log = RunLog(self.files.folder, self.done, self.accelerator.is_main_process)
        measuring = watch(self.done) if watch is not None and number < self.method.rounds else None
        if not state:
            self.method.start(self.room)
        for current in range(number, self.method.rounds):
            self._round(current, step if current == number else 0, log, measuring)

    def _round(self, number: int, start: int, log: RunLog, watch: Watch | None) -> None:
        """Train on a round from its step ``start`` on."""
        method, room = self.method, self.room
        if not start:
            method.begin(room, number)
            room.rounds.append(self._rows(number))
        units = in_units(room.rounds[number])
        steps = self._steps(len(units), number)
        optimizer, schedule = self._optimizer(number, steps)
        checkpoints = self._checkpoints(optimizer, schedule)
        if start:
            checkpoints.load()
        if method.prepares:
            room.prepare(room.rounds[number], method.against)
        measured = points(steps, number, method.rounds) | {steps}
        title = "policy" if method.rounds == 1 else f"policy, round {number + 1} of {method.rounds}"
        with progress_bar(title, steps, start, self.accelerator.is_main_process) as bar:
            for step in range(start, steps):
                begun = time.perf_counter()
                seen, line = self._step(number, self._drawn(units, number, step), step, steps, optimizer)
                schedule.step()
                line["seconds"] = time.perf_counter() - begun
                self.done += 1
                over = method.ends_round(seen) or step + 1 == steps
                if watch is not None and (over or step + 1 in measured):
                    line |= watch.after(self.done)
                log.metrics({"update": self.done, "round": number, **line})
                known = {name: value for name, value in line.items() if value is not None}
                self.accelerator.log(known, step=self.done)
                bar.advance()
                bar.note(f"loss {line['loss']:.3f}")
                if over or step + 1 in measured:
                    self._save(checkpoints, *((number + 1, 0) if over else (number, step + 1)))
                if over:
                    return

    def _step(
        self, number: int, rows: list[Row], step: int, steps: int, optimizer: torch.optim.Optimizer
    ) -> tuple[Batch, JsonObject]:
        """One optimizer step; returns its whole batch, and its line in the log."""
        method, room = self.method, self.room
        rows = method.before_step(room, rows, step, steps)
        mine = in_units(rows)[self.accelerator.process_index :: self.accelerator.num_processes]
        total, terms = 0.0, 0.0
        parts: list[Batch] = []
        for group in room.passes.groups([row for unit in mine for row in unit]):
            with self.accelerator.autocast():
                batch = room.passes.batch(group, method.against, method.neutral, method.pooled)
                loss = method.loss(batch)
            if loss.total.requires_grad:
                loss.total.backward()
            total, terms = total + float(loss.total.detach()), terms + float(loss.terms)
            parts.append(batch.detached())
        total, terms = self._sum(total), self._sum(terms)
        norm = self._divided_and_clipped(optimizer, terms)
        if not math.isfinite(norm):
            self._not_finite(rows)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        optimizer.zero_grad()
        seen = joined(self._gathered(parts))
        counts = room.counts
        counts.trained += len(rows)
        counts.learned += seen.groups
        return seen, {
            "loss": total / max(terms, 1.0),
            "lr": rate,
            "gradient_norm": norm,
            "samples": counts.drawn if method.draws else counts.learned,
            "trained_rows": counts.trained,
            "reward_calls": counts.scored,
            **method.after_step(room, seen),
            **room.notes,
        }

    def _divided_and_clipped(self, optimizer: torch.optim.Optimizer, terms: float) -> float:
        """Make the summed gradients of all processes those of the mean loss, and clip them; returns the norm
        that they had."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if self.accelerator.num_processes > 1:
                parameter.grad = self.accelerator.reduce(parameter.grad, "sum")
            parameter.grad /= max(terms, 1.0)
        return float(torch.nn.utils.clip_grad_norm_(parameters, MOST_NORM))

    def _not_finite(self, rows: list[Row]) -> None:
        """Stop before a step is taken, and keep its batch."""
        texts = [{"step": self.done + 1, "text": self.room.tokenizer.decode(row.ids)} for row in rows]
        path = keep_batch(self.files.folder, texts)
        raise UserError(
            f"direct: the gradient of step {self.done + 1} is not finite; its batch is in {path}. Lower "
            "direct.lr, or use dtype float32, with another --out."
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

    def _drawn(self, units: list[list[Row]], number: int, step: int) -> list[Row]:
        """The rows of a step: each epoch has its own order, and its last step may be smaller."""
        a_pass = -(-len(units) // self.batch_size)
        epoch, place = divmod(step, a_pass)
        order = epoch_order(len(units), self.room.seed, number * 1000 + epoch)
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        return [row for unit in chosen for row in units[unit]]

    def _steps(self, units: int, number: int) -> int:
        epochs = self.method.epochs[min(number, len(self.method.epochs) - 1)]
        return max(1, math.ceil(epochs * -(-units // self.batch_size)))

    def _optimizer(self, number: int, steps: int) -> tuple[torch.optim.Optimizer, Any]:
        """A new one for each round: moments of the last round would point where that one went."""
        rate = self.rates[min(number, len(self.rates) - 1)]
        groups: list[JsonObject] = [{"params": self.trained, "lr": rate}]
        if self.method.head is not None:
            groups.append({"params": list(self.method.head.parameters()), "lr": rate * self.method.head_rate})
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        return optimizer, scheduler(optimizer, Optimizer(warmup=WARMUP, decay="cosine"), steps)

    def _checkpoints(self, optimizer: torch.optim.Optimizer, schedule: Any) -> Checkpoints:
        return Checkpoints(
            self.files.checkpoints, self.accelerator, self.settings, self.model, optimizer, schedule
        )

    def _save(self, checkpoints: Checkpoints, number: int, step: int) -> None:
        state: JsonObject = {"round": number, "step": step, "done": self.done}
        state |= {"room": self.room.state(), "method": self.method.state()}
        checkpoints.save(self.done, state, self.room.anchors.state())

    def _restore(self, state: JsonObject, number: int, step: int) -> None:
        """Put back everything but the optimizer, which a round makes for itself."""
        checkpoints = self._checkpoints(*self._optimizer(number, 1))
        checkpoints.load()
        self.room.anchors.load_state(checkpoints.tensors)
        self.room.load_state(state["room"])
        self.method.load_state(state["method"])
        self.room.rounds = [read_rows(self.files.round(each)) for each in range(number + (step > 0))]

    def _sum(self, value: float) -> float:
        """Over all processes."""
        if self.accelerator.num_processes == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.reduce(tensor, "sum"))

    def _gathered(self, parts: list[Batch]) -> list[Batch]:
        """The parts of all processes."""
        if self.accelerator.num_processes == 1:
            return parts
        from accelerate.utils import gather_object

        return list(gather_object(parts))


def read_rows(folder: Path) -> list[Row]:
    """The rows that a round kept in its folder."""
    kept = read_jsonl(folder / ROWS, Kept)
    return [Row(**{name: value for name, value in line if name in SAVED}) for line in kept]
