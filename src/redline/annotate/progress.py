"""What the admin page shows: how far the work is, how fast each person is, what came in last."""

from dataclasses import dataclass

from sqlalchemy import Engine, Row, func, select, update

from redline.annotate.people import everyone
from redline.annotate.schema import DONE, HELD, clock, item, person, slot, work, writing


@dataclass
class Rate:
    """One annotator's figures. ``seconds``: mean time at work on an item; ``ratio``: mean share of words
    changed by an edit."""

    id: int
    name: str
    revoked: bool
    verdicts: dict[str, int]
    skipped: int
    refused: int
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
            ).group_by(work.c.person_id, work.c.state, work.c.verdict)
        ).all()
    people = []
    for who in everyone(engine):
        done = [row for row in rows if row.person_id == who.id and row.state == "done"]
        count = sum(row.n for row in done)
        people.append(
            Rate(
                who.id,
                who.name,
                who.revoked is not None,
                {row.verdict: row.n for row in done},
                sum(row.n for row in rows if row.person_id == who.id and row.state == "skipped"),
                sum(row.refused for row in done),
                sum(row.seconds for row in done) / count if count else 0.0,
                next((row.ratio for row in done if row.verdict == "edited"), None),
                max((row.last for row in done), default=None),
            )
        )
    return people


def totals(engine: Engine) -> dict[str, int]:
    """Pieces of work: ``total``, ``done``, ``held`` by somebody now; ``items``, and ``doubled``: those that
    two people do."""
    with engine.connect() as db:
        states: dict[int, int] = dict(
            db.execute(select(slot.c.state, func.count()).group_by(slot.c.state)).tuples().all()
        )
        held = db.execute(
            select(func.count()).where(slot.c.state == HELD, slot.c.expires > clock())
        ).scalar_one()
        items = db.execute(select(func.count()).select_from(item)).scalar_one()
    total = sum(states.values())
    return {
        "total": total,
        "done": states.get(DONE, 0),
        "held": held,
        "items": items,
        "doubled": total - items,
    }


def newest(engine: Engine, limit: int = 30) -> list[Row]:
    """The newest submissions of all, with item and person."""
    with engine.connect() as db:
        return list(
            db.execute(
                select(
                    work.c.id,
                    item.c.key,
                    item.c.body,
                    person.c.name,
                    work.c.verdict,
                    work.c.ratio,
                    work.c.seconds,
                    work.c.note,
                    work.c.submitted,
                    work.c.refused,
                    work.c.edited,
                )
                .join(item, item.c.id == work.c.item_id)
                .join(person, person.c.id == work.c.person_id)
                .where(work.c.submitted.is_not(None))
                .order_by(work.c.submitted.desc())
                .limit(limit)
            )
        )


def refuse(engine: Engine, work_id: int, refused: bool) -> None:
    """Mark an edit as refused (it is not `accepted` in the export), or take that back."""
    mark = clock() if refused else None
    with writing(engine).begin() as db:
        db.execute(update(work).where(work.c.id == work_id, work.c.state == "done").values(refused=mark))
