"""Checkpoints: the whole state of a training, written aside and renamed, so that a run killed at any moment
resumes.

A checkpoint has the trained weights, optimizer, scheduler and each process's random states. Frozen weights
are left out: they are the backbone's, and never change. Sharded tensors are written in one piece, so any
number of processes can go on from it.
"""

import json
import math
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from redline.console import say
from redline.data.files import write_jsonl
from redline.engine.processes import this_process, wait_for_everyone
from redline.engine.sharding import load_optimizer, load_trained, optimizer_state, trained_weights, whole
from redline.errors import UserError, cannot_write
from redline.types import JsonObject, Network

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from torch import nn

MANIFEST = "manifest.json"
TENSORS = "tensors.safetensors"


class Checkpoints:
    """The newest ``keep`` checkpoints of one training in ``folder``; a damaged one is recognised, named and
    passed over.

    ``settings`` is what must not change between start and resume (plain data); a checkpoint of other settings
    is refused. ``model``, ``optimizer`` and ``schedule`` are what is kept of the training.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: "Accelerator",
        settings: JsonObject,
        model: "nn.Module",
        optimizer: "torch.optim.Optimizer",
        schedule: Any,
        keep: int = 2,
    ):
        self.folder, self.accelerator, self.settings, self.keep = (
            folder,
            accelerator,
            json.loads(json.dumps(settings)),
            keep,
        )
        self.model, self.optimizer, self.schedule = accelerator.unwrap_model(model), optimizer, schedule
        self.tensors: dict[str, torch.Tensor] = {}

    def save(self, step: int, extra: JsonObject, tensors: "dict[str, torch.Tensor] | None" = None) -> None:
        """Write the state after ``step`` steps. ``extra`` is plain data that comes back from ``load``,
        ``tensors`` are further ones that are in ``self.tensors`` then."""
        aside, final = self.folder / f".{step:06d}.part", self.folder / f"{step:06d}"
        main = self.accelerator.is_main_process
        try:
            with writing(final):
                if main:
                    shutil.rmtree(aside, ignore_errors=True)
                    aside.mkdir(parents=True)
                wait_for_everyone()
                self._write(aside, tensors or {})
                wait_for_everyone()
                if main:
                    seal(aside, {"step": step, "settings": self.settings, "extra": extra})
                    shutil.rmtree(final, ignore_errors=True)
                    aside.rename(final)
                    for old in self._folders(step)[self.keep :]:
                        shutil.rmtree(old)
        finally:
            if main:
                shutil.rmtree(aside, ignore_errors=True)  # half of one, on a full disk
        wait_for_everyone()

    def load(self) -> tuple[int, JsonObject]:
        """Restore the newest intact checkpoint; returns its step and extra data, or (0, {}) when there is
        none."""
        for folder in self._folders():
            if (manifest := intact(folder)) is None:
                continue
            same_settings(folder, manifest["settings"], self.settings)
            self._read(folder)
            say_continued(folder, manifest["step"])
            return manifest["step"], manifest["extra"]
        return 0, {}

    def newest(self, step: int) -> Path | None:
        """The newest intact checkpoint of at most ``step`` steps, if there is one."""
        return next((folder for folder in self._folders(step) if intact(folder)), None)

    def noted(self) -> JsonObject:
        """The extra data of the newest intact checkpoint, of which nothing else is restored; empty without
        one."""
        for folder in self._folders():
            if (manifest := intact(folder)) is not None:
                same_settings(folder, manifest["settings"], self.settings)
                return dict(manifest["extra"])
        return {}

    def _write(self, folder: Path, tensors: "dict[str, torch.Tensor]") -> None:
        import torch
        from accelerate.checkpointing import save_accelerator_state
        from safetensors.torch import save_file

        weights, state = trained_weights(self.model), optimizer_state(self.optimizer)
        save_accelerator_state(
            str(folder),
            [weights],
            [],
            [self.schedule],
            [],
            self.accelerator.process_index,
            0,
            self.accelerator.scaler,
        )
        if self.accelerator.is_main_process:
            torch.save(state, folder / "optimizer.bin")
            if tensors:
                save_file(tensors, folder / TENSORS)

    def _read(self, folder: Path) -> None:
        import torch
        from accelerate.checkpointing import load_accelerator_state
        from safetensors.torch import load_file

        load_trained(self.model, load_file(folder / "model.safetensors"))
        self.tensors = load_file(folder / TENSORS) if (folder / TENSORS).exists() else {}
        load_optimizer(self.optimizer, torch.load(folder / "optimizer.bin", weights_only=True))
        load_accelerator_state(
            str(folder), [], [], [self.schedule], [], self.accelerator.process_index, self.accelerator.scaler
        )

    def _folders(self, most: float = math.inf) -> list[Path]:
        """The checkpoints of at most so many steps, newest first. Of more than were done now, there are only
        damaged ones."""
        return sorted(
            (path for path in self.folder.glob("[0-9]*") if path.is_dir() and int(path.name) <= most),
            reverse=True,
        )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What keeps a checkpoint or a model from being written, as one line."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        is_full_disk = isinstance(error, RuntimeError) and "write" in str(error)  # as torch reports it
        if isinstance(error, RuntimeError) and not is_full_disk:
            raise
        remedy = "Free space, then run the same command again: it continues from the last checkpoint."
        raise cannot_write(path, error, remedy) from error


def seal(folder: Path, noted: JsonObject) -> None:
    """Write a folder's manifest: the checksum of each of its files, and ``noted`` (plain data)."""
    files = {
        str(file.relative_to(folder)): _checksum(file)
        for file in folder.rglob("*")
        if file.is_file() and file.name != MANIFEST
    }
    manifest = {"files": files, **noted}
    (folder / MANIFEST).write_text(json.dumps(manifest | {"crc": _crc(manifest)}), encoding="utf-8")


def intact(folder: Path) -> JsonObject | None:
    """What was noted when a folder was sealed; None, and a warning, when the folder is no longer whole."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest.pop("crc") == _crc(manifest) and all(
            _checksum(folder / name) == crc for name, crc in manifest["files"].items()
        ):
            return dict(manifest)
    except (
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
    ):  # not there, not JSON, or JSON of another form
        pass
    say(f"{folder}: damaged checkpoint, passed over")
    return None


def keep_batch(folder: Path, records: Iterable[JsonObject]) -> Path:
    """Write this process's share of the batch that ended a training, for inspection; returns where."""
    process = this_process()
    path = folder / (
        "bad_batch.jsonl" if process.num_processes == 1 else f"bad_batch.{process.process_index}.jsonl"
    )
    with writing(path):
        write_jsonl(path, records)
    return path


def not_finite(stage: str, what: str, batch: str, last: Path | None, advice: str) -> UserError:
    """What is said when a training ends on numbers that it cannot go on with: ``batch`` says where the batch
    is kept, ``last`` is the last good checkpoint."""
    kept = f"; {batch}" if batch else ""
    return UserError(
        f"{stage}: {what}{kept}, the last good checkpoint is {last or 'none: too early'}. {advice}, with "
        "another --out."
    )


def guarding(settings: JsonObject, stage: str) -> Any:
    """A callback of Transformers' Trainer, for what Trainer leaves to others.

    Its checkpoints are written in place, and a kill leaves half of one: each is sealed once it is whole. And
    a gradient that is not finite raises UserError before a step is taken; of the token ids ``[B, T]`` that
    the trainer of ``stage`` puts into the callback's ``batch``, that step's are kept for inspection.
    """
    import torch
    from transformers import TrainerCallback

    class Guard(TrainerCallback):
        def __init__(self) -> None:
            self.batch: list[torch.Tensor] = []

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.batch.clear()

        def on_pre_optimizer_step(
            self,
            args: Any,
            state: Any,
            control: Any,
            model: Network = None,
            processing_class: Any = None,
            **_: Any,
        ) -> None:
            norm = torch.nn.utils.get_total_norm(
                [weight.grad for weight in model.parameters() if weight.grad is not None]
            )
            if math.isfinite(float(whole(norm))):
                return
            work, step = Path(args.output_dir), state.global_step + 1
            rows = [{"step": step, "text": processing_class.decode(row)} for ids in self.batch for row in ids]
            batch = f"its batch is in {keep_batch(work, rows)}" if rows else ""
            last = next((folder for folder in trainer_checkpoints(work) if intact(folder)), None)
            what = f"the gradient of step {step} is not finite"
            raise not_finite(stage, what, batch, last, f"Lower {stage}.lr, or use dtype float32")

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            wait_for_everyone()  # each process has written its random states
            if state.is_world_process_zero:
                seal(Path(args.output_dir) / f"checkpoint-{state.global_step}", {"settings": settings})

    return Guard()


def newest_sealed(work: Path, settings: JsonObject) -> str | None:
    """The newest of Trainer's checkpoints in a folder that is whole; None where there is none. Raises
    UserError for one of other settings."""
    for folder in trainer_checkpoints(work):
        if (manifest := intact(folder)) is not None:
            same_settings(folder, manifest["settings"], settings)
            say_continued(folder, int(folder.name.rpartition("-")[2]))
            return str(folder)
    return None


def say_continued(folder: Path, step: int) -> None:
    """Say on the console from where a stopped training goes on."""
    say(f"stopped before: continues after step {step}, from {folder}")


def trainer_checkpoints(work: Path) -> list[Path]:
    """Trainer's checkpoints in a folder, whole or not, newest first."""
    return sorted(work.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))


def same_settings(folder: Path, before: JsonObject, now: JsonObject) -> None:
    """Raise UserError when a checkpoint was written with other settings."""
    if before != now:
        raise UserError(
            f"{folder}: was written with other settings ({_differing(before, now)}). Put them back, or "
            "choose another --out."
        )


def _checksum(file: Path) -> int:
    crc = 0
    with file.open("rb") as content:
        while part := content.read(2**24):
            crc = zlib.crc32(part, crc)
    return crc


def _crc(manifest: JsonObject) -> int:
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def _differing(old: JsonObject, new: JsonObject, prefix: str = "") -> str:
    found = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            both = isinstance(old.get(key), dict) and isinstance(new.get(key), dict)
            found.append(
                _differing(old[key], new[key], f"{prefix}{key}.")
                if both
                else f"{prefix}{key}: {old.get(key)} before, {new.get(key)} now"
            )
    return ", ".join(found)
