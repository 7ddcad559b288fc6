"""The gold score beside the reward while a policy learned, and the warning when the two parted."""

from markupsafe import Markup

from redline.report import charts
from redline.report.charts import Series
from redline.report.folder import Line, RunFolder
from redline.types import JsonObject


def gold(run: RunFolder, log: list[Line]) -> JsonObject | None:
    """Curves against updates and against KL, and what was warned of. None where no judge watched."""
    measured: list[Line] = []
    parted: list[Line] = []  # measurements at which gold and reward had parted
    failed: list[Line] = []  # updates at which the judge could not be asked
    for line in log:
        if "gold" in line:
            measured.append(line)
            if "warning" in line:
                parted.append(line)
        elif "warning" in line:
            failed.append(line)
    if not measured and not failed:
        return None
    drawn: list[Markup] = []
    if measured:
        drawn = [chart for chart in _charts(run, measured, parted) if chart]
    return {
        "judge": run.recipe.watch.judge or run.recipe.compare.judge,
        "prompts": run.count(run.files.policy.watch.reference),
        "charts": drawn,
        "warning": _last_warning(parted),
        "when": _updates(parted),
        "failed": _updates(failed),
        "why": _last_warning(failed),
    }


def _last_warning(lines: list[Line]) -> str | None:
    if not lines:
        return None
    warning: str = lines[-1]["warning"]
    return warning


def _charts(run: RunFolder, measured: list[Line], parted: list[Line]) -> list[Markup]:
    """The reference is the point at update 0 and KL 0: a win rate of one half over itself, and what the
    reward gave it."""
    start: Line = {"update": 0, "gold_kl": 0.0, "gold": 0.5, "gold_error": 0.0}
    rewards = _reference_rewards(run)
    if rewards:
        start["gold_proxy"] = sum(rewards) / len(rewards)
    lines = [start, *measured]
    first_parted: Line = parted[0] if parted else {}

    def curve(x: str, y: str, errors: float = 0.0) -> list[charts.Point]:
        """The points of ``y`` over ``x``, moved by a number of standard errors."""
        points = []
        for line in lines:
            if y in line:
                points.append((line[x], line[y] + errors * line.get("gold_error", 0.0)))
        return points

    drawn = []
    for x, label, against in (("update", "update", ""), ("gold_kl", "KL, nats", " against KL")):
        golds = [
            Series("judge", curve(x, "gold")),
            Series("± standard error", curve(x, "gold", 1.0), "guide"),
            Series("", curve(x, "gold", -1.0), "guide"),
        ]
        mark = first_parted.get(x)
        drawn += [
            charts.line_chart(
                f"Gold{against}",
                "win rate over the reference",
                golds,
                label,
                (0, 1),
                mark=mark,
            ),
            charts.line_chart(
                f"Reward{against}",
                "a response, scaled, same prompts",
                [Series("", curve(x, "gold_proxy"), "second")],
                label,
                mark=mark,
            ),
        ]
    return drawn


def _reference_rewards(run: RunFolder) -> list[float]:
    """What the reward gave the reference's responses; none without RL."""
    if run.recipe.direct is not None:
        return []
    return [line["reward"] for line in run.stream(run.files.policy.watch.reference) if "reward" in line]


def _updates(lines: list[Line]) -> str:
    """Numbers of updates for people: all of a few, else the first and the last."""
    numbers = [str(line["update"]) for line in lines]
    if len(numbers) < 6:
        return ", ".join(numbers)
    return f"{numbers[0]} to {numbers[-1]} ({len(numbers)} measurements)"
