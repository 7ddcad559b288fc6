"""A product's log of drafts and what users sent instead: which of it are corrections, as edits.

A row is a draft by a model and the text that a user sent, with who and when. Not every difference is a
correction of the draft: people send drafts as they are, throw them away, write something else, add their
signature. What is kept and dropped is counted by kind.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from redline.data.alignment import edit_ratio
from redline.data.check import Rejects
from redline.data.columns import Missing, value_of
from redline.data.conversation import as_text_or_messages
from redline.data.files import check_apart, write_jsonl
from redline.data.read import read_files
from redline.data.records import Edit, Text
from redline.data.row import Broken, Row
from redline.data.rows import rows
from redline.data.settings import Source
from redline.data.units import units
from redline.errors import UserError
from redline.types import Json, JsonObject

FIELDS = ("draft", "sent", "prompt", "user", "time", "id")
LONGEST_SIGNATURE = 6  # lines
OFTEN = 3  # times that one user's texts end alike before the ending counts as a signature
CLOSING = re.compile(
    r"^(--\s*$|best\b|(best|kind|warm)? ?(regards|wishes)\b|sincerely|cheers|thanks[,!.]?$|thank you[,!.]?$|"
    r"yours\b|sent from my\b|mit freundlichen|viele grüße|cordialement|saludos)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Revision:
    """One row: a draft and what was sent. ``versions`` counts the rows that were joined into it."""

    row: Row
    prompt: Text
    draft: str
    sent: str
    user: str
    time: str
    id: str | None
    versions: int = 1


@dataclass(frozen=True)
class Import:
    """What became of a log: rows read, edits written, and counts by kind of what was changed and dropped."""

    rows: int
    edits: int
    changed: dict[str, int]
    dropped: dict[str, int]

    def as_json(self) -> JsonObject:
        """The counts for ``--json``."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The counts as lines of text."""
        counts = [(self.rows, "rows"), (self.edits, "corrections kept")]
        counts += [(count, f"  {kind}") for kind, count in self.changed.items()]
        counts += [(count, f"dropped: {kind}") for kind, count in self.dropped.items()]
        return [f"{count:>8,} {what}" for count, what in counts]


def import_log(source: Source, out: Path | str, max_ratio: float = 0.5, chat: bool = False) -> Import:
    """Write the corrections of a log as edits to ``out``, what is dropped to <out>.rejects.jsonl.

    ``source.columns`` maps ``draft`` and ``sent`` and, where the log has them, ``prompt``, ``user``, ``time``
    and ``id`` (the same for all versions of one draft). ``chat`` makes a prompt of text a user's message, for
    models with a chat template. The log is held in memory: versions may lie far
    apart. Raises UserError when the source has no such columns, or nothing in it is a correction.
    """
    check_apart([out], read_files(source))
    with Rejects.beside(out) as rejects:
        revisions = list(_revisions(source, rejects))
        read = len(revisions) + rejects.total
        joined = _joined(revisions)
        changed = Counter({"versions of one draft joined": len(revisions) - len(joined)})
        signatures = _signatures(joined)
        corrections = _corrections(joined, signatures, max_ratio, rejects, changed)
        edits = write_jsonl(out, map(_as_chat, corrections) if chat else corrections)
        rejects.kept = edits
        rejects.report(str(out))
    if not edits:
        raise UserError(f"{source.name}: no correction in it ({rejects.summary()}).")
    return Import(read, edits, dict(+changed), dict(rejects.counts))


def _as_chat(edit: Edit) -> Edit:
    if isinstance(edit.prompt, list) or not edit.prompt:
        return edit
    return edit.model_copy(update={"prompt": [{"role": "user", "content": edit.prompt}]})


def _revisions(source: Source, rejects: Rejects) -> Iterator[Revision]:
    columns = {name: name for name in FIELDS} | source.columns
    first = True
    for row in rows(source, rejects.note):
        try:
            if row.problem:
                raise Broken(row.problem)
            yield _revision(row, columns)
            first = False
        except Missing as error:
            if first:
                raise UserError(
                    f"{row.file}: {error}. There are: {', '.join(map(str, row.values))}. "
                    "Map yours with `columns`: draft, sent, prompt, user, time, id."
                ) from error
            rejects.add(str(error), row.file, row.line, row.values)
        except Broken as error:
            rejects.add(str(error), row.file, row.line, row.values)


def _revision(row: Row, columns: dict[str, str]) -> Revision:
    draft, sent = (value_of(row.values, columns[name]) for name in ("draft", "sent"))
    if not isinstance(draft, str) or not draft.strip():
        raise Broken("the draft is empty")
    if sent is None or (isinstance(sent, str) and not sent.strip()):
        raise Broken("nothing was sent")
    if not isinstance(sent, str):
        raise Broken("sent is no text")
    values: JsonObject = {}
    for name in ("prompt", "user", "time", "id"):
        try:
            values[name] = value_of(row.values, columns[name])
        except Missing:
            values[name] = None
    asked = values["prompt"]
    prompt = "" if asked is None else as_text_or_messages("prompt", asked, lambda _: None)
    given = None if values["id"] in (None, "") else str(values["id"])
    return Revision(row, prompt, draft, sent, str(values["user"] or ""), _moment(values["time"]), given)


def _moment(value: Json) -> str:
    """A time as text that sorts: a date as it is written in ISO 8601, seconds with leading zeros."""
    if isinstance(value, int | float):
        return f"{value:020.3f}"
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value or "")


def _joined(revisions: list[Revision]) -> list[Revision]:
    """One revision a draft: of the same id, or of the same user and text; a draft that is what was sent
    before goes on from there. The first draft and the text sent last are kept."""
    places: dict[tuple[str, str], int] = {}
    made: list[Revision] = []
    for revision in sorted(revisions, key=lambda revision: revision.time):
        key = (revision.user, revision.draft) if revision.id is None else ("", revision.id)
        if key in places:
            earlier = made[places[key]]
            made[places[key]] = replace(earlier, sent=revision.sent, versions=earlier.versions + 1)
        else:
            places[key] = len(made)
            made.append(revision)
        if revision.id is None:
            places[revision.user, revision.sent] = places[key]
    return made


def _signatures(revisions: Iterable[Revision]) -> dict[str, set[str]]:
    """The endings that a user adds to drafts again and again, by user."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for revision in revisions:
        lines = revision.sent.rstrip().splitlines()
        for size in range(1, min(LONGEST_SIGNATURE, len(lines) - 1) + 1):
            ending = "\n".join(lines[-size:]).strip()
            if ending and ending not in revision.draft:
                counts[revision.user][ending] += 1
    often: dict[str, set[str]] = {}
    for user, endings in counts.items():
        often[user] = {ending for ending, count in endings.items() if count >= OFTEN}
    return often


def _without_signature(sent: str, draft: str, known: set[str]) -> str:
    """What was sent less a signature that the draft has not."""
    lines = sent.rstrip().splitlines()
    for size in range(min(LONGEST_SIGNATURE, len(lines) - 1), 0, -1):
        ending = "\n".join(lines[-size:]).strip()
        is_signature = ending in known or bool(CLOSING.match(lines[-size].strip()))
        if ending and is_signature and ending not in draft:
            return "\n".join(lines[:-size]).rstrip()
    return sent


def _corrections(
    revisions: Iterable[Revision],
    signatures: dict[str, set[str]],
    max_ratio: float,
    rejects: Rejects,
    changed: Counter[str],
) -> Iterator[Edit]:
    seen: set[tuple[str, str, str]] = set()
    for revision in revisions:
        row, draft = revision.row, revision.draft
        sent = _without_signature(revision.sent, draft, signatures.get(revision.user, set()))
        ratio = edit_ratio(units(draft), units(sent))
        reason = None
        if revision.sent.split() == draft.split():
            reason = "sent as it was"
        elif sent.split() == draft.split():
            reason = "only a signature was added"
        elif ratio > max_ratio:
            reason = f"rewritten: more than {max_ratio:.0%} of the words changed ({ratio:.0%})"
        elif (str(revision.prompt), draft, sent) in seen:
            reason = "the same correction as an earlier one"
        if reason:
            rejects.add(reason, row.file, row.line, row.values)
            continue
        seen.add((str(revision.prompt), draft, sent))
        changed["signatures cut off"] += sent != revision.sent
        yield Edit.model_validate(
            {
                "id": revision.id or f"{Path(row.file).stem}-{row.line}",
                "prompt": revision.prompt,
                "rejected": draft,
                "edited": sent,
                "editor": revision.user or "user",
                "time": revision.time,
                "versions": revision.versions,
            }
        )
