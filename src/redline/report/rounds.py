"""The page of `redline rounds`: each round's win rate over the first model and over the last round."""

from pathlib import Path

from redline.data.files import read_json, whole_file
from redline.report.charts import Series, line_chart, percent
from redline.report.page import render
from redline.types import JsonObject

OPPONENTS = (("over_first", "over the first model", "main"), ("over_last", "over the last round", "second"))


def write_rounds(folder: Path) -> Path:
    """Write ``folder``/report.html from rounds.json, and return its path."""
    rounds = read_json(folder / "rounds.json")["rounds"]
    series = [
        Series(name, [(row["round"], row[key]) for row in rounds], style) for key, name, style in OPPONENTS
    ]
    chart = line_chart(
        "Win rate, round after round",
        "share of prompts won",
        series,
        "round",
        x_range=(1, max(len(rounds), 2)),
    )
    page = folder / "report.html"
    with whole_file(page) as out:
        out.write(
            render(
                "rounds.html",
                name=folder.name,
                chart=chart,
                rows=[row | {"shares": [_share(row, key) for key, _, _ in OPPONENTS]} for row in rounds],
            )
        )
    return page


def _share(row: JsonObject, key: str) -> tuple[str, str]:
    """A win rate and its interval, as text."""
    low, high = row[f"{key}_ci95"]
    return percent(row[key]), f"{percent(low)} to {percent(high)}"
