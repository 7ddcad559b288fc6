"""What several runs of several arms say together: pure functions on arrays."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from redline.judge.statistics import Floats, bounded_interval


def interval(
    values: ArrayLike, seed: int = 0, resamples: int = 10_000, level: float = 0.95, lowest: float = -1.0
) -> tuple[float, float]:
    """Percentile interval of the mean of ``values`` (S seeds, P prompts), both drawn again with replacement.

    The bootstrap for two crossed factors (Owen 2007, Annals of Applied Statistics 1, section 3): seeds and
    prompts are resampled apart, since every seed was judged on the same prompts. With one seed only the
    prompts vary; the interval then says nothing about other seeds. With few seeds it is rough. Where all
    values are one, it would have no width: the exact binomial bound for P prompts whose values can lie
    between ``lowest`` and 1 takes its place, as in ``win_rate_interval``.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise ValueError("expected finite values of seeds by prompts")
    if np.all(table == table[0, 0]):
        return bounded_interval(table[0], lowest, 1.0, seed, level)
    seeds, prompts = table.shape
    rows, columns = _draws(seeds, prompts, seed, resamples)
    means = ((rows @ table) * columns).sum(axis=1) / (seeds * prompts)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@lru_cache(maxsize=8)
def _draws(seeds: int, prompts: int, seed: int, resamples: int) -> tuple[Floats, NDArray[np.uint8]]:
    """How often each seed and prompt is drawn in each resample, (R, S) and (R, P). Kept: an experiment asks
    hundreds of times."""
    random = np.random.default_rng(seed)
    rows = random.multinomial(seeds, np.full(seeds, 1 / seeds), resamples)
    columns = random.multinomial(prompts, np.full(prompts, 1 / prompts), resamples)
    return rows.astype(np.float64), columns.astype(np.uint8)


def level_weights(kl: ArrayLike, level: float) -> Floats | None:
    """How to read a curve of win rates at a KL: a weight for each of its points (K,), which add up to 1; None
    outside its range.

    The curve is ``first point + d (a - b log d)`` with ``d = sqrt(KL)``, by least squares over all points
    after the first (with one alone, ``b`` is 0). It is the form that Gao, Schulman and Hilton (2023) found
    for a gold reward under RL; for win rates it is [ours]. A measurement on some dozens of prompts is off by
    several points, and so is what one reads from two neighbours. The fit is a weighted sum of all points, so
    that each prompt's preferences can be read by the same weights.
    """
    places = np.maximum(np.asarray(kl, dtype=np.float64), 0.0)  # an estimate of a small KL may lie below 0
    if not places.size or not places.min() <= level <= places.max():
        return None
    terms = 2 if len(set(places[1:]) - {0.0}) > 1 else 1
    others = _features(level)[:terms] @ np.linalg.pinv(_features(places[1:])[:, :terms])
    return np.concatenate([[1 - others.sum()], others])


def _features(kl: ArrayLike) -> Floats:
    """``d`` and ``d log d`` (..., 2)."""
    distance = np.sqrt(np.asarray(kl, dtype=np.float64))
    return np.stack([distance, distance * np.log(np.where(distance > 0, distance, 1.0))], -1)


def level_gap(kl: ArrayLike, level: float) -> float | None:
    """How many nats a curve's last point below a KL and its first one above are apart; None outside its
    range."""
    places = np.asarray(kl, dtype=np.float64)
    below, above = places[places <= level], places[places >= level]
    return float(above.min() - below.max()) if below.size and above.size else None


def first_reach(values: Sequence[float], x: Sequence[float], level: float) -> float | None:
    """The ``x`` at which a curve of ``values`` first comes to ``level``, straight between its points; None if
    it never does."""
    for here, value in enumerate(values):
        if value >= level:
            if here == 0:
                return x[0]
            share = (level - values[here - 1]) / (value - values[here - 1])
            return x[here - 1] + share * (x[here] - x[here - 1])
    return None
