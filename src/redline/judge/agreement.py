"""How far people, and judges, agree: pure functions on verdicts, one a pair. A verdict is 1 (a), 0 (b) or 0.5
(a tie)."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def agreement(first: Sequence[float], second: Sequence[float]) -> float:
    """Share of the items on which two raters gave the same verdict. Both (n,), n at least 1."""
    _same_length(first, second)
    return sum(x == y for x, y in zip(first, second, strict=True)) / len(first)


def cohen_kappa(first: Sequence[float], second: Sequence[float]) -> float:
    """Agreement of two raters beyond chance, each with his own frequencies (Cohen 1960): 1 perfect, 0 as by
    chance.

    Both (n,). 1 when both always gave one and the same verdict.
    """
    _same_length(first, second)
    mine, theirs = Counter(first), Counter(second)
    expected = sum(mine[verdict] * theirs[verdict] for verdict in mine) / len(first) ** 2
    return 1.0 if expected == 1 else (agreement(first, second) - expected) / (1 - expected)


def kappa_interval(
    first: Sequence[float], second: Sequence[float], seed: int = 0, resamples: int = 2000
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of ``cohen_kappa`` over the items. Both (n,)."""
    _same_length(first, second)
    verdicts = sorted({*first, *second})
    counts = np.zeros((len(verdicts), len(verdicts)))
    for x, y in zip(first, second, strict=True):
        counts[verdicts.index(x), verdicts.index(y)] += 1
    random = np.random.default_rng(seed)
    drawn = random.multinomial(len(first), counts.ravel() / len(first), size=resamples)
    tables = drawn.reshape(resamples, *counts.shape) / len(first)
    observed = np.trace(tables, axis1=1, axis2=2)
    expected = (tables.sum(axis=2) * tables.sum(axis=1)).sum(axis=1)
    certain = expected == 1  # both gave one and the same verdict to everything
    kappas = np.where(certain, 1.0, (observed - expected) / np.where(certain, 1.0, 1 - expected))
    low, high = np.quantile(kappas, [0.025, 0.975])
    return float(low), float(high)


def fleiss_kappa(ratings: ArrayLike) -> float:
    """Agreement of several raters beyond chance (Fleiss 1971). ``ratings`` (n items, k raters), none missing,
    k at least 2."""
    table = np.asarray(ratings)
    if table.ndim != 2 or table.shape[0] == 0 or table.shape[1] < 2:
        raise ValueError("expected verdicts of at least two raters on at least one item")
    raters = table.shape[1]
    by_category = [(table == verdict).sum(axis=1) for verdict in np.unique(table)]
    counts = np.stack(by_category, axis=1)  # (n items, categories)
    observed = ((counts**2).sum(axis=1) - raters).mean() / (raters * (raters - 1))
    expected = ((counts.sum(axis=0) / counts.sum()) ** 2).sum()
    if expected == 1:
        return 1.0
    return float((observed - expected) / (1 - expected))


def majority(verdicts: Sequence[float]) -> float | None:
    """The verdict that more than half of the raters gave; None where there is none (three people, three
    verdicts)."""
    verdict, count = Counter(verdicts).most_common(1)[0]
    return verdict if 2 * count > len(verdicts) else None


def _same_length(first: Sequence[float], second: Sequence[float]) -> None:
    if len(first) != len(second) or not first:
        raise ValueError("expected two equally long, non-empty lists of verdicts")
