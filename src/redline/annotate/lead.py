"""What the lead does with items: find them, look at one, refuse, send back, decide (gold), assign."""

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    Row,
    Select,
    and_,
    distinct,
    exists,
    func,
    or_,
    select,
    update,
)

from redline.annotate import schema
from redline.annotate.schema import (
    HELD,
    OPEN,
    clock,
    gold,
    history,
    item,
    person,
    practice,
    slot,
    work,
    writing,
)
from redline.annotate.submissions import Refused, edited_text, lock_person, note_down
from redline.annotate.texts import editable
from redline.annotate.work import VERDICTS, project_of
from redline.types import JsonObject

PAGE = 50
CHUNK = 500
STATES = {
    "open": "free for somebody",
    "held": "in somebody's hands",
    "done": "submitted",
    "skipped": "skipped by somebody",
    "returned": "sent back",
    "refused": "refused",
    "gold": "decided",
    "practice": "practice",
}


@dataclass(frozen=True)
class Filter:
    """Which items the lead looks for; an empty field means all."""

    person: str = ""
    state: str = ""
    reason: str = ""
    text: str = ""
    disagreement: bool = False


@dataclass
class Listed:
    """One line of the list: the item, and the work on it."""

    id: int
    key: str
    prompt: Any
    works: list[Row] = field(default_factory=list)
    gold: bool = False


def find(engine: Engine, wanted: Filter, page: int) -> tuple[list[Listed], int]:
    """The items of one page (from 1), and how many there are in all."""
    condition = _condition(wanted)
    with engine.connect() as db:
        total = db.execute(select(func.count()).select_from(item).where(condition)).scalar_one()
        rows = db.execute(
            select(item.c.id, item.c.key, item.c.body, gold.c.item_id.label("gold"))
            .join(gold, gold.c.item_id == item.c.id, isouter=True)
            .where(condition)
            .order_by(item.c.id)
            .limit(PAGE)
            .offset((page - 1) * PAGE)
        ).all()
        works = db.execute(
            select(
                work.c.id, work.c.item_id, work.c.state, work.c.verdict, work.c.ratio, work.c.refused,
                work.c.returned, work.c.submitted, person.c.name,
            )
            .join(person, person.c.id == work.c.person_id)
            .where(work.c.item_id.in_([row.id for row in rows]))
            .order_by(work.c.item_id, work.c.id)
        ).all()  # fmt: skip
    by_item: dict[int, list[Row]] = defaultdict(list)
    for entry in works:
        by_item[entry.item_id].append(entry)
    listed = [
        Listed(row.id, row.key, json.loads(row.body)["prompt"], by_item[row.id], row.gold is not None)
        for row in rows
    ]
    return listed, total


def _condition(wanted: Filter) -> ColumnElement[bool]:
    """The filter in SQL, on ``item``. Its tables are aliases, so that they are never those of the query
    around it."""
    work, slot, gold = (table.alias() for table in (schema.work, schema.slot, schema.gold))
    is_practice = exists().where(practice.c.item_id == item.c.id)
    parts: list[ColumnElement[bool]] = [is_practice if wanted.state == "practice" else ~is_practice]
    of_item = work.c.item_id == item.c.id
    if wanted.person:
        whose = and_(of_item, work.c.person_id == person.c.id, person.c.name == wanted.person)
        given = and_(
            slot.c.item_id == item.c.id, slot.c.assigned == person.c.id, person.c.name == wanted.person
        )
        parts.append(or_(exists().where(whose), exists().where(given)))
    slots = slot.c.item_id == item.c.id
    states: dict[str, ColumnElement[bool]] = {
        "open": exists().where(slots, slot.c.state == OPEN),
        "held": exists().where(slots, slot.c.state == HELD, slot.c.expires > clock()),
        "done": exists().where(of_item, work.c.state == "done"),
        "skipped": exists().where(of_item, work.c.state == "skipped"),
        "returned": exists().where(of_item, work.c.returned.is_not(None)),
        "refused": exists().where(of_item, work.c.refused.is_not(None), work.c.returned.is_(None)),
        "gold": exists().where(gold.c.item_id == item.c.id),
    }
    if wanted.state in states:
        parts.append(states[wanted.state])
    if wanted.reason:
        as_json = _like(f'"reason": {json.dumps(wanted.reason, ensure_ascii=False)}')
        parts.append(exists().where(of_item, work.c.reasons.like(as_json, escape="\\")))
    if wanted.text:
        parts.append(_holds(wanted.text, work))
    if wanted.disagreement:
        answers = func.count(distinct(func.coalesce(work.c.edited, work.c.verdict)))
        parts.append(
            select(answers)
            .select_from(work)
            .where(of_item, work.c.state == "done")
            .correlate(item)
            .scalar_subquery()
            > 1
        )
    return and_(*parts)


def _holds(text: str, work: FromClause) -> ColumnElement[bool]:
    """Whether the record, an edit of it or a note holds ``text``, in whatever case."""
    pattern = _like(text.lower())
    in_json = _like(json.dumps(text.lower(), ensure_ascii=False)[1:-1])
    in_work = or_(
        *(
            func.lower(column).like(pattern, escape="\\")
            for column in (work.c.edited, work.c.note, work.c.draft_note)
        )
    )
    return or_(
        func.lower(item.c.key).like(pattern, escape="\\"),
        func.lower(item.c.body).like(in_json, escape="\\"),
        exists().where(work.c.item_id == item.c.id, in_work),
    )


def _like(text: str) -> str:
    for mark in ("\\", "%", "_"):
        text = text.replace(mark, f"\\{mark}")
    return f"%{text}%"


@dataclass
class Item:
    """All there is to know about one item."""

    id: int
    key: str
    body: JsonObject
    draft_editor: str | None
    works: list[Row]
    slots: list[Row]
    history: list[Row]
    gold: Row | None
    practice: Row | None


def look_at(engine: Engine, item_id: int) -> Item | None:
    """One item with all work on it, its slots and its history; None when there is no such item."""
    with engine.connect() as db:
        row = db.execute(select(item).where(item.c.id == item_id)).first()
        if row is None:
            return None
        works = db.execute(
            select(work, person.c.name)
            .join(person, person.c.id == work.c.person_id)
            .where(work.c.item_id == item_id)
            .order_by(work.c.id)
        ).all()
        slots = db.execute(
            select(slot, person.c.name)
            .join(person, person.c.id == func.coalesce(slot.c.person_id, slot.c.assigned), isouter=True)
            .where(slot.c.item_id == item_id)
            .order_by(slot.c.id)
        ).all()
        author = person.alias()
        lines = db.execute(
            select(history, person.c.name, author.c.name.label("author"))
            .join(person, person.c.id == history.c.person_id, isouter=True)
            .join(work, work.c.id == history.c.work_id, isouter=True)
            .join(author, author.c.id == work.c.person_id, isouter=True)
            .where(history.c.item_id == item_id)
            .order_by(history.c.id)
        ).all()
        decided = db.execute(
            select(gold, person.c.name)
            .join(person, person.c.id == gold.c.person_id)
            .where(gold.c.item_id == item_id)
        ).first()
        known = db.execute(select(practice).where(practice.c.item_id == item_id)).first()
    return Item(
        row.id, row.key, json.loads(row.body), row.draft_editor, list(works), list(slots), list(lines),
        decided, known,
    )  # fmt: skip


def _submitted(db: Connection, work_id: int) -> Row:
    """A submitted work, locked behind its author's own transactions."""
    author = db.execute(select(work.c.person_id).where(work.c.id == work_id)).scalar()
    if author is not None:
        lock_person(db, author)
    row = db.execute(
        select(work, slot.c.place)
        .join(slot, slot.c.id == work.c.slot_id)
        .where(work.c.id == work_id, work.c.state == "done")
    ).first()
    if row is None:
        raise Refused("This is not submitted (any more).")
    return row


def refuse(engine: Engine, work_id: int, refused: bool, by: int) -> None:
    """Mark an edit as refused (it is not `accepted` in the export), or take that back."""
    with writing(engine).begin() as db:
        row = _submitted(db, work_id)
        values: JsonObject = {"revision": row.revision + 1, "refused": clock() if refused else None}
        if not refused:
            values |= {"returned": None, "returned_why": None}
        db.execute(update(work).where(work.c.id == work_id).values(values))
        note_down(db, "refused" if refused else "accepted", row, by, row.revision + 1)


def send_back(engine: Engine, work_id: int, why: str, by: int, to: int | None = None) -> None:
    """Send a submission back to its author, or give its item to another person (``to``), with the reason.

    Until it is submitted again the old work stays in the export, marked as refused.
    """
    if not why.strip():
        raise Refused("Say why: the person reads it.")
    with writing(engine).begin() as db:
        row = _submitted(db, work_id)
        values = {"revision": row.revision + 1, "refused": clock(), "returned_why": why}
        if to is None or to == row.person_id:
            db.execute(update(work).where(work.c.id == work_id).values(values | {"returned": clock()}))
            note_down(db, "returned", row, by, row.revision + 1, note=why)
            return
        name = _give_again(db, row, why, to)
        db.execute(update(work).where(work.c.id == work_id).values(values | {"returned": None}))
        note_down(db, "passed on", row, by, row.revision + 1, note=f"to {name}: {why}")


def _give_again(db: Connection, row: Row, why: str, to: int) -> str:
    """A new slot of the work's item for the person ``to``; returns that person's name."""
    name = db.execute(
        select(person.c.name).where(person.c.id == to, person.c.admin == 0, person.c.revoked.is_(None))
    ).scalar()
    if name is None:
        raise Refused("There is no such person.")
    theirs = db.execute(
        select(work.c.id, work.c.state).where(work.c.item_id == row.item_id, work.c.person_id == to)
    ).first()
    waiting = db.execute(
        select(slot.c.id).where(
            slot.c.item_id == row.item_id, or_(slot.c.assigned == to, slot.c.person_id == to)
        )
    ).first()
    if waiting or (theirs and theirs.state == "done"):
        raise Refused(f"{name} has this item already.")
    if theirs:
        db.execute(update(work).where(work.c.id == theirs.id).values(state="open"))
    made = {"item_id": row.item_id, "state": OPEN, "place": row.place, "assigned": to, "why": why}
    db.execute(slot.insert().values(made))
    return str(name)


def choose(engine: Engine, work_id: int, by: int) -> None:
    """Make a submission the item's gold: the export gives it, whoever else did the item."""
    with writing(engine).begin() as db:
        row = _submitted(db, work_id)
        _set_gold(
            db,
            row.item_id,
            {
                "work_id": row.id,
                "person_id": by,
                "verdict": row.verdict,
                "edited": row.edited,
                "ratio": row.ratio,
                "note": None,
            },
        )


def decide(engine: Engine, item_id: int, by: int, verdict: str, text: str | None, note: str) -> None:
    """Make the lead's own answer the item's gold."""
    about = project_of(engine)
    if verdict not in VERDICTS[about.kind]:
        raise Refused("This verdict does not exist here.")
    with writing(engine).begin() as db:
        body = db.execute(select(item.c.body).where(item.c.id == item_id)).scalar()
        if body is None:
            raise Refused("There is no such item.")
        values: JsonObject = {"edited": None, "ratio": None}
        if about.kind == "edit" and verdict != "unfixable":
            original = editable(json.loads(body)["rejected"]) or ""
            values = {"edited": original, "ratio": 0.0}
            if verdict == "edited":
                edited, share = edited_text(original, text, about.max_ratio)
                values = {"edited": edited, "ratio": share}
        values |= {"work_id": None, "person_id": by, "verdict": verdict, "note": note.strip() or None}
        _set_gold(db, item_id, values)


def _set_gold(db: Connection, item_id: int, values: JsonObject) -> None:
    db.execute(gold.delete().where(gold.c.item_id == item_id))
    db.execute(gold.insert().values(values | {"item_id": item_id, "at": clock()}))
    line = {name: values[name] for name in ("work_id", "person_id", "verdict", "edited", "ratio", "note")}
    db.execute(
        history.insert().values(line | {"item_id": item_id, "at": clock(), "act": "gold", "revision": 0})
    )


def undo_gold(engine: Engine, item_id: int, by: int) -> None:
    """Take the decision on an item back."""
    with writing(engine).begin() as db:
        if db.execute(gold.delete().where(gold.c.item_id == item_id)).rowcount:
            line = {"item_id": item_id, "person_id": by, "at": clock(), "act": "gold undone", "revision": 0}
            db.execute(history.insert().values(line))


def assign(engine: Engine, wanted: Filter, share: float, to: int | None) -> int:
    """Give a share (0 to 1) of the filter's items that are free to a person; ``to`` None: back to everybody.

    Returns how many slots changed hands. Items that the person has done or skipped are not among them.
    """
    theirs = exists().where(work.c.item_id == slot.c.item_id, work.c.person_id == to, work.c.state != "open")
    given = exists().where(_OTHER.c.item_id == slot.c.item_id, _OTHER.c.assigned == to)
    free: Select[Any] = select(func.min(slot.c.id)).join(item, item.c.id == slot.c.item_id)
    free = free.where(slot.c.state == OPEN, slot.c.place > 0, _condition(wanted)).group_by(slot.c.item_id)
    if to is None:
        free = free.where(slot.c.assigned.is_not(None), slot.c.why.is_(None))
    else:
        free = free.where(slot.c.assigned.is_(None), ~theirs, ~given)
    with writing(engine).begin() as db:
        ids: Sequence[int] = db.execute(free).scalars().all()
        chosen = sorted(random.sample(ids, round(share * len(ids))))
        for start in range(0, len(chosen), CHUNK):
            part = chosen[start : start + CHUNK]
            db.execute(update(slot).where(slot.c.id.in_(part)).values(assigned=to))
    return len(chosen)


_OTHER = slot.alias()


def neighbours(engine: Engine, item_id: int) -> tuple[int | None, int | None]:
    """The items before and after this one that somebody has submitted."""
    done = exists().where(work.c.item_id == item.c.id, work.c.state == "done")
    with engine.connect() as db:
        before = db.execute(select(func.max(item.c.id)).where(item.c.id < item_id, done)).scalar()
        after = db.execute(select(func.min(item.c.id)).where(item.c.id > item_id, done)).scalar()
    return before, after
