"""JSON under any name: a record a line, a list of records, or records printed over several lines."""

import io
import json
from collections.abc import Iterator
from typing import IO, Any

from redline.data.opening import encoding_of, open_bytes, open_text, plain_name
from redline.data.row import File, Row, named_fields
from redline.errors import UserError
from redline.types import Json

DEEPEST = 200  # nested lists and objects; what is deeper is no data
LARGEST_LENIENT = 1 << 28  # bytes of a file that is read at once where strict JSON ends: NaN is no JSON
LISTS = ("data", "rows", "records", "examples", "items", "results")  # keys under which files keep records


def json_rows(file: File) -> Iterator[Row]:
    """Rows of a JSON file. ``line`` is the line of JSON Lines, else the record's number in the file."""
    named_lines = not plain_name(file.path).lower().endswith(".json")
    first, second = _first_lines(file, named_lines)
    is_list = first.startswith("[") and not (named_lines and _is_line(first, second))
    is_printed = first.startswith("{") and _goes_on(first, second)
    if is_list or is_printed:
        if is_printed or named_lines:
            file.note("read as JSON printed over several lines, not as JSON Lines")
        yield from _values(file)
    elif first.startswith("{") or named_lines:
        yield from _lines(file)
    else:
        raise UserError(f"{file.name}: holds no list of objects. Give `[{{...}}, ...]`, or JSON Lines.")


def _first_lines(file: File, named_lines: bool) -> tuple[str, str]:
    """The first two lines that are not blank, without white space around them. Of a list in a file that is
    not named as lines only the start: all of it may be one line."""
    lines: list[str] = []
    with open_text(file) as text:
        while len(lines) < 2:
            line = text.readline(1024)
            if not line:
                break
            start = line.lstrip("\ufeff \t\r\n")
            if not line.endswith("\n") and (named_lines or not start.startswith("[")):
                line += text.readline()
            if start:
                lines.append(line.strip("\ufeff \t\r\n"))
                if start.startswith("[") and not named_lines:
                    break
    return lines[0] if lines else "", lines[1] if len(lines) > 1 else ""


def _is_line(first: str, second: str) -> bool:
    """Whether a line that begins like a list is a broken line of JSON Lines."""
    return second.startswith("{") and len(first) > 1 and not first.endswith(("{", ","))


def _goes_on(first: str, second: str) -> bool:
    """Whether an object that begins on the first line is printed over several, or is all that there is."""
    if first.endswith("[") or (first.endswith(("{", ",")) and second.startswith(('"', "}"))):
        return True
    if second:
        return False
    try:
        only = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return _rows_of(only) is not None


def _rows_of(value: Json) -> list[Any] | None:
    """The records of an object that is but a wrapper around their list; None for a record."""
    if not isinstance(value, dict):
        return None
    for key in LISTS:
        held = value.get(key)
        if isinstance(held, list) and held and isinstance(held[0], dict) and "role" not in held[0]:
            return held
    return None


def _lines(file: File) -> Iterator[Row]:
    encoding = encoding_of(file)
    if encoding in ("utf-8", "utf-8-sig"):
        with open_bytes(file.path) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _parsed(file.name, number, line.removeprefix(b"\xef\xbb\xbf").strip())
        return
    with open_text(file, newline="\n") as text:
        for number, decoded in enumerate(text, 1):
            if decoded.strip():
                yield _parsed(file.name, number, decoded.strip().encode("utf-8", "surrogatepass"))


def _parsed(file: str, number: int, line: bytes) -> Row:
    try:
        return named_fields(file, number, json.loads(line))
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 text (byte {error.start + 1}; `encoding` names another encoding)"
    except json.JSONDecodeError as error:
        problem = f"not valid JSON ({error.msg}, column {error.colno})"
    except RecursionError:
        problem = "not valid JSON (nested too deeply)"
    except ValueError:
        problem = "not valid JSON (a number with too many digits)"
    return Row(file, number, line.decode("utf-8", "replace"), problem)


def _values(file: File) -> Iterator[Row]:
    """The records of a list, or objects one after the other, read one at a time."""
    import ijson

    number = 0
    try:
        for value in _streamed(file):
            held = _rows_of(value)
            for record in [value] if held is None else held:
                number += 1
                yield named_fields(file.name, number, record)
    except (ijson.JSONError, ValueError) as error:
        rest = _read_at_once(file)
        if rest is None:
            raise UserError(
                f"{file.name}: not valid JSON after element {number} ({str(error).partition(chr(10))[0]}). "
                "Mend it there, or give JSON Lines, where one broken record does not hide the others."
            ) from error
        for place in range(number, len(rest)):
            yield named_fields(file.name, place + 1, rest[place])


def _streamed(file: File) -> Iterator[Any]:
    """The elements of top-level lists, and top-level objects. Raises ValueError for deeper nesting than
    ``DEEPEST``: the parser itself has no limit."""
    import ijson
    from ijson.common import ObjectBuilder

    depth = 0
    in_list = False
    builder: Any = None
    with _as_utf8(file) as content:
        for event, value in ijson.basic_parse(content, use_float=True, multiple_values=True):
            if event == "start_array" and depth == 0:
                in_list, depth = True, 1
                continue
            if event == "end_array" and depth == 1 and in_list:
                in_list, depth = False, 0
                continue
            top = int(in_list)
            if depth == top:
                builder = ObjectBuilder()
            builder.event(event, value)
            if event in ("start_map", "start_array"):
                depth += 1
            elif event in ("end_map", "end_array"):
                depth -= 1
            if depth > DEEPEST:
                raise ValueError("nested too deeply")
            if depth == top:
                yield builder.value
    if depth:
        raise ValueError("the list does not end")


def _as_utf8(file: File) -> IO[bytes]:
    """The file's content in UTF-8 and without a mark of it, as JSON parsers take it."""
    encoding = encoding_of(file)
    if encoding not in ("utf-8", "utf-8-sig"):
        return _Encoded(open_text(file))
    content = open_bytes(file.path)
    if encoding == "utf-8-sig":
        content.read(3)
    return content


class _Encoded(io.BytesIO):
    """Text of another encoding, read as the bytes of UTF-8."""

    def __init__(self, text: IO[str]):
        super().__init__()
        self._text = text

    def read(self, size: int | None = -1, /) -> bytes:
        return self._text.read(-1 if size is None else size).encode("utf-8", "surrogatepass")

    def close(self) -> None:
        self._text.close()
        super().close()


def _read_at_once(file: File) -> list[Any] | None:
    """The records by Python's own parser, which knows NaN and Infinity; None where they are no valid JSON for
    it either."""
    with _as_utf8(file) as content:
        text = content.read(LARGEST_LENIENT)
    if b"NaN" not in text and b"Infinity" not in text:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    held = _rows_of(value)
    return held if held is not None else value if isinstance(value, list) else [value]
