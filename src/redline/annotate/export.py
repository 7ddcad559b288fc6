"""Out of the database: edits for ``redline label`` and ``redline run``, verdicts for ``redline compare
--judge human:FILE``, thumbs for ``data.feedback``.

**Edits** carry, beside the pair's own keys: ``editor`` (who), ``verdict`` (edited, fine, unfixable),
``ratio``, ``started`` and ``submitted`` (UTC), ``seconds`` at work, ``note``, ``reasons`` of single changes,
``draft_editor`` where an LLM's draft was corrected, ``refused`` where the lead refused it, ``returned`` and
``returned_why`` where the lead sent it back. An edit is *accepted* when its verdict is `edited` and the lead
has not refused it or sent it back.

**Items that several people did** come out once, and the others' work stands in ``also``. The rule, in this
order: what the lead decided (``gold``); what was not refused, before what was; an edit before "already fine"
before "cannot be fixed"; the edit that changes the smaller share of words; the one submitted first.

**Comparisons** are ``{"id", "prompt", "a", "b", "preference", "verdicts", ...}``: ``preference`` is 1 for a,
0 for b, 0.5 for a tie, the mean where several people judged; ``verdicts`` says who, what, when, how long.

**Thumbs** are ``{"id", "prompt", "response", "liked", "verdicts", ...}``: ``liked`` is what most people said;
where as many say yes as no, the item is left out and counted.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from sqlalchemy import Engine, Row, select

from redline.annotate.schema import gold, history, item, person, slot, work
from redline.annotate.texts import with_text
from redline.annotate.work import project_of
from redline.data.files import write_jsonl
from redline.errors import UserError
from redline.types import JsonObject

Which = Literal["all", "accepted", "feedback"]
_RANK = {"edited": 0, "fine": 1, "unfixable": 2}
# What an earlier export says of its edits, where it was imported as drafts: nothing about this one's.
_EARLIER = {
    "verdict", "ratio", "started", "submitted", "seconds", "note", "draft_editor", "refused", "returned",
    "returned_why", "reasons", "gold", "history", "also",
}  # fmt: skip
_PREFERENCE = {"a": 1.0, "b": 0.0, "tie": 0.5}
_HISTORY = ("revision", "verdict", "edited", "note", "ratio", "seconds")


@dataclass
class Exported:
    """How many records were written, and what was left out, by reason."""

    records: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass
class _Export:
    """One export: the database, and what was asked for."""

    engine: Engine
    which: Which
    who: str | None
    with_history: bool
    done: Exported = field(default_factory=Exported)


def export(
    engine: Engine, out: Path, which: Which = "all", who: str | None = None, with_history: bool = False
) -> Exported:
    """Write the project's edits, comparisons or thumbs to ``out``.

    ``who``: one person's work alone. ``with_history``: each record also carries everything that was ever done
    with its item. ``which`` "feedback": of edits, those that were already fine as thumbs up, and those that
    cannot be fixed as thumbs down.
    """
    if who is not None:
        _check_name(engine, who)
    if engine.dialect.name == "sqlite" and out.resolve() in {
        Path(f"{engine.url.database}{end}").resolve() for end in ("", "-wal", "-shm")
    }:
        raise UserError(f"--out {out}: is the database itself. Choose another file.")
    kind = project_of(engine).kind
    asked = _Export(engine, which, who, with_history)
    if which == "accepted" and kind != "edit":
        raise UserError("--accepted: is about edits; this database holds none. Leave it away.")
    if which == "feedback" and kind == "compare":
        raise UserError("--feedback: a blind comparison has no thumbs. Leave it away.")
    if kind == "compare":
        records = _comparisons(asked)
    elif kind == "feedback":
        records = _thumbs(asked)
    elif which == "feedback":
        records = _edits_as_thumbs(asked)
    else:
        records = _edits(asked)
    asked.done.records = write_jsonl(out, records)
    return asked.done


def _check_name(engine: Engine, who: str) -> None:
    with engine.connect() as db:
        if db.execute(select(person.c.id).where(person.c.name == who)).first() is not None:
            return
        annotators = select(person.c.name).where(person.c.admin == 0).order_by(person.c.name)
        names = ", ".join(db.execute(annotators).scalars())
    raise UserError(f"--person {who}: nobody of this name. There are: {names or 'no people yet'}.")


def _edits(asked: _Export) -> Iterator[JsonObject]:
    for group in _items(asked):
        rows = group.rows
        if asked.which == "accepted":
            rows = _accepted(asked, group)
        annotations = [_annotation(row) for row in rows]
        if group.gold is not None and (asked.which == "all" or group.gold.verdict == "edited"):
            annotations = _with_gold(group, rows, annotations)
        if not annotations:
            continue
        first, *others = annotations
        body = {name: value for name, value in group.body.items() if name not in _EARLIER}
        record = {"id": group.key, "prompt": body.pop("prompt"), "rejected": body.pop("rejected")}
        record |= {"edited": first["edited"]} | body | first
        if others:
            record["also"] = others
        yield record | group.history


def _accepted(asked: _Export, group: "_Group") -> list[Row]:
    """The rows that are accepted; the others are counted."""
    rows = []
    for row in group.rows:
        if group.gold is not None:
            if group.gold.work_id == row.id and group.gold.verdict == "edited":
                rows.append(row)
            else:
                asked.done.left_out["not the lead's choice"] += 1
        elif row.returned is not None:
            asked.done.left_out["sent back"] += 1
        elif row.refused is not None:
            asked.done.left_out["refused"] += 1
        elif row.verdict != "edited":
            asked.done.left_out[{"fine": "already fine", "unfixable": "cannot be fixed"}[row.verdict]] += 1
        else:
            rows.append(row)
    return rows


def _with_gold(group: "_Group", rows: list[Row], annotations: list[JsonObject]) -> list[JsonObject]:
    """The lead's decision first, then the work that it did not choose."""
    gold_row = group.gold
    assert gold_row is not None
    rejected = group.body["rejected"]
    decided = {"by": gold_row.name, "at": _moment(gold_row.at)}
    values = {
        "edited": rejected if gold_row.edited is None else with_text(rejected, gold_row.edited),
        "editor": gold_row.author or gold_row.name,
        "verdict": gold_row.verdict,
        "ratio": gold_row.ratio,
        "note": gold_row.note,
        "submitted": _moment(gold_row.at),
    }
    own = {name: value for name, value in values.items() if value is not None}
    others = []
    for row, annotation in zip(rows, annotations, strict=True):
        same = (row.verdict, row.edited) == (gold_row.verdict, gold_row.edited)
        if row.id == gold_row.work_id and same:
            own = annotation
        else:
            others.append(annotation)
    return [own | {"gold": decided}, *others]


def _annotation(row: Row) -> JsonObject:
    rejected = json.loads(row.body)["rejected"]
    values = {
        "edited": rejected if row.edited is None else with_text(rejected, row.edited),
        "editor": row.name,
        "verdict": row.verdict,
        "ratio": row.ratio,
        "started": _moment(row.started),
        "submitted": _moment(row.submitted),
        "seconds": round(row.seconds, 1),
        "note": row.note,
        "reasons": json.loads(row.reasons) if row.reasons else None,
        "draft_editor": row.draft_editor,
        "refused": row.refused and _moment(row.refused),
        "returned": row.returned and _moment(row.returned),
        "returned_why": row.returned_why,
    }
    return {name: value for name, value in values.items() if value is not None}


def _edits_as_thumbs(asked: _Export) -> Iterator[JsonObject]:
    """Edits as feedback: "already fine" is a thumb up, "cannot be fixed" one down. Edits say more than a
    thumb, and are left to the ordinary export."""
    for group in _items(asked):
        decided = group.gold or next((row for row in group.rows if row.refused is None), None)
        if decided is None:
            asked.done.left_out["refused"] += 1
        elif decided.verdict == "edited":
            asked.done.left_out["edited"] += 1
        else:
            yield {
                "id": group.key,
                "prompt": group.body["prompt"],
                "response": group.body["rejected"],
                "liked": decided.verdict == "fine",
                "person": decided.name,
            } | group.history


def _thumbs(asked: _Export) -> Iterator[JsonObject]:
    for group in _items(asked):
        verdicts = [
            _verdict(row) | {"liked": row.verdict == "up"} for row in group.rows if row.refused is None
        ]
        likes = sum(verdict["liked"] for verdict in verdicts)
        liked = 2 * likes > len(verdicts)
        if group.gold is not None:
            liked = group.gold.verdict == "up"
        elif not verdicts:
            asked.done.left_out["refused"] += 1
            continue
        elif 2 * likes == len(verdicts):
            asked.done.left_out["as many thumbs up as down"] += 1
            continue
        record = {"id": group.key, "prompt": group.body.pop("prompt"), "response": group.body.pop("response")}
        yield record | {"liked": liked, "verdicts": verdicts} | group.body | group.history


def _comparisons(asked: _Export) -> Iterator[JsonObject]:
    for group in _items(asked):
        verdicts = []
        for row in group.rows:
            if row.refused is None:
                left = "b" if row.swapped else "a"
                verdict = {"person": row.name, "preference": _PREFERENCE[row.verdict], "left": left}
                verdicts.append(verdict | _verdict(row))
        if group.gold is not None:
            preference = _PREFERENCE[group.gold.verdict]
        elif verdicts:
            preference = sum(verdict["preference"] for verdict in verdicts) / len(verdicts)
        else:
            asked.done.left_out["refused"] += 1
            continue
        body = group.body
        record = {name: body.pop(name) for name in ("prompt", "a", "b")}
        yield (
            {"id": group.key}
            | record
            | {"preference": preference, "verdicts": verdicts}
            | body
            | group.history
        )


def _verdict(row: Row) -> JsonObject:
    values: JsonObject = {
        "person": row.name,
        "started": _moment(row.started),
        "submitted": _moment(row.submitted),
        "seconds": round(row.seconds, 1),
    }
    if row.note:
        values["note"] = row.note
    return values


@dataclass
class _Group:
    """One item that somebody has done or the lead has decided: its work in the order of the rule above."""

    key: str
    body: JsonObject
    rows: list[Row]
    gold: Row | None
    history: JsonObject  # empty, or with the key `history`


def _items(asked: _Export) -> Iterator[_Group]:
    query = (
        select(work, item.c.key, item.c.body, item.c.draft_editor, person.c.name)
        .join(item, item.c.id == work.c.item_id)
        .join(person, person.c.id == work.c.person_id)
        .join(slot, slot.c.id == work.c.slot_id)
        .where(work.c.state == "done", slot.c.place > 0)
        .order_by(work.c.item_id, work.c.submitted)
    )
    if asked.who is not None:
        query = query.where(person.c.name == asked.who)
    decisions = {} if asked.who is not None else _gold(asked.engine)
    with asked.engine.connect() as db:
        stream = db.execution_options(stream_results=True, yield_per=500).execute(query)
        for number, group in itertools.groupby(stream, key=lambda row: row.item_id):
            rows = sorted(group, key=_order)
            decision = decisions.pop(number, None)
            yield _group(asked, number, rows[0], rows, decision)
    for number, decision in decisions.items():  # decided by the lead, and nobody's work stands
        yield _group(asked, number, decision, [], decision)


def _group(asked: _Export, number: int, described: Row, rows: list[Row], decision: Row | None) -> _Group:
    lines = {"history": _history(asked.engine, number)} if asked.with_history else {}
    return _Group(described.key, json.loads(described.body), rows, decision, lines)


def _order(row: Row) -> tuple[bool, int, float, float]:
    return row.refused is not None, _RANK.get(row.verdict, 0), row.ratio or 0.0, row.submitted


def _gold(engine: Engine) -> dict[int, Row]:
    author = person.alias()
    with engine.connect() as db:
        rows = db.execute(
            select(gold, item.c.key, item.c.body, person.c.name, author.c.name.label("author"))
            .join(item, item.c.id == gold.c.item_id)
            .join(person, person.c.id == gold.c.person_id)
            .join(work, work.c.id == gold.c.work_id, isouter=True)
            .join(author, author.c.id == work.c.person_id, isouter=True)
            .order_by(gold.c.item_id)
        )
        return {row.item_id: row for row in rows}


def _history(engine: Engine, item_id: int) -> list[JsonObject]:
    """All that was ever done with an item, oldest first: who, when, what."""
    author = person.alias()
    with engine.connect() as db:
        rows = db.execute(
            select(history, person.c.name, author.c.name.label("author"))
            .join(person, person.c.id == history.c.person_id, isouter=True)
            .join(work, work.c.id == history.c.work_id, isouter=True)
            .join(author, author.c.id == work.c.person_id, isouter=True)
            .where(history.c.item_id == item_id)
            .order_by(history.c.id)
        ).all()
    lines = []
    for row in rows:
        line: JsonObject = {"at": _moment(row.at), "who": row.name, "act": row.act, "work_of": row.author}
        line |= {name: getattr(row, name) for name in _HISTORY}
        line["reasons"] = json.loads(row.reasons) if row.reasons else None
        lines.append({name: value for name, value in line.items() if value is not None})
    return lines


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
