"""The names of the files of supervised fine-tuning."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SftFiles:
    """The model that supervised fine-tuning makes, in ``folder``."""

    folder: Path

    @property
    def work(self) -> Path:
        """The trainer's checkpoints, beside the folder; gone when it is done."""
        return self.folder.with_name(self.folder.name + ".work")
