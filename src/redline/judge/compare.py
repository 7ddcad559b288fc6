"""Win rates of one system's responses over another's: matched by id, judged, and summed up with what one may
say of them."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from redline import __version__
from redline.data.files import write_json, write_jsonl
from redline.data.records import Response, as_text
from redline.errors import UserError
from redline.judge import statistics, text
from redline.judge.cache import VerdictCache
from redline.judge.length import length_controlled_win_rate
from redline.judge.protocol import Judge
from redline.judge.systems import read_responses
from redline.judge.verdicts import Pair, Verdict, judge_pairs


def compare(
    a: Sequence[Response],
    b: Sequence[Response],
    judge: Judge,
    cache: str | Path | None = None,
    seed: int = 0,
    verdicts: str | Path | None = None,
    names: tuple[str, str] = ("a", "b"),
) -> dict[str, Any]:
    """The win rate of ``a`` over ``b``: the object of winrate.json, all shares from 0 to 1.

    Responses are matched by id. ``cache`` is a file where verdicts are kept and looked up; ``verdicts`` a
    JSONL file to write every pair with its verdict to; ``seed`` draws the bootstrap. docs/compare.md says
    what each number means. Raises UserError for equal names, ids that come twice, prompts that differ,
    nothing in common, or a judge that gave no verdict at all.
    """
    if names[0] == names[1]:
        raise UserError(f"{names[0]}: a system is compared with itself. Give different files or names.")
    ids, matched = match({names[0]: a, names[1]: b})
    pairs: list[Pair] = [(prompt, *responses) for prompt, responses in matched]
    with VerdictCache(cache) as kept:
        found = judge_pairs(judge, pairs, kept)
    if verdicts is not None:
        write_jsonl(verdicts, verdict_rows(ids, pairs, found, names))
    unmatched = {"only_a": len(a) - len(ids), "only_b": len(b) - len(ids)}
    return {**summarise(pairs, found, judge, seed), "unmatched": unmatched, "a": names[0], "b": names[1]}


def compare_files(
    a: str | Path,
    b: str | Path,
    judge: Judge,
    out: str | Path,
    cache: str | Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """``compare`` on two files of responses; writes ``out`` and the verdicts beside it (``out`` with
    .verdicts.jsonl)."""
    result = compare(
        read_responses(a), read_responses(b), judge, cache, seed, verdicts_beside(out), (str(a), str(b))
    )
    write_json(out, result)
    return result


def compare_many(
    systems: dict[str, Sequence[Response]],
    judge: Judge,
    cache: str | Path | None = None,
    seed: int = 0,
    verdicts: str | Path | None = None,
) -> dict[str, Any]:
    """Three or more systems on the prompts that all of them answered; the last one is the reference of the
    differences.

    The object holds the first system's comparison with the last at its top level, and besides ``pairs``
    (every two systems compared), ``differences`` (of win rates over the reference, prompt by prompt) and
    ``bradley_terry`` (strengths in log units, mean 0).
    """
    names = list(systems)
    if len(names) < 3:
        raise ValueError("expected at least three systems; compare() takes two")
    ids, matched = match(systems)
    found: dict[tuple[int, int], list[Verdict]] = {}
    results, rows = {}, []
    with VerdictCache(cache) as kept:
        for i, j in combinations(range(len(names)), 2):
            pairs: list[Pair] = [(prompt, responses[i], responses[j]) for prompt, responses in matched]
            found[i, j] = judge_pairs(judge, pairs, kept)
            results[i, j] = {**summarise(pairs, found[i, j], judge, seed), "a": names[i], "b": names[j]}
            rows += verdict_rows(ids, pairs, found[i, j], (names[i], names[j]))
    if verdicts is not None:
        write_jsonl(verdicts, rows)
    last = len(names) - 1
    return {
        **results[0, last],
        "unmatched": {name: len(responses) - len(ids) for name, responses in systems.items()},
        "systems": names,
        "pairs": list(results.values()),
        "differences": [_difference(names, found, i, j, seed) for i, j in combinations(range(last), 2)],
        "bradley_terry": dict(zip(names, _strengths(len(names), found), strict=True)),
    }


def match(systems: dict[str, Sequence[Response]]) -> tuple[list[str], list[tuple[Any, list[Any]]]]:
    """The ids that every system answered, and for each its prompt and the responses, in the systems' order.

    Raises UserError where an id comes twice, where two systems answered different prompts under one id, and
    where no id is common to all.
    """
    tables: dict[str, dict[str, Response]] = {}
    for name, responses in systems.items():
        tables[name] = {}
        for response in responses:
            if response.id in tables[name]:
                raise UserError(
                    f"{name}: the id `{response.id}` comes twice. Give each response an id of its own."
                )
            tables[name][response.id] = response
    first, *others = tables.values()
    ids = [name for name in first if all(name in table for table in others)]
    if not ids:
        raise UserError(
            f"{' and '.join(systems)}: no id in common, so nothing can be compared. Responses are matched "
            "by `id`."
        )
    for name, table in tables.items():
        for same in ids:
            if as_text(table[same].prompt).strip() != as_text(first[same].prompt).strip():
                raise UserError(
                    f"{name}, id `{same}`: its prompt is not that of {next(iter(tables))}. "
                    "Compare responses to the same prompts."
                )
    return ids, [(first[same].prompt, [table[same].response for table in tables.values()]) for same in ids]


def summarise(
    pairs: Sequence[Pair], verdicts: Sequence[Verdict], judge: Judge, seed: int = 0
) -> dict[str, Any]:
    """Win rate, error, interval, sign test, lengths, position bias and failures of judged pairs."""
    judged = [
        (pair, verdict.preference)
        for pair, verdict in zip(pairs, verdicts, strict=True)
        if verdict.preference is not None
    ]
    if not judged:
        reasons = (
            "; ".join(f"{reason} ({count})" for reason, count in judge.failures.items()) or "no reason given"
        )
        raise UserError(f"judge {judge.name}: not one verdict on {len(pairs)} pairs: {reasons}.")
    preferences = [preference for _, preference in judged]
    texts_a, texts_b = ([as_text(pair[side]) for pair, _ in judged] for side in (1, 2))
    lengths_a, lengths_b = [len(response) for response in texts_a], [len(response) for response in texts_b]
    wins, ties, losses = statistics.outcome_counts(preferences)
    controlled = length_controlled_win_rate(preferences, lengths_a, lengths_b, anchor=judge.length_prior)
    error = statistics.standard_error(preferences)
    return {
        "win_rate": statistics.win_rate(preferences),
        "ci95": list(statistics.win_rate_interval(preferences, seed)),
        "n": len(judged),
        "judge": judge.name,
        "wins": wins,
        "ties": ties,
        "losses": losses,
        "standard_error": error if len(judged) > 1 else None,
        "sign_test_p": statistics.sign_test(wins, losses),
        "length_controlled_win_rate": controlled.win_rate,
        "length_effect": controlled.length_effect,
        "length_prior": list(judge.length_prior),
        "mean_length_a": float(np.mean(lengths_a)),
        "mean_length_b": float(np.mean(lengths_b)),
        "text": {"a": text.describe(texts_a), "b": text.describe(texts_b)},
        "position_bias": position_bias(verdicts) if judge.both_orders else None,
        "identical": sum(verdict.identical for verdict in verdicts),
        "failures": {"pairs": len(pairs) - len(judged), "reasons": dict(judge.failures)},
        "judge_settings": judge.settings,
        "seed": seed,
        "redline": __version__,
    }


def position_bias(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """How much the order swayed the judge: of ``pairs`` judged in both orders, the ``disagreements`` (the
    winner changed), their ``share``, and ``prefers_first``, the mean preference for whatever was shown first
    (0.5: no side preferred).
    """
    both = [
        (verdict.shown_first, verdict.shown_second, verdict.disagrees)
        for verdict in verdicts
        if verdict.shown_first is not None and verdict.shown_second is not None
    ]
    changed = sum(disagrees for *_, disagrees in both)
    towards = [
        (first + 1 - second) / 2 for first, second, _ in both if first is not None and second is not None
    ]
    return {
        "pairs": len(both),
        "disagreements": changed,
        "share": changed / len(both) if both else 0.0,
        "prefers_first": sum(towards) / len(towards) if towards else 0.5,
    }


def verdict_rows(
    ids: Sequence[str], pairs: Sequence[Pair], verdicts: Sequence[Verdict], names: tuple[str, str]
) -> list[dict[str, Any]]:
    """One record for each pair: what was compared and what the judge said, failures included (preference
    null)."""
    return [
        {"id": name, "systems": list(names), "prompt": prompt, "a": a, "b": b, **asdict(verdict)}
        for name, (prompt, a, b), verdict in zip(ids, pairs, verdicts, strict=True)
    ]


def verdicts_beside(out: str | Path) -> Path:
    """winrate.json -> winrate.verdicts.jsonl."""
    return Path(out).with_suffix(".verdicts.jsonl")


def _difference(
    names: list[str], found: dict[tuple[int, int], list[Verdict]], i: int, j: int, seed: int
) -> dict[str, Any]:
    last = len(names) - 1
    both = [
        (x.preference, y.preference)
        for x, y in zip(found[i, last], found[j, last], strict=True)
        if x.preference is not None and y.preference is not None
    ]
    who = {"a": names[i], "b": names[j], "over": names[last]}
    if not both:
        raise UserError(
            f"{names[i]} and {names[j]}: no prompt on which both were judged against {names[last]}."
        )
    first, second = zip(*both, strict=True)
    return {**who, **asdict(statistics.paired_difference(first, second, seed))}


def _strengths(count: int, found: dict[tuple[int, int], list[Verdict]]) -> list[float]:
    wins = np.zeros((count, count))
    for (i, j), verdicts in found.items():
        given = [verdict.preference for verdict in verdicts if verdict.preference is not None]
        wins[i, j], wins[j, i] = sum(given), len(given) - sum(given)
    return [float(strength) for strength in statistics.bradley_terry(wins)]
