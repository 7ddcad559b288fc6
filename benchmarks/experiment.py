"""What is kept of an experiment: small files of every finished run, and from them the tables and the picture of docs/results.md.

    redline experiment recipes/experiment-cad.yaml --parallel 2    hours; stopped, it goes on where it was
    python benchmarks/experiment.py runs/experiment-cad            keep what is finished, then remake
    python benchmarks/experiment.py                                remake from what was kept, without the runs

Of a run, benchmarks/results/EXPERIMENT/ARM/seed-N/ keeps its recipe, times, win rates, the log's learning curve, and every judge's
preference for every prompt, at the end and on the way. That is all `redline experiment --report` reads, so the numbers are its own.
"""

import argparse
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common import about

HERE = Path(__file__).parent
RESULTS, PAGE, IMAGES = HERE / "results", HERE.parent / "docs" / "results.md", HERE.parent / "docs" / "images"
WHOLE = ["recipe.yaml", "state.json", "winrate.json", "compare/judge-*.json", "compare/curve.jsonl", "reward/metrics.json"]
LINES = {"policy/log.jsonl": ("update", "seconds", "peak_gb", "gold", "gold_error", "gold_kl", "gold_proxy", "kl", "kl_coefficient",
                              "reward", "length", "ended", "entropy"),
         "policy/watch/0*.jsonl": ("id", "preference"), "compare/*verdicts.jsonl": ("id", "preference")}
COLOURS = ["#4e79a7", "#e15759", "#59a14f", "#f28e2b", "#b07aa1", "#76b7b2", "#9c755f"]


def keep(run: Path, to: Path) -> None:
    """The small files of one finished run."""
    for pattern in WHOLE:
        for file in run.glob(pattern):
            target = to / file.relative_to(run)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    for pattern, keys in LINES.items():
        for file in run.glob(pattern):
            target = to / file.relative_to(run)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("".join(_line(json.loads(line), keys) for line in file.read_text(encoding="utf-8").splitlines()),
                              encoding="utf-8")


def _line(row: dict[str, Any], keys: Iterable[str]) -> str:
    return json.dumps({key: round(row[key], 5) if isinstance(row[key], float) else row[key] for key in keys if key in row}) + "\n"


def remake(folder: Path) -> None:
    """Tables into docs/results.md, the picture, and the experiment's own summary, from what was kept."""
    from redline.experiment.command import run_experiment

    run_experiment(folder / "experiment.yaml", [], folder, only_report=True)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    runs = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    (folder / "about.json").write_text(json.dumps(about("experiment.py"), indent=2) + "\n", encoding="utf-8")
    (IMAGES / f"{folder.name}.svg").write_text(draw(summary, runs), encoding="utf-8")
    start, end = f"<!-- {folder.name}: written by benchmarks/experiment.py -->\n", f"<!-- end of {folder.name} -->\n"
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    if not after and not rest:
        raise SystemExit(f"{PAGE}: has no line {start.strip()!r}, behind which the tables go, before {end.strip()!r}.")
    PAGE.write_text(before + start + tables(summary) + end + after, encoding="utf-8")


def tables(summary: dict[str, Any]) -> str:
    """The arms at the end, and at equal KL."""
    base, gold = summary["baseline"], summary["gold"]
    names = [judge.rpartition(":")[2] for judge in summary["judges"]]
    head = ["arm", "seeds", *(f"wins, % ({name})" for name in names), "KL (range)", "perplexity", "distinct bigrams", "words",
            "minutes", "GB"]
    rows = [[arm["arm"], str(len(arm["seeds"])), *(_rate(arm["win_rates"][judge]) for judge in summary["judges"]),
             f"{arm['kl']:.1f} ({arm['kl_range'][0]:.1f} to {arm['kl_range'][1]:.1f})", f"{arm['perplexity']:.1f}",
             f"{arm['distinct_bigrams']:.3f}", f"{arm['mean_words']:.1f}", f"{arm['seconds_total'] / 60:.1f}",
             f"{arm['peak_gb']:.1f}" if arm["peak_gb"] else "–"] for arm in summary["arms"]]
    if summary["arms"]:
        first = summary["arms"][0]
        rows.append(["*the reference*", "", *("50" for _ in names), "0", f"{first['perplexity_reference']:.1f}",
                     f"{first['distinct_bigrams_reference']:.3f}", f"{first['mean_words_reference']:.1f}", "", ""])
    levels = [row["kl"] for row in summary["arms"][0]["gold_at_kl"]] if summary["arms"] else []
    equal = [[arm["arm"], *(_level(row) for row in arm["gold_at_kl"])] for arm in summary["arms"]]
    minus = [[arm["arm"], _minus(summary, arm["arm"], gold, None), *(_minus(summary, arm["arm"], judge, None)
                                                                    for judge in summary["judges"][1:]),
              *(_minus(summary, arm["arm"], gold, kl) for kl in levels)] for arm in summary["arms"] if arm["arm"] != base]
    prices = [[arm["arm"], *(_price(row) for row in arm["price"])] for arm in summary["arms"]]
    golds = [f"{100 * row['gold']:.0f} %" for row in summary["arms"][0]["price"]] if summary["arms"] else []
    return "\n".join([
        "At the end of training:\n", _table(head, rows),
        f"Minus `{base}`, in points of win rate, the same prompts and seeds, 95 % intervals over both; at the end by each judge, "
        f"then where the curves are at equal KL ({names[0]}):\n",
        _table(["arm", *(f"end, {name}" for name in names), *(f"KL {kl:g}" for kl in levels)], minus),
        f"Win rate ({names[0]}, %) where a run's curve is at a KL, and how many of the runs come there:\n",
        _table(["arm", *(f"KL {kl:g}" for kl in levels)], equal),
        "Responses and seconds of learning until the win rate is there (median of the runs that come there, and their number):\n",
        _table(["arm", *golds], prices)])


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def _rate(found: dict[str, Any]) -> str:
    return f"{100 * found['win_rate']:.1f} ({100 * found['ci95'][0]:.1f} to {100 * found['ci95'][1]:.1f})" if found else "–"


def _level(row: dict[str, Any]) -> str:
    return f"{100 * row['win_rate']:.1f} [{row['seeds']}]" if row.get("win_rate") is not None else "–"


def _minus(summary: dict[str, Any], arm: str, judge: str, kl: float | None) -> str:
    """How much better an arm did than the baseline; in bold where the interval leaves out 0 with three seeds or more."""
    for row in summary["differences"]:
        if row["kl"] == kl and row["judge"] == judge and {row["a"], row["b"]} == {arm, summary["baseline"]}:
            sign = 100 if row["a"] == arm else -100
            middle, low, high = sign * row["difference"], *sorted(sign * bound for bound in row["ci95"])
            text = f"{middle:+.1f} ({low:+.1f} to {high:+.1f}) [{len(row['seeds'])}]"
            return f"**{text}**" if (low > 0 or high < 0) and len(row["seeds"]) >= 3 else text
    return "–"


def _price(row: dict[str, Any]) -> str:
    return f"{row['samples']:,.0f}, {row['seconds']:.0f} s [{row['seeds']}]" if row["seeds"] else "–"


def draw(summary: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """Gold against KL, seven arms a panel: every run's curve, thin, and the arm's mean at each KL level, thick."""
    arms = summary["arms"]
    panels = [arms[start:start + len(COLOURS)] for start in range(0, len(arms), len(COLOURS))]
    most = max([8.0, *(min(point["kl"], 12.0) for run in runs for point in run["curve"])])
    tall = 340 * len(panels)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 {tall}" font-family="sans-serif" font-size="12">'
             f'<rect width="960" height="{tall}" fill="white"/>']
    for number, panel in enumerate(panels):
        left, top, width, height = 60, 30 + 340 * number, 640, 260

        def at(kl: float, gold: float, left: int = left, top: int = top, width: int = width, height: int = height) -> str:
            return f"{left + width * min(kl, most) / most:.1f},{top + height * (1 - (gold - 0.4) / 0.6):.1f}"

        parts.append(f'<text x="{left}" y="{top - 12}" font-weight="bold">{summary["name"]}: win rate over the reference '
                     f'({summary["gold"]}) against KL, nats a response</text>')
        for tick in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
            first, last = at(0, tick).split(","), at(most, tick).split(",")
            parts.append(f'<line x1="{first[0]}" y1="{first[1]}" x2="{last[0]}" y2="{last[1]}" stroke="#ddd"/>'
                         f'<text x="{left - 8}" y="{float(first[1]) + 4}" text-anchor="end">{tick:.0%}</text>')
        parts += [f'<text x="{at(tick, 0.4).split(",")[0]}" y="{top + height + 18}" text-anchor="middle">{tick}</text>'
                  for tick in range(0, int(most) + 1, 2)]
        for place, (arm, colour) in enumerate(zip(panel, COLOURS, strict=False)):
            own = [run["curve"] for run in runs if run["arm"] == arm["arm"]]
            curves = [" ".join(at(point["kl"], point["gold"]) for point in curve) for curve in own]
            parts += [f'<polyline points="{points}" fill="none" stroke="{colour}" opacity="0.25"/>' for points in curves]
            means = [(row["kl"], row["win_rate"]) for row in arm["gold_at_kl"] if row.get("win_rate") is not None]
            parts.append(f'<polyline points="{" ".join(at(*point) for point in [(0.0, 0.5), *means])}" fill="none" '
                         f'stroke="{colour}" stroke-width="3"/>')
            parts += [f'<circle cx="{at(*point).split(",")[0]}" cy="{at(*point).split(",")[1]}" r="4" fill="{colour}"/>'
                      for point in means]
            parts.append(f'<rect x="730" y="{top + 24 * place}" width="14" height="14" fill="{colour}"/>'
                         f'<text x="752" y="{top + 24 * place + 11}">{arm["arm"]} ({len(arm["seeds"])} seeds)</text>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    cli = argparse.ArgumentParser()
    cli.add_argument("runs", type=Path, nargs="*", help="folders of experiments whose finished runs are to be kept")
    for folder in cli.parse_args().runs:
        to = RESULTS / folder.name
        to.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / "experiment.yaml", to / "experiment.yaml")
        for finished in folder.glob("*/seed-*/winrate.json"):
            keep(finished.parent, to / finished.parent.relative_to(folder))
    for recipe in sorted(RESULTS.glob("*/experiment.yaml")):
        remake(recipe.parent)


if __name__ == "__main__":
    main()
