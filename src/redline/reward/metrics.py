"""How good a reward model is on held-out edits: pure functions on numbers."""

import torch
from torch import Tensor


def auc(positive: Tensor, negative: Tensor) -> float:
    """Area under the ROC curve: the chance that a positive's score exceeds a negative's, ties as half. NaN
    when one is empty.

    Shapes ``[P]`` and ``[N]``. By ranks (Mann-Whitney U): O((P + N) log (P + N)).
    """
    if not len(positive) or not len(negative):
        return float("nan")
    scores = torch.cat([positive, negative]).double()
    _, inverse, counts = scores.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks = (last - (counts.double() - 1) / 2)[inverse]  # average rank of ties
    u = ranks[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2
    return (u / (len(positive) * len(negative))).item()


def f1(predicted: Tensor, actual: Tensor) -> float:
    """F1 of one class: ``predicted`` and ``actual`` are boolean ``[N]``. 0 when nothing is found."""
    hits = (predicted & actual).sum().item()
    return 2 * hits / max(predicted.sum().item() + actual.sum().item(), 1)


def pairwise_accuracy(better: Tensor, worse: Tensor) -> float:
    """Share of pairs whose better side scores higher, ties as half. Shapes ``[B]``. NaN when there are
    none."""
    if not len(better):
        return float("nan")
    return ((better > worse).double() + 0.5 * (better == worse).double()).mean().item()


def calibration(probability: Tensor, outcome: Tensor, bins: int = 10) -> tuple[float, list[dict[str, float]]]:
    """Expected calibration error and the reliability table behind it (Guo et al. 2017, equal-width bins).

    ``probability`` ``[N]`` in [0, 1] of the event, ``outcome`` ``[N]`` 0 or 1. Each row of the table has the
    bin's mean probability, observed share and count; empty bins are left out.
    """
    if not len(probability):
        return float("nan"), []
    which = (probability * bins).long().clamp(max=bins - 1)
    table, error = [], 0.0
    for index in range(bins):
        inside = which == index
        count = int(inside.sum())
        if count:
            mean = probability[inside].double().mean().item()
            observed = outcome[inside].double().mean().item()
            table.append({"probability": mean, "observed": observed, "count": count})
            error += count / len(probability) * abs(mean - observed)
    return error, table
