"""The run's own log: metrics of every update and sampled responses, as JSON Lines that a resumed run
continues."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from redline.data.files import line_of, write_jsonl
from redline.engine.checkpoints import writing
from redline.engine.rollout import Rollout
from redline.policy.files import PolicyFiles
from redline.reward.offsets import response_offsets
from redline.types import JsonObject

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class RunLog:
    """``log.jsonl`` (a line an update) and ``samples.jsonl`` in a folder. Lines after update ``start`` are
    cut off: they will come again.

    With ``write`` False (processes other than the main one) nothing is written.
    """

    def __init__(self, folder: Path, start: int, write: bool = True):
        self.files, self.write = PolicyFiles(folder), write
        if write:
            for path in (self.files.log, self.files.samples):
                write_jsonl(path, [line for line in _lines(path) if line["update"] <= start])

    def metrics(self, values: dict[str, float]) -> None:
        """Append a line: floats to six places, and null for what is not finite (JSON has no NaN)."""
        line: JsonObject = {}
        for key, value in values.items():
            line[key] = value
            if isinstance(value, float):
                line[key] = round(value, 6) if math.isfinite(value) else None
        self._append(self.files.log, [line])

    def samples(self, records: list[JsonObject]) -> None:
        self._append(self.files.samples, records)

    def last(self) -> JsonObject:
        """The metrics of the last update."""
        lines = _lines(self.files.log)
        return lines[-1] if lines else {}

    def _append(self, path: Path, records: list[JsonObject]) -> None:
        if self.write:
            with writing(path), path.open("a", encoding="utf-8") as out:
                out.writelines(line_of(record) for record in records)


def sample_records(
    rollout: Rollout,
    tokenizer: "PreTrainedTokenizerBase",
    update: int,
    most: int | None = None,
    **columns: Sequence[Tensor],
) -> list[JsonObject]:
    """Sampled responses, the first ``most`` of them, as records: text, token offsets, and for each column
    (rewards, values, kl, ... ``[R_i]`` each) a number a token."""
    records = []
    for index, ids in enumerate(rollout.response_ids[:most]):
        text, offsets = response_offsets(tokenizer, ids.tolist(), rollout.prompts[index])
        numbers = {
            name: [round(value, 4) for value in rows[index].tolist()] for name, rows in columns.items()
        }
        records.append(
            {
                "update": update,
                "id": f"{update}-{index}",
                "prompt": rollout.prompts[index],
                "text": text,
                "offsets": offsets,
                "ended": bool(rollout.ended[index]),
                **numbers,
            }
        )
    return records


def _lines(path: Path) -> list[JsonObject]:
    """The lines of a log; a torn last line, left by a kill (in the middle of a character, even), is
    dropped."""
    found = []
    if path.exists():
        for line in path.read_bytes().split(
            b"\n"
        ):  # not splitlines: a response may hold a line separator of Unicode's
            try:
                found.append(json.loads(line))
            except ValueError:
                break
    return found
