"""An experiment's results, made up: what the summary and the page read, with figures that can be worked out
by hand."""

from pathlib import Path
from typing import Any

import yaml

from redline.data.files import write_json, write_jsonl
from redline.experiment.arms import Cell
from redline.experiment.recipe import Experiment
from redline.experiment.results import Point, Result, _plain
from redline.experiment.summary import summarise

BASE: dict[str, Any] = {"data": {"edits": {"path": "edits.jsonl"}}}
PROMPTS = [f"p{number}" for number in range(20)]


def experiment(arms: list[str], seeds: list[int]) -> Experiment:
    return Experiment(
        name="made-up",
        base=BASE,
        arms={arm: {} for arm in arms},
        seeds=seeds,
        kl_levels=[2.0, 9.0],
        gold_levels=[0.6],
    )


def result(cell: Cell, won: float, curve: list[tuple[float, float]], seconds: float = 100.0) -> Result:
    """A run that won a share of the prompts, by two judges, and whose curve has these (KL, gold) points, 32
    samples apart."""

    def given(share: float) -> dict[str, float]:
        return {name: float(place < share * len(PROMPTS)) for place, name in enumerate(PROMPTS)}

    points = [
        Point(kl, gold, 32 * place, 10.0 * place, 0.05, preferences=given(gold))
        for place, (kl, gold) in enumerate(curve)
    ]
    judged = {
        "win_rate": won,
        "ci95": [won - 0.1, won + 0.1],
        "standard_error": 0.05,
        "n": 20,
        "wins": 0,
        "ties": 0,
        "losses": 0,
        "length_controlled_win_rate": won,
    }
    figures = {
        "folder": str(cell.folder),
        "judges": {"vader": judged, "recipes/judge.py:other": judged},
        "kl": curve[-1][0],
        "kl_error": 0.2,
        "perplexity": 21.0,
        "perplexity_reference": 25.0,
        "seconds": {"reward": 60.0, "policy": seconds},
        "taken_over": {},
        "peak_gb": 1.5,
    }
    for name in ("mean_words", "distinct_bigrams", "repetition_rate"):
        figures |= {name: 0.5, f"{name}_reference": 0.6}
    return Result(cell, figures, {"vader": given(won), "recipes/judge.py:other": given(won / 2)}, points)


def write(folder: Path, made: Experiment, asked: list[Cell], results: list[Result]) -> Path:
    """The files of a finished experiment."""
    folder.mkdir(parents=True)
    (folder / "experiment.yaml").write_text(
        yaml.safe_dump(made.model_dump(exclude_unset=True), sort_keys=False)
    )
    write_json(folder / "summary.json", summarise(made, asked, results))
    write_jsonl(
        folder / "results.jsonl",
        [
            {
                "arm": one.cell.arm,
                "seed": one.cell.seed,
                **one.figures,
                "curve": [_plain(point) for point in one.curve],
            }
            for one in results
        ],
    )
    return folder
