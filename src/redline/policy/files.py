"""The names of the files in a policy's folder."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class WatchFiles:
    """What the judge saw that watched a policy while it learned."""

    folder: Path

    @property
    def reference(self) -> Path:
        """The responses of the model that the policy started from."""
        return self.folder / "reference.jsonl"

    @property
    def verdict_cache(self) -> Path:
        """Verdicts given before."""
        return self.folder / "verdicts.sqlite"

    def update(self, number: int) -> Path:
        """The responses after an update, with the verdicts on them."""
        return self.folder / f"{number:06d}.jsonl"


@dataclass(frozen=True)
class PolicyFiles:
    """The files of the policy in ``folder``, besides those of Transformers."""

    folder: Path

    @property
    def log(self) -> Path:
        """A line of metrics for each update."""
        return self.folder / "log.jsonl"

    @property
    def samples(self) -> Path:
        """Some sampled responses, with their rewards token by token."""
        return self.folder / "samples.jsonl"

    @property
    def watch(self) -> WatchFiles:
        """What the watching judge saw."""
        return WatchFiles(self.folder / "watch")

    def round(self, number: int) -> Path:
        """The folder of what a method without PPO trained on in a round."""
        return self.folder / "rounds" / str(number)

    @property
    def config(self) -> Path:
        """Transformers' configuration: there once the policy is saved."""
        return self.folder / "config.json"

    @property
    def card(self) -> Path:
        """The model card."""
        return self.folder / "README.md"

    @property
    def checkpoints(self) -> Path:
        """Where training continues from when it was stopped."""
        return self.folder / "checkpoints"
