"""Rows as they stand in a file, a saved data set or a Hub data set: streamed, each with the place it came
from."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from redline.data.settings import Source
from redline.errors import UserError

CHUNK = 1 << 20  # characters of a JSON array read at once
ESCAPED = re.compile("[\udc80-\udcff]")  # what errors="surrogateescape" makes of bytes that are no UTF-8
FORMATS = (
    ".jsonl .json .csv .tsv (also .gz) .parquet, a folder that save_to_disk wrote, or a Hub data set's name"
)


class Row(NamedTuple):
    """One row. ``problem`` says why it could not be read; ``values`` then holds what was there."""

    file: str
    line: int
    values: Any
    problem: str | None = None


def rows(source: Source) -> Iterator[Row]:
    """The rows of a source, in order, with bounded memory. Raises UserError when the source is not there or
    not readable."""
    path = Path(source.path).expanduser()
    if path.is_dir():
        yield from _saved(source, path)
    elif path.exists():
        yield from _file(path)
    elif (
        path.suffix.lower() in (*READERS, ".gz")
        or source.path.startswith((".", "/", "~"))
        or source.path.count("/") > 1
    ):
        raise UserError(f"{source.path}: there is no such file or folder.")
    else:
        yield from _hub(source)


def _file(path: Path) -> Iterator[Row]:
    name = path.name.removesuffix(".gz")
    reader = READERS.get(Path(name).suffix.lower())
    if reader is None:
        raise UserError(f"{path}: files of this kind are not read. Known: {FORMATS}.")
    try:
        yield from reader(path)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _jsonl(path: Path) -> Iterator[Row]:
    with _open(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _parsed(str(path), number, line.removeprefix(b"\xef\xbb\xbf"))


def _parsed(file: str, number: int, line: bytes) -> Row:
    line = line.strip()
    try:
        return _object(file, number, json.loads(line))
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 text (byte {error.start + 1})"
    except json.JSONDecodeError as error:
        problem = f"not valid JSON ({error.msg}, column {error.colno})"
    except RecursionError:
        problem = "not valid JSON (nested too deeply)"
    except ValueError:
        problem = "not valid JSON (a number with too many digits)"
    return Row(file, number, line.decode("utf-8", "replace"), problem)


def _object(file: str, number: int, values: Any) -> Row:
    return Row(
        file, number, values, None if isinstance(values, dict) else "not a JSON object with named fields"
    )


def _json(path: Path) -> Iterator[Row]:
    """A JSON array of objects, read an element at a time; ``line`` is the element's number. JSON Lines are
    recognised too."""
    with _open(path) as file:
        start = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start == b"{":
        yield from _jsonl(path)
        return
    if start != b"[":
        raise UserError(f"{path}: holds no list of objects. Give a list `[{{...}}, ...]`, or JSON Lines.")
    number = 0
    try:
        with io.TextIOWrapper(_open(path), "utf-8-sig") as text:
            for number, values in enumerate(_elements(text), 1):
                yield _object(str(path), number, values)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not valid JSON after element {number} ({error}). Mend it there, or give JSON Lines, "
            "where one broken record does not hide the others."
        ) from error


def _elements(text: IO[str]) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    buffer = text.read(CHUNK)
    place = buffer.index("[") + 1
    while True:
        while place < len(buffer) and buffer[place] in " \t\r\n,":
            place += 1
        if buffer[place : place + 1] == "]":
            return
        failure: ValueError | None = None
        try:
            value, end = decoder.raw_decode(buffer, place)
        except ValueError as error:
            failure, end = error, len(buffer)
        if end == len(
            buffer
        ):  # it may go on in the next chunk; read as much again, so that the work stays linear
            more = text.read(max(CHUNK, len(buffer) - place))
            if not more:
                raise failure or ValueError("the list does not end")
            buffer, place = buffer[place:] + more, 0
            continue
        yield value
        place = end


def _table(path: Path) -> Iterator[Row]:
    """CSV or TSV with a head line; ``line`` is the last line of the row."""
    tabs = path.name.removesuffix(".gz").lower().endswith(".tsv")
    csv.field_size_limit(1 << 30)
    with io.TextIOWrapper(_open(path), "utf-8-sig", errors="surrogateescape", newline="") as text:
        reader = csv.reader(text, delimiter="\t" if tabs else ",", strict=True)
        try:
            head = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{path}, head line: a quotation mark that is not closed or not doubled ({error}). Mend it."
            ) from error
        if not head:
            raise UserError(f"{path}: is empty. The first line must name the columns.")
        if any(map(ESCAPED.search, head)):
            raise UserError(f"{path}, head line: not UTF-8 text. Save the file as UTF-8.")
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield Row(
                    str(path),
                    reader.line_num,
                    None,
                    f"a quotation mark that is not closed or not doubled ({error})",
                )
                continue
            if cells is None:
                return
            if cells:
                yield Row(
                    str(path), reader.line_num, dict(zip(head, cells, strict=False)), _odd(cells, head, tabs)
                )


def _odd(cells: list[str], head: list[str], tabs: bool) -> str | None:
    if len(cells) != len(head):
        return f"{len(cells)} columns, where the head line has {len(head)}"
    for name, cell in zip(head, cells, strict=True):
        if tabs and "\t" in cell and "\n" in cell:
            return f"{name}: a quotation mark that is never closed swallows the lines after it"
        if ESCAPED.search(cell):
            return f"{name}: not UTF-8 text"
    return None


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=256):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(str(path), number, values)
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: not a readable Parquet file ({' '.join(str(error).split())}).") from error


def _saved(source: Source, path: Path) -> Iterator[Row]:
    if not any((path / name).exists() for name in ("state.json", "dataset_dict.json")):
        raise UserError(
            f"{path}: is a folder, but no saved data set. Name a file in it, or a folder that save_to_disk "
            "wrote."
        )
    from datasets import DatasetDict, load_from_disk

    try:
        data = load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a readable saved data set ({' '.join(str(error).split())}).") from error
    if isinstance(data, DatasetDict):
        if source.split not in data:
            raise UserError(f"{path}: has no split `{source.split}`. It has: {', '.join(data)}.")
        data = data[source.split]
    for number, values in enumerate(data, 1):
        yield Row(str(path), number, values)


def _hub(source: Source) -> Iterator[Row]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub import HfApi, constants, errors

    try:
        if not constants.HF_HUB_OFFLINE:
            HfApi().dataset_info(source.path, timeout=20)  # says at once what loading says after many retries
        for number, values in enumerate(
            load_dataset(source.path, source.config, split=source.split, streaming=True), 1
        ):
            yield Row(source.path, number, values)
    except (DatasetsError, errors.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{source.path}: cannot be read as a data set of the Hub ({' '.join(str(error).split())[:300]}). "
            "If you meant a file or folder, there is none of this name here."
        ) from error


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _parquet,
}
