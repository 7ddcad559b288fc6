"""How far the work is, how fast each person is, what came in last: for the lead's page and for scripts."""

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Engine, Row, func, select

from redline.annotate.people import everyone
from redline.annotate.schema import DONE, HELD, OPEN, clock, gold, item, person, practice, slot, work
from redline.annotate.work import possible
from redline.types import JsonObject


@dataclass
class Rate:
    """One annotator's figures. ``seconds``: mean time at work on an item; ``ratio``: mean share of words
    changed by an edit; ``assigned``: items that wait for this person alone; ``practised``: practice items
    done."""

    id: int
    name: str
    revoked: bool
    verdicts: dict[str, int]
    skipped: int
    refused: int
    returned: int
    assigned: int
    practised: int
    seconds: float
    ratio: float | None
    last: float | None

    @property
    def done(self) -> int:
        return sum(self.verdicts.values())

    @property
    def hourly(self) -> float | None:
        """Items an hour at work."""
        return 3600 / self.seconds if self.seconds and self.done else None


@dataclass
class Totals:
    """What has happened, in pieces of work and in items. Practice does not count.

    ``done`` of ``total``: pieces of work, ``total`` being what the present people can do. ``items``, and of
    these ``items_done`` (somebody submitted one) and ``items_several`` (two or more people did).
    """

    total: int
    done: int
    held: int
    items: int
    items_done: int
    items_several: int
    returned: int
    gold: int
    practice: int


def rates(engine: Engine) -> list[Rate]:
    """Every annotator's figures, by name."""
    with engine.connect() as db:
        rows = db.execute(
            select(
                work.c.person_id,
                work.c.state,
                work.c.verdict,
                func.count().label("n"),
                func.sum(work.c.seconds).label("seconds"),
                func.avg(work.c.ratio).label("ratio"),
                func.max(work.c.submitted).label("last"),
                func.count(work.c.refused).label("refused"),
                func.count(work.c.returned).label("returned"),
            )
            .join(slot, slot.c.id == work.c.slot_id)
            .where(slot.c.place > 0)
            .group_by(work.c.person_id, work.c.state, work.c.verdict)
        ).all()
        assigned = _count_by(
            db, select(slot.c.assigned, func.count()).where(slot.c.state == OPEN, slot.c.place > 0)
        )
        practised = _count_by(
            db,
            select(slot.c.person_id, func.count()).where(slot.c.state == DONE, slot.c.place == 0),
        )
    by_person: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_person[row.person_id].append(row)
    return [
        _rate(who, by_person[who.id], assigned.get(who.id, 0), practised.get(who.id, 0))
        for who in everyone(engine)
    ]


def _count_by(db: Any, query: Any) -> dict[int, int]:
    """Counts by the query's first column."""
    first = query.selected_columns[0]
    return dict(db.execute(query.where(first.is_not(None)).group_by(first)).tuples().all())


def _rate(who: Row, rows: list[Row], assigned: int, practised: int) -> Rate:
    done = [row for row in rows if row.state == "done"]
    count = sum(row.n for row in done)
    ratios = [row.ratio for row in done if row.verdict == "edited"]
    return Rate(
        id=who.id,
        name=who.name,
        revoked=who.revoked is not None,
        verdicts={row.verdict: row.n for row in done},
        skipped=sum(row.n for row in rows if row.state == "skipped"),
        refused=sum(row.refused - row.returned for row in done),
        returned=sum(row.returned for row in done),
        assigned=assigned,
        practised=practised,
        seconds=sum(row.seconds for row in done) / count if count else 0.0,
        ratio=ratios[0] if ratios else None,
        last=max((row.last for row in done), default=None),
    )


def totals(engine: Engine) -> Totals:
    """What has happened so far."""
    ordinary = slot.c.place > 0
    done_by = (
        select(func.count().label("n"))
        .select_from(work)
        .join(slot, slot.c.id == work.c.slot_id)
        .where(work.c.state == "done", ordinary)
        .group_by(work.c.item_id)
        .subquery()
    )
    with engine.connect() as db:

        def count(query: Any) -> int:
            return int(db.execute(query).scalar_one())

        practices = count(select(func.count()).select_from(practice))
        return Totals(
            total=possible(db),
            done=count(select(func.count()).where(slot.c.state == DONE, ordinary)),
            held=count(select(func.count()).where(slot.c.state == HELD, slot.c.expires > clock(), ordinary)),
            items=count(select(func.count()).select_from(item)) - practices,
            items_done=count(select(func.count()).select_from(done_by)),
            items_several=count(select(func.count()).select_from(done_by).where(done_by.c.n > 1)),
            returned=count(select(func.count()).where(work.c.returned.is_not(None))),
            gold=count(select(func.count()).select_from(gold)),
            practice=practices,
        )


def status(engine: Engine) -> JsonObject:
    """The figures of ``redline annotate --status --json``."""
    people = []
    for rate in rates(engine):
        figures = asdict(rate)
        del figures["id"]
        people.append(figures | {"done": rate.done, "items_an_hour": rate.hourly})
    return asdict(totals(engine)) | {"people": people}


def newest(engine: Engine, limit: int = 20) -> list[Row]:
    """The newest submissions of all, with item and person."""
    with engine.connect() as db:
        return list(
            db.execute(
                select(
                    work.c.id,
                    work.c.item_id,
                    item.c.key,
                    item.c.body,
                    person.c.name,
                    work.c.verdict,
                    work.c.ratio,
                    work.c.seconds,
                    work.c.note,
                    work.c.submitted,
                    work.c.refused,
                    work.c.returned,
                    work.c.edited,
                )
                .join(item, item.c.id == work.c.item_id)
                .join(person, person.c.id == work.c.person_id)
                .join(slot, slot.c.id == work.c.slot_id)
                .where(work.c.submitted.is_not(None), slot.c.place > 0)
                .order_by(work.c.submitted.desc())
                .limit(limit)
            )
        )
