"""A row's columns by the names that a recipe gives: plain, deeper ones (`a.b.0`), templates over several."""

import math
import re
from collections.abc import Iterable
from typing import Any

from redline.data.row import Broken
from redline.types import Json, JsonObject

FIELD = re.compile(r"\{([^{}]+)\}")
SUBMITTED = (None, "submitted", "completed", "accept", "accepted")  # what a status says of a finished answer


class Missing(Broken):
    """The row lacks a column."""


def value_of(row: JsonObject, column: str) -> Any:
    """The column's value, or the template with its columns filled in. Raises Missing, or Broken where a
    template's column is no text."""
    if column in row or "{" not in column:
        return _submitted(row, column, look(row, column))

    def fill(match: re.Match[str]) -> str:
        value = look(row, match[1])
        if value is None or (isinstance(value, float) and math.isnan(value)):
            raise Broken(f"{match[1]} is empty")
        if not isinstance(value, str | int | float):
            raise Broken(f"{match[1]} is no text to put into a template")
        return str(value)

    return FIELD.sub(fill, column)


def look(row: Json, column: str) -> Any:
    """What lies at `a.b.0`: keys of objects, places in lists. A name with dots in it is found too."""
    if isinstance(row, dict) and column in row:
        return row[column]
    if isinstance(row, dict):
        names = [name for name in row if isinstance(name, str) and column.startswith(f"{name}.")]
        if not names:
            raise Missing(f"no column `{column}`")
        name = max(names, key=len)
        return _deeper(row[name], column.removeprefix(f"{name}."), column)
    return _deeper(row, column, column)


def _deeper(value: Json, path: str, column: str) -> Any:
    if value is None:
        return None
    first, _, rest = path.partition(".")
    if isinstance(value, list | tuple) and first.lstrip("-").isdigit():
        if not -len(value) <= int(first) < len(value):
            raise Broken(f"no `{column}` here: a list has only {len(value)} items")
        inner = value[int(first)]
        return _deeper(inner, rest, column) if rest else inner
    if not isinstance(value, dict):
        raise Missing(f"no column `{column}`")
    try:
        return look(value, path)
    except Missing:
        raise Missing(f"no column `{column}`") from None


def _submitted(row: JsonObject, column: str, value: Json) -> Any:
    """Of answers beside which a column `<name>.status` lies (Argilla's export) the submitted ones."""
    status = row.get(f"{column}.status")
    if not (isinstance(value, list) and isinstance(status, list) and len(value) == len(status)):
        return value
    submitted = [answer for answer, state in zip(value, status, strict=True) if state in SUBMITTED]
    if not submitted:
        raise Broken(f"{column} has no submitted answer")
    return submitted


def used_by(row: JsonObject, column: str) -> Iterable[str]:
    """The row's own columns that a mapping uses up; nested ones stay, for what else they hold."""
    names = [column] if column in row else FIELD.findall(column)
    return [name for name in names if name in row]
