"""What is wrong with records, how often, and where: a broken one is left out, counted and written down."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel

from redline.console import say
from redline.data.files import is_no_file
from redline.data.records import Edit, Feedback, Pair, Prompt, Record, Response, Text, ToEdit, as_text
from redline.errors import UserError, cannot_write
from redline.types import Json, JsonObject

EQUAL = "rejected and edited are equal"


class Rejects:
    """Records left out of a run: counts by reason, and one line ``{reason, file, line, record}`` each in
    ``path``.

    The file appears with the first rejected record; one that an earlier run left there is replaced then, or
    removed at the end of a run without any. Use as a context manager, or call ``close``. ``kept`` counts what
    was not left out. Raises UserError where ``path`` holds anything else.
    """

    def __init__(self, path: Path | str | None = None):
        self.path = None if path is None else Path(path)
        self.counts: Counter[str] = Counter()
        self.warnings: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.kept = 0
        self._out: IO[str] | None = None
        if self.path is not None and not self._is_of_this_kind(self.path):
            raise UserError(
                f"{self.path}: what is left out would be written there, over a file that is no list of such "
                "records. Move it, or choose another output."
            )

    @classmethod
    def beside(cls, out: Path | str) -> "Rejects":
        """The rejects file next to an output: edits.jsonl -> edits.rejects.jsonl. Beside a device or a pipe
        there is none."""
        if not Path(out).name or Path(out).is_dir():
            raise UserError(f"{out}: is a folder. Give the name of a file.")
        return cls(None if is_no_file(out) else Path(out).with_suffix(".rejects.jsonl"))

    def add(self, reason: str, file: str, line: int | None, record: Json) -> None:
        """Leave a record out; it is counted under its reason less the details in brackets at the end."""
        self.counts[re.sub(r" \(.*\)$", "", reason)] += 1
        if self.path is None:
            return
        plain = record.model_dump(mode="json") if isinstance(record, BaseModel) else record
        try:
            if self._out is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._out = self.path.open("w", encoding="utf-8")
            line_out = {"reason": reason, "file": file, "line": line, "record": plain}
            text = json.dumps(line_out, ensure_ascii=False, default=str)
            self._out.write(text.encode("utf-8", "replace").decode() + "\n")
        except OSError as error:
            raise self._unwritable(error) from error

    def warn(self, what: str) -> None:
        """Count a record that is kept although something about it should be said."""
        self.warnings[what] += 1

    def note(self, what: str) -> None:
        """Something about records that were kept all the same; ``report`` says it once, with how often."""
        self.notes[what] += 1

    def _is_of_this_kind(self, path: Path) -> bool:
        """Whether nothing is lost with the file: it is not there, is empty, or was written here."""
        try:
            with path.open("rb") as lines:
                line = lines.readline()
        except FileNotFoundError:
            return True
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            return not line or {"reason", "file", "line", "record"} == set(json.loads(line))
        except (ValueError, TypeError, RecursionError):
            return False

    def _unwritable(self, error: OSError) -> UserError:
        return cannot_write(self.path, error, "Choose another folder.")

    @property
    def total(self) -> int:
        """How many records were left out."""
        return self.counts.total()

    def summary(self) -> str:
        """One line: how many were kept, how many left out, why, and where they are."""
        if not self.total:
            return f"{self.kept:,} records, none left out"
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.counts.most_common())
        where = f"; see {self.path}" if self.path else ""
        return f"{self.kept:,} records, {self.total:,} left out ({reasons}){where}"

    def report(self, what: str) -> None:
        """Print the summary, what was noticed and the warnings on stderr."""
        lines = [self.summary()]
        for said, count in self.notes.items():
            lines.append(said if count == 1 else f"{said} ({count:,} times)")
        lines += [f"warning: {count:,} {text}" for text, count in self.warnings.items()]
        for line in lines:
            say(f"{what}: {line}")

    def as_json(self) -> JsonObject:
        """The counts for ``--json``: records that were kept, those left out by reason and where they are,
        what was noticed."""
        return {
            "records": self.kept,
            "left_out": dict(self.counts),
            "rejects": str(self.path) if self.path and self.total else None,
            "notes": dict(self.notes),
            "warnings": dict(self.warnings),
        }

    def close(self) -> None:
        if self._out is not None:
            self._out.close()
            self._out = None
        elif self.path is not None and not self.total:
            try:
                self.path.unlink(missing_ok=True)
            except OSError as error:
                raise self._unwritable(error) from error

    def __enter__(self) -> "Rejects":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or self._out is not None:
            self.close()


class Seen:
    """Ids and contents met so far, as 8-byte hashes: some 70 bytes of memory each, whatever the records'
    length."""

    def __init__(self) -> None:
        self._ids: set[int] = set()
        self._contents: set[int] = set()

    def new_id(self, made: str) -> str:
        """An id made of a record's place that no earlier record has."""
        name, number = made, 1
        while _hash(name) in self._ids:
            number += 1
            name = f"{made}-{number}"
        return name

    def duplicate(self, record: Record) -> str | None:
        """The reason why this record is a duplicate of an earlier one, or None; it is remembered."""
        texts = [getattr(record, name, None) for name in TEXTS[type(record)]]
        if isinstance(record, Feedback):
            texts.append(record.liked)  # people may disagree
        content = _hash(json.dumps(texts, ensure_ascii=False, default=str))
        if content in self._contents and not isinstance(record, Response):  # models do repeat themselves
            return "same content as an earlier record"
        name = _hash(record.id)
        if name in self._ids:
            return "same id as an earlier record"
        self._contents.add(content)
        self._ids.add(name)
        return None


TEXTS: dict[type[Record], tuple[str, ...]] = {
    Pair: ("prompt", "chosen", "rejected"),
    Edit: ("prompt", "rejected", "edited"),
    Prompt: ("prompt",),
    Response: ("prompt", "response"),
    ToEdit: ("prompt", "rejected"),
    Feedback: ("prompt", "response"),
}  # the fields that must be text, in order
MAY_BE_EMPTY = {
    (Edit, "prompt"),
    (Pair, "prompt"),
    (ToEdit, "prompt"),
    (Response, "prompt"),
    (Response, "response"),
    (Feedback, "prompt"),
}


def problem(record: Record, keep_unchanged: bool = False) -> str | None:
    """Why a record cannot be used, naming the field, or None. ``keep_unchanged`` lets edits through that
    change nothing."""
    kind = type(record)
    for name in TEXTS[kind]:
        value: Text = getattr(record, name)
        for place, message in enumerate([] if isinstance(value, str) else value):
            if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
                return f"{name}.{place} is no message with `role` and `content`"
        if _is_empty(value) and (kind, name) not in MAY_BE_EMPTY:
            return f"{name} is empty"
    if isinstance(record, ToEdit) and not as_text(record.rejected).strip():
        return "rejected has no text to edit, only tool calls"
    if isinstance(record, Edit) and not keep_unchanged and _same(record.rejected, record.edited):
        return EQUAL
    if isinstance(record, Pair) and _same(record.chosen, record.rejected):
        return "chosen and rejected are equal"
    return None


def _is_empty(text: Text) -> bool:
    if as_text(text).strip():
        return False
    return isinstance(text, str) or not any(message.get("tool_calls") for message in text)


def _same(one: Text, other: Text) -> bool:
    """Whether two sides say the same, in whatever form, but for white space around it."""
    return as_text(one).strip() == as_text(other).strip() and _calls(one) == _calls(other)


def _calls(text: Text) -> list[Any]:
    messages = [] if isinstance(text, str) else text
    return [message["tool_calls"] for message in messages if "tool_calls" in message]


def _hash(text: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )
