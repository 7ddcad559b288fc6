"""JSON Lines in and out, and files that are either whole or not there."""

import fcntl
import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import BaseModel, ValidationError

from redline.errors import UserError, cannot_write
from redline.types import Json, JsonObject

R = TypeVar("R", bound=BaseModel)


@contextmanager
def whole_file(path: Path | str) -> Iterator[IO[str]]:
    """Open ``path`` for writing; it appears under its name only when the block ends without an error.

    What a symbolic link names is written, the link stays. A device or a pipe (/dev/null, /dev/stdout) is
    written to at once. Raises UserError where it cannot be written; an OSError of the block's own passes
    through.
    """
    direct = is_no_file(path)
    path = Path(path if direct else os.path.realpath(path))
    aside = path if direct else path.with_name(f".{path.name}.{os.getpid()}.part")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        out = io.TextIOWrapper(io.BufferedWriter(_Part(aside, path)), encoding="utf-8")
    try:
        with out:
            yield out
            with _writing(path):
                out.flush()
                if not direct:
                    os.fsync(out.fileno())
                    aside.replace(path)
    finally:
        if not direct:
            aside.unlink(missing_ok=True)


def is_no_file(path: Path | str) -> bool:
    """Whether something else than a file has this name: a folder, a device, a pipe."""
    return os.path.exists(path) and not os.path.isfile(path)


def check_apart(written: Iterable[Path | str], read: Iterable[Path | str]) -> None:
    """Raises UserError where one of the files to be written is one that is read."""
    sources = [source for source in (Path(name).expanduser() for name in read) if source.exists()]
    for path in map(Path, written):
        if path.exists() and any(path.samefile(source) for source in sources):
            raise UserError(f"{path}: would be written over, but is read here. Choose another output.")


class _Part(io.FileIO):
    """The file ``aside`` that will be ``path``; a write that fails names the latter."""

    def __init__(self, aside: Path, path: Path):
        super().__init__(aside, "w")
        self._path = path

    def write(self, data: Any, /) -> int:
        with _writing(self._path):
            return super().write(data)


def lock_file(file: IO[Any], told: str) -> None:
    """Keep other processes out of an open file; the system lets go of it when it is closed, or the process is
    gone.

    Raises UserError, which says ``told``, when another has it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise UserError(told) from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error, "Free space or choose another.") from error


def line_of(record: BaseModel | JsonObject) -> str:
    """One record as its line of JSON, with the newline."""
    plain = record.model_dump(mode="json", exclude_unset=True) if isinstance(record, BaseModel) else record
    return json.dumps(plain, ensure_ascii=False) + "\n"


def write_jsonl(path: Path | str, records: Iterable[BaseModel | JsonObject]) -> int:
    """Write ``records`` as JSON Lines, whole or not at all; returns how many."""
    count = 0
    with whole_file(path) as out:
        for record in records:
            out.write(line_of(record))
            count += 1
    return count


def write_json(path: Path | str, value: Json) -> None:
    """Write one JSON object, whole or not at all."""
    with whole_file(path) as out:
        out.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path | str) -> Json:
    """The object in a JSON file. Raises UserError when it is missing or broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}).") from error


def read_jsonl(path: Path | str, kind: type[R]) -> Iterator[R]:
    """The records of a file that Redline itself wrote, strictly: a broken line raises UserError with file,
    line and field.

    For files that users bring, with other formats and with broken records, see ``redline.data.read``.
    """
    try:
        lines = Path(path).open("rb")  # noqa: SIM115 (closed below); bytes, so that what is no UTF-8 is told with its line
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    with lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield kind.model_validate_json(line)
                except ValidationError as error:
                    raise UserError(f"{path}, line {number}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """The first thing pydantic minds, in one line: the field and what is wrong with it."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{field}: {first['msg']}" if field else first["msg"]
