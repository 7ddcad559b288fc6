"""An experiment's arms side by side: win rates, paired differences, curves read at given levels, and what
each arm cost."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from statistics import median

import numpy as np

from redline.experiment.arms import Cell
from redline.experiment.recipe import Experiment
from redline.experiment.results import Point, Preferences, Result
from redline.experiment.statistics import first_reach, interval, level_gap, level_weights
from redline.judge.statistics import Floats
from redline.types import JsonObject

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


def summarise(experiment: Experiment, cells: Sequence[Cell], results: Sequence[Result]) -> JsonObject:
    """The object of summary.json; docs/experiment.md says what each number means. All shares from 0 to 1.

    Differences are of preferences for the same prompts and seeds, at the end (``kl`` None, for every judge)
    and where the curves are at each of the experiment's KL levels (by the first judge).
    """
    by_arm = _by_arm(experiment.arms, results)
    judges = _judges(results)
    ends = {judge: _ends(by_arm, judge) for judge in judges}
    levels = {kl: _at_levels(by_arm, kl) for kl in experiment.kl_levels}
    gold = judges[0] if judges else None
    differences = []
    for judge in judges:
        differences += _differences(ends[judge], judge, None)
    for kl in experiment.kl_levels:
        differences += _differences(levels[kl], gold, kl)
    arms = []
    for arm, runs in by_arm.items():
        asked = [cell.seed for cell in cells if cell.arm == arm]
        by_judge = {judge: tables[arm] for judge, tables in ends.items()}
        by_level = {kl: tables[arm] for kl, tables in levels.items()}
        arms.append(_arm(arm, runs, asked, by_judge, by_level, experiment.gold_levels))
    return {
        "name": experiment.name,
        "baseline": experiment.baseline or next(iter(experiment.arms)),
        "judges": judges,
        "gold": gold,
        "arms": arms,
        "unfinished": _unfinished(experiment.arms, cells, results),
        "differences": differences,
    }


def _by_arm(arms: Iterable[str], results: Sequence[Result]) -> dict[str, list[Result]]:
    """The finished runs of each arm that has some, in the order of the arms."""
    runs: dict[str, list[Result]] = {arm: [] for arm in arms}
    for result in results:
        runs[result.cell.arm].append(result)
    for arm in list(runs):
        if not runs[arm]:
            del runs[arm]
    return runs


def _judges(results: Sequence[Result]) -> list[str]:
    """The judges' names, the first one first, each once."""
    names: dict[str, None] = {}
    for result in results:
        names.update(dict.fromkeys(result.preferences))
    return list(names)


def _differences(tables: dict[str, Table], judge: str | None, kl: float | None) -> list[JsonObject]:
    """The difference between every two arms that have seeds in common."""
    differences = []
    for a, b in combinations(tables, 2):
        difference = _difference(tables, a, b)
        if difference["seeds"]:
            differences.append(difference | {"judge": judge, "kl": kl})
    return differences


def _ends(by_arm: dict[str, list[Result]], judge: str) -> dict[str, Table]:
    """A judge's preferences at the end of training, by arm and seed."""
    tables: dict[str, Table] = {}
    for arm, runs in by_arm.items():
        tables[arm] = {run.cell.seed: run.preferences[judge] for run in runs}
    return tables


def _at_levels(by_arm: dict[str, list[Result]], kl: float) -> dict[str, Table]:
    """The preferences where each run's curve is at a KL, by arm and seed; runs that do not come there are
    left out."""
    tables: dict[str, Table] = {}
    for arm, runs in by_arm.items():
        tables[arm] = {}
        for run in runs:
            preferences = at_level(run.curve, kl)
            if preferences is not None:
                tables[arm][run.cell.seed] = preferences
    return tables


def _unfinished(arms: Iterable[str], cells: Sequence[Cell], results: Sequence[Result]) -> list[str]:
    """The arms, in their order, with the seeds that are not finished, as text."""
    finished = {(result.cell.arm, result.cell.seed) for result in results}
    missing: dict[str, list[str]] = {arm: [] for arm in arms}
    for cell in cells:
        if (cell.arm, cell.seed) not in finished:
            missing[cell.arm].append(str(cell.seed))
    lines = []
    for arm, seeds in missing.items():
        if seeds:
            word = "seed" if len(seeds) == 1 else "seeds"
            lines.append(f"{arm}, {word} {', '.join(seeds)}")
    return lines


def at_level(curve: Sequence[Point], kl: float) -> Preferences | None:
    """Every prompt's preference where the curve that fits all points is at a KL; None outside its range.
    Prompts that lack a verdict at some point are left out."""
    weights = level_weights([point.kl for point in curve], kl)
    if weights is None:
        return None
    parts = [(weight, point.preferences) for weight, point in zip(weights, curve, strict=True) if weight != 0]
    preferences = {}
    for name in _judged_in_all([given for _, given in parts]):
        preferences[name] = float(sum(weight * given[name] for weight, given in parts))
    return preferences


def _judged_in_all(tables: Sequence[Preferences]) -> list[str]:
    """The prompts that every table has, in the order of the first."""
    return [name for name in tables[0] if all(name in table for table in tables)]


def _arm(
    arm: str,
    results: Sequence[Result],
    asked: Sequence[int],
    ends: dict[str, Table],
    levels: dict[float, Table],
    gold_levels: Sequence[float],
) -> JsonObject:
    """One arm's row: means over its seeds, its curve at each level, its price and its cost."""
    figures = [result.figures for result in results]
    seconds = _mean_seconds(figures)
    kl = [figure["kl"] for figure in figures]
    row: JsonObject = {
        "arm": arm,
        "seeds": [result.cell.seed for result in results],
        "asked": list(asked),
        "win_rates": {judge: _win_rate(table) for judge, table in ends.items()},
        "length_controlled": {judge: _length_controlled(figures, judge) for judge in ends},
    }
    for key in MEANS:
        row[key] = _mean([figure[key] for figure in figures])
    peaks = [figure["peak_gb"] for figure in figures if figure["peak_gb"]]
    return row | {
        "kl_range": [min(kl), max(kl)],
        "gold_at_kl": [_gold_at(level, table, results) for level, table in levels.items()],
        "price": [_price(results, level) for level in gold_levels],
        "seconds": seconds,
        "seconds_total": sum(seconds.values()),
        "peak_gb": max(peaks, default=None),
    }


def _mean_seconds(figures: Sequence[JsonObject]) -> dict[str, float]:
    """The mean seconds of each stage; a run without a stage counts as 0."""
    stages: dict[str, None] = {}
    for figure in figures:
        stages.update(dict.fromkeys(figure["seconds"]))
    seconds = {}
    for stage in stages:
        seconds[stage] = _mean([figure["seconds"].get(stage, 0.0) for figure in figures])
    return seconds


def _length_controlled(figures: Sequence[JsonObject], judge: str) -> float | None:
    """The mean length-controlled win rate; None where a judge has none, as the judge of length."""
    rates = [figure["judges"][judge]["length_controlled_win_rate"] for figure in figures]
    return None if None in rates else _mean(rates)


def _gold_at(level: float, table: Table, results: Sequence[Result]) -> JsonObject:
    """An arm's win rate at a KL level, over the seeds whose curves come there."""
    row: JsonObject = {"kl": level, "seeds": len(table)}
    if table:
        row |= {"apart": _apart(results, level), **_win_rate(table)}
    return row


def _apart(results: Sequence[Result], kl: float) -> float:
    """How many nats lie between a run's two measurements around a KL, on average over the runs."""
    gaps = []
    for result in results:
        gap = level_gap([point.kl for point in result.curve], kl)
        if gap is not None:
            gaps.append(gap)
    return _mean(gaps)


def _win_rate(table: Table) -> JsonObject:
    values = _values([table], list(table))[0]
    if not values.size:
        return {}
    return {
        "win_rate": float(values.mean()),
        "ci95": list(interval(values, lowest=0.0)),
        "prompts": values.shape[1],
    }


def _difference(tables: dict[str, Table], a: str, b: str) -> JsonObject:
    """How much better ``a`` did than ``b`` over the seeds and prompts that both have; ``seeds`` is empty
    where there are none."""
    seeds = [seed for seed in tables[a] if seed in tables[b]]
    first, second = _values([tables[a], tables[b]], seeds)
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
    preferences = []
    for table in tables:
        preferences += [table[seed] for seed in seeds]
    prompts = _judged_in_all(preferences) if preferences else []
    values = []
    for table in tables:
        array = np.zeros((len(seeds), len(prompts)))
        for row, seed in enumerate(seeds):
            array[row] = [table[seed][prompt] for prompt in prompts]
        values.append(array)
    return values


def _price(results: Sequence[Result], level: float) -> JsonObject:
    """Median samples and seconds of learning until the gold score is at a level, over the runs that come
    there."""
    samples: list[float] = []
    seconds: list[float] = []
    for result in results:
        points = [point for point in result.curve if point.samples is not None and point.seconds is not None]
        gold = [point.gold for point in points]
        samples_until = first_reach(gold, [float(point.samples or 0) for point in points], level)
        seconds_until = first_reach(gold, [point.seconds or 0.0 for point in points], level)
        if samples_until is not None and seconds_until is not None:
            samples.append(samples_until)
            seconds.append(seconds_until)
    return {
        "gold": level,
        "seeds": len(samples),
        "samples": median(samples) if samples else None,
        "seconds": median(seconds) if seconds else None,
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
