"""Length-controlled win rate: what would the win rate be if both systems wrote equally long responses?

The logistic model of AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475): with z = (length of a - length of
b) / its deviation,

    P(a preferred on prompt x) = sigmoid(theta + phi * tanh(z) + psi * difficulty(x))

is fitted to the judge's preferences, and the length-controlled win rate is its mean over the prompts with z =
0.

The leaderboard's own fit has two inputs besides the verdicts. (1) It adds, with a weight of 0.2, verdicts on
deliberately short and long answers of the baseline, in which theta is 0: they hold phi to the effect that
length alone has. They are not part of this project; here a normal prior on phi with the same centre and
information takes their place (``ANCHOR``). (2) ``difficulty`` was fitted over the whole leaderboard; pass
your own if you have it, otherwise the term is left out. With both differences the published 29.78 and 26.29
come out as 29.66 and 26.22.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

ANCHOR = (1.648, 0.01657)
"""Centre of the prior on phi, and its information for each prompt judged.

Both follow from published figures: asked to be short, the leaderboard's baseline won 22.92 % against itself,
with answers of 1,137 characters on average against 2,049; asked to be long, 64.30 % with 2,403. The centre is
the phi that explains the two together, the information that of 2 x 805 verdicts at weight 0.1 each, divided
by 805 (benchmarks/length_anchor.py)."""

NEUTRAL = (0.0, ANCHOR[1])
"""The same information without the belief that length pleases: for judges other than LLMs."""

_RIDGE = 0.01  # precision that keeps theta and psi finite where every prompt was won


@dataclass(frozen=True)
class LengthControlled:
    """``win_rate`` at equal lengths (a share), and the coefficients: ``advantage`` theta, ``length_effect``
    phi, psi."""

    win_rate: float
    advantage: float
    length_effect: float
    difficulty_effect: float = 0.0


def length_controlled_win_rate(
    preferences: ArrayLike,
    length_a: ArrayLike,
    length_b: ArrayLike,
    difficulty: ArrayLike | None = None,
    anchor: tuple[float, float] | None = ANCHOR,
) -> LengthControlled:
    """Fit the model above. All arrays (n,): preferences for a in [0, 1], lengths in characters (any unit will
    do).

    ``anchor=None`` leaves phi to the data alone. Where the lengths never differ differently, the win rate is
    returned as it is.
    """
    outcome = np.asarray(preferences, dtype=np.float64)
    delta = np.asarray(length_a, dtype=np.float64) - np.asarray(length_b, dtype=np.float64)
    if outcome.ndim != 1 or outcome.size == 0 or outcome.shape != delta.shape:
        raise ValueError("expected preferences and both lengths for the same prompts, at least one")
    spread = float(delta.std(ddof=1)) if delta.size > 1 else 0.0
    if spread == 0:
        return LengthControlled(float(outcome.mean()), _logit(float(outcome.mean())), 0.0)
    columns = [np.ones_like(outcome), np.tanh(delta / spread)]
    if difficulty is not None:
        columns.append(np.asarray(difficulty, dtype=np.float64))
    centre, information = anchor or (0.0, 0.0)
    mean, precision = np.zeros(len(columns)), np.full(len(columns), _RIDGE)
    mean[1], precision[1] = centre, max(information * outcome.size, _RIDGE)
    features = np.stack(columns, axis=1)
    weights = fit_logistic(features, outcome, mean, precision)
    features[:, 1] = 0.0
    return LengthControlled(
        float(_sigmoid(features @ weights).mean()), *(float(weight) for weight in weights)
    )


def fit_logistic(features: Floats, targets: Floats, mean: Floats, precision: Floats) -> Floats:
    """Weights (d,) of a logistic regression by Newton's method with step halving, under independent normal
    priors.

    ``features`` (n, d); ``targets`` (n,) in [0, 1], shares are allowed; ``mean``, ``precision`` (d,) of the
    priors, precision above 0, which makes the objective strictly convex.
    """

    def objective(weights: Floats) -> float:
        logits = features @ weights
        return float(
            (np.logaddexp(0, logits) - targets * logits).sum() + (precision * (weights - mean) ** 2).sum() / 2
        )

    weights = mean.copy()
    for _ in range(100):
        chance = _sigmoid(features @ weights)
        gradient = features.T @ (chance - targets) + precision * (weights - mean)
        curvature = (features * (chance * (1 - chance))[:, None]).T @ features + np.diag(precision)
        step = np.linalg.solve(curvature, gradient)
        here, size = objective(weights), 1.0
        while objective(weights - size * step) > here and size > 1e-6:
            size /= 2
        weights = weights - size * step
        if np.abs(step).max() < 1e-10:
            break
    return weights


def _sigmoid(values: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -values))


def _logit(share: float) -> float:
    share = min(max(share, 1e-6), 1 - 1e-6)
    return float(np.log(share / (1 - share)))
