"""What came out: the win rate, what guards it, and responses before and after."""

import math
from collections.abc import Callable
from typing import TypeGuard

from markupsafe import Markup

from redline.data.records import as_text
from redline.report import charts
from redline.report.charts import number, percent
from redline.report.folder import Line, RunFolder
from redline.report.habits import habits
from redline.report.sanity import headline, is_shown, sanity
from redline.report.tokens import Tokens, from_record, legend, render, scale_of
from redline.run.files import SYSTEMS
from redline.types import Config, JsonObject

PERPLEXITY, BIGRAMS = 1.5, 0.8  # by what perplexity, distinct bigrams may change before text has degenerated
SHOWN = 3  # prompts of each choice
LONGEST = 3000  # characters of a prompt or response that are shown


def result(run: RunFolder) -> JsonObject | None:
    """The win rate with its interval drawn, and the table of what guards it; None without winrate.json."""
    compared = run.json(run.files.winrate)
    if compared is None:
        return None
    low, high = compared["ci95"]
    said = habits(run)
    outcomes = [
        ("p3", "wins", compared["wins"]),
        ("z", "ties", compared["ties"]),
        ("n3", "losses", compared["losses"]),
    ]
    return {
        **compared,
        "model": run.recipe.model.name,
        "percent": percent(compared["win_rate"]),
        "low": percent(low),
        "high": percent(high),
        "drawn": charts.interval(compared["win_rate"], low, high),
        "headline": None if is_shown(compared) else headline(compared),
        "sanity": sanity(run),
        "sentence": _sentence(compared, low, high, said.overused),
        "habits": said,
        "guards": _guards(compared),
        "outcomes": charts.share_bar(outcomes),
        "facts": _facts(compared),
    }


def _sentence(compared: Line, low: float, high: float, overused: str) -> str:
    if low <= 0.5 <= high:
        verdict = "The interval contains one half: no difference is shown."
    elif not is_shown(compared):
        verdict = "There are too few wins and losses to show a difference."
    elif low > 0.5:
        verdict = "The interval lies above one half: it writes better by this judge."
    else:
        verdict = "The interval lies below one half: it writes worse by this judge."
    return f"{verdict} {_degenerated(compared, overused)}".strip()


def _degenerated(result: Line, overused: str) -> str:
    """Whether the text is still text, by its perplexity, its distinct bigrams and what it says too often;
    empty where the perplexity is not known."""
    after, before = result.get("perplexity_a"), result.get("perplexity_b")
    if "text" not in result or not _is_finite(after) or not _is_finite(before):
        return ""
    signs = []
    if after > PERPLEXITY * before:
        signs.append("perplexity rose more than 1.5 times")
    if after * PERPLEXITY < before:
        signs.append("perplexity fell more than 1.5 times")
    text = result["text"]
    if text["a"]["distinct_bigrams"] < BIGRAMS * text["b"]["distinct_bigrams"]:
        signs.append("distinct bigrams fell by more than a fifth")
    if overused:
        signs.append("the answers have become alike, see below")
    if signs:
        return f"But the text may have degenerated: {' and '.join(signs)}."
    return (
        "The text has not degenerated: perplexity is within 1.5 times of before, distinct bigrams within "
        "20 %, and no word or opening has become common."
    )


def _is_finite(value: object) -> TypeGuard[float]:
    return isinstance(value, float) and math.isfinite(value)


def _guards(compared: Line) -> list[tuple[str, str, str, str]]:
    """Rows ``(name, before, after, key in winrate.json)``, as far as they were measured."""
    guards = []
    if compared.get("perplexity_a") is not None:
        before, after = number(compared["perplexity_b"]), number(compared["perplexity_a"])
        guards.append(("perplexity under the reference", before, after, "perplexity_b, perplexity_a"))
    text = compared.get("text") or {"a": {}, "b": {}}
    rows: list[tuple[str, str, Callable[[object], str]]] = [
        ("distinct bigrams", "distinct_bigrams", percent),
        ("three-word phrases said again", "repetition_rate", percent),
        ("words a response", "mean_words", number),
    ]
    for name, key, shown in rows:
        if key in text["a"] and key in text["b"]:
            guards.append((name, shown(text["b"][key]), shown(text["a"][key]), f"text.b, text.a: {key}"))
    return guards


def _facts(compared: Line) -> list[tuple[str, str, str]]:
    """``(name, figure, key)`` of what else the comparison says."""
    facts = []
    if compared.get("kl") is not None:
        kl = number(compared["kl"])
        if compared.get("kl_error") is not None:
            kl += f" ± {number(compared['kl_error'], 2)}"
        facts.append(("KL from the reference, nats a response", kl, "kl, kl_error"))
    if compared.get("length_controlled_win_rate") is not None:
        rate = percent(compared["length_controlled_win_rate"])
        facts.append(("win rate at equal length", rate, "length_controlled_win_rate"))
    if compared.get("sign_test_p") is not None:
        p = compared["sign_test_p"]
        shown = "under 0.0001" if p < 1e-4 else number(p, 2)
        facts.append(("p of the sign test", shown, "sign_test_p"))
    if compared.get("position_bias"):
        share = percent(compared["position_bias"]["share"])
        facts.append(("order changed the judge's winner", share, "position_bias.share"))
    if compared.get("identical"):
        count = number(compared["identical"])
        facts.append(("identical responses, counted as ties", count, "identical"))
    if compared.get("failures", {}).get("pairs"):
        facts.append(("pairs without a verdict", number(compared["failures"]["pairs"]), "failures"))
    return facts


def comparison(run: RunFolder) -> JsonObject | None:
    """Prompts with both responses and the verdict: some at random, the most and the least successful. None
    without verdicts."""
    rows = run.verdicts()
    if not rows:
        return None
    groups = chosen(run, rows)
    scored = _scores(run)
    coloured: list[Tokens] = []
    for _, _, members in groups:
        for row in members:
            coloured += [tokens for tokens in _sides(row, scored) if tokens]
    scale = scale_of(coloured)
    shown = []
    for title, how, members in groups:
        if members:
            pairs = [_pair(row, scored, scale) for row in members]
            shown.append({"title": title, "how": how, "pairs": pairs})
    return {
        "legend": legend(scale) if scored else None,
        "total": len(rows),
        "seed": run.recipe.seed,
        "groups": shown,
    }


def chosen(run: RunFolder, rows: list[Line]) -> list[tuple[str, str, list[Line]]]:
    """``(title, how they were chosen, rows)``: random ones, the judge's clearest wins and its clearest
    losses, no prompt twice.

    Among rows of equal preference the run's seed draws.
    """
    order = run.drawn(rows, len(rows))
    random, rest = order[:SHOWN], order[SHOWN:]
    wins = sorted((row for row in rest if _preference(row) > 0.5), key=_preference, reverse=True)
    losses = sorted((row for row in rest if _preference(row) < 0.5), key=_preference)
    all_wins = sum(_preference(row) > 0.5 for row in rows)
    all_losses = sum(_preference(row) < 0.5 for row in rows)
    wins, losses = wins[:SHOWN], losses[:SHOWN]
    return [
        ("Drawn at random", f"{len(random)} of all {len(rows)} prompts, drawn with the run's seed", random),
        ("Most successful", _how_chosen(wins, f"{all_wins} wins"), wins),
        ("Least successful", _how_chosen(losses, f"{all_losses} losses"), losses),
    ]


def _preference(row: Line) -> float:
    """The judge's preference for the policy's response; a tie where it gave none."""
    preference = row.get("preference")
    return preference if isinstance(preference, int | float) else 0.5


def _how_chosen(few: list[Line], of: str) -> str:
    """How a few rows were chosen among all wins or losses."""
    drawn = "the clearest by the judge"
    if len({row["preference"] for row in few}) == 1:
        drawn = "drawn at random (the judge calls them equally clear)"
    return f"{len(few)} of the {of}, {drawn}, less those above"


def _scores(run: RunFolder) -> dict[tuple[str, str], Tokens]:
    """Tokens by (id, system) where the compared responses were scored."""
    scores = {}
    for system in SYSTEMS:
        path = run.files.scores(system)
        for line in run.stream(path):
            scores[str(line.get("id")), system] = from_record(line, {"rewards": "reward"}, str(path))
    return scores


def _sides(row: Line, scored: dict[tuple[str, str], Tokens]) -> tuple[Tokens | None, Tokens | None]:
    """The scored tokens of what came before and after, where there are any."""
    return scored.get((str(row.get("id")), "reference")), scored.get((str(row.get("id")), "policy"))


def _pair(row: Line, scored: dict[tuple[str, str], Tokens], scale: float) -> JsonObject:
    preference = row.get("preference")
    is_plain = preference in (None, 0, 0.5, 1)
    before, after = _sides(row, scored)
    return {
        "id": str(row.get("id", "")),
        "prompt": shorten(row["prompt"]),
        "verdict": _verdict(preference),
        "preference": None if is_plain else number(preference, 2),
        "before": _shown(before, scale, row["b"]),
        "after": _shown(after, scale, row["a"]),
    }


def _verdict(preference: float | None) -> str:
    if preference is None:
        return "no verdict"
    if preference == 0.5:
        return "tie"
    return "win" if preference > 0.5 else "loss"


def _shown(tokens: Tokens | None, scale: float, text: Config) -> Markup:
    """A response by its tokens where they were scored."""
    if tokens is None:
        return plain(text)
    total = number(float(sum(tokens.numbers["reward"])), 3, signed=True)
    return render(tokens, scale, f"sum of rewards {total}")


def plain(text: Config) -> Markup:
    """A response without scores."""
    from redline.data.show import visible

    return Markup('<p class="text" dir="auto">{}</p>').format(visible(shorten(text)))


def shorten(text: Config) -> str:
    """A prompt or response as text, less what is too long to show (of which the end is kept)."""
    if isinstance(text, str | list):
        whole = as_text(text).strip("\n")
    else:
        whole = str(text)
    if len(whole) > LONGEST:
        return "… " + whole[-LONGEST:]
    return whole
