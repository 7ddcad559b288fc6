"""Win rates and what one may say of them: pure functions on arrays of preferences.

A preference is a number in [0, 1] for one prompt: 1, the first system's response is better; 0, the second's;
0.5, a tie.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def _checked(values: ArrayLike, low: float = 0.0, high: float = 1.0) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError("expected a non-empty list of numbers, one for each prompt")
    if not np.all((array >= low) & (array <= high)):
        raise ValueError(f"expected numbers from {low:g} to {high:g}")
    return array


def win_rate(preferences: ArrayLike) -> float:
    """Mean preference: wins plus half the ties, as a share of ``n``. ``preferences``: (n,) in [0, 1].

    AlpacaEval's win rate (Dubois et al. 2023, arXiv 2305.14387).
    """
    return float(_checked(preferences).mean())


def standard_error(values: ArrayLike) -> float:
    """Standard error of the mean of ``values`` (n,): sample deviation (n - 1) over the root of n. NaN for n =
    1.

    The figure after ± on AlpacaEval's leaderboard, as a share.
    """
    array = _checked(values, -math.inf, math.inf)
    return float(array.std(ddof=1) / math.sqrt(array.size)) if array.size > 1 else math.nan


def outcome_counts(preferences: ArrayLike) -> tuple[int, int, int]:
    """Wins (> 0.5), ties (exactly 0.5) and losses (< 0.5) among ``preferences`` (n,)."""
    array = _checked(preferences)
    wins, losses = int((array > 0.5).sum()), int((array < 0.5).sum())
    return wins, array.size - wins - losses, losses


def bootstrap_interval(
    values: ArrayLike, seed: int = 0, resamples: int = 10_000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``values`` (n,), one value for each prompt, prompts drawn
    with replacement.

    Of paired differences it is the paired bootstrap (Efron and Tibshirani 1993, chapter 13). The same seed
    gives the same interval.
    """
    array = _checked(values, -math.inf, math.inf)
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    at_once = max(1, 2_000_000 // array.size)
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        means[start : start + count] = array[random.integers(array.size, size=(count, array.size))].mean(
            axis=1
        )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def win_rate_interval(preferences: ArrayLike, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Interval of the win rate: the bootstrap over prompts, except where every prompt had the same
    preference.

    There the bootstrap has no width at all, however few prompts there were, and the exact binomial bound
    (Clopper and Pearson 1934) takes its place: all 10 of 10 won gives [0.69, 1]; ten ties [0.35, 0.65], as up
    to 31 % of other prompts may be won (or lost).
    """
    return bounded_interval(_checked(preferences), 0.0, 1.0, seed, level)


def bounded_interval(
    array: Floats, lowest: float, highest: float, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """The bootstrap's; of one value only, which can lie between ``lowest`` and ``highest``, the binomial
    bound."""
    if np.any(array != array[0]):
        return bootstrap_interval(array, seed, level=level)
    other, value = (
        1 - ((1 - level) / 2) ** (1 / array.size),
        float(array[0]),
    )  # the largest share of other values
    return value - other * (value - lowest), value + other * (highest - value)


def sign_test(wins: int, losses: int) -> float:
    """Exact two-sided sign test: the probability of a split at least as uneven as ``wins`` : ``losses`` when
    either side of a pair is equally likely to win. Ties say nothing and are left out (Conover 1999, section
    3.4); 1 without any decided pair.
    """
    decided, fewer = wins + losses, min(wins, losses)
    log_half = decided * math.log(0.5)
    log_all = math.lgamma(decided + 1) + log_half
    tail = math.fsum(
        math.exp(log_all - math.lgamma(k + 1) - math.lgamma(decided - k + 1)) for k in range(fewer + 1)
    )
    return min(1.0, 2 * tail)


@dataclass(frozen=True)
class Difference:
    """A paired difference of two systems' preferences over the same prompts: its mean, error (None for n =
    1), interval (as ``win_rate_interval``, within -1 and 1) and sign test."""

    difference: float
    standard_error: float | None
    ci95: tuple[float, float]
    sign_test_p: float
    n: int


def paired_difference(first: ArrayLike, second: ArrayLike, seed: int = 0) -> Difference:
    """How much better ``first`` did than ``second``, prompt by prompt: both (n,), preferences over one common
    reference.

    Pairing takes out what the prompts share, so the interval is narrower than the two win rates' own would
    suggest.
    """
    left, right = _checked(first), _checked(second)
    if left.shape != right.shape:
        raise ValueError("paired differences need the same prompts on both sides")
    delta = left - right
    return Difference(
        float(delta.mean()),
        standard_error(delta) if delta.size > 1 else None,
        bounded_interval(delta, -1.0, 1.0, seed),
        sign_test(int((delta > 0).sum()), int((delta < 0).sum())),
        delta.size,
    )


def bradley_terry(
    wins: ArrayLike, prior: float = 0.1, tolerance: float = 1e-10, max_rounds: int = 100_000
) -> Floats:
    """Bradley-Terry strengths of k systems, (k,), in log units with mean 0: P(i beats j) = sigmoid(s_i -
    s_j).

    ``wins`` (k, k): how often i (row) beat j (column); a tie is half a win for each. ``prior`` tied
    comparisons are added to every pair, so that a system that never lost keeps a finite strength; 0 gives the
    plain maximum likelihood. Fitted by minorisation-maximisation (Hunter 2004, Annals of Statistics 32,
    equation 3).
    """
    matrix = np.array(wins, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] < 2 or (matrix < 0).any():
        raise ValueError("expected a square matrix of non-negative counts for at least two systems")
    matrix += prior / 2
    np.fill_diagonal(matrix, 0)
    games, won = matrix + matrix.T, matrix.sum(axis=1)
    strength = np.ones(len(matrix))
    for _ in range(max_rounds):
        before = strength
        strength = won / (games / (strength[:, None] + strength[None, :])).sum(axis=1)
        if not strength.all():
            raise ValueError("a system never won, so its strength is minus infinity; give a prior above 0")
        strength = strength / np.exp(np.log(strength).mean())
        if np.abs(np.log(strength) - np.log(before)).max() < tolerance:
            break
    return np.log(strength)
