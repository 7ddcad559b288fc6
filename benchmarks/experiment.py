"""What is kept of an experiment: one small file a finished run, and from these the tables and the picture of
docs/results.md.

    redline experiment recipes/experiment-cad.yaml --parallel 2    hours; stopped, it goes on where it was
    python benchmarks/experiment.py runs/experiment-cad            keep what is finished, then remake
    python benchmarks/experiment.py                                remake from what was kept, without the runs

benchmarks/results/EXPERIMENT/ARM-SEED.json holds a run's figures, its learning curve, and every judge's
preference for every prompt, at the end and on the way: all that the paired differences and their intervals
are made of, by the functions that `redline experiment` uses. In its folder `again` lie runs that were done a
second time, with the same seed on another kind of processor; they are in no table but the one that puts both
beside each other.
"""

import argparse
import json
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from common import about, filled, into_page, new_figure, save_picture, table
from redline.experiment.arms import Cell, cells, load_experiment
from redline.experiment.results import Point, Result, collect
from redline.experiment.statistics import level_weights
from redline.experiment.summary import summarise

HERE = Path(__file__).parent
RESULTS, IMAGES = HERE / "results", HERE.parent / "docs" / "images"
PAIRS = [
    ("token", "sequence-edited"),
    ("last", "sequence-edited"),
    ("uniform", "sequence-edited"),
    ("token", "last"),
    ("token", "uniform"),
    ("token", "shuffled"),
    ("token", "discrete"),
    ("token", "pairwise"),
]  # a table of differences
OVERVIEW = {"experiment-cad": "answers of 32 tokens", "experiment-cad-128": "answers of 128 tokens"}
ARM_TITLES = {
    "sequence-original": "one score, unedited pairs",
    "sequence-edited": "one score, edits",
    "last": "token rewards, summed at the end",
    "uniform": "token rewards, spread evenly",
    "token": "token rewards in their places",
}
FARTHEST = 12.0  # nats at the right edge of the picture
COLOURS = ["#4e79a7", "#e15759", "#59a14f", "#f28e2b", "#b07aa1", "#76b7b2", "#9c755f"]


def keep(folder: Path) -> None:
    """One file for each finished run of an experiment; one with the same figures stays as it is, with its
    machine and versions."""
    to = RESULTS / folder.name
    to.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "experiment.yaml", to / "experiment.yaml")
    experiment = load_experiment(to / "experiment.yaml")
    for result in collect(experiment, cells(experiment, folder), folder):
        path = to / f"{result.cell.arm}-{result.cell.seed}.json"
        found = _rounded(
            {
                "arm": result.cell.arm,
                "seed": result.cell.seed,
                "figures": result.figures,
                "preferences": result.preferences,
                "curve": [asdict(point) for point in result.curve],
            }
        )
        if not path.exists() or not found.items() <= json.loads(path.read_text(encoding="utf-8")).items():
            path.write_text(
                json.dumps(found | about("experiment.py", result.cell.recipe.model)) + "\n", encoding="utf-8"
            )


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, 6) if isinstance(value, float) else value


def kept(folder: Path) -> tuple[dict[str, Any], list[Result]]:
    """The summary of the runs that were kept of an experiment, and the runs."""
    experiment = load_experiment(folder / "experiment.yaml")
    asked = cells(experiment, folder)
    results = read_kept(asked, folder)
    return summarise(experiment, asked, results), results


def read_kept(asked: Sequence[Cell], folder: Path) -> list[Result]:
    results = []
    for cell in asked:
        file = folder / f"{cell.arm}-{cell.seed}.json"
        if file.exists():
            plain = json.loads(file.read_text(encoding="utf-8"))
            results.append(
                Result(
                    cell, plain["figures"], plain["preferences"], [Point(**point) for point in plain["curve"]]
                )
            )
    return results


def remake(folder: Path) -> None:
    """The tables in docs/results.md, and the picture."""
    summary, results = kept(folder)
    draw(summary, results, IMAGES / f"{folder.name}.svg")
    again = read_kept([result.cell for result in results], folder / "again")
    into_page("experiment.py", folder.name, tables(summary, results) + twice(results, again))


def tables(summary: dict[str, Any], results: Sequence[Result]) -> str:
    """The arms at the end, and at equal KL."""
    base = summary["baseline"]
    names = [judge.rpartition(":")[2] for judge in summary["judges"]]
    head = [
        "arm",
        "seeds",
        *(f"wins, % ({name})" for name in names),
        f"length-controlled, % ({' · '.join(names)})",
        "KL (range)",
        "perplexity",
        "distinct bigrams",
        "words",
        "minutes",
        "GB",
    ]
    rows = [
        [
            arm["arm"],
            str(len(arm["seeds"])),
            *(_rate(arm["win_rates"][judge]) for judge in summary["judges"]),
            " · ".join(f"{100 * arm['length_controlled'][judge]:.1f}" for judge in summary["judges"]),
            f"{arm['kl']:.1f} ({arm['kl_range'][0]:.1f} to {arm['kl_range'][1]:.1f})",
            f"{arm['perplexity']:.1f}",
            f"{arm['distinct_bigrams']:.3f}",
            f"{arm['mean_words']:.1f}",
            f"{arm['seconds_total'] / 60:.1f}",
            f"{arm['peak_gb']:.1f}" if arm["peak_gb"] else "–",
        ]
        for arm in summary["arms"]
    ]
    if summary["arms"]:
        first = summary["arms"][0]
        rows.append(
            [
                "*the reference*",
                "",
                *("50" for _ in names),
                " · ".join("50" for _ in names),
                "0",
                f"{first['perplexity_reference']:.1f}",
                f"{first['distinct_bigrams_reference']:.3f}",
                f"{first['mean_words_reference']:.1f}",
                "",
                "",
            ]
        )
    levels = [row["kl"] for row in summary["arms"][0]["gold_at_kl"]] if summary["arms"] else []
    equal = [[arm["arm"], *(_level(row) for row in arm["gold_at_kl"])] for arm in summary["arms"]]
    there = [arm["arm"] for arm in summary["arms"]]
    minus = [[arm, *_minus(summary, arm, base, levels)] for arm in there if arm != base]
    parts = [
        [f"{a} - {b}", *_minus(summary, a, b, levels)] for a, b in PAIRS if base != b and {a, b} <= set(there)
    ]
    prices = [[arm["arm"], *(_price(row) for row in arm["price"])] for arm in summary["arms"]]
    golds = [f"{100 * row['gold']:.0f} %" for row in summary["arms"][0]["price"]] if summary["arms"] else []
    places = [*(f"end, {name}" for name in names), *(f"KL {kl:g}" for kl in levels)]
    minus_says = filled(
        f"Minus `{base}`, in points of win rate, the same prompts and seeds, 95 % intervals over both; at "
        f"the end by each judge, then where the curves are at equal KL ({names[0]}). In brackets the number "
        "of seeds; in bold what leaves out 0 with three or more:"
    )
    equal_says = filled(
        f"Win rate ({names[0]}, %) where a run's curve is at a KL; in brackets how many of the runs come "
        f"there, and how many nats lie on average between the two measurements around it. {misfit(results)}"
    )
    return "\n".join(
        [
            "At the end of training:\n",
            table(head, rows),
            minus_says,
            table(["arm", *places], minus),
            "Other arms beside each other, likewise:\n",
            table(["arms", *places], parts),
            equal_says,
            table(["arm", *(f"KL {kl:g}" for kl in levels)], equal),
            "Responses and seconds of learning until the win rate is there (median of the runs that come "
            "there, and their number):\n",
            table(["arm", *golds], prices),
        ]
    )


def misfit(results: Sequence[Result]) -> str:
    """How far measurements lie from the curves that are fitted to them: about one standard error where the
    curves' form holds."""
    square, free = 0.0, 0
    for run in results:
        kl, gold = [max(point.kl, 0.0) for point in run.curve], [point.gold for point in run.curve]
        measured = 0
        for at, point in zip(kl[1:], run.curve[1:], strict=True):
            weights = level_weights(kl, at)
            if weights is None or not point.error:
                continue
            measured += 1
            square += ((float(weights @ gold) - point.gold) / point.error) ** 2
        free += max(0, measured - 2)
    if not free:
        return ""
    return (
        f"Measurements lie {(square / free) ** 0.5:.2f} standard errors from their curves ({free} "
        "degrees of freedom)."
    )


def twice(results: Sequence[Result], again: Sequence[Result]) -> str:
    """Runs that were done twice with one seed, and how far two runs of an arm lie from each other with one
    seed and with two."""
    if not again:
        return ""
    first = {(run.cell.arm, run.cell.seed): run for run in results}
    judges = list(again[0].preferences)
    rows, same, other = [], [], []
    for run in again:
        pair = first[run.cell.arm, run.cell.seed], run
        ends = [[one.figures["judges"][judge]["win_rate"] for judge in judges] for one in pair]
        same.append(ends[0][0] - ends[1][0])
        rows.append(
            [
                run.cell.name,
                *(f"{100 * here:.1f} · {100 * there:.1f}" for here, there in zip(*ends, strict=True)),
                " · ".join(f"{one.figures['kl']:.1f}" for one in pair),
            ]
        )
    for arm in dict.fromkeys(run.cell.arm for run in again):
        rates = [run.figures["judges"][judges[0]]["win_rate"] for run in results if run.cell.arm == arm]
        other += [a - b for a, b in combinations(rates, 2)]
    apart = [100 * statistics.mean(map(abs, found)) for found in (same, other)]
    says = filled(
        "Runs done twice with one seed: first figure in float32 (in the tables above), second in bfloat16 "
        f"(in none). By {judges[0]}, two runs with one seed lie {apart[0]:.1f} points apart on average, two "
        f"runs of these arms with two seeds {apart[1]:.1f}:"
    )
    return "\n".join(
        ["", says, table(["run", *(f"wins, % ({judge.rpartition(':')[2]})" for judge in judges), "KL"], rows)]
    )


def _rate(found: dict[str, Any]) -> str:
    return (
        f"{100 * found['win_rate']:.1f} ({100 * found['ci95'][0]:.1f} to {100 * found['ci95'][1]:.1f})"
        if found
        else "–"
    )


def _level(row: dict[str, Any]) -> str:
    return (
        f"{100 * row['win_rate']:.1f} [{row['seeds']}; {row['apart']:.1f}]"
        if row.get("win_rate") is not None
        else "–"
    )


def _minus(summary: dict[str, Any], a: str, b: str, levels: list[float]) -> list[str]:
    """How much better ``a`` did than ``b``: at the end by each judge, then at each KL level by the first
    one."""
    return [_difference(summary, a, b, judge, None) for judge in summary["judges"]] + [
        _difference(summary, a, b, summary["gold"], kl) for kl in levels
    ]


def _difference(summary: dict[str, Any], a: str, b: str, judge: str, kl: float | None) -> str:
    """In points of win rate; in bold where the interval leaves out 0 with three seeds or more."""
    for row in summary["differences"]:
        if row["kl"] == kl and row["judge"] == judge and {row["a"], row["b"]} == {a, b}:
            sign = 100 if row["a"] == a else -100
            middle, low, high = sign * row["difference"], *sorted(sign * bound for bound in row["ci95"])
            text = f"{middle:+.1f} ({low:+.1f} to {high:+.1f}) [{len(row['seeds'])}]"
            return f"**{text}**" if (low > 0 or high < 0) and len(row["seeds"]) >= 3 else text
    return "–"


def _price(row: dict[str, Any]) -> str:
    return f"{row['samples']:,.0f}, {row['seconds']:.0f} s [{row['seeds']}]" if row["seeds"] else "–"


def draw(summary: dict[str, Any], runs: list[Result], path: Path) -> None:
    """Gold against KL, seven arms a panel: every run's curve, thin, and the arm's mean at each KL level,
    thick."""
    arms = summary["arms"]
    panels = [arms[start : start + len(COLOURS)] for start in range(0, len(arms), len(COLOURS))]
    figure, axes = new_figure(len(panels), height=3.8)
    lowest = min([0.4, *(point.gold for run in runs for point in run.curve)])
    for panel, axis in zip(panels, axes, strict=True):
        for arm, colour in zip(panel, COLOURS, strict=False):
            draw_arm(axis, arm, [run.curve for run in runs if run.cell.arm == arm["arm"]], colour)
        axis.set_xlim(0, FARTHEST)
        axis.set_ylim(lowest, 1)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.set_xlabel("KL to the starting model, nats a response")
        axis.legend(fontsize=8, loc="lower right")
    axes[0].set_ylabel(f"wins over the starting model ({summary['gold']})")
    figure.suptitle(f"{summary['name']}: thin lines are runs, dots the arm's mean at equal KL")
    save_picture(figure, path)


def draw_arm(axis: Any, arm: dict[str, Any], curves: Sequence[Sequence[Point]], colour: str) -> None:
    for curve in curves:
        axis.plot([point.kl for point in curve], [point.gold for point in curve], color=colour, alpha=0.25)
    levels = [row for row in arm["gold_at_kl"] if row.get("win_rate") is not None]
    kl = [0.0, *(row["kl"] for row in levels)]
    gold = [0.5, *(row["win_rate"] for row in levels)]
    seeds = len(arm["seeds"])
    axis.plot(
        kl, gold, color=colour, linewidth=2.5, marker="o", markersize=5, label=f"{arm['arm']} ({seeds} seeds)"
    )


def draw_overview(path: Path) -> None:
    """README's chart: wins at the end with 95 % intervals, for responses of 32 and of 128 tokens."""
    figure, axes = new_figure(len(OVERVIEW), height=2.3)
    for (name, title), axis in zip(OVERVIEW.items(), axes, strict=True):
        summary, _ = kept(RESULTS / name)
        by_name = {arm["arm"]: arm for arm in summary["arms"]}
        for place, arm in enumerate(reversed(ARM_TITLES)):
            wins = by_name[arm]["win_rates"][summary["judges"][0]]
            low, high = wins["ci95"]
            axis.plot(
                [100 * low, 100 * high], [place, place], color="#999999", linewidth=5, solid_capstyle="round"
            )
            axis.plot(100 * wins["win_rate"], place, "o", color="#c0392b" if arm == "token" else "#34495e")
            axis.annotate(f"{100 * wins['win_rate']:.1f}", (100 * high + 1, place), va="center", fontsize=8)
        axis.axvline(50, color="#888888", linewidth=0.8)
        axis.set_yticks(range(len(ARM_TITLES)), list(reversed(ARM_TITLES.values())))
        axis.set_xlim(45, 95)
        axis.set_title(title)
        axis.set_xlabel("wins over the starting model, %")
    axes[1].set_yticklabels([])
    save_picture(figure, path)


def main() -> None:
    cli = argparse.ArgumentParser()
    cli.add_argument(
        "runs", type=Path, nargs="*", help="folders of experiments whose finished runs are to be kept"
    )
    for folder in cli.parse_args().runs:
        keep(folder)
    for recipe in sorted(RESULTS.glob("*/experiment.yaml")):
        remake(recipe.parent)
    draw_overview(IMAGES / "overview.svg")


if __name__ == "__main__":
    main()
