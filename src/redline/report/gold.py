"""The gold score beside the reward while a policy learned, and the warning when the two parted."""

from typing import Any

from redline.report import charts
from redline.report.charts import Series
from redline.report.folder import Line, RunFolder
from redline.types import JsonObject


def gold(run: RunFolder, log: list[Line]) -> JsonObject | None:
    """Curves against updates and against KL, and what was warned of. None where no judge watched."""
    failed = [line for line in log if "gold" not in line and "warning" in line]
    measured = [line for line in log if "gold" in line]
    if not measured and not failed:
        return None
    parted = [line for line in measured if "warning" in line]
    return {
        "judge": run.recipe.watch.judge or run.recipe.compare.judge,
        "prompts": run.count(run.files.policy.watch.reference),
        "charts": [chart for chart in _charts(run, measured, parted) if chart] if measured else [],
        "warning": parted[-1]["warning"] if parted else None,
        "when": _updates(parted),
        "failed": _updates(failed),
        "why": failed[-1]["warning"] if failed else None,
    }


def _charts(run: RunFolder, measured: list[Line], parted: list[Line]) -> list[Any]:
    """The reference is the point at update 0 and KL 0: a win rate of one half over itself, and what the
    reward gave it."""
    rewards = (
        [line["reward"] for line in run.stream(run.files.policy.watch.reference) if "reward" in line]
        if run.recipe.direct is None
        else []
    )
    start = {"update": 0, "gold_kl": 0.0, "gold": 0.5, "gold_error": 0.0} | (
        {"gold_proxy": sum(rewards) / len(rewards)} if rewards else {}
    )
    lines, warned = [start, *measured], parted[0] if parted else {}

    def curve(x: str, y: str, errors: float = 0.0) -> list[charts.Point]:
        return [(line[x], line[y] + errors * line.get("gold_error", 0.0)) for line in lines if y in line]

    drawn = []
    for x, label in (("update", "update"), ("gold_kl", "KL, nats")):
        against = "" if x == "update" else " against KL"
        band = [
            Series(name, curve(x, "gold", errors), "guide")
            for name, errors in (("± standard error", 1.0), ("", -1.0))
        ]
        drawn += [
            charts.line_chart(
                f"Gold{against}",
                "win rate over the reference",
                [Series("judge", curve(x, "gold")), *band],
                label,
                (0, 1),
                mark=warned.get(x),
            ),
            charts.line_chart(
                f"Reward{against}",
                "a response, scaled, same prompts",
                [Series("", curve(x, "gold_proxy"), "second")],
                label,
                mark=warned.get(x),
            ),
        ]
    return drawn


def _updates(lines: list[Line]) -> str:
    """Numbers of updates for people: all of a few, else the first and the last."""
    numbers = [str(line["update"]) for line in lines]
    return (
        ", ".join(numbers)
        if len(numbers) < 6
        else f"{numbers[0]} to {numbers[-1]} ({len(numbers)} measurements)"
    )
