"""The page's section on the policy: how it learned, and what it sampled at the first and the last update."""

from markupsafe import Markup

from redline.report import charts
from redline.report.charts import Series, number
from redline.report.folder import Line, RunFolder
from redline.report.gold import gold
from redline.report.result import shorten
from redline.report.tokens import Tokens, from_record, legend, render, scale_of
from redline.types import JsonObject

SHOWN = 4  # sampled responses of an update
COLUMNS = {"rewards": "reward", "values": "value", "kl": "KL", "advantages": "advantage"}


def policy(run: RunFolder) -> JsonObject | None:
    """How the policy learned, and what it sampled. None before its first update."""
    log = run.lines(run.files.policy.log)
    if not log:
        return None
    ppo = run.recipe.direct is None
    done = log[-1]["update"]
    phases = _seconds_by_phase(log) if ppo else {}  # other methods tell only the judge's time apart
    parts = ", ".join(f"{name} {number(seconds, 2)}" for name, seconds in phases.items())
    peaks = [line["peak_gb"] for line in log if line.get("peak_gb")]
    memory = ", ".join(f"{name} {number(size, 2)}" for name, size in _memory_by_phase(log).items())
    return {
        "done": done,
        "planned": run.recipe.policy.updates if ppo else done,
        "last": log[-1],
        "charts": _charts(run, log),
        "samples": _samples(run),
        "cost": f"{number(sum(phases.values()))} s an update ({parts})" if phases else "",
        "memory": f"{number(max(peaks))} GB" if peaks else "",
        "held": memory,
        "gold": gold(run, log),
    }


def _seconds_by_phase(log: list[Line]) -> dict[str, float]:
    """Mean seconds of an update's phases."""
    phases = {}
    for key in log[-1]:
        if key.startswith("seconds_"):
            total = sum(line.get(key, 0.0) for line in log)
            phases[key.removeprefix("seconds_")] = total / len(log)
    return phases


def _memory_by_phase(log: list[Line]) -> dict[str, float]:
    """The largest memory of an update's phases, in gigabytes."""
    phases = {}
    for key in log[-1]:
        if key.startswith("gb_"):
            phases[key.removeprefix("gb_")] = max(line.get(key, 0.0) for line in log)
    return phases


def _charts(run: RunFolder, log: list[Line]) -> list[Markup]:
    def curve(key: str) -> list[charts.Point]:
        return [(line["update"], line[key]) for line in log if key in line]

    def single(title: str, unit: str, key: str) -> Markup:
        return charts.line_chart(title, unit, [Series("", curve(key))])

    kl = [Series("", curve("kl"))]
    target = run.recipe.policy.kl.target
    if target is not None:
        aim = [(log[0]["update"], target), (log[-1]["update"], target)]
        kl = [Series("policy", curve("kl")), Series("target", aim, "guide")]
    clipped = [
        Series("policy", curve("clip_fraction")),
        Series("value", curve("value_clip_fraction"), "second"),
    ]
    advantages = [
        Series("mean", curve("advantage_mean")),
        Series("deviation", curve("advantage_std"), "second"),
    ]
    drawn = [
        single("Reward", "sum a response, scaled", "reward"),
        charts.line_chart("KL", "nats a response", kl),
        single("Reward that stands out", "a token, as the model gives it", "raw_reward_changed"),
        single("KL coefficient", "per nat", "kl_coefficient"),
        single("Length", "tokens a response", "length"),
        single("Ended by itself", "share of responses", "ended"),
        single("Entropy", "nats a token", "entropy"),
        charts.line_chart("Clip fraction", "share of tokens", clipped),
        single("Explained variance", "share of the returns' variance, by the critic", "explained_variance"),
        charts.line_chart("Advantages", "in units of reward, before whitening", advantages),
    ]
    return [chart for chart in drawn if chart]


def _samples(run: RunFolder) -> JsonObject | None:
    """Responses of the first and the last sampled update, as coloured tokens on one scale."""
    file = run.files.policy.samples
    by_update: dict[int, list[Line]] = {}
    for line in run.stream(file):
        if line.get("offsets"):
            by_update.setdefault(line["update"], []).append(line)
    if not by_update:
        return None
    drawn = {}
    for update in (min(by_update), max(by_update)):
        lines = run.drawn(by_update[update], SHOWN)
        drawn[update] = [(line, from_record(line, COLUMNS, str(file))) for line in lines]
    coloured: list[Tokens] = []
    for members in drawn.values():
        coloured += [tokens for _, tokens in members]
    scale = scale_of(coloured)
    shown = []
    for update, members in drawn.items():
        items = []
        for line, tokens in members:
            items.append(
                {
                    "id": str(line.get("id", "")),
                    "prompt": shorten(line.get("prompt", "")),
                    "tokens": render(tokens, scale, _summary(tokens)),
                }
            )
        shown.append({"update": update, "of": len(by_update[update]), "items": items})
    return {"legend": legend(scale), "updates": shown}


def _summary(tokens: Tokens) -> str:
    """The line below a sampled response."""
    total = number(float(sum(tokens.numbers["reward"])), 3, signed=True)
    if "KL" not in tokens.numbers:
        return f"sum of rewards {total}"
    return f"sum of rewards {total} · KL {number(float(sum(tokens.numbers['KL'])), 2)} nats"
