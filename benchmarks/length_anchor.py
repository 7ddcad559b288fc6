"""The prior of the length-controlled win rate (``redline.judge.length.ANCHOR``), from AlpacaEval's public
files.

    python benchmarks/length_anchor.py BASELINE.json CONCISE.json VERBOSE.json

The three are model_outputs.json of gpt4_1106_preview and of its _concise and _verbose variants in
tatsu-lab/alpaca_eval. The variants' published win rates over the baseline say how strongly length alone moves
GPT-4's verdicts: for each variant the coefficient is found with which sigmoid(phi * tanh(z)) has that mean,
and the two are pooled at the leaderboard's weights.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

PUBLISHED = (0.22920194440472, 0.64303601471018)  # the leaderboard's win rates of the variants
WEIGHT, PROMPTS = 0.1, 805


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def excess(phi: float, term: np.ndarray, rate: float, direction: int) -> float:
    """How far the win rate that this coefficient gives is beyond the published one."""
    return direction * float(sigmoid(phi * term).mean() - rate)


def root(function: Callable[[float], float], low: float = 0.0, high: float = 20.0) -> float:
    """Where an increasing function crosses zero, by bisection."""
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return low


if __name__ == "__main__":
    outputs = [json.loads(Path(path).read_text()) for path in sys.argv[1:4]]
    baseline, *variants = (np.array([len(row["output"]) for row in rows]) for rows in outputs)
    terms, chances = [], []
    for lengths, rate in zip(variants, PUBLISHED, strict=True):
        delta = lengths - baseline
        term = np.tanh(delta / delta.std(ddof=1))
        direction = 1 if rate > 0.5 else -1
        phi = root(partial(excess, term=term, rate=rate, direction=direction))
        print(
            f"mean length {lengths.mean():.0f} against {baseline.mean():.0f}, win rate {rate:.4f}: phi "
            f"{phi:.4f}"
        )
        terms.append(term)
        chances.append(sigmoid(phi * term))
    term, chance = np.concatenate(terms), np.concatenate(chances)
    centre = root(lambda value: ((sigmoid(value * term) - chance) * term).sum())
    fitted = sigmoid(centre * term)
    print(
        f"centre {centre:.4f}, information for each prompt "
        f"{(WEIGHT * fitted * (1 - fitted) * term**2).sum() / PROMPTS:.5f}"
    )
