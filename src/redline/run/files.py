"""The names of a run's files. No other module writes them down.

A room that writes into a stage's folder owns the names inside that folder; they are composed here.
"""

from dataclasses import dataclass
from pathlib import Path

from redline.direct.files import SftFiles
from redline.edit.editor import answers_path
from redline.edit.llm import rejects_path
from redline.judge.compare import verdicts_beside
from redline.policy.files import PolicyFiles
from redline.reward.files import RewardFiles

STAGES = ("data", "edit", "label", "sft", "reward", "policy", "compare", "report")
SYSTEMS = ("policy", "reference")  # what the comparison compares, by the names of its files
SOURCES = (
    "pairs",
    "edits",
    "feedback",
    "validation",
    "test",
    "prompts",
    "eval_prompts",
)  # of the recipe's section data
LABELLED = ("train", "validation", "test")  # sets of labelled edits


@dataclass(frozen=True)
class RunFiles:
    """The files of the run in ``folder``, whether they are there or not."""

    folder: Path

    @property
    def recipe(self) -> Path:
        """The recipe, complete, without logins."""
        return self.folder / "recipe.yaml"

    @property
    def state(self) -> Path:
        """Which stages are done, with which settings, in how many seconds."""
        return self.folder / "state.json"

    @property
    def begun(self) -> Path:
        """The stage under way and its settings; gone when the stage is done."""
        return self.folder / "begun.json"

    @property
    def started(self) -> Path:
        """The date on which the run began, which chat templates print to its end."""
        return self.folder / "started.json"

    @property
    def lock(self) -> Path:
        """Held by the process that works on the run."""
        return self.folder / ".lock"

    @property
    def previous(self) -> Path:
        """Results that were set aside because their stage is done again: a numbered folder each time."""
        return self.folder / "previous"

    def data(self, source: str) -> Path:
        """The checked records of a source."""
        return self.folder / "data" / f"{source}.jsonl"

    def data_rejects(self, source: str) -> Path:
        """What was left out of a source, and why."""
        return self.folder / "data" / f"{source}.rejects.jsonl"

    def labels(self, name: str) -> Path:
        """The labelled edits of a set: train, validation or test."""
        return self.folder / "labels" / f"{name}.jsonl"

    def labels_rejects(self, name: str) -> Path:
        """The edits of a set that could not be labelled, and why."""
        return self.folder / "labels" / f"{name}.rejects.jsonl"

    @property
    def sft(self) -> SftFiles:
        """The model after supervised fine-tuning."""
        return SftFiles(self.folder / "sft")

    @property
    def reward(self) -> RewardFiles:
        """The reward model."""
        return RewardFiles(self.folder / "reward")

    @property
    def policy(self) -> PolicyFiles:
        """The policy."""
        return PolicyFiles(self.folder / "policy")

    @property
    def comparison(self) -> Path:
        """The folder of the compared responses and their verdicts."""
        return self.folder / "compare"

    def responses(self, system: str) -> Path:
        """The responses of the policy or the reference."""
        return self.comparison / f"{system}.jsonl"

    def scores(self, system: str) -> Path:
        """The same with the reward model's rewards."""
        return self.comparison / f"{system}.scores.jsonl"

    @property
    def sampled(self) -> Path:
        """With which settings the responses were sampled, and the figures that were measured meanwhile."""
        return self.comparison / "sampled.json"

    @property
    def verdicts(self) -> Path:
        """Every compared pair with the judge's verdict."""
        return self.comparison / "verdicts.jsonl"

    @property
    def verdict_cache(self) -> Path:
        """Verdicts given before."""
        return self.comparison / "verdicts.sqlite"

    @property
    def curve(self) -> Path:
        """Best of n: the win rate for smaller n."""
        return self.comparison / "curve.jsonl"

    def curve_verdicts(self, n: int) -> Path:
        """The verdicts of one point of that curve."""
        return self.comparison / f"best_of_{n}.verdicts.jsonl"

    @property
    def winrate(self) -> Path:
        """The result of the comparison."""
        return self.folder / "winrate.json"

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report.html"

    def judged(self, number: int) -> Path:
        """The comparison by an experiment's further judge."""
        return self.comparison / f"judge-{number}.json"

    def judged_verdicts(self, number: int) -> Path:
        """That judge's verdicts."""
        return verdicts_beside(self.judged(number))

    def of(self, stage: str) -> list[Path]:
        """The files and folders that a stage writes, as far as they are there."""
        made = self.data("edits")
        # where an LLM edits the pairs, the edits are the stage edit's
        read = [name for name in SOURCES if name != "edits" or not self.data("pairs").exists()]
        names = {
            "data": [path for name in read for path in (self.data(name), self.data_rejects(name))],
            "edit": [made, rejects_path(made), answers_path(made)],
            "label": [self.labels("train").parent],
            "sft": [self.sft.folder, self.sft.work],
            "reward": [self.reward.folder],
            "policy": [self.policy.folder],
            "compare": [self.comparison, self.winrate],
            "report": [self.report],
        }
        return [path for path in names[stage] if path.exists()]
