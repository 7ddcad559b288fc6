"""Who works on what: hand-out with leases, drafts, submissions.

Locks are always taken in the order person, slot, work, so that two transactions never wait for each other. An
item that a person holds is marked in its slot alone: when a lease has lapsed, the next person takes the slot
over, and the first one's work is left without it.
"""

import json
import secrets
from collections.abc import Container
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Engine, Row, and_, exists, func, or_, select, update

from redline.annotate import texts
from redline.annotate.schema import DONE, HELD, OPEN, clock, item, person, project, slot, work, writing

VERDICTS = {"edit": ("edited", "fine", "unfixable"), "compare": ("a", "b", "tie")}
LONGEST_NOTE = 2_000


class Refused(Exception):
    """A submission that is not taken; the message tells the person why. ``taken``: the item is somebody
    else's by now."""

    def __init__(self, why: str, taken: bool = False):
        super().__init__(why)
        self.taken = taken


@dataclass(frozen=True)
class Project:
    """What the project is about; see ``schema.project``."""

    uid: str
    kind: str
    guideline: str
    max_ratio: float
    agreement: float
    lease: float


def project_of(engine: Engine) -> Project:
    """The database's project."""
    columns = [project.c[name] for name in Project.__dataclass_fields__]
    with engine.connect() as db:
        return Project(*db.execute(select(*columns)).one())


@dataclass(frozen=True)
class Work:
    """One item in one person's hands. ``body`` is the record without its id; ``start`` the text that the
    editor opens with."""

    id: int
    state: str
    swapped: bool
    body: dict[str, Any]
    start: str
    start_by: str | None
    draft: str | None
    note: str
    draft_at: float
    verdict: str | None
    edited: str | None

    @property
    def original(self) -> str:
        """The text being edited, as it was."""
        return texts.editable(self.body["rejected"]) or ""


def _load(db: Connection, work_id: int) -> Work:
    row = db.execute(
        select(work, item.c.body, item.c.draft.label("start"), item.c.draft_editor)
        .join(item, item.c.id == work.c.item_id)
        .where(work.c.id == work_id)
    ).one()
    body = json.loads(row.body)
    original = texts.editable(body["rejected"]) if "rejected" in body else ""
    note = row.note if row.state == "done" else row.draft_note
    start = (original or "") if row.start is None else row.start
    return Work(
        row.id,
        row.state,
        bool(row.swapped),
        body,
        start,
        row.draft_editor,
        row.draft,
        note or "",
        row.draft_at or 0,
        row.verdict,
        row.edited,
    )


def next_work(engine: Engine, person_id: int, lease: float) -> Work | None:
    """What this person does now: what is already in hand, or a free item. None when nothing is left for this
    person."""
    now = clock()
    with writing(engine).begin() as db:
        db.execute(
            select(person.c.id).where(person.c.id == person_id).with_for_update()
        )  # two tabs of one person take turns
        held = db.execute(
            select(work.c.id, slot.c.id.label("slot"))
            .join(slot, slot.c.id == work.c.slot_id)
            .where(
                work.c.person_id == person_id,
                work.c.state == "open",
                slot.c.person_id == person_id,
                slot.c.state == HELD,
            )
            .with_for_update(of=slot)
        ).first()
        if held:
            db.execute(update(slot).where(slot.c.id == held.slot).values(expires=now + lease))
            return _load(db, held.id)
        mine = exists().where(
            work.c.item_id == slot.c.item_id, work.c.person_id == person_id, work.c.state != "open"
        )
        lapsed = and_(slot.c.state == HELD, slot.c.expires < now)
        for free in (lapsed, slot.c.state == OPEN):  # two queries, each of which an index answers
            found = db.execute(
                select(slot.c.id, slot.c.item_id)
                .where(free, ~mine)
                .order_by(slot.c.state, slot.c.id)
                .limit(1)
                .with_for_update(skip_locked=True)
            ).first()
            if found:
                _hold(db, found.id, person_id, now + lease)
                return _load(db, _work_for(db, found, person_id, now))
    return None


def _hold(db: Connection, slot_id: int, person_id: int, expires: float) -> None:
    db.execute(
        update(slot).where(slot.c.id == slot_id).values(state=HELD, person_id=person_id, expires=expires)
    )


def _work_for(db: Connection, free: Row, person_id: int, now: float) -> int:
    """This person's work on the item of slot ``free``: what a lapsed lease left behind, draft and all, or a
    new one."""
    left = db.execute(
        update(work)
        .where(work.c.item_id == free.item_id, work.c.person_id == person_id)
        .values(slot_id=free.id, state="open")
        .returning(work.c.id)
    ).scalar()
    if left is not None:
        return int(left)
    values = {
        "item_id": free.item_id,
        "person_id": person_id,
        "slot_id": free.id,
        "state": "open",
        "swapped": secrets.randbits(1),
        "started": now,
    }
    return int(db.execute(work.insert().values(values).returning(work.c.id)).scalar_one())


def own_work(engine: Engine, work_id: int, person_id: int) -> Work | None:
    """A piece of this person's work, to be looked at again; None when it is not this person's."""
    with engine.connect() as db:
        found = db.execute(
            select(work.c.id).where(work.c.id == work_id, work.c.person_id == person_id)
        ).scalar()
        return None if found is None else _load(db, found)


def save_draft(
    engine: Engine,
    work_id: int,
    person_id: int,
    text: str | None,
    note: str,
    at: float,
    since: Container[float],
    lease: float,
) -> Literal["kept", "newer", "lost"]:
    """Keep a draft (``text`` None: none, only the lease is renewed).

    ``at`` is the draft's own time by the browser's clock. ``since`` has that of the draft it goes on from (0:
    none), and those of what the page sent since then without an answer. `newer`: the draft that is kept here
    is none of these, but comes from another page, and stays. `lost`: the item is no longer in this person's
    hands.
    """
    _check(text, note)
    mine = select(work.c.slot_id).where(
        work.c.id == work_id, work.c.person_id == person_id, work.c.state == "open"
    )
    with writing(engine).begin() as db:
        held = db.execute(
            update(slot)
            .where(slot.c.person_id == person_id, slot.c.state == HELD, slot.c.id == mine.scalar_subquery())
            .values(expires=clock() + lease)
        ).rowcount
        if not held:
            return "lost"
        kept = db.execute(select(work.c.draft_at).where(work.c.id == work_id).with_for_update()).scalar_one()
        if (kept or 0) not in since:
            return "newer"
        if text is not None:
            db.execute(
                update(work).where(work.c.id == work_id).values(draft=text, draft_note=note, draft_at=at)
            )
    return "kept"


def submit(
    engine: Engine, work_id: int, person_id: int, verdict: str, text: str | None, note: str, seconds: float
) -> None:
    """Take a person's work as done; it is committed when this returns. Submitting again replaces what was
    submitted before.

    ``text`` is the edited text with line feeds, for the verdict `edited`. Raises Refused with a reason for
    the person.
    """
    about = project_of(engine)
    if verdict not in VERDICTS[about.kind]:
        raise Refused("This verdict does not exist here.")
    _check(text, note)
    now = clock()
    with writing(engine).begin() as db:
        db.execute(select(person.c.id).where(person.c.id == person_id).with_for_update())
        row = _own(db, work_id, person_id)
        held = _hold_again(db, row, person_id, now)
        original = texts.editable(json.loads(row.body).get("rejected", ""))
        values: dict[str, Any] = {
            "state": "done",
            "slot_id": held,
            "verdict": verdict,
            "note": note or None,
            "submitted": now,
            "seconds": max(0.0, min(seconds, now - row.started)),
            "refused": None,
            "draft": None,
            "draft_note": None,
            "edited": None,
            "ratio": None,
        }
        if about.kind == "edit":
            values |= _judge(original or "", verdict, text, about.max_ratio)
        if row.state == "done":
            if all(getattr(row, name) == values[name] for name in ("verdict", "edited", "note")):
                return  # the browser asks again because our answer was lost
            values["seconds"] = max(values["seconds"], row.seconds)
        db.execute(
            update(slot).where(slot.c.id == held).values(state=DONE, person_id=person_id, expires=None)
        )
        db.execute(update(work).where(work.c.id == work_id).values(values))


def skip(engine: Engine, work_id: int, person_id: int, note: str) -> None:
    """Leave the item to somebody else. Raises Refused when it is not in this person's hands."""
    _check(None, note)
    with writing(engine).begin() as db:
        db.execute(select(person.c.id).where(person.c.id == person_id).with_for_update())
        row = _own(db, work_id, person_id)
        if row.state == "done":
            raise Refused("This item is submitted already.")
        db.execute(
            update(slot)
            .where(slot.c.id == row.slot_id, slot.c.person_id == person_id, slot.c.state == HELD)
            .values(state=OPEN, person_id=None, expires=None)
        )
        db.execute(update(work).where(work.c.id == work_id).values(state="skipped", draft_note=note or None))


def take_up_skipped(engine: Engine, person_id: int) -> int:
    """Let a person have the skipped items again; returns how many."""
    with writing(engine).begin() as db:
        return db.execute(
            update(work).where(work.c.person_id == person_id, work.c.state == "skipped").values(state="open")
        ).rowcount


def counts(engine: Engine, person_id: int) -> dict[str, int]:
    """For the progress line: ``mine`` done, ``skipped``, ``done`` by all, ``total`` pieces of work there
    are."""
    with engine.connect() as db:
        states: dict[str, int] = dict(
            db.execute(
                select(work.c.state, func.count()).where(work.c.person_id == person_id).group_by(work.c.state)
            )
            .tuples()
            .all()
        )
        done = db.execute(select(func.count()).where(slot.c.state == DONE)).scalar_one()
        total = db.execute(select(func.count()).select_from(slot)).scalar_one()
    return {"mine": states.get("done", 0), "skipped": states.get("skipped", 0), "done": done, "total": total}


def recent(engine: Engine, person_id: int, limit: int = 20) -> list[Row]:
    """This person's newest work: ``id``, ``key``, ``verdict``, ``ratio``, ``submitted``."""
    with engine.connect() as db:
        return list(
            db.execute(
                select(work.c.id, item.c.key, work.c.verdict, work.c.ratio, work.c.submitted)
                .join(item, item.c.id == work.c.item_id)
                .where(work.c.person_id == person_id, work.c.state == "done")
                .order_by(work.c.submitted.desc())
                .limit(limit)
            )
        )


def _own(db: Connection, work_id: int, person_id: int) -> Row:
    row = db.execute(
        select(work, item.c.body)
        .join(item, item.c.id == work.c.item_id)
        .where(work.c.id == work_id, work.c.person_id == person_id)
    ).first()
    if row is None:
        raise Refused("This item is not yours.")
    return row


def _hold_again(db: Connection, row: Row, person_id: int, now: float) -> int:
    """The slot that a submission fills: the one in hand, or, after a lapse, any free one of the same item."""
    mine = and_(slot.c.id == row.slot_id, slot.c.person_id == person_id)
    free = and_(
        slot.c.item_id == row.item_id,
        or_(slot.c.state == OPEN, and_(slot.c.state == HELD, slot.c.expires < now)),
    )
    for condition, skip_locked in ((mine, False), (free, True)):
        found = db.execute(
            select(slot.c.id).where(condition).limit(1).with_for_update(skip_locked=skip_locked)
        ).scalar()
        if found is not None:
            return int(found)
    raise Refused(
        "You were away for so long that somebody else has this item now. Copy what you want to keep.",
        taken=True,
    )


def _judge(original: str, verdict: str, text: str | None, limit: float) -> dict[str, Any]:
    if verdict != "edited":
        return {
            "edited": original if verdict == "fine" else None,
            "ratio": 0.0 if verdict == "fine" else None,
        }
    if text is None or not text.strip():
        raise Refused(
            "The edit is empty. If the response cannot be mended, say that it cannot be fixed by editing."
        )
    edited = texts.restore_line_ends(original, texts.browser_text(text))
    if edited == original:
        raise Refused("Nothing is changed. If the response needs no change, say that it is already fine.")
    share = texts.ratio(original, edited)
    if share > limit:
        raise Refused(f"The edit changes {share:.0%} of the words; at most {limit:.0%} may change.")
    return {"edited": edited, "ratio": share}


def _check(text: str | None, note: str) -> None:
    if why := texts.objection(text):
        raise Refused(f"The edit {why}.")
    if why := texts.objection(note):
        raise Refused(f"The note {why}.")
    if len(note) > LONGEST_NOTE:
        raise Refused(f"The note is longer than {LONGEST_NOTE:,} characters.")
