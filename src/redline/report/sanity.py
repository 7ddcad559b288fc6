"""What should keep a reader from believing a run's figures too soon: one line each, with what to do."""

import math
from collections.abc import Iterator
from itertools import islice

from redline.data.files import read_jsonl
from redline.data.records import Edit
from redline.edit.stats import statistics
from redline.report.folder import Line, RunFolder
from redline.report.habits import habits
from redline.run.files import SYSTEMS
from redline.types import Json

FEW = 30  # held-out prompts: below, no win rate can be told from another but by chance
SMALL_EDIT = 0.5  # median share of the words that edits may change and still be called minimal
PERPLEXITY, LENGTH = 1.5, 1.5  # by what perplexity and length may change, either way
SURE = 1.645  # standard errors above chance: one-sided, 5 %
AUC = 0.6  # of token rewards on held-out edits: below, they hardly tell changed tokens from others
ALIKE = 0.9  # share of prompts on which the judge prefers what the reward prefers
MOST = 10_000  # edits that are read


def sanity(run: RunFolder) -> list[str]:
    """The lines that a run's figures ask for, in the order of its stages; none where all is well."""
    return [*_edits(run), *_reward(run), *_comparison(run)]


def is_shown(result: Line) -> bool:
    """Whether a comparison shows a difference: its interval leaves out one half, and as many wins over losses
    are unlikely by chance (sign test). Of two prompts, both won, neither can be said."""
    low, high = result["ci95"]
    return not low <= 0.5 <= high and result.get("sign_test_p", 0.0) < 0.05


def headline(result: Line) -> str:
    """The one sentence that a comparison allows."""
    if not is_shown(result):
        return "No difference is shown"
    return "The policy is better" if result["win_rate"] > 0.5 else "The policy is worse"


def _edits(run: RunFolder) -> Iterator[str]:
    path = run.files.data("edits")
    if not path.exists():
        return
    edits = list(islice(read_jsonl(path, Edit), MOST))
    median = statistics(edits).all.median if edits else 0.0
    if median > SMALL_EDIT:
        yield (
            f"The edits are not minimal: their median changes {median:.0%} of the words, so the labels say "
            "little about single tokens. Ask the editor to change less, or lower edit.max_ratio."
        )


def _reward(run: RunFolder) -> Iterator[str]:
    metrics = run.json(run.files.reward.metrics)
    if metrics is None:
        return
    where = "test" if metrics.get("test") else "validation"
    held_out = metrics[where]
    edits = metrics.get(f"{where}_edits", 0)
    pairs, accuracy = held_out.get("pairs", edits), held_out.get("pairwise_accuracy")
    auc = held_out.get("auc")
    advice = "Give more edits, train more layers (reward.adapt.train_layers) or longer (reward.epochs)."
    if accuracy is not None and pairs and accuracy - SURE * math.sqrt(0.25 / pairs) <= 0.5:
        yield (
            f"The reward model hardly beats chance: it prefers the better side of {accuracy:.0%} of "
            f"{pairs:,} held-out edits. {advice}"
        )
    elif auc is not None and auc < AUC:
        yield (
            f"The reward model hardly tells changed tokens from others: its AUC on {edits:,} held-out edits "
            f"is {auc:.2f}, chance is 0.5. {advice}"
        )


def _comparison(run: RunFolder) -> Iterator[str]:
    result = run.json(run.files.winrate)
    if result is None:
        return
    if result["n"] < FEW:
        yield (
            f"{result['n']} held-out prompts are too few for a claim. Give at least {FEW}, better 200, with "
            "data.eval_prompts."
        )
    yield from _perplexity(result)
    yield from _lengths(result)
    yield from _overused(run)
    yield from _same_taste(run, result)
    if run.recipe.sft is not None:
        yield (
            "The policy is compared with the model after SFT, which it started from, not with "
            f"{run.recipe.model.name} itself."
        )


def _perplexity(result: Line) -> Iterator[str]:
    after, before = result.get("perplexity_a"), result.get("perplexity_b")
    if not _is_number(after) or not _is_number(before) or not before:
        return
    ratio = after / before
    if ratio > PERPLEXITY:
        yield (
            f"Perplexity under the reference rose {ratio:.1f} times, from {before:.1f} to {after:.1f}: the "
            "text may have degenerated. Lower policy.kl.target or policy.updates, and read samples."
        )
    elif ratio < 1 / PERPLEXITY:
        yield (
            f"Perplexity under the reference fell {1 / ratio:.1f} times, from {before:.1f} to {after:.1f}: "
            "the "
            "responses may have become alike, or repeat themselves. Read samples; lower policy.kl.target."
        )


def _lengths(result: Line) -> Iterator[str]:
    after, before = result.get("mean_length_a"), result.get("mean_length_b")
    if not _is_number(after) or not _is_number(before) or not before:
        return
    ratio = after / before
    if 1 / LENGTH <= ratio <= LENGTH:
        return
    controlled = result.get("length_controlled_win_rate")
    equal = ""
    if _is_number(controlled):
        equal = f" At equal length the win rate would be {controlled:.2f}."
    change = "longer" if ratio > 1 else "shorter"
    yield (
        f"The responses have become {change}: {before:.0f} characters before, "
        f"{after:.0f} after.{equal} Look at policy.length_normalise, eos_reward and no_eos_penalty."
    )


def _overused(run: RunFolder) -> Iterator[str]:
    overused = habits(run).overused
    if overused:
        yield (
            f"The answers have become alike: {overused}. The judge or the reward may like the words and not "
            "the answers. Read samples; lower policy.kl.target or policy.updates."
        )


def _same_taste(run: RunFolder, result: Line) -> Iterator[str]:
    """Whether the judge likes what the reward likes: then the win rate only says that PPO works."""
    rewards = {}
    for name in SYSTEMS:
        for line in run.stream(run.files.scores(name)):
            rewards[line.get("id"), name] = _sum(line)
    same = decided = 0
    for row in run.verdicts():
        preference = row.get("preference")
        a, b = (rewards.get((row.get("id"), name)) for name in SYSTEMS)
        if preference in (None, 0.5) or a is None or b is None or a == b:
            continue
        decided += 1
        same += (preference > 0.5) == (a > b)
    if decided >= FEW and same / decided >= ALIKE:
        yield (
            f"The judge likes what the reward likes: they agree on {same} of {decided} prompts. A win by "
            "such a judge says little more than that the reward was climbed. Compare with another judge too."
        )


def _sum(line: Line) -> float:
    return float(sum(line.get("rewards") or []))


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
