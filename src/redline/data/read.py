"""Pairs, edits, prompts and responses from any source: columns mapped, conversations arranged, records
checked, broken ones set aside with a reason."""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import to_json

from redline.data.check import TEXTS, Rejects, Seen, problem
from redline.data.columns import Missing, look, used_by, value_of
from redline.data.conversation import arrange, as_text_or_messages, transcript, with_system
from redline.data.exports.training import as_json
from redline.data.files import check_apart, explain
from redline.data.preference import decide, rule_of
from redline.data.records import Edit, Feedback, Pair, Prompt, Record, Response, Text, ToEdit
from redline.data.row import Broken, Row
from redline.data.rows import files_of, rows
from redline.data.settings import Source
from redline.errors import UserError
from redline.types import Json, JsonObject

R = TypeVar("R", Pair, ToEdit, Edit, Prompt, Response, Feedback)
Fields = JsonObject
GIVE_UP = 100  # rows without a needed column, none with it, after which the mapping is wrong and not the rows
TALKS = ("messages", "conversations", "conversation")  # columns in which others keep the prompt
UNPAIRED = {"completion": "response", "label": "liked"}  # TRL's names of a thumb's fields
PROMPT_OPTIONAL = (Edit, Pair, ToEdit)


def read(
    source: Source,
    kind: type[R],
    rejects: Rejects,
    *,
    keep_unchanged: bool = False,
    refuse: Callable[[R], str | None] | None = None,
) -> Iterator[R]:
    """The records of a source, streamed; what cannot be used goes to ``rejects`` with its reason.

    ``refuse`` may name a further reason to leave a record out, ``keep_unchanged`` lets edits through that
    change nothing. Raises UserError when the source is missing or unreadable, lacks a needed column
    altogether, or is the file of ``rejects``.
    """
    check_apart([rejects.path] if rejects.path else [], read_files(source))
    reader = _Reader(source, kind, rejects)
    seen = Seen()
    kept = 0
    for row, fields in _with_fields(reader):
        fields.setdefault("id", seen.new_id(f"{Path(row.file).stem}-{row.line}"))
        try:
            record = kind.model_validate(fields)
        except ValidationError as error:
            rejects.add(explain(error), row.file, row.line, row.values)
            continue
        reason = (
            problem(record, keep_unchanged)
            or _unwritable(record)
            or seen.duplicate(record)
            or (refuse(record) if refuse else None)
        )
        if reason:
            rejects.add(reason, row.file, row.line, row.values)
            continue
        kept += 1
        rejects.kept += 1
        yield record
        if kept == source.limit:
            return


def read_files(source: Source) -> list[Path]:
    """The files on this machine that a source reads. Raises UserError where one is not there."""
    found: list[Path] = []
    for path in source.paths:
        is_saved = Path(path).expanduser().is_dir()
        found += [Path(path).expanduser()] if is_saved else files_of(path, source.split) or []
    return found


def _unwritable(record: Record) -> str | None:
    """The text field that no line of JSON can hold (half a surrogate pair) and why, or None."""
    for name in TEXTS[type(record)]:
        if why := _no_json(getattr(record, name)):
            return f"{name}: {why}"
    return None


def _no_json(value: Json) -> str | None:
    try:
        to_json(value)
    except (ValueError, RecursionError) as error:
        return f"cannot be written as JSON ({' '.join(str(error).split())})"
    return None


def _with_fields(reader: "_Reader") -> Iterator[tuple[Row, Fields]]:
    """Rows and the fields that they give; the others go to the rejects."""
    rejects = reader.rejects
    missing: tuple[str, Row] | None = None
    lacking = usable = 0
    for row in reader.rows():
        try:
            if row.problem:
                raise Broken(row.problem)
            fields = reader.fields(row.values)
        except Missing as error:
            missing = missing or (str(error), row)
            lacking += 1
            if not usable and lacking >= GIVE_UP:
                break
            rejects.add(str(error), row.file, row.line, row.values)
        except Broken as error:
            rejects.add(str(error), row.file, row.line, row.values)
        else:
            usable += 1
            yield row, fields
    if missing and not usable:
        why, row = missing
        raise UserError(
            f"{row.file}: {why}. There are: {', '.join(map(str, row.values))}. "
            f"Map yours with `columns`{_hint(row.values)}."
        )


def _hint(row: Fields) -> str:
    """The format that a row's own columns speak for."""
    signs = {
        "label_studio": {"data", "annotations"},
        "openai": {"input", "preferred_output"},
        "alpaca": {"instruction", "output"},
        "prodigy": {"_task_hash"},
        "argilla": {"fields", "responses"},
    }
    for name, columns in signs.items():
        if columns <= row.keys():
            return f", or give `format: {name}`"
    return ""


class _Reader:
    """From a row's columns to a record's fields, as the source's mapping says."""

    def __init__(self, source: Source, kind: type[Record], rejects: Rejects):
        self.source, self.kind, self.rejects = source, kind, rejects
        self.columns = dict(source.columns)
        self.joins: list[str] = []
        if source.sides:
            lacking = [name for name in ("id", "side", "text") if name not in self.columns]
            if lacking:
                raise UserError(
                    f"{source.name}: `sides` needs `columns` for id, side and text; add {', '.join(lacking)}."
                )
            self.joins = [self.columns.pop(name) for name in ("id", "side", "text")]
        self.rule = rule_of(source)
        self.texts = TEXTS[kind]
        self.sides = [name for name in self.texts if name != "prompt"]
        self._dropped: set[str] = set()

    def rows(self) -> Iterator[Row]:
        """The source's rows, as records of ours stand in them: halves joined."""
        found = rows(self.source, self.rejects.note)
        return self._joined(found) if self.source.sides else found

    def _joined(self, found: Iterator[Row]) -> Iterator[Row]:
        """Two rows a record: rows with the same id, put together under the fields that their sides say."""
        waiting: dict[str, Row] = {}
        sides = self.source.sides
        for row in found:
            if row.problem:
                yield row
                continue
            try:
                name, side, text = (look(row.values, column) for column in self.joins)
            except Missing:
                yield row
                continue
            except Broken as error:
                yield row._replace(problem=str(error))
                continue
            side = str(side).lower() if isinstance(side, bool) else str(side)
            if side not in sides:
                yield row._replace(problem=f"side `{side}` is not one of {', '.join(sides)}")
                continue
            half = self._half(row.values) | {sides[side]: text}
            if self.joins[0] not in self.columns.values():
                half["id"] = name
            other = waiting.pop(str(name), None)
            if other is None:
                waiting[str(name)] = row._replace(values=half)
            elif sides[side] in other.values:
                waiting[str(name)] = other
                yield row._replace(problem=f"a second `{side}` of the same id")
            else:
                yield row._replace(values={**half, **other.values})
        for row in waiting.values():
            yield row._replace(problem="only one side")

    def _half(self, row: Fields) -> Fields:
        """A row without the columns by which it is joined, unless they are mapped to something else too."""
        mapped = set(self.columns.values())
        used = {part for column in self.joins for part in used_by(row, column)} - mapped
        return {name: value for name, value in row.items() if name not in used}

    def fields(self, row: Fields) -> Fields:
        """A record's fields. Raises Broken."""
        if self.source.sides and not set(self.source.sides.values()) <= set(row):
            for column in self.joins:
                look(row, column)
        row = {name: None if _is_nan(value) else value for name, value in row.items()}
        mapped = {name: value_of(row, column) for name, column in self._mapped()}
        used = {part for column in self.columns.values() for part in used_by(row, column)}
        fields = {name: value for name, value in row.items() if name not in used} | mapped
        if self.rule:
            fields = decide(fields, self.source, self.rule)
        self._needed_are_there(fields)
        self._arrange(fields)
        return self._tidy(fields)

    def _mapped(self) -> Iterator[tuple[str, str]]:
        inside_answers = ("answer", "rank", "score") if self.rule == "list" else ()
        for name, column in self.columns.items():
            if name not in inside_answers:
                yield name, column

    def _needed_are_there(self, fields: Fields) -> None:
        if self.kind is Feedback:
            for theirs, ours in UNPAIRED.items():
                if theirs in fields and ours not in fields:
                    fields[ours] = fields.pop(theirs)
            if "liked" not in fields:
                raise Missing("no column `liked`")
        for name in self.sides:
            if name not in fields:
                raise Missing(f"no column `{name}`")
            if fields[name] is None:
                raise Broken(f"{name} is empty")
        if "prompt" in fields and self.kind is Prompt and fields["prompt"] is None:
            raise Broken("prompt is empty")

    def _arrange(self, fields: Fields) -> None:
        """The text fields in our form: the prompt before the assistant's turn, the sides as that turn."""
        names = [*self.sides]
        if names and "chosen" not in names and fields.get("chosen") is not None:
            names.append("chosen")
        texts: dict[str, Text] = {}
        for name in names:
            try:
                texts[name] = self._text(name, fields[name])
            except Broken as error:
                if name in self.sides:
                    raise
                self._without_chosen(fields, str(error))
        prompt = self._prompt(fields, texts)
        try:
            prompt, texts = arrange(prompt, texts, self.rejects.note)
        except Broken as error:
            if "chosen" in self.sides or "chosen" not in texts:
                raise
            self._without_chosen(fields, str(error))
            prompt, texts = arrange(prompt, {name: texts[name] for name in self.sides}, self.rejects.note)
        fields["prompt"] = self._with_system(fields, prompt)
        fields.update(texts)

    def _without_chosen(self, fields: Fields, why: str) -> None:
        """An edit needs no chosen response: one that cannot be read costs the response, not the edit."""
        fields["chosen"] = None
        self.rejects.note(f"chosen is not read: {why}")

    def _prompt(self, fields: Fields, sides: dict[str, Text]) -> Text:
        if "prompt" not in fields:
            sides_hold_it = bool(sides) and all(
                isinstance(side, list) and len(side) > 1 for side in sides.values()
            )
            talk = next((name for name in TALKS if isinstance(fields.get(name), list)), None)
            if talk is not None and not sides_hold_it:
                fields["prompt"] = fields.pop(talk)
                self.rejects.note(f"the prompt is read from the column `{talk}`")
        given = fields.get("prompt")
        if given is None and not sides:
            given = self._talk_to_answer(fields)
        if given is not None:
            return self._text("prompt", given)
        if "prompt" not in fields and self.kind not in PROMPT_OPTIONAL and not sides:
            raise Missing("no column `prompt`")
        return ""

    def _talk_to_answer(self, fields: Fields) -> Any:
        """Of pairs or edits without a prompt of their own, read as prompts: the conversation of a side."""
        for name in ("chosen", "rejected", "edited", "response"):
            talk = fields.get(name)
            if talk is not None and (self.source.format == "hh" or isinstance(talk, list)):
                return talk
        return None

    def _text(self, name: str, value: Json) -> Text:
        if self.source.format == "hh":
            value = transcript(name, value)
        text = as_text_or_messages(name, value, self.rejects.note)
        if isinstance(text, str):
            return self._replaced(name, text)
        return [{**message, "content": self._replaced(name, message["content"])} for message in text]

    def _replaced(self, name: str, text: str) -> str:
        for old, new in self.source.replace.items():
            text = text.replace(old, new)
        if name == "prompt" and self.source.first_words:
            opening = re.match(r"\s*\S+" + rf"(?:\s+\S+){{0,{self.source.first_words - 1}}}", text)
            text = opening[0].strip() if opening else text
        return text

    def _with_system(self, fields: Fields, prompt: Text) -> Text:
        """The prompt with the system column's text and the tools; of a prompt that is text, the system column
        only where it is mapped: a plain text has no system turn."""
        system, tools = fields.get("system"), as_json(fields.get("tools"))
        is_meant = isinstance(prompt, list) or "system" in self.columns
        if isinstance(system, str) and is_meant:
            prompt = with_system(prompt, system)
            del fields["system"]
        if isinstance(tools, list) and tools and isinstance(prompt, list):
            prompt = with_system(prompt, "", tools)
            del fields["tools"]
        return prompt

    def _tidy(self, fields: Fields) -> Fields:
        """Side fields in a form that every stage takes; what cannot be written is dropped, and said once."""
        name = fields.pop("id", None)
        if isinstance(name, float) and name.is_integer():
            name = int(name)
        if isinstance(name, str | int) and str(name):
            fields["id"] = str(name)
        editor = fields.get("editor")
        if editor is not None and not isinstance(editor, str):
            fields["editor"] = str(editor)
        kept = {}
        for column, value in fields.items():
            if value is None and column not in self.texts:
                continue
            if column not in self.texts and (not isinstance(column, str) or _no_json(value)):
                self._drop(str(column))
                continue
            kept[column] = value
        return kept

    def _drop(self, column: str) -> None:
        if column not in self._dropped:
            self._dropped.add(column)
            self.rejects.note(f"the column `{column}` is dropped: it cannot be written as JSON")


def _is_nan(value: Json) -> bool:
    return isinstance(value, float) and math.isnan(value)
