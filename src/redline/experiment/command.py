"""``redline experiment``: from a recipe to finished runs, their results, and a table in the terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from redline.console import print_json, say
from redline.data.files import whole_file, write_json
from redline.errors import UserError
from redline.experiment.arms import cells, load_experiment
from redline.experiment.export import export_tables
from redline.experiment.recipe import Experiment
from redline.experiment.results import collect
from redline.experiment.run import run_cells
from redline.experiment.summary import summarise
from redline.recipe import as_yaml
from redline.types import JsonObject


def run_experiment(
    recipe: Path,
    overrides: Sequence[str],
    out: Path | None = None,
    arms: Sequence[str] = (),
    parallel: int = 1,
    only_report: bool = False,
    as_json: bool = False,
) -> tuple[str | None, Path]:
    """Run what is missing (of the named arms), then sum up all that is finished; returns what failed, in one
    line, and the folder.

    Writes experiment.yaml, results.jsonl (a line a run), summary.json, and its table as summary.csv and
    summary.tex into the experiment's folder, and prints the arms.
    """
    experiment = load_experiment(recipe, overrides)
    folder = out or Path("runs") / experiment.name
    asked, wanted = cells(experiment, folder), cells(experiment, folder, arms)
    with whole_file(folder / "experiment.yaml") as file:
        file.write(as_yaml(experiment))
    failures = [] if only_report else run_cells(wanted, _others(experiment, folder), parallel)
    summary = summarise(experiment, asked, collect(experiment, asked, folder))
    write_json(folder / "summary.json", summary)
    export_tables(summary, folder)
    print_json(summary) if as_json else print_summary(summary)
    if not failures:
        return None, folder
    reasons = "; ".join(f"{failure.cell.name}: {failure.reason}" for failure in failures[:3])
    return (
        f"{len(failures)} of {len(wanted)} runs failed ({reasons}{'; ...' if len(failures) > 3 else ''}). "
        "The same command tries them again."
    ), folder


def _others(experiment: Experiment, folder: Path) -> list[Path]:
    """The folders of runs whose finished stages may be taken over: of this experiment, and of those that it
    names."""
    for root in experiment.reuse:
        if not Path(root).is_dir():
            raise UserError(
                f"{experiment.name}: `reuse` names {root}, which is no folder. Give that of another "
                "experiment, such as runs/NAME."
            )
    return sorted(
        path
        for root in (folder, *map(Path, experiment.reuse))
        for path in root.glob("*/seed-*")
        if path.is_dir()
    )


def print_summary(summary: JsonObject, console: Console | None = None) -> None:
    """The arms in a table on stdout, the baseline first: win rates and the difference from it in per cent,
    KL, perplexity, distinct bigrams."""
    console = console or Console(highlight=False, soft_wrap=True)
    base = summary["baseline"]
    table = Table(
        box=None,
        pad_edge=False,
        collapse_padding=True,
        header_style="dim",
        title=f"\n{escape(summary['name'])}",
        title_justify="left",
    )
    judges = [escape(judge.rpartition(":")[2].rpartition("/")[2]) for judge in summary["judges"]]
    for name in ("arm", "seeds", *judges, "KL", "perpl.", "bigrams", "minus first"):
        table.add_column(name, justify="left" if name == "arm" else "right", no_wrap=True)
    for arm in sorted(summary["arms"], key=lambda arm: arm["arm"] != base):
        rates = [_rate(arm["win_rates"][judge]) for judge in summary["judges"]]
        table.add_row(
            arm["arm"],
            f"{len(arm['seeds'])}/{len(arm['asked'])}",
            *rates,
            f"{arm['kl']:z.1f}",
            f"{arm['perplexity']:.1f}",
            f"{arm['distinct_bigrams']:.2f}",
            _minus(summary, arm["arm"]),
        )
    if summary["arms"]:
        first = summary["arms"][0]
        table.add_row(
            "the reference",
            "",
            *("50.0" for _ in judges),
            "0.0",
            f"{first['perplexity_reference']:.1f}",
            f"{first['distinct_bigrams_reference']:.2f}",
            style="dim",
        )
    console.print(table)
    if summary["unfinished"]:
        say(f"not finished: {'; '.join(summary['unfinished'])}")


def _rate(found: JsonObject) -> str:
    return f"{100 * found['win_rate']:.1f}" if found else "-"


def _minus(summary: JsonObject, arm: str) -> str:
    """An arm's difference from the baseline at the end, by the first judge, with its interval over seeds and
    prompts."""
    for row in summary["differences"]:
        if (
            row["kl"] is None
            and row["judge"] == summary["gold"]
            and {row["a"], row["b"]} == {arm, summary["baseline"]}
        ):
            sign = 1 if row["a"] == arm else -1
            middle, low, high = (
                round(100 * value, 1) + 0.0
                for value in (sign * row["difference"], *sorted(sign * bound for bound in row["ci95"]))
            )
            return f"{middle:+.1f} ({low:+.1f} to {high:+.1f})"
    return ""
