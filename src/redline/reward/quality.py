"""How good a reward model is on held-out edits, typed: what training returns, and metrics.json."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from redline.reward.metrics import auc, calibration, f1, pairwise_accuracy

Json = dict[str, object]
Sides = tuple[Tensor, Tensor]  # of an edit: of the better response and of the worse


@dataclass(frozen=True)
class RewardQuality:
    """Figures of a reward model on some held-out edits.

    ``pairwise_accuracy``: share of the ``pairs`` whose better side has the larger summed reward.
    ``reward_std``: standard deviation of a response's summed reward. ``selection``: what the best checkpoint
    is chosen by. The rest is of token models. ``auc``: chance that an inserted or substituted token of the
    edited side has more reward than a deleted or substituted one of the rejected side. ``fault_auc``: the
    same within the rejected sides, tokens that were kept against those that were not. ``f1`` of each class,
    ``ece`` and the ``reliability`` table: where rewards are differences of probabilities. A figure that
    cannot be had is NaN.
    """

    pairwise_accuracy: float
    pairs: int
    reward_std: float
    selection: float
    auc: float | None = None
    fault_auc: float | None = None
    f1: dict[str, float] | None = None
    ece: float | None = None
    reliability: list[dict[str, float]] | None = None

    def as_json(self) -> Json:
        """Its object in metrics.json: the figures that this kind of model has."""
        return {name: figure for name, figure in asdict(self).items() if figure is not None}

    def numbers(self) -> dict[str, float]:
        """The single numbers, for a line of a log."""
        numbers: dict[str, float] = {}
        for name, figure in self.as_json().items():
            if isinstance(figure, int | float):
                numbers[name] = figure
        for name, share in (self.f1 or {}).items():
            numbers[f"f1_{name}"] = share
        return numbers


@dataclass(frozen=True)
class RewardMetrics:
    """What a reward training came to: the quality of the best checkpoint on the validation edits, and on the
    test edits where there are any; the step it comes from, of how many; and the edits it was trained and
    measured on."""

    validation: RewardQuality
    best_step: int
    steps: int
    seconds: float
    test: RewardQuality | None
    kind: str
    loss: str
    train: int
    validation_edits: int
    test_edits: int

    def __str__(self) -> str:
        best, edits = self.validation, self.validation_edits
        if self.test is not None:
            best, edits = self.test, self.test_edits
        figures = f"pairwise accuracy {best.pairwise_accuracy:.3f}"
        if best.auc is not None:
            figures = f"token AUC {best.auc:.3f}, {figures}"
        return f"reward model: {figures} on {edits} held-out edits"

    def as_json(self) -> Json:
        """The object of metrics.json."""
        plain = asdict(self)
        plain["validation"] = self.validation.as_json()
        if self.test is not None:
            plain["test"] = self.test.as_json()
        return plain


def measure(
    rewards: Sequence[Sides],
    labels: Sequence[Sides],
    differ: Sequence[bool],
    kind: str,
    probabilities: bool,
) -> RewardQuality:
    """Figures from the (better, worse) rewards and labels of each edit.

    ``differ``: whether the two sides of an edit are different texts. Cropped, an edit further down leaves two
    equal ones, which nothing can tell apart; such pairs are not counted. ``kind``: token or sequence.
    ``probabilities``: whether rewards are differences of probabilities.
    """
    sums = torch.stack([torch.stack([better.sum(), worse.sum()]) for better, worse in rewards])
    counted = torch.tensor(differ)
    accuracy = pairwise_accuracy(sums[counted, 0], sums[counted, 1])
    pairs, deviation = int(counted.sum()), sums.std().item()
    if kind == "sequence":
        return RewardQuality(accuracy, pairs, deviation, selection=accuracy)
    values = torch.cat([side for edit in rewards for side in edit])
    marks = torch.cat([side for edit in labels for side in edit])
    rejected = torch.cat([worse for _, worse in rewards])
    faults = torch.cat([worse for _, worse in labels])
    token_auc = auc(values[marks == 1], values[marks == -1])
    quality = RewardQuality(
        accuracy,
        pairs,
        deviation,
        selection=_mean_of_known(token_auc, accuracy),
        auc=token_auc,
        fault_auc=auc(rejected[faults == 0], rejected[faults == -1]),
    )
    if probabilities:
        return _with_probabilities(quality, values, marks)
    return quality


def _with_probabilities(quality: RewardQuality, values: Tensor, marks: Tensor) -> RewardQuality:
    """The figures of a classifier: a token counts as positive above 1/3, as negative below -1/3, and
    ``(reward + 1) / 2`` is the probability that a changed token is positive."""
    changed = marks != 0
    error, table = calibration((values[changed] + 1) / 2, (marks[changed] == 1).double())
    classes = {
        "negative": f1(values < -1 / 3, marks == -1),
        "neutral": f1(values.abs() <= 1 / 3, marks == 0),
        "positive": f1(values > 1 / 3, marks == 1),
    }
    return RewardQuality(**{**vars(quality), "f1": classes, "ece": error, "reliability": table})


def _mean_of_known(*figures: float) -> float:
    """The mean without NaN; NaN where nothing else is there."""
    known = [figure for figure in figures if not math.isnan(figure)]
    if not known:
        return math.nan
    return sum(known) / len(known)
