"""Pairs that people judged, from any file that Redline reads."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redline.data.check import Rejects
from redline.data.columns import FIELD, Missing, look
from redline.data.conversation import as_text_or_messages
from redline.data.files import check_apart
from redline.data.read import read_files
from redline.data.records import Text, as_text
from redline.data.row import Broken
from redline.data.rows import rows
from redline.data.settings import Source
from redline.errors import UserError
from redline.judge.verdicts import winner

Votes = dict[tuple[int, str], float | None]  # by person: the column's place, or a name
Row = Mapping[str, object]
VALUES = {"a": 1.0, "b": 0.0, "tie": 0.5}


@dataclass(frozen=True)
class JudgedPair:
    """A pair and what people said of it.

    ``people`` holds 1 (a), 0 (b) or 0.5 (a tie) for each person, None where a person did not say. ``group``
    is the value of the column that a breakdown goes by.
    """

    prompt: Text
    a: Text
    b: Text
    people: tuple[float | None, ...]
    group: str = ""

    @property
    def votes(self) -> list[float]:
        """What was said, without those who did not."""
        return [verdict for verdict in self.people if verdict is not None]


@dataclass(frozen=True)
class Columns:
    """Where a file keeps them: ``prompt`` a column or a template such as ``"{instruction}\\n\\n{input}"``;
    ``people`` one or more columns, separated by commas."""

    prompt: str = "prompt"
    a: str = "a"
    b: str = "b"
    people: str = "preference"

    @property
    def persons(self) -> list[str]:
        return [name.strip() for name in self.people.split(",")]


PANDALM = Columns("{instruction}\n\n{input}", "response1", "response2", "annotator1,annotator2,annotator3")
CODES_1_2 = {"1": 1.0, "2": 0.0, "0": 0.5, "1.5": 0.5}


class _UnknownCode(ValueError):
    """A verdict that no code explains."""

    def __init__(self, column: str, code: str):
        super().__init__(f"{column}: `{code}` is no verdict known here (see --values)")
        self.column, self.code = column, code


def read_human_verdicts(
    source: Source | str | Path,
    rejects: Rejects,
    columns: Columns | None = None,
    values: dict[str, str] | None = None,
    by: str = "",
) -> list[JudgedPair]:
    """Pairs that people judged; what cannot be used goes to ``rejects`` with its reason.

    Without ``columns``: Redline's own verdicts (prompt, a, b, preference from 0 to 1), or PandaLM's format,
    recognised by its columns. ``values`` says what the codes mean, e.g. ``{"1": "a", "2": "b", "0": "tie"}``;
    a code that it does not name is rejected. Without it a number is a preference for a, from 0 to 1, and the
    words a, b and tie mean themselves; all verdicts have to be such. ``by`` names a column that a breakdown
    goes by. Of Redline's own verdicts with the list ``verdicts`` each person's is one, the people in order of
    their names.

    Raises UserError when the file cannot be read, nothing in it is usable, a verdict cannot be understood
    without ``values``, or it is the file of ``rejects``.
    """
    if not isinstance(source, Source):
        source = Source(path=str(source))
    path = source.name
    check_apart([rejects.path] if rejects.path else [], read_files(source))
    codes = _codes(values) if values else None
    reader: _Reader | None = None
    pairs: list[tuple[JudgedPair, Votes]] = []
    unknown: Counter[tuple[str, str]] = Counter()
    for row in rows(source, rejects.note):
        if reader is None and isinstance(row.values, dict):
            reader = _Reader.for_file(row.values, columns, codes, by)
        try:
            if row.problem or reader is None:
                raise ValueError(row.problem or "no record")
            pairs.append(reader.read(row.values))
            rejects.kept += 1
            if rejects.kept == source.limit:
                break
        except _UnknownCode as error:
            unknown[error.column, error.code] += 1
            rejects.add(str(error), row.file, row.line, row.values)
        except (ValueError, Broken) as error:
            rejects.add(str(error), row.file, row.line, row.values)
    if unknown and codes is None:
        _refuse_to_guess(path, unknown, len(pairs))
    if not pairs:
        raise UserError(f"{path}: no usable record. {rejects.summary()}.")
    people = sorted({person for _, votes in pairs for person in votes})
    judged = []
    for pair, votes in pairs:
        verdicts = tuple(votes.get(person) for person in people)
        judged.append(JudgedPair(pair.prompt, pair.a, pair.b, verdicts, pair.group))
    return judged


def _codes(values: dict[str, str]) -> dict[str, float]:
    for value in values.values():
        if value not in VALUES:
            raise UserError(f"--values: `{value}` is no verdict. Write code=a, code=b or code=tie.")
    return {code: VALUES[value] for code, value in values.items()}


def _refuse_to_guess(path: str | Path, unknown: Counter[tuple[str, str]], usable: int) -> None:
    """A file is understood whole or not at all: a guess that drops rows would measure the wrong thing."""
    (column, code), _ = unknown.most_common(1)[0]
    left_out = unknown.total()
    raise UserError(
        f"{path}: {column} is `{code}`, which is neither a number from 0 to 1 nor a, b or tie; "
        f"{left_out:,} of {left_out + usable:,} records have such a verdict. Say what the codes mean, for "
        "example --values 1=a --values 2=b --values 0=tie."
    )


class _Reader:
    """From a row to a pair and its votes."""

    def __init__(self, columns: Columns, codes: dict[str, float] | None, by: str):
        self.columns, self.codes, self.by = columns, codes, by

    @classmethod
    def for_file(
        cls, first: Row, columns: Columns | None, codes: dict[str, float] | None, by: str
    ) -> "_Reader":
        """The reader for a file that begins with the row ``first``."""
        if columns is not None:
            return cls(columns, codes, by)
        if {"response1", "annotator1"} <= first.keys():
            return cls(PANDALM, codes or CODES_1_2, by)
        return cls(Columns(), codes, by)

    def read(self, row: Row) -> tuple[JudgedPair, Votes]:
        """Raises ValueError that says what is wrong with the record."""
        if self.by and self.by not in row:
            raise ValueError(f"{self.by}: missing")
        votes = self._votes(row)
        if all(vote is None for vote in votes.values()):
            raise ValueError(f"{self.columns.people}: no verdict")
        pair = JudgedPair(
            self._prompt(row),
            _text(row, self.columns.a),
            _text(row, self.columns.b),
            (),
            str(row[self.by]) if self.by else "",
        )
        return pair, votes

    def _prompt(self, row: Row) -> Text:
        template = self.columns.prompt
        if "{" not in template:
            return _text(row, template)
        return FIELD.sub(lambda name: as_text(_text(row, name[1])), template).strip()

    def _votes(self, row: Row) -> Votes:
        by_name = row.get("verdicts")
        if self.columns.people == Columns.people and _names_people(by_name):
            assert isinstance(by_name, list)
            return {(0, str(vote["person"])): self._verdict(vote, "preference") for vote in by_name}
        return {(place, ""): self._verdict(row, name) for place, name in enumerate(self.columns.persons)}

    def _verdict(self, row: Row, column: str) -> float | None:
        said = _look(row, column)
        if said is None or said == "":
            return None
        code = str(said).strip()
        number = _number(code)
        known = VALUES if self.codes is None else self.codes
        names = [code] if number is None else [code, f"{number:g}"]  # pandas writes 1.0 beside gaps
        for name in names:
            if name in known:
                return known[name]
        if self.codes is None and number is not None and 0 <= number <= 1:
            return winner(number)
        raise _UnknownCode(column, code)


def _names_people(verdicts: object) -> bool:
    """Whether it is a list of verdicts with the names of those who gave them."""
    if not isinstance(verdicts, list) or not verdicts:
        return False
    return all(isinstance(vote, dict) and {"person", "preference"} <= vote.keys() for vote in verdicts)


def _number(code: str) -> float | None:
    try:
        return float(code)
    except ValueError:
        return None


def _text(row: Row, column: str) -> Text:
    """A column's text or messages; an empty response is one too, and so is a bare number."""
    value = _look(row, column)
    if isinstance(value, int | float):
        return str(value)
    is_messages = isinstance(value, list) and all(isinstance(message, dict) for message in value)
    if not (isinstance(value, str | dict) or is_messages):
        raise ValueError(f"{column}: neither text nor messages")
    return as_text_or_messages(column, value, lambda _: None)


def _look(row: Row, column: str) -> Any:
    try:
        return look(row, column)
    except Missing:
        raise ValueError(f"{column}: missing") from None
