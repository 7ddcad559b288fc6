"""Before trusting a judge: does it agree with people, with itself, and does order or length sway it?"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from redline.data.check import Rejects
from redline.data.files import check_apart
from redline.data.records import Text, as_text
from redline.data.rows import rows
from redline.data.settings import Source
from redline.errors import UserError
from redline.judge.agreement import agreement, cohen_kappa, fleiss_kappa, majority
from redline.judge.cache import VerdictCache
from redline.judge.compare import position_bias
from redline.judge.protocol import Judge
from redline.judge.verdicts import Verdict, judge_pairs, winner

Votes = dict[tuple[int, str], float | None]  # by person: the column's place, or a name
VALUES = {"a": 1.0, "b": 0.0, "tie": 0.5}


@dataclass(frozen=True)
class JudgedPair:
    """A pair and what people said of it: 1 (a), 0 (b) or 0.5 (a tie) for each person, None where one did not
    say."""

    prompt: Text
    a: Text
    b: Text
    people: tuple[float | None, ...]


@dataclass(frozen=True)
class Columns:
    """Where a file keeps them: ``prompt`` a column or a template such as ``"{instruction}\\n\\n{input}"``;
    ``people`` one or more columns, separated by commas."""

    prompt: str = "prompt"
    a: str = "a"
    b: str = "b"
    people: str = "preference"


PANDALM = Columns("{instruction}\n\n{input}", "response1", "response2", "annotator1,annotator2,annotator3")
CODES_1_2 = {"1": 1.0, "2": 0.0, "0": 0.5, "1.5": 0.5}


def read_human_verdicts(
    path: str | Path, rejects: Rejects, columns: Columns | None = None, values: dict[str, str] | None = None
) -> list[JudgedPair]:
    """Pairs that people judged, from any file that Redline reads; what cannot be used goes to ``rejects``
    with its reason.

    Without ``columns``: Redline's own verdicts (prompt, a, b, preference from 0 to 1), or PandaLM's format,
    told by its columns. ``values`` says what the codes mean, e.g. ``{"1": "a", "2": "b", "0": "tie"}``;
    without it a number is a preference for a, from 0 to 1, and the words a, b and tie are themselves. Of
    Redline's own verdicts with the list ``verdicts`` each person's is one, the people in order of their
    names. Raises UserError when the file cannot be read, nothing in it is usable, or it is the file of
    ``rejects``.
    """
    check_apart([rejects.path] if rejects.path else [], [path])
    for value in (values or {}).values():
        if value not in VALUES:
            raise UserError(f"--values: `{value}` is no verdict. Write code=a, code=b or code=tie.")
    codes = {code: VALUES[value] for code, value in values.items()} if values else None
    pairs: list[tuple[Text, Text, Text, Votes]] = []
    for row in rows(Source(path=str(path))):
        if columns is None and isinstance(row.values, dict):
            pandalm = {"response1", "annotator1"} <= row.values.keys()
            columns, codes = (PANDALM, codes or CODES_1_2) if pandalm else (Columns(), codes)
        try:
            if row.problem:
                raise ValueError(row.problem)
            pairs.append(_pair(row.values, columns or Columns(), codes))
            rejects.kept += 1
        except ValueError as error:
            rejects.add(str(error), row.file, row.line, row.values)
    if not pairs:
        raise UserError(f"{path}: no usable record. {rejects.summary()}.")
    people = sorted({person for *_, votes in pairs for person in votes})
    return [
        JudgedPair(prompt, a, b, tuple(votes.get(person) for person in people))
        for prompt, a, b, votes in pairs
    ]


def _pair(
    row: dict[str, Any], columns: Columns, codes: dict[str, float] | None
) -> tuple[Text, Text, Text, Votes]:
    """Prompt, a, b and the votes. Raises ValueError saying what is wrong with the record."""
    if "{" in columns.prompt:
        prompt: Text = re.sub(r"\{(\w+)\}", lambda name: as_text(_text(row, name[1])), columns.prompt).strip()
    else:
        prompt = _text(row, columns.prompt)
    votes = _votes(row, columns, codes)
    if all(vote is None for vote in votes.values()):
        raise ValueError(f"{columns.people}: no verdict")
    return prompt, _text(row, columns.a), _text(row, columns.b), votes


def _votes(row: dict[str, Any], columns: Columns, codes: dict[str, float] | None) -> Votes:
    given = row.get("verdicts")
    if (
        columns.people == Columns.people
        and isinstance(given, list)
        and given
        and all(isinstance(one, dict) and {"person", "preference"} <= one.keys() for one in given)
    ):
        return {(0, str(one["person"])): _verdict(one, "preference", codes) for one in given}
    return {
        (place, ""): _verdict(row, name.strip(), codes)
        for place, name in enumerate(columns.people.split(","))
    }


def _text(row: dict[str, Any], column: str) -> Text:
    """A column's text; an empty response is one too, and so is a bare number."""
    value = row.get(column)
    if isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(message, dict) for message in value)
    ):
        return value
    if isinstance(value, int | float):
        return str(value)
    raise ValueError(f"{column}: {'missing' if column not in row else 'neither text nor messages'}")


def _verdict(row: dict[str, Any], column: str, codes: dict[str, float] | None) -> float | None:
    if column not in row:
        raise ValueError(f"{column}: missing")
    value = row[column]
    if value is None or value == "":
        return None
    code = str(value).strip()
    names = [code]
    try:
        number = float(code)
        names.append(f"{number:g}")  # 1.0 is what pandas makes of a 1 in a column with gaps
    except ValueError:
        number = -1.0
    known = codes if codes is not None else VALUES
    for name in names:
        if name in known:
            return known[name]
    if codes is not None or not 0 <= number <= 1:
        raise ValueError(f"{column}: `{code}` is no verdict known here (see --values)")
    return winner(number)


def check_judge(
    pairs: Sequence[JudgedPair], judge: Judge, cache: str | Path | None = None, again: int = 100
) -> dict[str, Any]:
    """A judge against people's verdicts; shares from 0 to 1, None where there is nothing to measure.

    ``people``: agreement among them. ``with_people``: the judge's with their majority and with each.
    ``position_bias`` as in ``compare``. ``length_bias``: how often judge and people pick the longer response,
    and how far "the longer wins" alone agrees with people. ``self_consistency``: of ``again`` pairs asked a
    second time, how many keep their verdict. ``failures``: ``pairs`` without a verdict, and those that failed
    when asked ``again``, with the reasons.
    """
    questions = [(pair.prompt, pair.a, pair.b) for pair in pairs]
    with VerdictCache(cache) as kept:
        verdicts = judge_pairs(judge, questions, kept)
        failed, reasons = sum(verdict.preference is None for verdict in verdicts), Counter(judge.failures)
        if failed == len(pairs):
            raise UserError(
                f"judge {judge.name}: not one verdict on {len(pairs)} pairs: {'; '.join(judge.failures)}."
            )
        second = judge_pairs(judge, questions[:again], kept, repeat=1)
        failures = {
            "pairs": failed,
            "again": sum(verdict.preference is None for verdict in second),
            "reasons": dict(reasons + Counter(judge.failures)),
        }
    said = [None if verdict.preference is None else winner(verdict.preference) for verdict in verdicts]
    votes = [majority([vote for vote in pair.people if vote is not None]) for pair in pairs]
    return {
        "judge": judge.name,
        "judge_settings": judge.settings,
        "n": len(pairs),
        "people": _people(pairs),
        "with_people": _with_people(pairs, votes, said),
        "position_bias": position_bias(verdicts) if judge.both_orders else None,
        "length_bias": _length_bias(pairs, votes, said),
        "self_consistency": _consistency(verdicts, second),
        "failures": failures,
    }


def _people(pairs: Sequence[JudgedPair]) -> dict[str, Any]:
    count = max(len(pair.people) for pair in pairs)
    complete = [verdicts for pair in pairs if len(verdicts := _given(pair)) == count]
    shared = [
        ([x for x, _ in both], [y for _, y in both])
        for i, j in combinations(range(count), 2)
        if (
            both := [
                (pair.people[i], pair.people[j])
                for pair in pairs
                if pair.people[i] is not None and pair.people[j] is not None
            ]
        )
    ]
    return {
        "count": count,
        "complete": len(complete),
        "pairwise_agreement": _mean([agreement(x, y) for x, y in shared]),  # type: ignore[arg-type]
        "cohen_kappa": _mean([cohen_kappa(x, y) for x, y in shared]),  # type: ignore[arg-type]
        "fleiss_kappa": fleiss_kappa(complete) if complete and count > 1 else None,
    }


def _with_people(
    pairs: Sequence[JudgedPair], votes: Sequence[float | None], said: Sequence[float | None]
) -> dict[str, Any]:
    both = [
        (vote, verdict)
        for vote, verdict in zip(votes, said, strict=True)
        if vote is not None and verdict is not None
    ]
    decided = [(vote, verdict) for vote, verdict in both if 0.5 not in (vote, verdict)]
    each = [
        float(vote == verdict)
        for pair, verdict in zip(pairs, said, strict=True)
        if verdict is not None
        for vote in _given(pair)
    ]
    return {
        "n": len(both),
        "agreement": _mean([float(vote == verdict) for vote, verdict in both]),
        "decided": len(decided),
        "agreement_decided": _mean([float(vote == verdict) for vote, verdict in decided]),
        "cohen_kappa": cohen_kappa(*([pair[side] for pair in both] for side in (0, 1))) if both else None,
        "agreement_each": _mean(each),
        "no_majority": sum(vote is None for vote in votes),
    }


def _length_bias(
    pairs: Sequence[JudgedPair], votes: Sequence[float | None], said: Sequence[float | None]
) -> dict[str, Any]:
    """How often each side's decided verdicts name the longer response, and the yardstick's agreement with the
    majority."""
    lengths = [(len(as_text(pair.a)), len(as_text(pair.b))) for pair in pairs]
    longer = [0.5 if a == b else float(a > b) for a, b in lengths]

    def picks(verdicts: Sequence[float | None]) -> float | None:
        return _mean(
            [
                float(verdict == long)
                for verdict, long in zip(verdicts, longer, strict=True)
                if verdict in (0.0, 1.0) and long != 0.5
            ]
        )

    return {
        "judge": picks(said),
        "people": picks(votes),
        "yardstick": _mean(
            [float(vote == long) for vote, long in zip(votes, longer, strict=True) if vote is not None]
        ),
    }


def _consistency(first: Sequence[Verdict], second: Sequence[Verdict]) -> dict[str, Any]:
    """Same order, asked again: the share of single verdicts that name the same winner."""
    both = [
        (x.shown_first, y.shown_first)
        for x, y in zip(first, second, strict=False)
        if x.shown_first is not None and y.shown_first is not None
    ]
    return {"pairs": len(both), "share": _mean([float(winner(x) == winner(y)) for x, y in both])}


def _given(pair: JudgedPair) -> list[float]:
    return [verdict for verdict in pair.people if verdict is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
