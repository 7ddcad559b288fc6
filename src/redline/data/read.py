"""Pairs, edits, prompts and responses from any source: columns mapped, records checked, broken ones set aside
with a reason."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import to_json

from redline.data.check import TEXTS, Rejects, Seen, problem
from redline.data.files import check_apart, explain
from redline.data.records import Edit, Feedback, Message, Pair, Prompt, Record, Response, ToEdit
from redline.data.rows import Row, rows
from redline.data.settings import Source, assignments
from redline.errors import UserError

R = TypeVar("R", Pair, ToEdit, Edit, Prompt, Response, Feedback)
UNPAIRED = {"completion": "response", "label": "liked"}  # TRL's names of a thumb's fields
GIVE_UP = 100  # rows without a needed column, none with it, after which the mapping is wrong and not the rows


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
    check_apart([rejects.path] if rejects.path else [], [source.path])
    reader = _Reader(source, kind)
    seen = Seen()
    kept = 0
    for row, fields in _with_fields(reader, rejects):
        try:
            record = kind.model_validate({"id": f"{Path(row.file).stem}-{row.line}"} | fields)
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


def source_of(
    path: str,
    columns: list[str] | None = None,
    split: str = "train",
    format: str = "auto",
    limit: int | None = None,
) -> Source:
    """The source that a command's options describe. Raises UserError that names the option."""
    plain = {
        "path": path,
        "columns": assignments(columns, "--columns"),
        "split": split,
        "format": format,
        "limit": limit,
    }
    try:
        return Source.model_validate(plain)
    except ValidationError as error:
        option, _, what = explain(error).partition(": ")
        raise UserError(f"--{option}: {what}.") from error


def _unwritable(record: Record) -> str | None:
    """The field that no line of JSON can hold (bytes, an image, half a surrogate pair) and why, or None."""
    for name, value in record:
        try:
            to_json({name: value})
        except ValueError as error:
            return f"{name}: cannot be written as JSON ({' '.join(str(error).split())})"
    return None


class _Broken(Exception):
    """This row cannot become a record; the message says why."""


class _Missing(_Broken):
    """It lacks a column."""


def _with_fields(reader: "_Reader", rejects: Rejects) -> Iterator[tuple[Row, dict[str, Any]]]:
    missing: tuple[str, Row] | None = None
    count = found = 0
    for row in _joined(reader, rejects) if reader.source.sides else rows(reader.source):
        try:
            if row.problem:
                raise _Broken(row.problem)
            fields = reader.fields(row.values)
        except _Missing as error:
            missing = missing or (str(error), row)
            count += 1
            if not found and count >= GIVE_UP:
                break
            rejects.add(str(error), row.file, row.line, row.values)
        except _Broken as error:
            rejects.add(str(error), row.file, row.line, row.values)
        else:
            found += 1
            yield row, fields
    if missing and not found:
        there = ", ".join(missing[1].values)
        raise UserError(f"{missing[1].file}: {missing[0]}. There are: {there}. Map yours with `columns`.")


class _Reader:
    """From a row's columns to a record's fields, as the source's mapping says."""

    def __init__(self, source: Source, kind: type[Record]):
        self.source, self.kind = source, kind
        self.columns = dict(source.columns)
        if source.sides:
            lacking = [name for name in ("id", "side", "text") if name not in self.columns]
            if lacking:
                raise UserError(
                    f"{source.path}: `sides` needs `columns` for id, side and text; add {', '.join(lacking)}."
                )
            self.joins = [self.columns.pop(name) for name in ("id", "side", "text")]
        self.texts = TEXTS[kind]
        self.responses = [name for name in self.texts if name != "prompt"]

    def fields(self, row: dict[str, Any]) -> dict[str, Any]:
        if self.source.sides and not set(self.source.sides.values()) <= set(row):
            for column in self.joins:
                _look(row, column)
        mapped = {name: _value(row, column) for name, column in self.columns.items()}
        used = {part for column in self.columns.values() for part in _top(row, column)}
        fields = {name: value for name, value in row.items() if name not in used} | mapped
        if "id" in fields:
            fields["id"] = str(fields["id"])
        if fields.get("id") in ("None", ""):
            del fields["id"]
        if self.source.format == "hh":
            self._dialogues(fields)
        if self.kind is Feedback:
            for theirs, ours in UNPAIRED.items():
                if theirs in fields and ours not in fields:
                    fields[ours] = fields.pop(theirs)
            if "liked" not in fields:
                raise _Missing("no column `liked`")
        for name in self.responses:
            if name not in fields:
                raise _Missing(f"no column `{name}`")
        if "prompt" not in fields:
            self._implicit_prompt(fields)
        for name in {*self.texts, "chosen"} & set(fields):
            fields[name] = self._cleaned(name, fields[name])
        return {name: value for name, value in fields.items() if value is not None or name in self.texts}

    def _cleaned(self, name: str, value: Any) -> Any:
        if value is None and name in self.texts:
            raise _Broken(f"{name} is empty")
        if isinstance(value, list):
            if not all(isinstance(message, dict) for message in value):
                raise _Broken(f"{name} is a list, but not of messages")
            return [
                {**message, "content": self._cleaned(name, message.get("content", ""))}
                if "content" in message
                else message
                for message in value
            ]
        if isinstance(value, str):
            for old, new in self.source.replace.items():
                value = value.replace(old, new)
            if name == "prompt" and self.source.first_words:
                opening = re.match(r"\s*\S+" + rf"(?:\s+\S+){{0,{self.source.first_words - 1}}}", value)
                value = opening[0].strip() if opening else value
            return value
        if value is not None:
            raise _Broken(f"{name} is neither text nor a list of messages")
        return value

    def _dialogues(self, fields: dict[str, Any]) -> None:
        """HH-RLHF: the last assistant's turn of each transcript is the response, what precedes it the
        prompt."""
        sources = (
            self.responses
            or [name for name in ("prompt", "chosen", "rejected", "edited") if name in fields][:1]
        )
        prompts: list[list[Message]] = []
        for name in dict.fromkeys([*sources, *(["chosen"] if "chosen" in fields else [])]):
            if name in fields:
                *before, last = _turns(name, fields[name])
                if self.responses and last["role"] != "assistant":
                    raise _Broken(f"{name}: the transcript does not end with the assistant's turn")
                prompts.append(before if last["role"] == "assistant" else [*before, last])
                fields[name] = last["content"]
        if any(prompt != prompts[0] for prompt in prompts):
            raise _Broken("prompts do not match")
        if prompts and not prompts[0]:
            raise _Broken("prompt is empty")
        if prompts:
            fields["prompt"] = prompts[0]

    def _implicit_prompt(self, fields: dict[str, Any]) -> None:
        """TRL's implicit prompt: the messages with which all whole conversations begin."""
        talks = [fields[name] for name in self.responses]
        if not talks or not all(isinstance(talk, list) for talk in talks):
            if self.kind in (Pair, Prompt):
                raise _Missing("no column `prompt`")
            fields["prompt"] = ""
            return
        if isinstance(fields.get("chosen"), list):
            talks.append(fields["chosen"])
        shared = 0
        while all(shared < len(talk) - 1 and talk[shared] == talks[0][shared] for talk in talks):
            shared += 1
        if not shared:
            raise _Broken("prompts do not match")
        fields["prompt"] = talks[0][:shared]
        for name in {*self.responses, "chosen"} & set(fields):
            if isinstance(fields[name], list):
                fields[name] = fields[name][shared:]


def _joined(reader: _Reader, rejects: Rejects) -> Iterator[Row]:
    """Two rows a record: rows with the same id, put together under the field that each one's side says."""
    waiting: dict[str, Row] = {}
    sides = reader.source.sides
    for row in rows(reader.source):
        try:
            name, side, text = (
                (_look(row.values, column) for column in reader.joins) if not row.problem else ("", "", "")
            )
        except _Missing:
            yield row
            continue
        if row.problem or str(side) not in sides:
            reason = row.problem or f"side `{side}` is not one of {', '.join(sides)}"
            yield row._replace(problem=reason)
            continue
        used = {part for column in reader.joins for part in _top(row.values, column)}
        half = {key: value for key, value in row.values.items() if key not in used} | {
            "id": name,
            sides[str(side)]: text,
        }
        other = waiting.pop(str(name), None)
        if other is None:
            waiting[str(name)] = row._replace(values=half)
        elif sides[str(side)] in other.values:
            waiting[str(name)] = other
            yield row._replace(problem=f"a second `{side}` of the same id")
        else:
            yield row._replace(values={**half, **other.values})
    for row in waiting.values():
        yield row._replace(problem="only one side")


def _turns(name: str, transcript: Any) -> list[Message]:
    if not isinstance(transcript, str):
        raise _Broken(f"{name} is no transcript")
    before, *parts = re.split(r"(?:^|\n\n)(Human|Assistant):", transcript)
    if before.strip() or not parts:
        raise _Broken(f"{name} is no transcript of turns `Human:` and `Assistant:`, each after an empty line")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[who], "content": said.strip()}
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def _value(row: dict[str, Any], column: str) -> Any:
    """The column's value, or the template with its columns filled in."""
    if column in row or "{" not in column:
        return _look(row, column)

    def fill(match: re.Match[str]) -> str:
        value = _look(row, match[1])
        if not isinstance(value, str | int | float):
            raise _Broken(
                f"{match[1]} is empty" if value is None else f"{match[1]} is no text to put into a template"
            )
        return str(value)

    return re.sub(r"\{([^{}]+)\}", fill, column)


def _look(row: dict[str, Any], column: str) -> Any:
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if value is None:
            return None
        if not isinstance(value, dict) or part not in value:
            raise _Missing(f"no column `{column}`")
        value = value[part]
    return value


def _top(row: dict[str, Any], column: str) -> Iterable[str]:
    """The row's own columns that a mapping uses up; nested ones stay, for what else they hold."""
    names = [column] if column in row else re.findall(r"\{([^{}]+)\}", column)
    return [name for name in names if name in row]
