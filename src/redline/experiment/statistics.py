"""What several runs of several arms say together: pure functions on arrays."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from redline.judge.statistics import Floats, bounded_interval


def interval(values: ArrayLike, seed: int = 0, resamples: int = 10_000, level: float = 0.95,
             lowest: float = -1.0) -> tuple[float, float]:
    """Percentile interval of the mean of ``values`` (S seeds, P prompts), both drawn again with replacement.

    The bootstrap for two crossed factors (Owen 2007, Annals of Applied Statistics 1, section 3): seeds and prompts are resampled
    apart, since every seed was judged on the same prompts. With one seed only the prompts vary; the interval then says nothing
    about other seeds. With few seeds it is rough. Where all values are one, it would have no width: the exact binomial bound for P
    prompts whose values can lie between ``lowest`` and 1 takes its place, as in ``win_rate_interval``.
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
    """How often each seed and prompt is drawn in each resample, (R, S) and (R, P). Kept: an experiment asks hundreds of times."""
    random = np.random.default_rng(seed)
    rows = random.multinomial(seeds, np.full(seeds, 1 / seeds), resamples)
    columns = random.multinomial(prompts, np.full(prompts, 1 / prompts), resamples)
    return rows.astype(np.float64), columns.astype(np.uint8)


def level_weights(x: ArrayLike, level: float) -> Floats | None:
    """How to read a curve at ``x = level``: a weight for each of its points (K,), which add up to 1; None outside its range.

    The curve runs through its points in their order, straight in between, and may cross the level several times (a KL that a
    controller steers does): all crossings count the same.
    """
    places, crossings = np.asarray(x, dtype=np.float64), _crossings(x, level)
    weights = np.zeros(len(places))
    for here in crossings:
        share = (level - places[here]) / (places[here + 1] - places[here])
        weights[here] += 1 - share
        weights[here + 1] += share
    return weights / len(crossings) if crossings else None


def level_gap(x: Sequence[float], level: float) -> float | None:
    """How far apart, in units of ``x``, the two points lie between which a curve is read at ``level`` (their mean, where it
    crosses several times); None outside its range."""
    gaps = [abs(x[here + 1] - x[here]) for here in _crossings(x, level)]
    return sum(gaps) / len(gaps) if gaps else None


def _crossings(x: ArrayLike, level: float) -> list[int]:
    """The points from which a curve goes over or to ``level`` on its way to the next."""
    places = np.asarray(x, dtype=np.float64)
    low, high = np.minimum(places[:-1], places[1:]), np.maximum(places[:-1], places[1:])
    return np.flatnonzero((low <= level) & (level <= high) & (low < high)).tolist()


def first_reach(values: Sequence[float], x: Sequence[float], level: float) -> float | None:
    """The ``x`` at which a curve of ``values`` first comes to ``level``, straight between its points; None if it never does."""
    for here, value in enumerate(values):
        if value >= level:
            if here == 0:
                return x[0]
            share = (level - values[here - 1]) / (value - values[here - 1])
            return x[here - 1] + share * (x[here] - x[here - 1])
    return None
