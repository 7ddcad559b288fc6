"""Win rates of one system's responses over another's: matched by id, judged, and summed up with what one may
say of them."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

import numpy as np

from redline import __version__
from redline.data.files import write_json, write_jsonl
from redline.data.records import Response, Text, as_text
from redline.errors import UserError
from redline.judge import statistics, text
from redline.judge.cache import VerdictCache
from redline.judge.judges import as_judge
from redline.judge.length import length_controlled_win_rate
from redline.judge.protocol import Judge, JudgeFunction
from redline.judge.systems import read_responses
from redline.judge.verdicts import Pair, Verdict, judge_pairs
from redline.judge.winrate import Failures, PositionBias, SystemDifference, Tournament, WinRate

Verdicts = dict[tuple[int, int], list[Verdict]]  # of each two systems, by their places


def compare(
    a: Sequence[Response],
    b: Sequence[Response],
    judge: Judge | JudgeFunction | str,
    cache: str | Path | None = None,
    seed: int = 0,
    verdicts: str | Path | None = None,
    names: tuple[str, str] = ("a", "b"),
) -> WinRate:
    """The win rate of ``a`` over ``b``.

    ``judge`` is a judge, the name of one (see ``load_judge``), or a function ``(prompts, a, b) -> preferences
    for a``. Responses are matched by id. ``cache`` is a file where verdicts are kept and looked up;
    ``verdicts`` a JSONL file to write every pair with its verdict to; ``seed`` draws the bootstrap.
    docs/compare.md says what each number means. Raises UserError for equal names, ids that come twice,
    prompts that differ, nothing in common, or a judge that gave no verdict at all.
    """
    if names[0] == names[1]:
        raise UserError(f"{names[0]}: a system is compared with itself. Give different files or names.")
    chosen = as_judge(judge)
    ids, matched = match({names[0]: a, names[1]: b})
    pairs: list[Pair] = [(prompt, first, second) for prompt, (first, second) in matched]
    with VerdictCache(cache) as known:
        judged = judge_pairs(chosen, pairs, known)
    if verdicts is not None:
        write_jsonl(verdicts, verdict_rows(ids, pairs, judged, names))
    unmatched = {"only_a": len(a) - len(ids), "only_b": len(b) - len(ids)}
    return summarise(pairs, judged, chosen, seed, names, unmatched)


def compare_files(
    a: str | Path,
    b: str | Path,
    judge: Judge | JudgeFunction | str,
    out: str | Path,
    cache: str | Path | None = None,
    seed: int = 0,
) -> WinRate:
    """``compare`` on two files of responses; writes ``out`` and the verdicts beside it (``out`` with
    .verdicts.jsonl)."""
    result = compare(
        read_responses(a), read_responses(b), judge, cache, seed, verdicts_beside(out), (str(a), str(b))
    )
    write_json(out, result.as_json())
    return result


def compare_many(
    systems: dict[str, Sequence[Response]],
    judge: Judge | JudgeFunction | str,
    cache: str | Path | None = None,
    seed: int = 0,
    verdicts: str | Path | None = None,
) -> Tournament:
    """Three or more systems on the prompts that all of them answered; the last one is the reference of the
    differences."""
    names = list(systems)
    if len(names) < 3:
        raise ValueError("expected at least three systems; compare() takes two")
    chosen = as_judge(judge)
    ids, matched = match(systems)
    judged: Verdicts = {}
    results: list[WinRate] = []
    rows: list[dict[str, object]] = []
    with VerdictCache(cache) as known:
        for i, j in combinations(range(len(names)), 2):
            two = (names[i], names[j])
            pairs: list[Pair] = [(prompt, responses[i], responses[j]) for prompt, responses in matched]
            judged[i, j] = judge_pairs(chosen, pairs, known)
            results.append(summarise(pairs, judged[i, j], chosen, seed, two, {}))
            rows += verdict_rows(ids, pairs, judged[i, j], two)
    if verdicts is not None:
        write_jsonl(verdicts, rows)
    differences = []
    for i, j in combinations(range(len(names) - 1), 2):
        differences.append(_difference(names, judged, i, j, seed))
    return Tournament(
        systems=names,
        pairs=results,
        differences=differences,
        bradley_terry=dict(zip(names, _strengths(len(names), judged), strict=True)),
        unmatched={name: len(responses) - len(ids) for name, responses in systems.items()},
    )


def match(systems: dict[str, Sequence[Response]]) -> tuple[list[str], list[tuple[Text, list[Text]]]]:
    """The ids that every system answered, and for each its prompt and the responses, in the systems' order.

    Raises UserError where an id comes twice, where two systems answered different prompts under one id, and
    where no id is common to all.
    """
    tables = {name: _by_id(name, responses) for name, responses in systems.items()}
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
    matched = []
    for same in ids:
        responses = [table[same].response for table in tables.values()]
        matched.append((first[same].prompt, responses))
    return ids, matched


def _by_id(name: str, responses: Sequence[Response]) -> dict[str, Response]:
    table: dict[str, Response] = {}
    for response in responses:
        if response.id in table:
            raise UserError(
                f"{name}: the id `{response.id}` comes twice. Give each response an id of its own."
            )
        table[response.id] = response
    return table


def summarise(
    pairs: Sequence[Pair],
    verdicts: Sequence[Verdict],
    judge: Judge,
    seed: int,
    names: tuple[str, str],
    unmatched: dict[str, int],
) -> WinRate:
    """Win rate, error, interval, sign test, lengths, position bias and failures of judged pairs."""
    preferences: list[float] = []
    texts_a: list[str] = []
    texts_b: list[str] = []
    for (_, a, b), verdict in zip(pairs, verdicts, strict=True):
        if verdict.preference is not None:
            preferences.append(verdict.preference)
            texts_a.append(as_text(a))
            texts_b.append(as_text(b))
    if not preferences:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in judge.failures.items())
        raise UserError(
            f"judge {judge.name}: not one verdict on {len(pairs)} pairs: {reasons or 'no reason given'}."
        )
    lengths_a = [len(response) for response in texts_a]
    lengths_b = [len(response) for response in texts_b]
    wins, ties, losses = statistics.outcome_counts(preferences)
    controlled = None
    if judge.length_prior is not None:
        controlled = length_controlled_win_rate(preferences, lengths_a, lengths_b, anchor=judge.length_prior)
    return WinRate(
        win_rate=statistics.win_rate(preferences),
        ci95=statistics.win_rate_interval(preferences, seed),
        n=len(preferences),
        judge=judge.name,
        wins=wins,
        ties=ties,
        losses=losses,
        standard_error=statistics.standard_error(preferences) if len(preferences) > 1 else None,
        sign_test_p=statistics.sign_test(wins, losses),
        length_controlled_win_rate=controlled.win_rate if controlled else None,
        length_effect=controlled.length_effect if controlled else None,
        length_prior=judge.length_prior,
        mean_length_a=float(np.mean(lengths_a)),
        mean_length_b=float(np.mean(lengths_b)),
        text={"a": text.describe(texts_a), "b": text.describe(texts_b)},
        position_bias=position_bias(verdicts) if judge.both_orders else None,
        identical=sum(verdict.identical for verdict in verdicts),
        failures=Failures(len(pairs) - len(preferences), dict(judge.failures)),
        judge_settings=judge.settings,
        seed=seed,
        redline=__version__,
        unmatched=unmatched,
        a=names[0],
        b=names[1],
    )


def position_bias(verdicts: Sequence[Verdict]) -> PositionBias:
    """How much the order swayed the judge, over the pairs that it judged in both orders."""
    both = [verdict for verdict in verdicts if verdict.in_both_orders]
    if not both:
        return PositionBias(0, 0, 0.0, 0.5)
    changed = sum(verdict.disagrees for verdict in both)
    towards_first = sum(verdict.towards_first for verdict in both) / len(both)
    return PositionBias(len(both), changed, changed / len(both), towards_first)


def verdict_rows(
    ids: Sequence[str], pairs: Sequence[Pair], verdicts: Sequence[Verdict], names: tuple[str, str]
) -> list[dict[str, object]]:
    """One record for each pair: what was compared and what the judge said, failures included (preference
    null)."""
    rows: list[dict[str, object]] = []
    for name, (prompt, a, b), verdict in zip(ids, pairs, verdicts, strict=True):
        compared = {"id": name, "systems": list(names), "prompt": prompt, "a": a, "b": b}
        rows.append(compared | asdict(verdict))
    return rows


def verdicts_beside(out: str | Path) -> Path:
    """winrate.json -> winrate.verdicts.jsonl."""
    return Path(out).with_suffix(".verdicts.jsonl")


def _difference(names: list[str], judged: Verdicts, i: int, j: int, seed: int) -> SystemDifference:
    """How much better system ``i`` does than system ``j`` over the last one."""
    last = len(names) - 1
    first, second = [], []
    for of_i, of_j in zip(judged[i, last], judged[j, last], strict=True):
        if of_i.preference is not None and of_j.preference is not None:
            first.append(of_i.preference)
            second.append(of_j.preference)
    if not first:
        raise UserError(
            f"{names[i]} and {names[j]}: no prompt on which both were judged against {names[last]}."
        )
    difference = statistics.paired_difference(first, second, seed)
    return SystemDifference(**vars(difference), a=names[i], b=names[j], over=names[last])


def _strengths(count: int, judged: Verdicts) -> list[float]:
    wins = np.zeros((count, count))
    for (i, j), verdicts in judged.items():
        given = [verdict.preference for verdict in verdicts if verdict.preference is not None]
        wins[i, j], wins[j, i] = sum(given), len(given) - sum(given)
    return [float(strength) for strength in statistics.bradley_terry(wins)]
