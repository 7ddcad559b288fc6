"""The names of the files in a reward model's folder."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RewardFiles:
    """The files of the reward model in ``folder``, besides those of Transformers."""

    folder: Path

    @property
    def metrics(self) -> Path:
        """What the finished model was measured on; written last."""
        return self.folder / "metrics.json"

    @property
    def log(self) -> Path:
        """The validations during training."""
        return self.folder / "log.jsonl"

    @property
    def scores(self) -> Path:
        """The rewards of a token model on held-out edits."""
        return self.folder / "scores.jsonl"

    @property
    def config(self) -> Path:
        """Transformers' configuration: there once the model is saved."""
        return self.folder / "config.json"

    @property
    def card(self) -> Path:
        """The model card."""
        return self.folder / "README.md"

    @property
    def checkpoints(self) -> Path:
        """Where training continues from when it was stopped."""
        return self.folder / "checkpoints"

    @property
    def best(self) -> Path:
        """The best weights so far, while it trains."""
        return self.folder / "best.safetensors"
