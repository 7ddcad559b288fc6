"""Rows from wherever a source leads: files in any format, folders of shards, saved data sets, the Hub.

Streamed, each with the place it came from.
"""

import glob
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from redline.data.exports import EXPORTS
from redline.data.formats import READERS
from redline.data.opening import UNPACK, plain_name
from redline.data.row import Broken, File, Row
from redline.data.settings import Source
from redline.errors import UserError
from redline.hub import check_on_hub

__all__ = ["Row", "files_of", "rows"]

PACKED = " ".join(UNPACK)
KNOWN = f"{' '.join(READERS)} (also {PACKED}), a folder of such files or one that save_to_disk wrote"
SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")  # as shards are called


def rows(source: Source, note: Callable[[str], None] = lambda _: None) -> Iterator[Row]:
    """The rows of a source, in order, with bounded memory; ``note`` is told of choices that readers made.

    A row of another tool's export gives the rows that it stands for. Raises UserError when the source is not
    there or not readable.
    """
    unfold = EXPORTS.get(source.format)
    for row in _as_they_stand(source, note):
        if unfold is None or row.problem:
            yield row
            continue
        try:
            for values in unfold(row.values):
                yield row._replace(values=values)
        except Broken as error:
            yield row._replace(problem=str(error))


def _as_they_stand(source: Source, note: Callable[[str], None]) -> Iterator[Row]:
    for path in source.paths:
        folder = Path(path).expanduser()
        if folder.is_dir() and _is_saved(folder):
            yield from _saved(source, folder)
            continue
        found = files_of(path, source.split, note)
        if found is None:
            yield from _hub(source, path)
            continue
        for file in found:
            yield from _rows_of_file(File(file, source, note))


def files_of(
    path: str, split: str = "train", note: Callable[[str], None] = lambda _: None
) -> list[Path] | None:
    """The files that a path names: itself, those of a folder, those that a pattern fits. None for a name that
    may be a data set's on the Hub.

    Raises UserError when there is none.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return _shards(place, split, note)
    if place.exists():
        return [place]
    if glob.has_magic(path):
        fitting = [Path(name) for name in sorted(glob.glob(str(place), recursive=True))]
        files = [file for file in fitting if file.is_file()]
        if not files:
            raise UserError(f"{path}: no file fits this pattern.")
        return files
    looks_like_a_file = place.suffix.lower() in (*READERS, *UNPACK)
    if looks_like_a_file or path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise UserError(f"{path}: there is no such file or folder.")
    return None


def _shards(folder: Path, split: str, note: Callable[[str], None]) -> list[Path]:
    """The data files of a folder and of those below it, by name; of several splits, the one asked for."""
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and _reader_of(file) and not _is_hidden(file.relative_to(folder))
    ]
    if not files:
        raise UserError(
            f"{folder}: is a folder, but no saved data set, and without a data file. Known: {KNOWN}."
        )
    by_split = {name: [file for file in files if name in _words(file.relative_to(folder))] for name in SPLITS}
    present = [name for name in SPLITS if by_split[name]]
    if len(present) > 1:
        if split not in present:
            raise UserError(f"{folder}: has no split `{split}`. It has: {', '.join(present)}.")
        files = by_split[split]
    if len(files) > 1:
        note(f"{len(files)} files of the folder {folder} are read")
    return files


def _is_hidden(path: Path) -> bool:
    """Whether a file is no data: hidden, or what a command left out."""
    return path.name.endswith(".rejects.jsonl") or any(part.startswith((".", "_")) for part in path.parts)


def _words(path: Path) -> set[str]:
    """The words of a shard's path: data/train-00000-of-00002.parquet has data, train, of, parquet."""
    return set(re.findall(r"[a-z]+", str(path).lower()))


def _reader_of(path: Path) -> Any:
    return READERS.get(Path(plain_name(path)).suffix.lower())


def _rows_of_file(file: File) -> Iterator[Row]:
    reader = _reader_of(file.path)
    if reader is None:
        raise UserError(f"{file.name}: files of this kind are not read. Known: {KNOWN}.")
    try:
        yield from reader(file)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{file.name}: cannot be read ({why}).") from error


def _is_saved(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("state.json", "dataset_dict.json"))


def _saved(source: Source, path: Path) -> Iterator[Row]:
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


def _hub(source: Source, name: str) -> Iterator[Row]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub import constants, errors

    try:
        if not constants.is_offline_mode():  # then `datasets` looks into its own cache, at once
            check_on_hub(name, kind="dataset")
        streamed = load_dataset(name, source.config, split=source.split, streaming=True)
        for number, values in enumerate(streamed, 1):
            yield Row(name, number, values)
    except UserError as error:
        raise UserError(f"{error} If you meant a file or folder, there is none of this name here.") from error
    except (DatasetsError, errors.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{name}: cannot be read as a data set of the Hub ({' '.join(str(error).split())[:300]}). "
            "If you meant a file or folder, there is none of this name here."
        ) from error
