"""Who works on what: practice first, then what is in hand, what came back, what was assigned, what is free.

Locks are always taken in the order person, slot, work, so that two transactions never wait for each other. An
item that a person holds is marked in its slot alone: when a lease has lapsed, the next person takes the slot
over, and the first one's work is left without it.
"""

import secrets

from sqlalchemy import Connection, Engine, Row, and_, exists, or_, select, update

from redline.annotate.schema import HELD, OPEN, clock, person, practice, slot, work, writing
from redline.annotate.submissions import lock_person
from redline.annotate.work import Work, load


def next_work(engine: Engine, person_id: int, lease: float) -> Work | None:
    """What this person does now: what is already in hand, or the next item. None when nothing is left for
    this person."""
    now = clock()
    with writing(engine).begin() as db:
        lock_person(db, person_id)  # two tabs of one person take turns
        held = _in_hand(db, person_id)
        if held:
            db.execute(update(slot).where(slot.c.id == held.slot).values(expires=now + lease))
            return load(db, held.id)
        free = _practice(db, person_id)
        if free is None:
            returned = _returned(db, person_id)
            if returned is not None:
                return load(db, returned)
            free = _free(db, person_id, now)
        if free is None:
            return None
        db.execute(
            update(slot)
            .where(slot.c.id == free.id)
            .values(state=HELD, person_id=person_id, expires=now + lease)
        )
        return load(db, _work_for(db, free, person_id, now))


def _in_hand(db: Connection, person_id: int) -> Row | None:
    return db.execute(
        select(work.c.id, slot.c.id.label("slot"))
        .join(slot, slot.c.id == work.c.slot_id)
        .where(
            work.c.person_id == person_id,
            work.c.state == "open",
            slot.c.person_id == person_id,
            slot.c.state == HELD,
        )
        .order_by(work.c.id)
        .with_for_update(of=slot)
    ).first()


def _practice(db: Connection, person_id: int) -> Row | None:
    """A slot for the first practice item that this person has not done; it is made here."""
    finished = exists().where(
        work.c.item_id == practice.c.item_id, work.c.person_id == person_id, work.c.state == "done"
    )
    item_id = db.execute(
        select(practice.c.item_id).where(~finished).order_by(practice.c.item_id).limit(1)
    ).scalar()
    if item_id is None:
        return None
    there = db.execute(
        select(slot.c.id, slot.c.item_id).where(slot.c.item_id == item_id, slot.c.assigned == person_id)
    ).first()
    if there is not None:
        return there
    made = {"item_id": item_id, "state": OPEN, "place": 0, "assigned": person_id}
    return db.execute(slot.insert().values(made).returning(slot.c.id, slot.c.item_id)).one()


def _returned(db: Connection, person_id: int) -> int | None:
    """This person's work that the lead sent back first."""
    return db.execute(
        select(work.c.id)
        .where(work.c.returned.is_not(None), work.c.person_id == person_id, work.c.state == "done")
        .order_by(work.c.returned)
        .limit(1)
    ).scalar()


def _free(db: Connection, person_id: int, now: float) -> Row | None:
    """A slot that this person may take: assigned to this person, lapsed, or open to all."""
    mine = exists().where(
        work.c.item_id == slot.c.item_id, work.c.person_id == person_id, work.c.state != "open"
    )
    for_me = and_(slot.c.state == OPEN, slot.c.assigned == person_id)
    lapsed = and_(
        slot.c.state == HELD,
        slot.c.expires < now,
        or_(slot.c.assigned.is_(None), slot.c.assigned == person_id),
    )
    for_all = and_(slot.c.state == OPEN, slot.c.assigned.is_(None))
    for condition in (for_me, lapsed, for_all):  # three queries, each of which an index answers
        free = db.execute(
            select(slot.c.id, slot.c.item_id)
            .where(condition, slot.c.place > 0, ~mine)
            .order_by(slot.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        ).first()
        if free is not None:
            return free
    return None


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


def take_up_skipped(engine: Engine, person_id: int) -> int:
    """Let a person have the skipped items again; returns how many."""
    with writing(engine).begin() as db:
        return db.execute(
            update(work).where(work.c.person_id == person_id, work.c.state == "skipped").values(state="open")
        ).rowcount


def read_guidelines(engine: Engine, person_id: int) -> None:
    """Note that a person has closed the guidelines; they open by themselves only before that."""
    with writing(engine).begin() as db:
        db.execute(
            update(person).where(person.c.id == person_id, person.c.guided.is_(None)).values(guided=clock())
        )
