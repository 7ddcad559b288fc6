"""Drafts, submissions, skips and undo: every change of a piece of work, and the history that keeps them.

A work has a *revision*, a number that grows with each change of its state. A page says which revision it goes
on from; when another page was quicker, its request is refused and nothing is replaced. A submission also
carries a *token* of its page's making, so that sending it again after a lost answer does nothing.
"""

import json
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Connection, Engine, Row, and_, or_, select, update

from redline.annotate import texts
from redline.annotate.schema import DONE, HELD, OPEN, clock, gold, history, item, person, slot, work, writing
from redline.annotate.work import VERDICTS, Project, project_of
from redline.types import Json, JsonObject

LONGEST_NOTE = 2_000
LONGEST_TOKEN = 64
Act = Literal["submitted", "skipped", "undone", "told", "refused", "accepted", "returned", "passed on"]


class Refused(Exception):
    """A request that is not carried out; the message tells the person why.

    ``taken``: the item is somebody else's by now. ``stale``: another page has changed this work since;
    ``current`` says how it stands.
    """

    def __init__(self, why: str, taken: bool = False, current: JsonObject | None = None):
        super().__init__(why)
        self.taken = taken
        self.current = current


@dataclass(frozen=True)
class Submission:
    """What a page sends as done.

    ``text`` is the edited text with line feeds, for the verdict `edited`. ``revision``: the state that the
    page goes on from. ``token``: the page's own name of this submission. ``reasons``: one dictionary for each
    change that has a reason, with ``number`` (of the change), ``deleted``, ``inserted`` and ``reason``.
    """

    verdict: str
    text: str | None = None
    note: str = ""
    seconds: float = 0.0
    revision: int = 0
    token: str = ""
    reasons: Sequence[Any] = field(default_factory=list)


def lock_person(db: Connection, person_id: int) -> None:
    """Let this person's other transactions wait until this one ends."""
    db.execute(select(person.c.id).where(person.c.id == person_id).with_for_update())


def note_down(db: Connection, act: Act, row: Row, by: int, revision: int, **values: Json) -> None:
    """Add a line to the history of the work ``row`` (a row with ``id`` and ``item_id``)."""
    line = {
        "item_id": row.item_id,
        "work_id": row.id,
        "person_id": by,
        "at": clock(),
        "act": act,
        "revision": revision,
    }
    db.execute(history.insert().values(line | values))


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
        row = db.execute(
            select(work.c.draft_at, work.c.returned)
            .where(work.c.id == work_id, work.c.person_id == person_id)
            .with_for_update()
        ).first()
        if row is None or not (held or row.returned is not None):
            return "lost"
        if (row.draft_at or 0) not in since:
            return "newer"
        if text is not None:
            db.execute(
                update(work).where(work.c.id == work_id).values(draft=text, draft_note=note, draft_at=at)
            )
    return "kept"


def submit(engine: Engine, work_id: int, person_id: int, sent: Submission) -> int:
    """Take a person's work as done; it is committed when this returns. Returns the new revision.

    Submitting again replaces what stood before, which stays in the history. Raises Refused with a reason for
    the person.
    """
    about = project_of(engine)
    if sent.verdict not in VERDICTS[about.kind]:
        raise Refused("This verdict does not exist here.")
    _check(sent.text, sent.note)
    if len(sent.token) > LONGEST_TOKEN:
        raise Refused("The submission's token is too long.")
    now = clock()
    with writing(engine).begin() as db:
        lock_person(db, person_id)
        row = _own(db, work_id, person_id)
        if sent.token and _known(db, work_id, sent.token):
            return int(row.revision)  # the browser asks again because our answer was lost
        _expect(row, sent.revision)
        held = _hold_again(db, row, person_id, now)
        values = _judge(row, sent, about)
        seconds = max(0.0, min(sent.seconds, now - row.started))
        values |= {
            "verdict": sent.verdict,
            "note": sent.note or None,
            "seconds": max(seconds, row.seconds or 0.0),
        }
        revision = row.revision + 1
        db.execute(
            update(slot).where(slot.c.id == held).values(state=DONE, person_id=person_id, expires=None)
        )
        _change(
            db, work_id, revision, state="done", slot_id=held, submitted=now, refused=None, returned=None,
            returned_why=None, draft=None, draft_note=None, **values,
        )  # fmt: skip
        note_down(db, "submitted", row, person_id, revision, token=sent.token or None, **values)
    return int(revision)


def skip(engine: Engine, work_id: int, person_id: int, note: str, revision: int) -> int:
    """Leave the item to somebody else. Returns the new revision.

    Raises Refused when it is not in this person's hands, or another page was quicker.
    """
    _check(None, note)
    with writing(engine).begin() as db:
        lock_person(db, person_id)
        row = _own(db, work_id, person_id)
        if row.state == "skipped" and row.revision == revision + 1:
            return int(row.revision)  # the browser asks again
        _expect(row, revision)
        if row.state == "done":
            raise Refused("This item is submitted already.")
        db.execute(
            update(slot)
            .where(slot.c.id == row.slot_id, slot.c.person_id == person_id, slot.c.state == HELD)
            .values(state=OPEN, person_id=None, expires=None)
        )
        _change(db, work_id, row.revision + 1, state="skipped", draft_note=note or None)
        note_down(db, "skipped", row, person_id, row.revision + 1, note=note or None)
        return int(row.revision) + 1


def undo(engine: Engine, work_id: int, person_id: int, revision: int, lease: float) -> int:
    """Take one's own last submission or skip back. Returns the new revision.

    What was submitted before it stands again; where there was nothing, the item is in this person's hands
    again, with the text as a draft. Raises Refused when that cannot be.
    """
    now = clock()
    with writing(engine).begin() as db:
        lock_person(db, person_id)
        row = _own(db, work_id, person_id)
        _expect(row, revision)
        if row.state == "open":
            raise Refused("There is nothing to undo: this item is not submitted.")
        if db.execute(select(gold.c.item_id).where(gold.c.item_id == row.item_id)).first():
            raise Refused("The lead has decided on this item already. Ask the lead.")
        before = _standing(db, work_id)[:-1]
        if row.state == "done" and before:
            _change(db, work_id, row.revision + 1, **before[-1])
        else:
            held = _hold_again(db, row, person_id, now)
            db.execute(
                update(slot)
                .where(slot.c.id == held)
                .values(state=HELD, person_id=person_id, expires=now + lease)
            )
            values: JsonObject = {"state": "open", "slot_id": held}
            if row.state == "done":
                values |= dict.fromkeys(("verdict", "edited", "ratio", "submitted", "refused", "reasons"))
                values |= {"draft_note": row.note, "note": None, "returned": None, "returned_why": None}
                if row.verdict == "edited":
                    values |= {"draft": texts.browser_text(row.edited), "draft_at": now * 1000}
            _change(db, work_id, row.revision + 1, **values)
        note_down(db, "undone", row, person_id, row.revision + 1)
        return int(row.revision) + 1


def _standing(db: Connection, work_id: int) -> list[JsonObject]:
    """The submissions of a work that were not taken back, oldest first, as values of its row."""
    lines = db.execute(select(history).where(history.c.work_id == work_id).order_by(history.c.id)).all()
    stack: list[JsonObject] = []
    for line in lines:
        if line.act == "submitted":
            names = ("verdict", "edited", "note", "ratio", "seconds", "reasons")
            values = {name: getattr(line, name) for name in names}
            stack.append(
                values | {"submitted": line.at, "refused": None, "returned": None, "returned_why": None}
            )
        elif line.act == "undone" and stack:
            stack.pop()
        elif line.act == "refused" and stack:
            stack[-1]["refused"] = line.at
        elif line.act == "accepted" and stack:
            stack[-1]["refused"] = None
        elif line.act == "returned" and stack:
            stack[-1] |= {"returned": line.at, "returned_why": line.note, "refused": line.at}
    return stack


def _own(db: Connection, work_id: int, person_id: int) -> Row:
    row = db.execute(
        select(work, item.c.body)
        .join(item, item.c.id == work.c.item_id)
        .where(work.c.id == work_id, work.c.person_id == person_id)
    ).first()
    if row is None:
        raise Refused("This item is not yours.")
    return row


def _known(db: Connection, work_id: int, token: str) -> bool:
    same = select(history.c.id).where(history.c.work_id == work_id, history.c.token == token)
    return db.execute(same).first() is not None


def _expect(row: Row, revision: int) -> None:
    if row.revision == revision:
        return
    current = {name: getattr(row, name) for name in ("revision", "state", "verdict", "submitted")}
    if row.edited is not None:
        current["edited"] = texts.browser_text(row.edited)
    raise Refused(
        "This item was changed in another window since this page was opened. Nothing was replaced.",
        current=current,
    )


def _change(db: Connection, work_id: int, revision: int, **values: Json) -> None:
    db.execute(update(work).where(work.c.id == work_id).values(revision=revision, **values))


def _hold_again(db: Connection, row: Row, person_id: int, now: float) -> int:
    """The slot that a submission fills: the one in hand, or, after a lapse, any free one of the same item."""
    mine = and_(slot.c.id == row.slot_id, slot.c.person_id == person_id)
    free = and_(
        slot.c.item_id == row.item_id,
        or_(slot.c.assigned.is_(None), slot.c.assigned == person_id),
        or_(slot.c.state == OPEN, and_(slot.c.state == HELD, slot.c.expires < now)),
    )
    for condition, skip_locked in ((mine, False), (free, True)):
        number = db.execute(
            select(slot.c.id).where(condition).limit(1).with_for_update(skip_locked=skip_locked)
        ).scalar()
        if number is not None:
            return int(number)
    raise Refused(
        "You were away for so long that somebody else has this item now. Copy what you want to keep.",
        taken=True,
    )


def _judge(row: Row, sent: Submission, about: Project) -> JsonObject:
    """What a submission says of the text: ``edited``, ``ratio``, ``reasons``. Raises Refused."""
    values: JsonObject = {"edited": None, "ratio": None, "reasons": None}
    if about.kind != "edit" or sent.verdict == "unfixable":
        return values
    original = texts.editable(json.loads(row.body)["rejected"]) or ""
    if sent.verdict == "fine":
        return values | {"edited": original, "ratio": 0.0}
    edited, share = edited_text(original, sent.text, about.max_ratio)
    values |= {"edited": edited, "ratio": share}
    if sent.reasons:
        try:
            found = texts.reasons_of(original, edited, sent.reasons, about.reasons)
        except ValueError as error:
            raise Refused(str(error)) from error
        values["reasons"] = json.dumps(found, ensure_ascii=False)
    return values


def edited_text(original: str, text: str | None, limit: float) -> tuple[str, float]:
    """An edit as it is kept, with the original's line ends, and the share of words that it changes.

    Raises Refused where it is empty, changes nothing, or changes more than ``limit``.
    """
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
    return edited, share


def _check(text: str | None, note: str) -> None:
    if why := texts.objection(text):
        raise Refused(f"The edit {why}.")
    if why := texts.objection(note):
        raise Refused(f"The note {why}.")
    if len(note) > LONGEST_NOTE:
        raise Refused(f"The note is longer than {LONGEST_NOTE:,} characters.")
