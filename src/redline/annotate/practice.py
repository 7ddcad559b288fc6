"""Practice: items with a known answer, which every person does before the work begins.

They are no part of progress, agreement or the export. After each one the person is told how the answer
compares with the known one; the history keeps what was told.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from sqlalchemy import Engine, Row, select

from redline.annotate import texts
from redline.annotate.agreement import overlap, units
from redline.annotate.intake import Count, add_records, row_of
from redline.annotate.schema import history, item, person, practice, work, writing
from redline.annotate.submissions import note_down
from redline.annotate.work import Work
from redline.data.check import Rejects
from redline.data.records import Edit, Record, Text
from redline.types import JsonObject

VERDICT_TEXT = {
    "edited": "edited",
    "fine": "already fine",
    "unfixable": "cannot be fixed by editing",
    "left": "the left (first) response is better",
    "right": "the right (second) response is better",
    "tie": "a tie",
    "up": "thumb up",
    "down": "thumb down",
}


class KnownComparison(Record):
    """A comparison with a known answer: ``preference`` is 1 for a, 0 for b, 0.5 for a tie."""

    prompt: Text
    a: Text
    b: Text
    preference: float = Field(ge=0, le=1)


class KnownThumb(Record):
    """A response that is known to be good (``liked``) or not."""

    prompt: Text
    response: Text
    liked: bool


KNOWN: dict[str, type[Record]] = {"edit": Edit, "compare": KnownComparison, "feedback": KnownThumb}
SHOWN = {
    "edit": ("prompt", "rejected", "chosen"),
    "compare": ("prompt", "a", "b"),
    "feedback": ("prompt", "response"),
}


@dataclass(frozen=True)
class Lesson:
    """One practice item as it is shown after the answer: the known answer, and what the person is told."""

    verdict: str
    edited: str | None
    explanation: str | None
    told: str


def add_practice(engine: Engine, kind: str, records: Iterable[Record], rejects: Rejects) -> Count:
    """Add practice items. An `explanation` in a record is shown with the known answer."""
    answers: dict[str, JsonObject] = {}

    def row(record: Record) -> JsonObject | str:
        answers[record.id] = _answer(record)
        names = {"edited", "editor", "preference", "liked", "explanation"}
        plain = Record.model_validate(record.model_dump(exclude=names, exclude_none=True))
        return row_of(plain, SHOWN[kind], editable="rejected" if kind == "edit" else None)

    count = add_records(engine, records, row, rejects, slots=False)
    with writing(engine).begin() as db:
        known = set(db.execute(select(practice.c.item_id)).scalars())
        for key, answer in answers.items():
            number = db.execute(select(item.c.id).where(item.c.key == key)).scalar()
            has_slot = number is not None and _is_ordinary(db, number)
            if number is not None and number not in known and not has_slot:
                db.execute(practice.insert().values(answer | {"item_id": number}))
    return count


def _is_ordinary(db: Any, item_id: int) -> bool:
    from redline.annotate.schema import slot

    return (
        db.execute(select(slot.c.id).where(slot.c.item_id == item_id, slot.c.place > 0)).first() is not None
    )


def _answer(record: Record) -> JsonObject:
    """The columns of ``practice`` for a record with a known answer."""
    extra = record.model_extra or {}
    explanation = extra.get("explanation")
    values: JsonObject = {
        "edited": None,
        "explanation": explanation if isinstance(explanation, str) else None,
    }
    if isinstance(record, Edit):
        before, after = texts.editable(record.rejected) or "", texts.editable(record.edited) or ""
        return values | {"verdict": "fine" if before == after else "edited", "edited": after}
    if isinstance(record, KnownThumb):
        return values | {"verdict": "up" if record.liked else "down"}
    assert isinstance(record, KnownComparison)
    verdict = "tie"
    if record.preference != 0.5:
        verdict = "a" if record.preference > 0.5 else "b"
    return values | {"verdict": verdict}


def lesson(engine: Engine, done: Work) -> Lesson:
    """What to tell a person about a practice item that is done."""
    with engine.connect() as db:
        known = db.execute(select(practice).where(practice.c.item_id == done.item_id)).one()
    return Lesson(known.verdict, known.edited, known.explanation, _compare(done, known))


def _verdict_text(verdict: str, swapped: bool) -> str:
    """A verdict in words. Responses of a comparison are named by the side on which the person saw them."""
    if verdict in ("a", "b"):
        return VERDICT_TEXT["left" if (verdict == "b") == swapped else "right"]
    return VERDICT_TEXT[verdict]


def _compare(done: Work, known: Row) -> str:
    right_answer = _verdict_text(known.verdict, done.swapped)
    if done.verdict != known.verdict:
        given = _verdict_text(done.verdict or "", done.swapped)
        return f"Your answer: {given}. The known answer: {right_answer}."
    if known.verdict != "edited":
        return f"Correct: {right_answer}."
    _, mine = units(done.original, done.edited or "")
    _, right = units(done.original, known.edited)
    missing, more = len(right - mine), len(mine - right)
    if not missing and not more:
        return "Correct: the same changes as in the known answer."
    share = overlap(mine, right)
    return (
        f"{share:.0%} of the single changes are the same. {missing} of the known answer's are missing, "
        f"{more} of yours are not in it."
    )


def tell(engine: Engine, done: Work, person_id: int) -> None:
    """Keep in the history what the person is told about a practice item."""
    told = lesson(engine, done).told
    with writing(engine).begin() as db:
        row = db.execute(select(work).where(work.c.id == done.id)).one()
        note_down(db, "told", row, person_id, row.revision, note=told)


def results(engine: Engine) -> list[Row]:
    """What each person was told, newest last: ``name``, ``key``, ``item_id``, ``told``, ``at``."""
    with engine.connect() as db:
        return list(
            db.execute(
                select(
                    person.c.name,
                    item.c.key,
                    item.c.id.label("item_id"),
                    history.c.note.label("told"),
                    history.c.at,
                )
                .join(person, person.c.id == history.c.person_id)
                .join(item, item.c.id == history.c.item_id)
                .where(history.c.act == "told")
                .order_by(person.c.name, history.c.id)
            )
        )
