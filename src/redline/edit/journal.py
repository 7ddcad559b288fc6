"""An output file that grows record by record and survives being killed: each record is on disk before it
counts."""

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from pydantic import ValidationError

from redline.data.files import explain, is_no_file, line_of, lock_file, whole_file
from redline.data.records import Record
from redline.errors import UserError, cannot_write
from redline.types import JsonObject


class Journal:
    """A JSON Lines file of records with ids, opened for going on.

    What is in the file counts as finished (``ids``). A last line without its end, as a kill in the middle of
    a write leaves it, is cut off (``torn``); a last line that is a whole record and only lacks the line break
    is kept. The file is locked: a second process that would write to it is refused. A file that is still
    empty when an error ends the work is removed.
    """

    def __init__(self, path: Path, keep_empty: bool = True):
        self.path, self._keep_empty = path, keep_empty
        self.places: dict[str, tuple[int, int]] = {}  # id -> where its line starts, how long it is (bytes)
        self.torn = False

    @property
    def ids(self) -> set[str]:
        return set(self.places)

    def __enter__(self) -> Self:
        if is_no_file(self.path):
            raise UserError(
                f"{self.path}: is no file, so the work could not be gone on with. Give the name of a file."
            )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise cannot_write(self.path, error, "Choose another file.") from error
        lock_file(
            self._file, f"{self.path}: another process is writing to it. Wait for it, or choose another file."
        )
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._end == 0 and (kind is not None or not self._keep_empty):
            self.path.unlink(missing_ok=True)
        self._file.close()

    def append(self, record: Record | JsonObject) -> None:
        """Write one record and wait until it is on disk. Raises UserError where the disk is full; nothing
        half is left then."""
        line = line_of(record).encode()
        record_id = record.id if isinstance(record, Record) else record["id"]
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes were written")
            os.fsync(self._file.fileno())
        except OSError as error:
            os.ftruncate(self._file.fileno(), self._end)
            remedy = "Free space; the same command then goes on."
            raise cannot_write(self.path, error, remedy) from error
        self.places[record_id] = (self._end, len(line))
        self._end += len(line)

    def records(self, ids: Collection[str]) -> Iterator[Record]:
        """The records of the file whose id is among ``ids``."""
        for record_id in self.places:
            if record_id in ids:
                yield self.record(record_id)

    def record(self, record_id: str) -> Record:
        """The record of the file with that id."""
        return Record.model_validate_json(self._line(record_id))

    def settle(self, order: Iterable[str]) -> None:
        """Rewrite the file in the order of ``order``, whole or not at all; records of other ids stay in
        front."""
        wanted = [record_id for record_id in order if record_id in self.places]
        known = set(wanted)
        ids = [record_id for record_id in self.places if record_id not in known] + wanted
        if ids == list(self.places):
            return
        with whole_file(self.path) as out:
            for record_id in ids:
                out.write(self._line(record_id))

    def _line(self, record_id: str) -> str:
        start, size = self.places[record_id]
        return os.pread(self._file.fileno(), size, start).decode()

    def _read(self) -> None:
        self._end = 0
        with self.path.open("rb") as lines:
            self._take(lines)

    def _take(self, lines: IO[bytes]) -> None:
        for number, line in enumerate(lines, 1):
            whole = line.endswith(b"\n")
            try:
                record_id = Record.model_validate_json(line).id if line.strip() else None
            except ValidationError as error:
                if whole:
                    raise UserError(
                        f"{self.path}, line {number}: not a record ({explain(error)}). Delete it."
                    ) from error
                self.torn = True
                os.ftruncate(self._file.fileno(), self._end)
                return
            if not whole and record_id is not None:
                line += b"\n"
                self._file.write(b"\n")
            if record_id is not None:
                self.places[record_id] = (self._end, len(line))
            self._end += len(line)
