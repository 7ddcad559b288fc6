"""An experiment's table for other programs: summary.csv, and summary.tex for a paper."""

import csv
from pathlib import Path

from redline.data.files import whole_file
from redline.types import JsonObject

FIGURES = ("kl", "perplexity", "distinct_bigrams", "mean_words", "seconds_total", "peak_gb")
TEX = str.maketrans({"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"})


def export_tables(summary: JsonObject, folder: Path) -> None:
    """Write ``folder``/summary.csv and summary.tex: one row an arm, win rates as shares with their 95 %
    intervals."""
    rows = [_row(arm, summary["judges"]) for arm in summary["arms"]]
    with whole_file(folder / "summary.csv") as file:
        writer = csv.DictWriter(file, fieldnames=list(_columns(summary["judges"])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with whole_file(folder / "summary.tex") as file:
        file.write(_latex(summary))


def _columns(judges: list[str]) -> list[str]:
    columns = ["arm", "seeds"]
    for judge in judges:
        columns += [f"win_rate {judge}", f"low {judge}", f"high {judge}"]
    return [*columns, *FIGURES]


def _row(arm: JsonObject, judges: list[str]) -> JsonObject:
    row: JsonObject = {"arm": arm["arm"], "seeds": len(arm["seeds"])}
    for judge in judges:
        wins = arm["win_rates"][judge]
        if wins:
            row[f"win_rate {judge}"] = round(wins["win_rate"], 4)
            row[f"low {judge}"], row[f"high {judge}"] = (round(bound, 4) for bound in wins["ci95"])
    for name in FIGURES:
        row[name] = None if arm[name] is None else round(arm[name], 4)
    return row


def _latex(summary: JsonObject) -> str:
    """The arms as a LaTeX table (package booktabs): wins in per cent with their intervals, KL, perplexity."""
    judges = summary["judges"]
    names = [judge.rpartition(":")[2].rpartition("/")[2].translate(TEX) for judge in judges]
    lines = [
        r"\begin{tabular}{l" + "r" * (len(judges) + 3) + "}",
        r"\toprule",
        " & ".join(["arm", "seeds", *(rf"wins, \% ({name})" for name in names), "KL", "perplexity"]) + r" \\",
        r"\midrule",
    ]
    for arm in summary["arms"]:
        cells = [arm["arm"].translate(TEX), str(len(arm["seeds"]))]
        cells += [_wins(arm["win_rates"][judge]) for judge in judges]
        cells += [f"{arm['kl']:z.1f}", f"{arm['perplexity']:.1f}"]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _wins(wins: JsonObject) -> str:
    if not wins:
        return "--"
    low, high = wins["ci95"]
    return f"{100 * wins['win_rate']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
