"""What an experiment's recipe may say."""

from pydantic import Field, model_validator

from redline.judge.settings import JudgedBy
from redline.section import Section
from redline.types import JsonObject


class Experiment(Section):
    """Arms by seeds: runs that differ in a few keys, with everything else equal (`redline experiment`)."""

    name: str = "experiment"
    """The experiment's folder is runs/<name> unless --out says otherwise."""
    base: str | JsonObject
    """What every arm begins from: a recipe's file, or its sections here."""
    arms: dict[str, JsonObject] = Field(min_length=1)
    """Name -> the keys that the arm changes, as in `redline run RECIPE key=value`: `{reward.kind: sequence,
    reward.pairs: chosen}`. `seeds: [0, 1]` runs an arm with only these of the seeds; `model: "@ARM"` in a
    reward term is the reward model that another arm trained with the same seed; `@ARM` in `policy.start`,
    `direct.policy`, `direct.extra`, `direct.seed` and in a `log_ratio` is its policy."""
    seeds: list[int] = Field(default_factory=lambda: [0, 1, 2], min_length=1)
    """Each arm is run with each."""
    judges: list[JudgedBy] = Field(default_factory=list)
    """Who judges the finished policies; the first is the gold of the curves. None: the judge of the base's
    `compare`."""
    baseline: str | None = None
    """The arm that the others are compared with first; None: the first one."""
    kl_levels: list[float] = Field(default_factory=lambda: [1.0, 2.0, 4.0, 6.0])
    """Nats a response at which the arms' gold scores are compared, read off each run's curve."""
    gold_levels: list[float] = Field(default_factory=lambda: [0.6, 0.7, 0.8])
    """Gold scores whose price in samples and seconds is reported."""
    reuse: list[str] = Field(default_factory=list)
    """Folders of other experiments: what their runs did with the same settings is taken over."""

    @model_validator(mode="after")
    def _baseline_is_an_arm(self) -> "Experiment":
        if self.baseline is not None and self.baseline not in self.arms:
            raise ValueError(
                f"`baseline` is {self.baseline}, which is no arm (there are {', '.join(self.arms)})"
            )
        return self

    @model_validator(mode="after")
    def _judges_differ(self) -> "Experiment":
        names = [one.judge for one in self.judges]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(
                f"`judges` names {twice[0]} twice, and results are told apart by the judge's name"
            )
        return self
