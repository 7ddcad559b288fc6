"""Out of the database: edits for ``redline label`` and ``redline run``, verdicts for ``redline compare
--judge human:FILE``.

**Edits** carry, beside the pair's own keys: ``editor`` (who), ``verdict`` (edited, fine, unfixable),
``ratio``, ``started`` and ``submitted`` (UTC), ``seconds`` at work, ``note``, ``draft_editor`` where an LLM's
draft was corrected, and ``refused`` where the admin refused it. An edit is *accepted* when its verdict is
`edited` and the admin has not refused it.

**Items that two people did** come out once, and the other person's work stands in ``also``. The rule, in this
order: what was not refused, before what was; an edit before "already fine" before "cannot be fixed"; the edit
that changes the smaller share of words; the one submitted first.

**Comparisons** are ``{"id", "prompt", "a", "b", "preference", "verdicts", ...}``: ``preference`` is 1 for a,
0 for b, 0.5 for a tie, the mean where two people judged; ``verdicts`` says who, what, when, how long.
"""

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Engine, Row, select

from redline.annotate.schema import item, person, work
from redline.annotate.texts import with_text
from redline.annotate.work import project_of
from redline.data.files import write_jsonl
from redline.errors import UserError

Which = Literal["all", "accepted"]
_RANK = {"edited": 0, "fine": 1, "unfixable": 2}
# What an earlier export says of its edits, where it was imported as drafts: nothing about this one's.
_EARLIER = {"verdict", "ratio", "started", "submitted", "seconds", "note", "draft_editor", "refused", "also"}
_PREFERENCE = {"a": 1.0, "b": 0.0, "tie": 0.5}


def export(engine: Engine, out: Path, which: Which = "all", who: str | None = None) -> int:
    """Write the project's edits or comparisons to ``out``; returns the number of records. ``who``: one
    person's work alone."""
    if who is not None:
        with engine.connect() as db:
            if db.execute(select(person.c.id).where(person.c.name == who)).first() is None:
                annotators = select(person.c.name).where(person.c.admin == 0).order_by(person.c.name)
                names = ", ".join(db.execute(annotators).scalars())
                raise UserError(
                    f"--person {who}: nobody of this name. There are: {names or 'no people yet'}."
                )
    if engine.dialect.name == "sqlite" and out.resolve() in {
        Path(f"{engine.url.database}{end}").resolve() for end in ("", "-wal", "-shm")
    }:
        raise UserError(f"--out {out}: is the database itself. Choose another file.")
    if project_of(engine).kind == "compare":
        return write_jsonl(out, _comparisons(engine, who))
    return write_jsonl(out, _edits(engine, which, who))


def _edits(engine: Engine, which: Which, who: str | None) -> Iterator[dict[str, Any]]:
    for rows in _by_item(engine, who):
        if which == "accepted":
            rows = [row for row in rows if row.verdict == "edited" and row.refused is None]
        rows.sort(
            key=lambda row: (row.refused is not None, _RANK[row.verdict], row.ratio or 0.0, row.submitted)
        )
        if rows:
            first, *others = (_annotation(row) for row in rows)
            body = {name: value for name, value in json.loads(rows[0].body).items() if name not in _EARLIER}
            kept = {"id": rows[0].key, "prompt": body.pop("prompt"), "rejected": body.pop("rejected")}
            yield kept | {"edited": first["edited"]} | body | first | ({"also": others} if others else {})


def _annotation(row: Row) -> dict[str, Any]:
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
        "draft_editor": row.draft_editor,
        "refused": row.refused and _moment(row.refused),
    }
    return {name: value for name, value in values.items() if value is not None}


def _comparisons(engine: Engine, who: str | None) -> Iterator[dict[str, Any]]:
    for rows in _by_item(engine, who):
        body = json.loads(rows[0].body)
        verdicts = [
            {
                "person": row.name,
                "preference": _PREFERENCE[row.verdict],
                "left": "b" if row.swapped else "a",
                "started": _moment(row.started),
                "submitted": _moment(row.submitted),
                "seconds": round(row.seconds, 1),
                **({"note": row.note} if row.note else {}),
            }
            for row in rows
            if row.refused is None
        ]
        if verdicts:
            preference = sum(verdict["preference"] for verdict in verdicts) / len(verdicts)
            yield {
                "id": rows[0].key,
                "prompt": body.pop("prompt"),
                "a": body.pop("a"),
                "b": body.pop("b"),
                "preference": preference,
                "verdicts": verdicts,
                **body,
            }


def _by_item(engine: Engine, who: str | None) -> Iterator[list[Row]]:
    query = (
        select(work, item.c.key, item.c.body, item.c.draft_editor, person.c.name)
        .join(item, item.c.id == work.c.item_id)
        .join(person, person.c.id == work.c.person_id)
        .where(work.c.state == "done")
        .order_by(work.c.item_id, work.c.submitted)
    )
    if who is not None:
        query = query.where(person.c.name == who)
    with engine.connect() as db:
        rows = db.execution_options(stream_results=True, yield_per=500).execute(query)
        for _, group in itertools.groupby(rows, key=lambda row: row.item_id):
            yield list(group)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
