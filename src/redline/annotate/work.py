"""The project, and one item in one person's hands: what the pages and the other modules read."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, Row, func, select

from redline.annotate import texts
from redline.annotate.schema import DONE, item, person, practice, project, slot, work
from redline.types import JsonObject

VERDICTS = {
    "edit": ("edited", "fine", "unfixable"),
    "compare": ("a", "b", "tie"),
    "feedback": ("up", "down"),
}


@dataclass(frozen=True)
class Project:
    """What the project is about; see ``schema.project``."""

    uid: str
    kind: str
    guideline: str
    max_ratio: float
    agreement: float
    lease: float
    raters: int
    reasons: tuple[str, ...]


def project_of(engine: Engine) -> Project:
    """The database's project."""
    with engine.connect() as db:
        row = db.execute(select(project)).one()
    return Project(
        uid=row.uid,
        kind=row.kind,
        guideline=row.guideline,
        max_ratio=row.max_ratio,
        agreement=row.agreement,
        lease=row.lease,
        raters=row.raters,
        reasons=tuple(json.loads(row.reasons)),
    )


@dataclass(frozen=True)
class Work:
    """One item in one person's hands.

    ``body`` is the record without its id; ``start`` the text that the editor opens with; ``why`` what the
    lead said when giving the item or sending it back; ``reasons`` those of the submitted edit.
    """

    id: int
    item_id: int
    key: str
    state: str
    revision: int
    swapped: bool
    body: JsonObject
    start: str
    start_by: str | None
    draft: str | None
    note: str
    draft_at: float
    verdict: str | None
    edited: str | None
    submitted: float | None
    reasons: Sequence[JsonObject]
    returned: bool
    why: str | None
    practice: bool

    @property
    def original(self) -> str:
        """The text being edited, as it was."""
        return texts.editable(self.body["rejected"]) or ""


def load(db: Connection, work_id: int) -> Work:
    """The work of this number."""
    row = db.execute(
        select(
            work,
            item.c.key,
            item.c.body,
            item.c.draft.label("start"),
            item.c.draft_editor,
            slot.c.why,
            practice.c.item_id.label("practice"),
        )
        .join(item, item.c.id == work.c.item_id)
        .join(slot, slot.c.id == work.c.slot_id)
        .join(practice, practice.c.item_id == work.c.item_id, isouter=True)
        .where(work.c.id == work_id)
    ).one()
    body = json.loads(row.body)
    original = ""
    if "rejected" in body:
        original = texts.editable(body["rejected"]) or ""
    note = row.draft_note
    if row.state == "done" and row.draft is None:
        note = row.note
    return Work(
        id=row.id,
        item_id=row.item_id,
        key=row.key,
        state=row.state,
        revision=row.revision,
        swapped=bool(row.swapped),
        body=body,
        start=original if row.start is None else row.start,
        start_by=row.draft_editor,
        draft=row.draft,
        note=note or "",
        draft_at=row.draft_at or 0,
        verdict=row.verdict,
        edited=row.edited,
        submitted=row.submitted,
        reasons=json.loads(row.reasons or "[]"),
        returned=row.returned is not None,
        why=row.returned_why or row.why,
        practice=row.practice is not None,
    )


def own_work(engine: Engine, work_id: int, person_id: int) -> Work | None:
    """A piece of this person's work, to be looked at again; None when it is not this person's."""
    with engine.connect() as db:
        number = db.execute(
            select(work.c.id).where(work.c.id == work_id, work.c.person_id == person_id)
        ).scalar()
        if number is None:
            return None
        return load(db, number)


def possible(db: Connection) -> int:
    """Pieces of work that can be done by the people there are: an item that three people should do counts
    once where there is only one person."""
    people = db.execute(
        select(func.count()).where(person.c.admin == 0, person.c.revoked.is_(None))
    ).scalar_one()
    reachable = (slot.c.place <= max(people, 1)) | (slot.c.state == DONE)
    return db.execute(select(func.count()).where(slot.c.place > 0, reachable)).scalar_one()


def counts(engine: Engine, person_id: int) -> dict[str, int]:
    """For the progress line: ``mine`` done, ``skipped``, ``done`` by all, ``total`` pieces of work that the
    present people can do. Practice does not count."""
    with engine.connect() as db:
        rows = db.execute(
            select(work.c.state, func.count())
            .join(slot, slot.c.id == work.c.slot_id)
            .where(work.c.person_id == person_id, slot.c.place > 0)
            .group_by(work.c.state)
        )
        states: dict[str, int] = dict(rows.tuples().all())
        done = db.execute(select(func.count()).where(slot.c.state == DONE, slot.c.place > 0)).scalar_one()
        total = possible(db)
    return {"mine": states.get("done", 0), "skipped": states.get("skipped", 0), "done": done, "total": total}


def recent(engine: Engine, person_id: int, limit: int = 50) -> list[Row]:
    """This person's newest work, done and skipped: ``id``, ``key``, ``state``, ``revision``, ``verdict``,
    ``ratio``, ``submitted``, ``refused``, ``returned``, ``returned_why``, ``practice``."""
    columns = (
        work.c.id,
        item.c.key,
        work.c.state,
        work.c.revision,
        work.c.verdict,
        work.c.ratio,
        work.c.submitted,
        work.c.refused,
        work.c.returned,
        work.c.returned_why,
        practice.c.item_id.label("practice"),
    )
    with engine.connect() as db:
        return list(
            db.execute(
                select(*columns)
                .join(item, item.c.id == work.c.item_id)
                .join(practice, practice.c.item_id == work.c.item_id, isouter=True)
                .where(work.c.person_id == person_id, work.c.state == "done")
                .order_by(work.c.submitted.desc())
                .limit(limit)
            )
        )
