"""What was run, on what data, and how reward model and policy learned: one function a section of the page."""

import re
from collections import Counter
from itertools import islice
from typing import Any

from markupsafe import Markup

from redline.data.files import read_jsonl
from redline.data.records import Edit, as_text
from redline.data.settings import Source
from redline.data.show import DELETED, INSERTED, diff, visible
from redline.direct.settings import DirectBestOfN, DirectExpo
from redline.edit.gates import MEANING
from redline.edit.stats import BIN, KINDS, statistics
from redline.recipe import Recipe
from redline.report import charts
from redline.report.charts import Series, number
from redline.report.folder import Line, RunFolder
from redline.report.gold import gold
from redline.report.result import shorten
from redline.report.tokens import Tokens, from_record, legend, render, scale_of
from redline.urls import without_logins

MOST = 20_000  # edits and labels that statistics are taken of
SETS = ("pairs", "edits", "validation", "test", "prompts", "eval_prompts")
AROUND = 24  # tokens shown on each side of a hit or miss
SHOWN = 4  # hits, misses, samples
DIRECT = {  # methods in PPO's place
    "sft": "imitating the edits (SFT)",
    "dpo": "preferring the edits (DPO)",
    "figa": "imitating what edits put in (FIGA)",
    "bco": "telling liked from disliked responses (BCO)",
    "spin": "preferring the edits to its own responses (SPIN)",
    "sapo": "preferring the edits to rewritten ones (SAPO)",
    "selm": "preferring what the reward ranks first (SELM)",
    "spa": "preferring what its own preference ranks first (SPA)",
    "mrpo": "preferring the edits, with two references (MRPO)",
    "spo": "preferring the edits, and telling how much is undone (SPO, reconstructed)",
    "expo": "going further the way that a policy went (ExPO)",
    "best_of_n": "the best of several responses, without training",
}


def setup(run: RunFolder) -> dict[str, Any]:
    """The recipe in a few lines, what each stage took, and the recipe itself."""
    recipe = run.recipe
    state = run.json(run.files.state) or {}
    stages = [
        (name, float(entry["seconds"]))
        for name, entry in state.items()
        if isinstance(entry, dict) and isinstance(entry.get("seconds"), int | float)
    ]
    policy, reward = recipe.policy, recipe.reward
    depth = f", its first {reward.depth} layers" if reward.depth else ""
    facts = [
        ("Model", recipe.model.name),
        *(
            [
                (
                    "Reward model",
                    f"{reward.kind} rewards, {reward.loss} loss, on "
                    f"{(reward.model or recipe.model).name}{depth}; "
                    f"{_adapted(reward.adapt.lora_rank, reward.adapt.train_layers)}; {reward.epochs:g} "
                    "epochs",
                )
            ]
            if run.files.reward.folder.exists() or recipe.trains_reward
            else []
        ),
        (
            "Policy",
            method_of(recipe)
            if recipe.direct is not None and recipe.direct.method == "best_of_n"
            else f"{method_of(recipe)}; {_adapted(policy.adapt.lora_rank, policy.adapt.train_layers)}",
        ),
        *(
            [
                (
                    "KL",
                    f"fixed coefficient {policy.kl.coefficient:g}"
                    if policy.kl.target is None
                    else f"aimed at {policy.kl.target:g} nats a response",
                )
            ]
            if recipe.direct is None
            else []
        ),
        (
            "Sampling",
            f"at most {policy.sampling.max_new_tokens} tokens, temperature {policy.sampling.temperature:g}",
        ),
        ("Judge", recipe.compare.judge),
        ("Seed", str(recipe.seed)),
    ]
    return {
        "facts": facts,
        "method": method_of(recipe),
        "stages": [(name, duration(seconds)) for name, seconds in stages if seconds >= 0.5],
        "total": duration(sum(seconds for _, seconds in stages)),
        "recipe": without_logins(run.files.recipe.read_text(encoding="utf-8", errors="replace")),
    }


def method_of(recipe: Recipe) -> str:
    """How a run's policy is made, in a few words."""
    policy, direct = recipe.policy, recipe.direct
    if direct is None:
        own = [term.spread for term in policy.reward if term.own]
        every = (
            "token"
            if recipe.reward.kind == "token" and set(own) - {"last"}
            else "response"
            if len(own) == len(policy.reward)
            else None
        )  # of functions and other models nobody knows
        what = f"PPO with a reward for every {every}" if every else "PPO"
        return f"{what}, {policy.updates} updates of {policy.batch_size} responses"
    name = DIRECT.get(direct.method, direct.method)
    if isinstance(direct, DirectBestOfN):
        return f"{name}, n = {direct.n}"
    if isinstance(direct, DirectExpo):
        return f"{name}: {direct.policy}"
    rounds = getattr(direct, "rounds", None)
    rounds_text = f", {rounds} rounds" if rounds else ""
    return f"{name}{rounds_text}, {direct.epochs:g} epochs in steps of {direct.batch_size}"


def _adapted(rank: int, layers: int | None) -> str:
    which = f"the upper {layers} layers" if layers else "all layers"
    return f"LoRA of rank {rank} on {which}" if rank else f"full fine-tuning of {which}"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def data(run: RunFolder) -> dict[str, Any] | None:
    """What was read and left out, how minimal the edits are, how many tokens are labelled. None before the
    data stage."""
    sets = [_set(run, name) for name in SETS if run.files.data(name).exists()]
    if not sets:
        return None
    found: dict[str, Any] = {"sets": sets, "edits": None, "labels": _labels(run)}
    if run.files.data("edits").exists():
        edits = list(islice(read_jsonl(run.files.data("edits"), Edit), MOST))
        figures = statistics(edits)
        found["edits"] = {
            "count": len(edits),
            "cut": run.count(run.files.data("edits")) > MOST,
            "median": number(figures.all.median, 2),
            "histogram": charts.histogram(
                "Edit ratio", "share of the words changed", figures.all.histogram(), BIN, "edits"
            ),
            "words": charts.share_bar([(_BAR[kind], kind, figures.all.words[kind]) for kind in KINDS]),
            "editors": ", ".join(
                f"{name} ({group.edits:,})" for name, group in islice(figures.by_editor.items(), 5)
            ),
            "examples": [
                {"id": edit.id, "prompt": shorten(edit.prompt), "text": _changes(edit)}
                for edit in run.drawn([{"edit": edit} for edit in edits], SHOWN)
                for edit in [edit["edit"]]
            ],
        }
    return found


_BAR = {"kept": "z", "substituted": "s3", "deleted": "n3", "inserted": "p3"}


def _set(run: RunFolder, name: str) -> dict[str, Any]:
    source: Source | None = getattr(run.recipe.data, name)
    reasons: Counter[str] = Counter()
    files = [run.files.data_rejects(name), run.files.labels_rejects(name)]
    if (
        name == "edits"
    ):  # they are labelled as those for training and, with no source of its own, for validation
        files.append(run.files.labels_rejects("train"))
        if run.recipe.data.validation is None:
            files.append(run.files.labels_rejects("validation"))
    for file in files:
        reasons.update(re.sub(r" \(.*\)$", "", _why(line)) for line in run.stream(file))
    return {
        "name": name.replace("_", " "),
        "source": source.name if source else "made from the pairs",
        "kept": run.count(run.files.data(name)),
        "left": reasons.total(),
        "reasons": ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common(4)),
        "file": run.name_of(run.files.data(name)),
        "rejects": [run.name_of(file) for file in files if file.exists()],
    }


def _why(line: dict[str, Any]) -> str:
    """Why a record was left out; the answers that `redline edit` refused say at which gate."""
    return str(line.get("reason") or MEANING.get(line.get("gate", ""), line.get("why") or "no reason given"))


def _labels(run: RunFolder) -> list[dict[str, Any]]:
    """Counts of labelled tokens, for each set of labels."""
    rows = []
    for name in ("train", "validation", "test"):
        counts: Counter[str] = Counter()
        for line in islice(run.stream(run.files.labels(name)), MOST):
            rejected, edited = line.get("rejected_labels", []), line.get("edited_labels", [])
            counts.update(
                edits=1,
                removed=rejected.count(-1),
                added=edited.count(1),
                neutral=rejected.count(0) + edited.count(0),
            )
        if counts:
            rows.append(
                {
                    "name": name,
                    "file": run.name_of(run.files.labels(name)),
                    **{key: counts[key] for key in ("edits", "removed", "added", "neutral")},
                }
            )
    return rows


def _changes(edit: Edit) -> Markup:
    """An edit in one text: struck what it removed, underlined what it put in."""
    tags = {DELETED: Markup("<del>{}</del>"), INSERTED: Markup("<ins>{}</ins>")}
    pieces = diff(as_text(edit.rejected).strip()[:3000], as_text(edit.edited).strip()[:3000])
    return Markup('<p class="text" dir="auto">{}</p>').format(
        Markup("").join(
            Markup("{}{}").format(
                text[: len(text) - len(text.lstrip())],
                tags.get(style, Markup("{}")).format(visible(text.lstrip())),
            )
            for style, text in pieces
            if text
        )
    )


def reward(run: RunFolder) -> dict[str, Any] | None:
    """How the reward model learned and what it knows of held-out edits. None before it is trained (or where
    there is none)."""
    metrics = run.json(run.files.reward.metrics)
    if metrics is None:
        return None
    test = metrics.get("test")
    best, where = (test, "test") if test else (metrics["validation"], "validation")
    log = run.lines(run.files.reward.log)

    def curve(key: str) -> list[charts.Point]:
        return [(line["step"], line[key]) for line in log if key in line]

    drawn = [
        charts.line_chart(
            "Held-out figures",
            "validation edits",
            [
                Series("token AUC", curve("auc")),
                Series("pairwise accuracy", curve("pairwise_accuracy"), "second"),
            ],
            "step",
            mark=metrics.get("best_step"),
        ),
        charts.line_chart(
            "Training loss", "a batch", [Series("", curve("loss"))], "step", mark=metrics.get("best_step")
        ),
        _reliability(best.get("reliability") or []),
    ]
    return {
        "metrics": metrics,
        "best": best,
        "where": where,
        "edits": metrics.get(f"{where}_edits", metrics.get("validation_edits")),
        "charts": [chart for chart in drawn if chart],
        "figures": [
            (
                "token AUC",
                number(best.get("auc")),
                "added tokens against removed ones; chance is 0.5",
                f"{where}.auc",
            ),
            (
                "fault AUC",
                number(best.get("fault_auc")),
                "kept against removed, in rejected answers",
                f"{where}.fault_auc",
            ),
            (
                "pairwise accuracy",
                number(best.get("pairwise_accuracy")),
                "of the summed reward; chance is 0.5",
                f"{where}.pairwise_accuracy",
            ),
            (
                "calibration error",
                number(best.get("ece"), 2),
                "expected, of P(better | changed)",
                f"{where}.ece",
            ),
            *(
                (f"F1 of {name} tokens", number(value, 2), "", f"{where}.f1.{name}")
                for name, value in (best.get("f1") or {}).items()
            ),
        ],
        "tokens": _hits_and_misses(run),
    }


def _reliability(table: list[Line]) -> Markup:
    if not table:
        return Markup("")
    return charts.line_chart(
        "Calibration",
        "observed share of better tokens",
        [
            Series("", [(0.0, 0.0), (1.0, 1.0)], "guide"),
            Series(
                "",
                [(row["probability"], row["observed"]) for row in table],
                "main",
                [row["count"] for row in table],
            ),
        ],
        "predicted",
        (0, 1),
        (0, 1),
    )


def _hits_and_misses(run: RunFolder) -> dict[str, Any] | None:
    """The changed tokens whose reward is surest and right, surest and wrong, and the surest on tokens that
    nobody changed."""
    where = run.files.reward.scores
    scored = [(line, from_record(line, {"rewards": "reward"}, str(where))) for line in run.stream(where)]
    if any(line.get("set") == "test" for line, _ in scored):
        scored = [(line, tokens) for line, tokens in scored if line.get("set") == "test"]
    if not scored:
        return None
    prompts = {
        line.get("id"): line.get("prompt", "")
        for name in ("validation", "test")
        for line in islice(run.stream(run.files.labels(name)), MOST)
    }
    scale = scale_of([tokens for _, tokens in scored])
    kinds = [
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
            lambda value, label: abs(value) if label == 0 else 0,
        ),
    ]
    groups = []
    for title, how, sureness in kinds:
        best = sorted(
            (
                (
                    max(
                        (
                            (sureness(value, label), place)
                            for place, (value, label) in enumerate(
                                zip(tokens.numbers["reward"], tokens.labels, strict=True)
                            )
                        ),
                        default=(0, 0),
                    ),
                    line,
                    tokens,
                )
                for line, tokens in scored
            ),
            key=lambda entry: -entry[0][0],
        )
        once: dict[str, tuple[int, Line, Tokens]] = {}
        for (sure, place), line, tokens in best:
            if sure > 0:
                once.setdefault(str(line.get("id")), (place, line, tokens))
        groups.append(
            {
                "title": title,
                "how": how,
                "items": [
                    {
                        "id": name,
                        "side": line.get("side", ""),
                        "prompt": shorten(prompts.get(line.get("id"), "")),
                        "reward": number(float(tokens.numbers["reward"][place]), 2, signed=True),
                        "tokens": render(
                            window := tokens.window(place, AROUND), scale, place - window.left_out
                        ),
                    }
                    for name, (place, line, tokens) in islice(once.items(), SHOWN)
                ],
            }
        )
    return {
        "groups": groups,
        "legend": legend(scale, labels=True),
        "edits": len({line.get("id") for line, _ in scored}),
    }


def policy(run: RunFolder) -> dict[str, Any] | None:
    """How the policy learned, and what it sampled at the first and the last update. None before its first
    update."""
    log = run.lines(run.files.policy.log)
    if not log:
        return None
    done, planned = (
        log[-1]["update"],
        run.recipe.policy.updates if run.recipe.direct is None else log[-1]["update"],
    )
    phases = {
        key.removeprefix("seconds_"): sum(line[key] for line in log if key in line) / len(log)
        for key in log[-1]
        if key.startswith("seconds_")
        and run.recipe.direct is None  # without RL only the judge's time is told apart
    }
    seconds = sum(phases.values())
    parts = ", ".join(f"{name} {number(value, 2)}" for name, value in phases.items())
    peaks = [line["peak_gb"] for line in log if line.get("peak_gb")]
    held = {
        key.removeprefix("gb_"): max(line.get(key, 0.0) for line in log)
        for key in log[-1]
        if key.startswith("gb_")
    }
    return {
        "done": done,
        "planned": planned,
        "last": log[-1],
        "charts": _policy_charts(run, log),
        "samples": _samples(run),
        "cost": f"{number(seconds)} s an update ({parts})" if phases else "",
        "memory": f"{number(max(peaks))} GB" if peaks else "",
        "held": ", ".join(f"{name} {number(value, 2)}" for name, value in held.items()),
        "gold": gold(run, log),
    }


def _policy_charts(run: RunFolder, log: list[Line]) -> list[Markup]:
    def curve(key: str) -> list[charts.Point]:
        return [(line["update"], line[key]) for line in log if key in line]

    target = run.recipe.policy.kl.target
    aim = (
        [Series("target", [(log[0]["update"], target), (log[-1]["update"], target)], "guide")]
        if target is not None
        else []
    )
    drawn = [
        charts.line_chart("Reward", "a response, scaled", [Series("", curve("reward"))]),
        charts.line_chart(
            "Reward that stands out", "a token, raw", [Series("", curve("raw_reward_changed"))]
        ),
        charts.line_chart("KL", "nats a response", [Series("policy" if aim else "", curve("kl")), *aim]),
        charts.line_chart("KL coefficient", "per nat", [Series("", curve("kl_coefficient"))]),
        charts.line_chart("Length", "tokens a response", [Series("", curve("length"))]),
        charts.line_chart("Ended by itself", "share of responses", [Series("", curve("ended"))]),
        charts.line_chart("Entropy", "nats a token", [Series("", curve("entropy"))]),
        charts.line_chart(
            "Clip fraction",
            "share of tokens",
            [
                Series("policy", curve("clip_fraction")),
                Series("value", curve("value_clip_fraction"), "second"),
            ],
        ),
        charts.line_chart(
            "Explained variance", "of returns, by the critic", [Series("", curve("explained_variance"))]
        ),
        charts.line_chart(
            "Advantages",
            "before whitening",
            [Series("mean", curve("advantage_mean")), Series("deviation", curve("advantage_std"), "second")],
        ),
    ]
    return [chart for chart in drawn if chart]


def _samples(run: RunFolder) -> dict[str, Any] | None:
    """Responses of the first and the last sampled update, as coloured tokens on one scale."""
    where = run.files.policy.samples
    records = [line for line in run.stream(where) if line.get("offsets")]
    updates = sorted({line["update"] for line in records})
    if not updates:
        return None
    columns = {"rewards": "reward", "values": "value", "kl": "KL", "advantages": "advantage"}
    picked = [
        (
            update,
            [
                (line, from_record(line, columns, str(where)))
                for line in run.drawn([line for line in records if line["update"] == update], SHOWN)
            ],
        )
        for update in dict.fromkeys((updates[0], updates[-1]))
    ]
    scale = scale_of([tokens for _, members in picked for _, tokens in members])
    shown = [
        {
            "update": update,
            "of": sum(1 for line in records if line["update"] == update),
            "items": [
                {
                    "id": str(line.get("id", "")),
                    "prompt": shorten(line.get("prompt", "")),
                    "tokens": render(tokens, scale),
                    "reward": number(float(sum(tokens.numbers["reward"])), 3, signed=True),
                    "kl": number(float(sum(tokens.numbers["KL"])), 2) if "KL" in tokens.numbers else None,
                }
                for line, tokens in members
            ],
        }
        for update, members in picked
    ]
    return {"legend": legend(scale), "updates": shown}
