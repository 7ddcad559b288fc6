"""Which of several answers is the better one, by what a data set says of them: a winner, scores, ranks.

Of two answers `a` and `b` the column mapped to `better` names the better one, or `score_a` and `score_b` do
(the higher). Of a list of `answers` with a `rank` (1 is the best) or a `score` each, the best is chosen and
the **worst** is rejected: the two that differ most. A tie says nothing about either and is left out.
"""

import math
from typing import Any

from redline.data.columns import Missing, look
from redline.data.row import Broken
from redline.data.settings import Source
from redline.errors import UserError
from redline.types import Json, JsonObject

PAIR_FIELDS = ("a", "b", "better", "score_a", "score_b")
LIST_FIELDS = ("answers", "answer", "rank", "score")
TEXT_KEYS = ("answer", "text", "response", "content", "completion", "output", "value")
RANK_KEYS = ("rank", "ranking")
SCORE_KEYS = ("score", "rating", "overall_score", "reward")
TIES = ("tie", "draw", "both", "neither", "equal", "same", "none")


def rule_of(source: Source) -> str | None:
    """How the source says which side is better: `pair`, `scores`, `list`; None where its columns are sides
    already. Raises UserError for half a rule."""
    names = set(source.columns)
    if "answers" in names:
        return "list"
    rule = None
    if "better" in names:
        rule = "pair"
    elif names & {"score_a", "score_b"}:
        rule = "scores"
    needed = {"pair": ("a", "b"), "scores": ("a", "b", "score_a", "score_b")}.get(rule or "", ())
    lacking = [name for name in needed if name not in names]
    if lacking:
        raise UserError(
            f"{source.name}: the rule for the better side needs `columns` for {', '.join(lacking)} too."
        )
    return rule


def decide(fields: JsonObject, source: Source, rule: str) -> JsonObject:
    """The fields with `chosen` and `rejected` in place of what they were decided by. Raises Broken for a
    tie."""
    if rule == "list":
        chosen, rejected = _best_and_worst(fields, source.columns)
    else:
        a_is_better = _named(fields, source) if rule == "pair" else _scored(fields)
        chosen, rejected = (fields["a"], fields["b"]) if a_is_better else (fields["b"], fields["a"])
    used = LIST_FIELDS if rule == "list" else PAIR_FIELDS
    rest = {name: value for name, value in fields.items() if name not in used}
    return rest | {"chosen": chosen, "rejected": rejected}


def _named(fields: JsonObject, source: Source) -> bool:
    """Whether `better` names a: by `values`, by the columns' names, or by the part in which these differ."""
    value = fields["better"]
    if value is None or value == "":
        raise Broken("better is empty")
    said = _plain(value)
    if source.values:
        codes = {_plain(code): side for code, side in source.values.items()}
        if said not in codes:
            raise Broken(f"better: `{value}` is not among `values` ({', '.join(source.values)})")
        side: str = codes[said]
    else:
        side = _side_by_name(said, source)
    if side == "tie":
        raise Broken("a tie: neither side is better")
    return side == "a"


def _side_by_name(said: str, source: Source) -> str:
    a, b = (_plain(source.columns[name]) for name in ("a", "b"))
    if said in (a, b):
        return "a" if said == a else "b"
    words = said.replace("-", "_").replace(" ", "_").split("_")
    if any(said.startswith(tie) for tie in TIES):
        return "tie"
    endings = [_ending(a, b), _ending(b, a)]
    for name, ending in zip(("a", "b"), endings, strict=True):
        if ending and words[-1] == ending:
            return name
    raise Broken(f"better: `{said}` names neither side; say with `values` which one it is, such as {said}=a")


def _ending(one: str, other: str) -> str:
    """The part of a column's name that the other one has not: 0 of response_0 beside response_1."""
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    return one[shared:].strip("_-. ")


def _plain(value: Json) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().lower()


def _scored(fields: JsonObject) -> bool:
    a, b = (_number(fields[name], name) for name in ("score_a", "score_b"))
    if a == b:
        raise Broken("a tie: both sides have the same score")
    return a > b


def _number(value: Json, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise Broken(f"{name} is no number") from None
    if math.isnan(number):
        raise Broken(f"{name} is no number")
    return number


def _best_and_worst(fields: JsonObject, columns: dict[str, str]) -> tuple[Any, Any]:
    answers = fields["answers"]
    if not isinstance(answers, list) or len(answers) < 2:
        raise Broken("answers is not a list of two or more")
    order = _order(fields, answers, columns)
    texts = [_text(answer, columns) for answer in answers]
    best, worst = (order.index(pick(order)) for pick in (max, min))
    if order[best] == order[worst]:
        raise Broken("a tie: all answers have the same rank or score")
    return texts[best], texts[worst]


def _order(fields: JsonObject, answers: list[Any], columns: dict[str, str]) -> list[float]:
    """A number for each answer, higher for better ones."""
    for name, keys, sign in (("rank", RANK_KEYS, -1.0), ("score", SCORE_KEYS, 1.0)):
        beside = fields.get(name)
        if isinstance(beside, list) and len(beside) == len(answers):
            return [sign * _number(value, name) for value in beside]
        wanted = (columns[name],) if name in columns else keys
        for key in wanted:
            if all(isinstance(answer, dict) and key.partition(".")[0] in answer for answer in answers):
                return [sign * _number(look(answer, key), name) for answer in answers]
    raise Missing("no column `rank` or `score` of the answers")


def _text(answer: Any, columns: dict[str, str]) -> Any:
    if not isinstance(answer, dict):
        return answer
    if "role" in answer or "from" in answer:
        return answer
    for key in (columns["answer"],) if "answer" in columns else TEXT_KEYS:
        if key.partition(".")[0] in answer:
            return look(answer, key)
    raise Missing("no column `answer` of the answers")
