"""The page's section on the reward model: how it learned, and what it knows of held-out edits."""

from collections.abc import Callable
from itertools import islice

from markupsafe import Markup

from redline.report import charts
from redline.report.charts import Series, number
from redline.report.folder import Line, RunFolder
from redline.report.result import shorten
from redline.report.section_data import MOST
from redline.report.tokens import Tokens, from_record, legend, render, scale_of
from redline.types import JsonObject

AROUND = 24  # tokens shown on each side of a hit or miss
SHOWN = 4  # hits and misses of a kind
Sureness = Callable[[float, int], float]
KINDS: list[tuple[str, str, Sureness]] = [
    (
        "Surest hits",
        "changed tokens with the largest reward of the right sign",
        lambda value, label: value * label,
    ),
    (
        "Surest misses",
        "changed tokens with the largest reward of the wrong sign",
        lambda value, label: -value * label,
    ),
    (
        "Sure of what nobody changed",
        "unchanged tokens with the largest reward of either sign",
        lambda value, label: abs(value) if label == 0 else 0.0,
    ),
]


def reward(run: RunFolder) -> JsonObject | None:
    """How the reward model learned and what it knows of held-out edits. None before it is trained (or where
    there is none)."""
    metrics = run.json(run.files.reward.metrics)
    if metrics is None:
        return None
    where = "test" if metrics.get("test") else "validation"
    held_out = metrics[where]
    return {
        "metrics": metrics,
        "best": held_out,
        "where": where,
        "edits": metrics.get(f"{where}_edits", metrics.get("validation_edits")),
        "charts": _charts(run, metrics, held_out),
        "figures": _figures(held_out, where),
        "tokens": _hits_and_misses(run),
    }


def _charts(run: RunFolder, metrics: Line, held_out: Line) -> list[Markup]:
    log = run.lines(run.files.reward.log)

    def curve(key: str) -> list[charts.Point]:
        return [(line["step"], line[key]) for line in log if key in line]

    best = metrics.get("best_step")
    accuracies = [
        Series("token AUC", curve("auc")),
        Series("pairwise accuracy", curve("pairwise_accuracy"), "second"),
    ]
    drawn = [
        charts.line_chart("Held-out figures", "share, validation edits", accuracies, "step", mark=best),
        charts.line_chart(
            "Training loss", "nats, mean of a batch", [Series("", curve("loss"))], "step", mark=best
        ),
        _reliability(held_out.get("reliability") or []),
    ]
    return [chart for chart in drawn if chart]


def _figures(held_out: Line, where: str) -> list[tuple[str, str, str, str]]:
    """The figures of the table: name, value, what it means, and the key it stands under."""
    auc, fault_auc = number(held_out.get("auc")), number(held_out.get("fault_auc"))
    accuracy, error = number(held_out.get("pairwise_accuracy")), number(held_out.get("ece"), 2)
    figures = [
        ("token AUC", auc, "added tokens against removed ones; chance is 0.5", f"{where}.auc"),
        ("fault AUC", fault_auc, "kept against removed, in rejected answers", f"{where}.fault_auc"),
        ("pairwise accuracy", accuracy, "of the summed reward; chance is 0.5", f"{where}.pairwise_accuracy"),
        ("calibration error", error, "expected, of P(better | changed)", f"{where}.ece"),
    ]
    for name, value in (held_out.get("f1") or {}).items():
        figures.append((f"F1 of {name} tokens", number(value, 2), "", f"{where}.f1.{name}"))
    return figures


def _reliability(table: list[Line]) -> Markup:
    if not table:
        return Markup("")
    diagonal = Series("", [(0.0, 0.0), (1.0, 1.0)], "guide")
    points = [(row["probability"], row["observed"]) for row in table]
    observed = Series("", points, "main", [row["count"] for row in table])
    title, unit = "Calibration", "observed share of better tokens"
    return charts.line_chart(title, unit, [diagonal, observed], "predicted share", (0, 1), (0, 1))


def _hits_and_misses(run: RunFolder) -> JsonObject | None:
    """The changed tokens whose reward is surest and right, surest and wrong, and the surest on tokens that
    nobody changed."""
    scored = _scored(run)
    if not scored:
        return None
    prompts = _prompts(run)
    scale = scale_of([tokens for _, tokens in scored])
    groups = []
    for title, meaning, sureness in KINDS:
        items = []
        for line, tokens, place in _surest(scored, sureness):
            window = tokens.window(place, AROUND)
            value = number(float(tokens.numbers["reward"][place]), 2, signed=True)
            summary = f"{line.get('side', '')} side · reward {value}"
            items.append(
                {
                    "id": str(line.get("id")),
                    "prompt": shorten(prompts.get(str(line.get("id")), "")),
                    "tokens": render(window, scale, summary, place - window.left_out),
                }
            )
        groups.append({"title": title, "how": meaning, "items": items})
    edits = {str(line.get("id")) for line, _ in scored}
    return {"groups": groups, "legend": legend(scale, labels=True), "edits": len(edits)}


def _scored(run: RunFolder) -> list[tuple[Line, Tokens]]:
    """The scored sides of held-out edits, those of the test set where there is one."""
    file = run.files.reward.scores
    lines = list(run.stream(file))
    test = [line for line in lines if line.get("set") == "test"]
    return [(line, from_record(line, {"rewards": "reward"}, str(file))) for line in test or lines]


def _prompts(run: RunFolder) -> JsonObject:
    """The prompts of held-out edits by id."""
    prompts = {}
    for name in ("validation", "test"):
        for line in islice(run.stream(run.files.labels(name)), MOST):
            prompts[str(line.get("id"))] = line.get("prompt", "")
    return prompts


def _surest(scored: list[tuple[Line, Tokens]], sureness: Sureness) -> list[tuple[Line, Tokens, int]]:
    """The sides with the surest tokens and the places of these, one side of an edit, at most ``SHOWN``."""
    candidates = []
    for line, tokens in scored:
        sure, place = 0.0, 0
        for at, (value, label) in enumerate(zip(tokens.numbers["reward"], tokens.labels, strict=True)):
            if sureness(value, label) > sure:
                sure, place = sureness(value, label), at
        if sure > 0:
            candidates.append((sure, line, tokens, place))
    candidates.sort(key=lambda candidate: -candidate[0])
    chosen: dict[str, tuple[Line, Tokens, int]] = {}
    for _, line, tokens, place in candidates:
        chosen.setdefault(str(line.get("id")), (line, tokens, place))
    return list(islice(chosen.values(), SHOWN))
