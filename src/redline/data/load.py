"""Reading records in one call, from Python."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from redline.data.check import Rejects
from redline.data.files import explain
from redline.data.read import R, read
from redline.data.records import Edit
from redline.data.settings import Source
from redline.errors import UserError


def read_edits(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    keep_unchanged: bool = False,
    **options: object,
) -> list[Edit]:
    """The edits of a file: ``read_records`` for what Redline learns from. ``keep_unchanged`` lets edits
    through that change nothing."""
    return _read(_source(path, columns, options), Edit, keep_unchanged)


def read_records(
    path: str | Path, kind: type[R], *, columns: Mapping[str, str] | None = None, **options: object
) -> list[R]:
    """The records of a file, a saved data set's folder or a data set on the Hub.

    ``path``: .jsonl, .json, .csv, .tsv, .parquet, a folder, or a data set's name. ``kind``: what they are
    (``Edit``, ``Pair``, ``Prompt``, ``Response``). ``columns``: our field -> their column, such as
    ``{"rejected": "answer_b"}``. Further options are those of a recipe's source: ``split``, ``config``,
    ``format``, ``replace``, ``limit``, ... A broken record is left out; how many, and why, is printed on
    stderr.

    Raises UserError when the file cannot be read, a needed column is missing, or no record is usable.
    """
    return _read(_source(path, columns, options), kind)


def _source(path: str | Path, columns: Mapping[str, str] | None, options: Mapping[str, object]) -> Source:
    try:
        return Source.model_validate({"path": str(path), "columns": dict(columns or {}), **options})
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error)}.") from error


def _read(source: Source, kind: type[R], keep_unchanged: bool = False) -> list[R]:
    rejects = Rejects()
    records = list(read(source, kind, rejects, keep_unchanged=keep_unchanged))
    if not records:
        raise UserError(f"{source.name}: no usable record. {rejects.summary()}.")
    if rejects.total or rejects.notes:
        rejects.report(source.name)
    return records
