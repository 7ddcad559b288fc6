"""What the finished runs of an experiment have to show: one line a run, with its learning curve and its
verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from redline.console import track
from redline.data.files import read_json, read_jsonl, write_json, write_jsonl
from redline.data.records import Record
from redline.experiment.arms import Cell
from redline.experiment.recipe import Experiment
from redline.judge.compare import compare
from redline.judge.judges import judge_of
from redline.judge.protocol import Judge
from redline.judge.systems import read_responses
from redline.run.files import SYSTEMS, RunFiles
from redline.run.run import Run
from redline.run.state import State
from redline.types import JsonObject

# by the prompt's id: 1 the policy's response is better, 0 the reference's, 0.5 a tie
Preferences = dict[str, float]
KEPT = ("win_rate", "ci95", "standard_error", "n", "wins", "ties", "losses", "length_controlled_win_rate")


class Line(Record):
    """What is read here of a line of the log, of best-of-n's curve, or of verdicts."""

    id: str = ""
    preference: float | None = None
    update: int = 0
    n: int | None = None
    samples: int | None = None
    seconds: float = 0.0
    seconds_watch: float = 0.0
    peak_gb: float | None = None
    gold: float | None = None
    gold_error: float | None = None
    gold_kl: float | None = None
    gold_proxy: float | None = None


@dataclass(frozen=True)
class Point:
    """A measurement on the way: nats a response from the reference, win rate over it, and the price so far.

    ``samples`` are the responses that were sampled (by a method that samples none: the pairs or responses
    learned from), ``seconds`` those of learning, without the measuring itself. Both are None for best of n,
    which learns nothing."""

    kl: float
    gold: float
    samples: int | None = None
    seconds: float | None = None
    error: float | None = None
    proxy: float | None = None
    n: int | None = None
    preferences: Preferences = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Result:
    """A finished run: its figures, each judge's verdicts by prompt, and its curve in order of training."""

    cell: Cell
    figures: JsonObject
    preferences: dict[str, Preferences]
    curve: list[Point]


def collect(experiment: Experiment, cells: Sequence[Cell], out: Path) -> list[Result]:
    """Read every run that is finished as its recipe is now, let the experiment's further judges judge it, and
    write ``out``/results.jsonl: one line a run.

    A judge's verdicts are kept in the run's folder, so that nothing is judged twice. Raises UserError for a
    judge that cannot be had, or that gave no verdict.
    """
    finished = [cell for cell in cells if Run(cell.recipe, cell.folder).is_done("compare") and not cell.lacks]
    further = experiment.judges[1:] if finished else []
    judges = [judge_of(section) for section in further]
    results = [_result(cell, judges) for cell in track(finished, "results")]
    lines = []
    for result in results:
        curve = [_plain(point) for point in result.curve]
        lines.append({"arm": result.cell.arm, "seed": result.cell.seed, **result.figures, "curve": curve})
    write_jsonl(out / "results.jsonl", lines)
    return results


def _result(cell: Cell, judges: Sequence[Judge]) -> Result:
    files = RunFiles(cell.folder)
    first = read_json(files.winrate)
    compared = {first["judge"]: first}
    preferences = {first["judge"]: _preferences(files.verdicts)}
    for number, judge in enumerate(judges, 2):
        compared[judge.name], verdicts = _judged(cell, judge, number)
        preferences[judge.name] = _preferences(verdicts)
    done = State(files).done
    log = _lines(files.policy.log)
    figures = {
        "folder": str(cell.folder),
        "judges": {name: {key: result[key] for key in KEPT} for name, result in compared.items()},
        "kl": first["kl"],
        "kl_error": first["kl_error"],
        "perplexity": first["perplexity_a"],
        "perplexity_reference": first["perplexity_b"],
        **first["text"]["a"],
        **{f"{key}_reference": value for key, value in first["text"]["b"].items()},
        "seconds": _seconds(cell, log),
        "taken_over": {stage: entry.taken_from for stage, entry in done.items() if entry.taken_from},
        "peak_gb": max((line.peak_gb for line in log if line.peak_gb), default=None),
    }
    return Result(cell, figures, preferences, _curve(cell))


def _seconds(cell: Cell, log: Sequence[Line]) -> dict[str, float]:
    """Seconds of each stage. Where a training was stopped and went on, its log and its metrics know more than
    the run's state."""
    files = RunFiles(cell.folder)
    done = State(files).done
    seconds = {stage: done[stage].seconds for stage in Run(cell.recipe, cell.folder).stages if stage in done}
    if "policy" in seconds:
        logged = round(sum(line.seconds + line.seconds_watch for line in log), 1)
        seconds["policy"] = max(seconds["policy"], logged)
    if "reward" in seconds and files.reward.metrics.exists():
        seconds["reward"] = max(seconds["reward"], read_json(files.reward.metrics)["seconds"])
    return seconds


def _judged(cell: Cell, judge: Judge, number: int) -> tuple[JsonObject, Path]:
    """A further judge's comparison of the responses that the run has compared: made once, kept beside
    them."""
    files = RunFiles(cell.folder)
    path, verdicts = files.judged(number), files.judged_verdicts(number)
    if path.exists() and verdicts.exists():
        result = read_json(path)
        if result["judge_settings"] == judge.settings:
            return result, verdicts
    a, b = (read_responses(files.responses(name)) for name in SYSTEMS)
    win_rate = compare(a, b, judge, files.verdict_cache, cell.seed, verdicts, SYSTEMS)
    write_json(path, win_rate.as_json())
    return read_json(path), verdicts


def _curve(cell: Cell) -> list[Point]:
    """The gold scores on the way. At its start a policy is its reference, so its curve begins at KL 0 and a
    win rate of 0.5."""
    direct, files = cell.recipe.direct, RunFiles(cell.folder)
    if direct is not None and direct.method == "best_of_n":
        return [
            Point(
                line.gold_kl or 0.0,
                line.gold or 0.0,
                error=line.gold_error,
                n=line.n,
                preferences=_preferences(files.curve_verdicts(line.n or 0)),
            )
            for line in _lines(files.curve)
        ]
    size, seconds, points = cell.recipe.policy.batch_size, 0.0, list[Point]()
    for line in _lines(files.policy.log):
        seconds += line.seconds
        if line.gold is not None and line.gold_kl is not None:
            points.append(
                Point(
                    line.gold_kl,
                    line.gold,
                    line.update * size if line.samples is None else line.samples,
                    round(seconds, 2),
                    line.gold_error,
                    line.gold_proxy,
                    preferences=_preferences(files.policy.watch.update(line.update)),
                )
            )
    start = Point(0.0, 0.5, 0, 0.0, preferences=dict.fromkeys(points[0].preferences, 0.5)) if points else None
    return [start, *points] if start else []


def _preferences(path: Path) -> Preferences:
    """A judge's preferences by prompt; those without a verdict are left out."""
    return {line.id: line.preference for line in _lines(path) if line.preference is not None}


def _lines(path: Path) -> list[Line]:
    return list(read_jsonl(path, Line)) if path.exists() else []


def _plain(point: Point) -> JsonObject:
    found = {key: getattr(point, key) for key in ("samples", "seconds", "kl", "gold", "error", "proxy", "n")}
    return {key: value for key, value in found.items() if value is not None}
