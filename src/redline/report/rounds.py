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
    series = []
    for key, name, style in OPPONENTS:
        points = [(row["round"], row[key]) for row in rounds]
        series.append(Series(name, points, style))
    chart = line_chart(
        "Win rate, round after round",
        "share of prompts won",
        series,
        "round",
        x_range=(1, max(len(rounds), 2)),
    )
    rows = []
    for row in rounds:
        shares = [_share(row, key) for key, _, _ in OPPONENTS]
        rows.append({**row, "shares": shares})
    html = render("rounds.html", name=folder.name, chart=chart, rows=rows)
    page = folder / "report.html"
    with whole_file(page) as out:
        out.write(html)
    return page


def _share(row: JsonObject, key: str) -> tuple[str, str]:
    """A win rate and its interval, as text."""
    low, high = row[f"{key}_ci95"]
    return percent(row[key]), f"{percent(low)} to {percent(high)}"
