"""An experiment's arms side by side: win rates, paired differences, curves read at given levels, and what
each arm cost."""

from collections.abc import Sequence
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np

from redline.experiment.arms import Cell
from redline.experiment.recipe import Experiment
from redline.experiment.results import Point, Preferences, Result
from redline.experiment.statistics import first_reach, interval, level_gap, level_weights
from redline.judge.statistics import Floats

Table = dict[int, Preferences]  # by seed
MEANS = (
    "kl",
    "perplexity",
    "perplexity_reference",
    "distinct_bigrams",
    "distinct_bigrams_reference",
    "repetition_rate",
    "repetition_rate_reference",
    "mean_words",
    "mean_words_reference",
)


def summarise(experiment: Experiment, cells: Sequence[Cell], results: Sequence[Result]) -> dict[str, Any]:
    """The object of summary.json; docs/experiment.md says what each number means. All shares from 0 to 1.

    Differences are of preferences for the same prompts and seeds, at the end (``kl`` None, for every judge)
    and where the curves are at each of the experiment's KL levels (by the first judge).
    """
    arms = [arm for arm in experiment.arms if any(result.cell.arm == arm for result in results)]
    by_arm = {arm: [result for result in results if result.cell.arm == arm] for arm in arms}
    judges = list(dict.fromkeys(name for result in results for name in result.preferences))
    asked = {arm: [cell.seed for cell in cells if cell.arm == arm] for arm in experiment.arms}
    finished = {(result.cell.arm, result.cell.seed) for result in results}
    unfinished = {
        arm: [seed for seed in seeds if (arm, seed) not in finished] for arm, seeds in asked.items()
    }
    ends = {
        judge: {arm: {one.cell.seed: one.preferences[judge] for one in by_arm[arm]} for arm in arms}
        for judge in judges
    }
    levels = {
        kl: {
            arm: {
                one.cell.seed: there for one in by_arm[arm] if (there := at_level(one.curve, kl)) is not None
            }
            for arm in arms
        }
        for kl in experiment.kl_levels
    }
    first = judges[0] if judges else None
    differences = [
        _difference(tables, a, b) | {"judge": judge, "kl": kl}
        for tables, judge, kl in [
            *((ends[judge], judge, None) for judge in judges),
            *((levels[kl], first, kl) for kl in experiment.kl_levels),
        ]
        for a, b in combinations(arms, 2)
    ]
    return {
        "name": experiment.name,
        "baseline": experiment.baseline or next(iter(experiment.arms)),
        "judges": judges,
        "gold": first,
        "arms": [
            _arm(
                arm,
                by_arm[arm],
                asked[arm],
                {judge: ends[judge][arm] for judge in judges},
                {kl: levels[kl][arm] for kl in levels},
                experiment.gold_levels,
            )
            for arm in arms
        ],
        "unfinished": [
            f"{arm}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
            for arm, seeds in unfinished.items()
            if seeds
        ],
        "differences": [difference for difference in differences if difference["seeds"]],
    }


def at_level(curve: Sequence[Point], kl: float) -> Preferences | None:
    """Every prompt's preference where the curve that fits all points is at a KL; None outside its range.
    Prompts that lack a verdict at some point are left out."""
    weights = level_weights([point.kl for point in curve], kl)
    if weights is None:
        return None
    parts = [(weight, point.preferences) for weight, point in zip(weights, curve, strict=True) if weight != 0]
    return {
        name: float(sum(weight * given[name] for weight, given in parts))
        for name in parts[0][1]
        if all(name in given for _, given in parts)
    }


def _arm(
    arm: str,
    results: Sequence[Result],
    asked: Sequence[int],
    ends: dict[str, Table],
    levels: dict[float, Table],
    gold_levels: Sequence[float],
) -> dict[str, Any]:
    figures = [result.figures for result in results]
    stages = list(dict.fromkeys(stage for one in figures for stage in one["seconds"]))
    seconds = {stage: _mean([one["seconds"].get(stage, 0.0) for one in figures]) for stage in stages}
    return {
        "arm": arm,
        "seeds": [result.cell.seed for result in results],
        "asked": list(asked),
        "win_rates": {judge: _win_rate(table) for judge, table in ends.items()},
        "length_controlled": {
            judge: _mean_if_known([one["judges"][judge]["length_controlled_win_rate"] for one in figures])
            for judge in ends
        },
        **{key: _mean([one[key] for one in figures]) for key in MEANS},
        "kl_range": [min(one["kl"] for one in figures), max(one["kl"] for one in figures)],
        "gold_at_kl": [
            {
                "kl": kl,
                "seeds": len(table),
                **({"apart": _apart(results, kl), **_win_rate(table)} if table else {}),
            }
            for kl, table in levels.items()
        ],
        "price": [_price(results, level) for level in gold_levels],
        "seconds": seconds,
        "seconds_total": sum(seconds.values()),
        "peak_gb": max((one["peak_gb"] for one in figures if one["peak_gb"]), default=None),
    }


def _apart(results: Sequence[Result], kl: float) -> float:
    """How many nats lie between a run's two measurements around a KL, on average over the runs."""
    found = [level_gap([point.kl for point in result.curve], kl) for result in results]
    return _mean([gap for gap in found if gap is not None])


def _win_rate(table: Table) -> dict[str, Any]:
    values = _values([table], list(table))[0]
    if not values.size:
        return {}
    return {
        "win_rate": float(values.mean()),
        "ci95": list(interval(values, lowest=0.0)),
        "prompts": values.shape[1],
    }


def _difference(tables: dict[str, Table], a: str, b: str) -> dict[str, Any]:
    """How much better ``a`` did than ``b`` over the seeds and prompts that both have; ``seeds`` is empty
    where there are none."""
    seeds = [seed for seed in tables[a] if seed in tables[b]]
    first, second = _values([tables[a], tables[b]], seeds) if seeds else (np.zeros((0, 0)), np.zeros((0, 0)))
    if not first.size:
        return {"a": a, "b": b, "seeds": []}
    return {
        "a": a,
        "b": b,
        "seeds": seeds,
        "prompts": first.shape[1],
        "difference": float((first - second).mean()),
        "ci95": list(interval(first - second)),
        "by_seed": (first - second).mean(axis=1).tolist(),
    }


def _values(tables: Sequence[Table], seeds: Sequence[int]) -> list[Floats]:
    """Preferences (S, P) of each table, for the prompts that all of them judged with every seed."""
    every = [table[seed] for table in tables for seed in seeds]
    ids = [name for name in every[0] if all(name in given for given in every)] if every else []
    return [
        np.array([[table[seed][name] for name in ids] for seed in seeds], dtype=np.float64)
        for table in tables
    ]


def _price(results: Sequence[Result], level: float) -> dict[str, Any]:
    """Median samples and seconds of learning until the gold score is at a level, over the runs that come
    there."""
    found: dict[str, list[float]] = {"samples": [], "seconds": []}
    for result in results:
        points = [point for point in result.curve if point.samples is not None and point.seconds is not None]
        gold = [point.gold for point in points]
        reached = [
            first_reach(gold, [float(getattr(point, key)) for point in points], level) for key in found
        ]
        for key, value in zip(found, reached, strict=True):
            if value is not None:
                found[key].append(value)
    return {
        "gold": level,
        "seeds": len(found["samples"]),
        **{key: median(values) if values else None for key, values in found.items()},
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _mean_if_known(values: Sequence[float | None]) -> float | None:
    """The mean; None where a judge has no such figure: there is no length control for the judge of length."""
    known = [value for value in values if value is not None]
    return _mean(known) if len(known) == len(values) else None
