"""Filling the database: pairs, an LLM's edits as drafts, two systems' responses to compare. In bulk, by
chunks.

Each chunk is one transaction, and what is there already is passed over: an import that was stopped goes on
when it is started again.
"""

import hashlib
import itertools
import json
import random
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, exists, func, select, update

from redline.annotate import texts
from redline.annotate.agreement import MOST_RATERS
from redline.annotate.schema import OPEN, clock, item, practice, project, slot, work, writing
from redline.console import say
from redline.data.check import Rejects
from redline.data.records import Edit, Record, Response, ToEdit
from redline.errors import UserError
from redline.types import JsonObject

CHUNK = 1_000
LONGEST_REASON = 60  # characters
LONGEST_ID = 500  # characters: what an index of PostgreSQL holds


@dataclass
class Count:
    """What an import did: records ``added``, ``known`` already, and ``refused`` (the rejects file says why);
    ``drafts`` kept."""

    added: int = 0
    known: int = 0
    refused: int = 0
    drafts: int = 0


def set_up(
    engine: Engine,
    kind: str,
    guideline: str | None,
    max_ratio: float | None,
    agreement: float | None,
    lease: float | None,
    raters: int | None = None,
    reasons: Sequence[str] | None = None,
) -> None:
    """Make the project, or change what is given of an existing one. Raises UserError for a database of
    another kind."""
    settings = {
        "guideline": guideline,
        "max_ratio": max_ratio,
        "agreement": agreement,
        "lease": lease,
        "raters": raters,
        "reasons": None if reasons is None else json.dumps(list(reasons), ensure_ascii=False),
    }
    given: JsonObject = {name: value for name, value in settings.items() if value is not None}
    if not 0 <= given.get("agreement", 0) <= 1:
        raise UserError(f"--agreement {agreement}: a share from 0 to 1 is expected.")
    if not 0 < given.get("max_ratio", 1) <= 1:
        raise UserError(f"--max-ratio {max_ratio}: a share above 0, at most 1, is expected.")
    if given.get("lease", 1) <= 0:
        raise UserError(f"--lease {given['lease'] / 60:g}: minutes above 0 are expected.")
    if not 2 <= given.get("raters", 2) <= MOST_RATERS:
        raise UserError(f"--raters {raters}: 2 to {MOST_RATERS} people are expected.")
    for reason in reasons or ():
        if len(reason) > LONGEST_REASON or not reason.isprintable():
            raise UserError(f"--reasons {reason[:80]!r}: at most {LONGEST_REASON} printable characters.")
    with writing(engine).begin() as db:
        found = db.execute(select(project.c.kind, project.c.agreement, project.c.raters)).first()
        if found is None:
            defaults = {"guideline": "", "max_ratio": 0.5, "agreement": 0.1, "lease": 1800.0}
            made = {"id": 1, "uid": secrets.token_hex(6), "kind": kind, "created": clock()}
            db.execute(project.insert().values(made | defaults | given))
        elif found.kind != kind:
            what = {"edit": "edits", "compare": "a blind comparison", "feedback": "thumbs"}
            raise UserError(
                f"--db: this database holds {what[found.kind]}, not {what[kind]}. Use another one."
            )
        elif given:
            db.execute(update(project).values(given))
            for name in ("agreement", "raters"):
                if given.get(name, getattr(found, name)) != getattr(found, name):
                    say(
                        f"--{name}: holds for items that are added from now on; those in the database stay "
                        "as they are."
                    )


def add_pairs(engine: Engine, pairs: Iterable[ToEdit], rejects: Rejects) -> Count:
    """Add pairs as items to edit."""

    def row(pair: ToEdit) -> JsonObject | str:
        return row_of(pair, ("prompt", "rejected", "chosen"), editable="rejected")

    return add_records(engine, pairs, row, rejects)


def add_drafts(engine: Engine, edits: Iterable[Edit], rejects: Rejects) -> Count:
    """Add edits as drafts to be corrected: to the item of the same id, or with an item of their own.

    An edit whose rejected response is not that of the item is refused. An item that has a draft keeps it, and
    one that somebody has begun gets none: its editor would not have seen it.
    """
    begun = exists().where(work.c.item_id == item.c.id)

    def row(edit: Edit) -> JsonObject | str:
        draft = texts.editable(edit.edited)
        why = "has no text to edit" if draft is None else texts.objection(draft)
        plain = Record.model_validate(edit.model_dump(exclude={"edited", "editor"}, exclude_none=True))
        return (
            f"edited {why}" if why else row_of(plain, ("prompt", "rejected", "chosen"), editable="rejected")
        )

    count = Count()
    for chunk in _chunks(edits):
        with writing(engine).begin() as db:
            for edit in _add_chunk(db, chunk, row, rejects, count, same=_same_rejected):
                count.drafts += db.execute(
                    update(item)
                    .where(item.c.key == edit.id, item.c.draft.is_(None), ~begun)
                    .values(
                        draft=texts.browser_text(texts.editable(edit.edited) or ""), draft_editor=edit.editor
                    )
                ).rowcount
    return count


def add_comparison(engine: Engine, a: Iterable[Response], b: Iterable[Response], rejects: Rejects) -> Count:
    """Add the responses of two systems to the same prompts, matched by id. ``b`` is held in memory."""
    others = {response.id: response for response in b}

    def both() -> Iterator[Record]:
        met: set[str] = set()
        for mine in a:
            met.add(mine.id)
            other = others.get(mine.id)
            if other is None:
                rejects.add("only A has a response of this id", "A", None, mine)
            elif other.prompt != mine.prompt:
                rejects.add("A and B answer different prompts under this id", "A", None, mine)
            else:
                yield Record.model_validate(
                    {"id": mine.id, "prompt": mine.prompt, "a": mine.response, "b": other.response}
                )
        for other in others.values():
            if other.id not in met:
                rejects.add("only B has a response of this id", "B", None, other)

    return add_records(engine, both(), lambda record: row_of(record, ("prompt", "a", "b")), rejects)


Row = Callable[[Any], JsonObject | str]


def add_responses(engine: Engine, responses: Iterable[Response], rejects: Rejects) -> Count:
    """Add responses that people give a thumb up or down."""
    return add_records(engine, responses, lambda record: row_of(record, ("prompt", "response")), rejects)


def add_records(
    engine: Engine, records: Iterable[Record], row: Row, rejects: Rejects, slots: bool = True
) -> Count:
    """Add records as items, by chunks. ``row`` makes a row of ``item`` of a record, or says why it cannot be
    one; ``slots`` False: nobody is given them as ordinary work."""
    count = Count()
    for chunk in _chunks(records):
        with writing(engine).begin() as db:
            _add_chunk(db, chunk, row, rejects, count, slots=slots)
    return count


def _chunks(records: Iterable[Any]) -> Iterator[list[Any]]:
    records = iter(records)
    while chunk := list(itertools.islice(records, CHUNK)):
        yield chunk


def row_of(record: Record, shown: tuple[str, ...], editable: str | None = None) -> JsonObject | str:
    """The record as a row of ``item``, or why it cannot be one."""
    if len(record.id) > LONGEST_ID:
        return f"id is longer than {LONGEST_ID} characters"
    for field, value in record.model_dump(mode="python").items():
        if why := texts.objection(value):
            return f"{field} {why}"
    plain = record.model_dump(mode="json", exclude={"id"}, exclude_none=True)
    if editable and texts.editable(plain[editable]) is None:
        return f"{editable}'s last message has no text to edit"
    if editable and not (texts.editable(plain[editable]) or "").strip():
        return f"{editable} is empty"
    for field in shown:
        if isinstance(plain.get(field), list) and not plain[field]:
            return f"{field} has no message"
    body = json.dumps(plain, ensure_ascii=False)
    return {"key": record.id, "body": body, "digest": hashlib.sha256(body.encode()).hexdigest()}


def _same_digest(row: JsonObject, known: Any) -> bool:
    return bool(row["digest"] == known.digest)


def _same_rejected(row: JsonObject, known: Any) -> bool:
    return bool(json.loads(row["body"])["rejected"] == json.loads(known.body)["rejected"])


def _add_chunk(
    db: Connection,
    records: list[Any],
    row: Row,
    rejects: Rejects,
    count: Count,
    same: Callable[[JsonObject, Any], bool] = _same_digest,
    slots: bool = True,
) -> list[Any]:
    """Insert what is new; returns the records that are in the database now."""
    keys = [record.id for record in records]
    known = {
        found.key: found
        for found in db.execute(select(item.c.key, item.c.digest, item.c.body).where(item.c.key.in_(keys)))
    }
    new: dict[str, JsonObject] = {}
    there = []
    for record in records:
        made = row(record)
        if isinstance(made, str):
            _refuse(rejects, count, record, made)
        elif record.id in new or record.id in known:
            before = known.get(record.id)
            if same(made, before) if before is not None else made == new[record.id]:
                count.known += 1
                there.append(record)
            else:
                _refuse(rejects, count, record, "another record of this id is in the database")
        else:
            new[record.id] = made
            there.append(record)
    if new and slots:
        _insert(db, list(new.values()))
    elif new:
        db.execute(item.insert(), list(new.values()))
    count.added += len(new)
    return there


def _insert(db: Connection, rows: list[JsonObject]) -> None:
    practising = db.execute(select(func.count()).select_from(practice)).scalar_one()
    before = db.execute(select(func.count()).select_from(item)).scalar_one() - practising
    share, raters = db.execute(select(project.c.agreement, project.c.raters)).one()
    # Exactly the share of all items so far is done by several, and which ones is drawn anew in each chunk.
    several = int((before + len(rows)) * share + 1e-9) - int(before * share + 1e-9)
    draw = random.Random(f"{before} {rows[0]['key']}")
    drawn = set(draw.sample(range(len(rows)), min(several, len(rows))))
    db.execute(item.insert(), rows)
    keys = [row["key"] for row in rows]
    ids = dict(db.execute(select(item.c.key, item.c.id).where(item.c.key.in_(keys))).tuples().all())
    slots = []
    for number, key in enumerate(keys):
        places = raters if number in drawn else 1
        slots += [{"item_id": ids[key], "state": OPEN, "place": place + 1} for place in range(places)]
    db.execute(slot.insert(), slots)


def _refuse(rejects: Rejects, count: Count, record: Record, why: str) -> None:
    rejects.add(why, record.id, None, record)
    count.refused += 1
