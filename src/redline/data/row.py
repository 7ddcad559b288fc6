"""A row as it stands in a file, and what a reader of files is given and gives."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from redline.data.settings import Source
from redline.types import Json


class Broken(Exception):
    """This row cannot become a record; the message is the reason, details in brackets at its end."""


class Row(NamedTuple):
    """One row. ``problem`` says why it could not be read; ``values`` then holds what was there."""

    file: str
    line: int
    values: Json
    problem: str | None = None


def _say_nothing(_: str) -> None:
    pass


@dataclass(frozen=True)
class File:
    """A file to read: where it is, how the recipe says it is written, and whom to tell what was noticed.

    ``note`` takes a sentence about a choice that the reader made; the same one is counted, not repeated.
    """

    path: Path
    source: Source
    note: Callable[[str], None] = field(default=_say_nothing)

    @property
    def name(self) -> str:
        return str(self.path)


Reader = Callable[[File], Iterator[Row]]
"""A file format: yields the rows of one file in order, with bounded memory.

A row that cannot be read is yielded too, with its ``problem``. A file that cannot be read at all raises
UserError, or OSError, EOFError or zlib.error, which ``rows`` makes one line of.
"""


def named_fields(file: str, number: int, values: Json) -> Row:
    """The row of a JSON value, which must be an object."""
    problem = None if isinstance(values, dict) else "not a JSON object with named fields"
    return Row(file, number, values, problem)
