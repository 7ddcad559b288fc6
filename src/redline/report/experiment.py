"""The page of an experiment: its arms side by side, their curves, and what each of them cost. One HTML file,
as for a run."""

import json
from pathlib import Path

import yaml
from markupsafe import Markup

from redline.data.files import read_json, whole_file
from redline.errors import UserError
from redline.report.charts import Series, line_chart, number, percent
from redline.report.folder import RunFolder
from redline.report.page import render, write_report
from redline.report.rounds import write_rounds
from redline.report.sanity import sanity
from redline.report.section_run import duration
from redline.report.when import dates_and_machines
from redline.run.files import RunFiles
from redline.types import JsonObject
from redline.urls import without_logins

Json = JsonObject
AXES = (
    ("kl", "Gold against KL", "nats a response"),
    ("samples", "Gold against samples", "responses"),
    ("seconds", "Gold against time", "seconds of learning"),
)

NOTHING = {"text": "–", "interval": "", "sure": False, "seeds": ""}  # a cell of a table without a figure


def write_page(folder: Path) -> Path:
    """Write the page of a run, of an experiment or of rounds, and return its path. Raises UserError when the
    folder is none of theirs."""
    if (folder / "rounds.json").exists():
        return write_rounds(folder)
    return write_experiment(folder) if (folder / "summary.json").exists() else write_report(folder)


def figures_of(folder: Path) -> JsonObject:
    """The figures of a run (its comparison, its reward model, what should be minded), of an experiment or of
    rounds."""
    if (folder / "rounds.json").exists():
        rounds: JsonObject = read_json(folder / "rounds.json")
        return rounds
    if (folder / "summary.json").exists():
        summary: JsonObject = read_json(folder / "summary.json")
        return summary
    run = RunFolder(folder)
    return {
        "winrate": run.json(run.files.winrate),
        "reward": run.json(run.files.reward.metrics),
        "sanity": sanity(run),
    }


def write_experiment(folder: Path) -> Path:
    """Write ``folder``/report.html from summary.json, results.jsonl and experiment.yaml, and return its path.

    Raises UserError when the folder has no results.
    """
    if not (folder / "summary.json").exists():
        raise UserError(
            f"{folder}: has no summary.json, so no experiment was run there. Run: redline experiment RECIPE "
            f"--out {folder}"
        )
    html = build_page(folder)
    page = folder / "report.html"
    with whole_file(page) as out:
        out.write(html)
    return page


def build_page(folder: Path) -> str:
    """The page as text."""
    summary = read_json(folder / "summary.json")
    runs = []
    for line in (folder / "results.jsonl").read_text(encoding="utf-8").split("\n"):
        if line:
            runs.append(json.loads(line))
    recipe = without_logins((folder / "experiment.yaml").read_text(encoding="utf-8"))
    arms = summary["arms"]
    names = [arm["arm"] for arm in arms]
    stages: dict[str, None] = {}
    for arm in arms:
        stages.update(dict.fromkeys(arm["seconds"]))
    return render(
        "experiment.html",
        name=summary["name"],
        summary=summary,
        runs=runs,
        recipe=recipe,
        judges=[short(judge) for judge in summary["judges"]],
        gold=short(summary["gold"] or "none yet"),
        changes=_changes(recipe),
        when=dates_and_machines(RunFiles(folder / str(run["arm"]) / f"seed-{run['seed']}") for run in runs),
        arms=[_arm(arm, summary["judges"]) for arm in arms],
        against=[_against(name, summary) for name in names if name != summary["baseline"]],
        levels=[row["kl"] for row in arms[0]["gold_at_kl"]] if arms else [],
        golds=[row["gold"] for row in arms[0]["price"]] if arms else [],
        matrix=[_against_all(name, names, summary) for name in names],
        charts=[_charts(names, runs, summary, axis) for axis in AXES],
        stages=list(stages),
    )


def _changes(recipe: str) -> dict[str, str]:
    """What each arm changes of the base recipe, in a line of YAML."""
    changes = {}
    for arm, keys in yaml.safe_load(recipe)["arms"].items():
        text = yaml.safe_dump(keys, default_flow_style=True, width=1000).strip()
        changes[arm] = text[1:-1] or "the base as it is"
    return changes


def _against_all(arm: str, others: list[str], summary: Json) -> Json:
    """An arm's row in the table of all arms against all."""
    cells = []
    for other in others:
        cells.append(_cell(_find(summary, arm, other, summary["gold"], None)))
    return {"arm": arm, "cells": cells}


def _charts(arms: list[str], runs: list[Json], summary: Json, axis: tuple[str, str, str]) -> Json:
    """A chart for each arm that has a curve over one of ``AXES``."""
    key, title, label = axis
    charts = []
    for arm in arms:
        chart = _curves(arm, runs, summary, key, label)
        if chart:
            charts.append(chart)
    return {"title": title, "charts": charts}


def short(judge: str) -> str:
    """A judge's name without the folders of its file."""
    return judge.rpartition("/")[2]


def _arm(arm: Json, judges: list[str]) -> Json:
    """An arm's row in each table, as text."""
    low, high = arm["kl_range"]
    row = {
        "name": arm["arm"],
        "seeds": f"{len(arm['seeds'])} of {len(arm['asked'])}",
        "win_rates": [_share(arm["win_rates"][judge]) for judge in judges],
        "length_controlled": percent(arm["length_controlled"][judges[0]]),
        "kl": number(arm["kl"]),
        "kl_range": f"{number(low)} to {number(high)}",
        "at_kl": [_at_kl(row, arm) for row in arm["gold_at_kl"]],
        "price": [_price(row, arm) for row in arm["price"]],
        "seconds": {stage: duration(seconds) for stage, seconds in arm["seconds"].items()},
        "total": duration(arm["seconds_total"]),
        "peak_gb": number(arm["peak_gb"]),
    }
    for key in ("perplexity", "distinct_bigrams", "repetition_rate", "mean_words"):
        row[key] = (number(arm[key]), number(arm[f"{key}_reference"]))
    return row


def _at_kl(row: Json, arm: Json) -> Json:
    """An arm's win rate at a KL level, and how many of its seeds come there."""
    seeds = _of_seeds(row, arm)
    if "apart" in row:
        seeds += f"; {number(row['apart'])} nats"
    return _share(row) | {"seeds": seeds}


def _price(row: Json, arm: Json) -> Json:
    """What an arm took to come to a gold score."""
    samples, seconds = row["samples"], row["seconds"]
    return {
        "samples": number(samples and round(samples)),
        "seeds": _of_seeds(row, arm),
        "seconds": "–" if seconds is None else duration(seconds),
    }


def _of_seeds(row: Json, arm: Json) -> str:
    return f"{row['seeds']} of {len(arm['seeds'])} seeds"


def _share(row: Json) -> Json:
    """A win rate and its interval; a dash where there is none."""
    if "win_rate" not in row:
        return dict(NOTHING)
    low, high = row["ci95"]
    return {**NOTHING, "text": percent(row["win_rate"]), "interval": f"{100 * low:.1f} to {100 * high:.1f}"}


def _against(arm: str, summary: Json) -> Json:
    """An arm's differences from the baseline: at the end by every judge, and at each KL level."""
    base = summary["baseline"]
    levels = [row["kl"] for row in summary["arms"][0]["gold_at_kl"]]
    return {
        "arm": arm,
        "ends": [_cell(_find(summary, arm, base, judge, None)) for judge in summary["judges"]],
        "levels": [_cell(_find(summary, arm, base, summary["gold"], level)) for level in levels],
    }


def _find(summary: Json, a: str, b: str, judge: str, kl: float | None) -> Json | None:
    """The difference of ``a`` from ``b``, whichever way round it is kept."""
    for row in summary["differences"]:
        if (row["judge"], row["kl"]) != (judge, kl):
            continue
        if (row["a"], row["b"]) == (a, b):
            return dict(row)
        if (row["a"], row["b"]) == (b, a):
            low, high = row["ci95"]
            return {**row, "difference": -row["difference"], "ci95": [-high, -low]}
    return None


def _cell(row: Json | None) -> Json:
    """A difference in percentage points; ``sure`` where its interval leaves out 0."""
    if row is None:
        return dict(NOTHING)
    low, high = row["ci95"]
    seeds = len(row["seeds"])
    return {
        "text": _points(row["difference"]),
        "interval": f"{_points(low)} to {_points(high)}",
        "sure": low > 0 or high < 0,
        "seeds": "1 seed" if seeds == 1 else f"{seeds} seeds",
    }


def _points(share: float) -> str:
    return f"{100 * share:+z.1f}".replace("-", "−")


def _curves(arm: str, runs: list[Json], summary: Json, key: str, label: str) -> Markup:
    """Every seed's curve of an arm, and behind them the baseline's, dashed; the same axes for all arms."""
    base = summary["baseline"]
    points: list[tuple[float, float]] = []
    mine, theirs = [], []
    for run in runs:
        curve = _points_of(run, key)
        points += curve
        if run["arm"] == arm:
            mine.append(curve)
        elif run["arm"] == base:
            theirs.append(curve)
    if not any(mine):
        return Markup("")
    series = []
    for name, curves, style in ((base, theirs, "guide"), (arm, mine, "main")):
        key_text = f"{name}, each seed"
        for curve in curves:
            series.append(Series(key_text, curve, style))
            key_text = ""  # only the first curve of an arm stands in the key
    most = max(x for x, _ in points)
    least_gold = min(0.4, *(y for _, y in points))
    return line_chart(
        arm, "win rate over the reference", series, label, (least_gold, 1.0), (0.0, most or 1.0)
    )


def _points_of(run: Json, key: str) -> list[tuple[float, float]]:
    points = []
    for point in run["curve"]:
        if point.get(key) is not None:
            points.append((float(point[key]), float(point["gold"])))
    return points
