"""Tables with a head line: commas, tabs, semicolons or bars between cells, with quotation marks or without.

Which it is the file says, unless the source names it. In a table with quotation marks a mark that is never
closed costs its own line and no other: the lines that it would swallow are read again.
"""

import csv
import re
from collections import Counter, deque
from collections.abc import Iterator
from typing import IO

from redline.data.opening import encoding_of, open_text, plain_name
from redline.data.row import File, Row
from redline.errors import UserError

UNDECODED = re.compile("[\udc80-\udcff]")  # what errors="surrogateescape" makes of bytes that are no UTF-8
DELIMITERS = (",", "\t", ";", "|")
NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "bar": "|", "pipe": "|"}
PROBED = 16_000_000  # characters from which the use of quotation marks is told
LONGEST = 2_000  # lines of one row; a mark that is not closed by then never is


def table_rows(file: File) -> Iterator[Row]:
    """Rows of a table; ``line`` is the line on which the row begins."""
    csv.field_size_limit(1 << 30)
    delimiter = _delimiter(file)
    if _is_quoted(file, delimiter):
        yield from _quoted(file, delimiter)
    else:
        yield from _unquoted(file, delimiter)


def _delimiter(file: File) -> str:
    given = file.source.delimiter
    if given is not None:
        delimiter = NAMES.get(given.lower(), given)
        if len(delimiter) != 1:
            raise UserError(f'delimiter: `{given}` is more than one character. Give one, or "tab".')
        return delimiter
    usual = "\t" if plain_name(file.path).lower().endswith(".tsv") else ","
    with open_text(file, newline="") as text:
        head = _head_line(text)
    if head.lower().startswith("sep=") and len(head) == 5:  # how Excel is told
        return head[4]
    counts = {mark: _columns(head, mark) for mark in DELIMITERS}
    best = max(DELIMITERS, key=lambda mark: (counts[mark], mark == usual))
    if counts[best] == 1:
        return usual
    if best != usual:
        shown = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas"}[best]
        file.note(f"the cells are separated by {shown}, as the head line says (`delimiter` names another)")
    return best


def _head_line(text: IO[str]) -> str:
    return text.readline().rstrip("\r\n")


def _columns(line: str, delimiter: str) -> int:
    return len(next(csv.reader([line], delimiter=delimiter), []))


def _is_quoted(file: File, delimiter: str) -> bool:
    """Whether quotation marks around a cell are the table's and not the text's.

    Files with tabs are often written without any: there, the reading in which fewer lines are broken is
    taken; of two readings without a broken line, the one in which marks are used as a writer uses them.
    """
    if file.source.quoting != "auto":
        return file.source.quoting == "standard"
    if delimiter != "\t":
        return True
    lines = _probe(file)
    if not any('"' in line for line in lines):
        return False
    columns = _columns(lines[0].rstrip("\r\n"), delimiter)
    cells = [line.rstrip("\r\n").split(delimiter) for line in lines]
    broken = sum(len(row) != columns for row in cells)
    rows = list(_records(_Lines(iter(lines)), delimiter, columns))
    broken_quoted = sum(problem is not None or len(row) != columns for _, row, problem in rows[:-1])
    if broken != broken_quoted:
        return broken_quoted < broken
    return any(_is_written_quoted(row) for row in cells)


def _probe(file: File) -> list[str]:
    """The file's first lines."""
    lines: list[str] = []
    size = 0
    with open_text(file, newline="") as text:
        for line in text:
            lines.append(line)
            size += len(line)
            if size > PROBED:
                break
    return lines


def _is_written_quoted(cells: list[str]) -> bool:
    """Whether a line's marks are a writer's: doubled ones within a cell that needs its own, or around all
    cells."""
    around = [len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells]
    inner = [cell[1:-1] for cell, marked in zip(cells, around, strict=True) if marked]
    needed = any('"' in text and '"' not in text.replace('""', "") for text in inner)
    return needed or (bool(cells) and all(around))


def _unquoted(file: File, delimiter: str) -> Iterator[Row]:
    with open_text(file, newline="\n") as text:
        head: list[str] = []
        for number, line in enumerate(text, 1):
            cells = line.rstrip("\r\n").split(delimiter)
            if not head:
                if not _is_separator_line(cells):
                    head = _head(file, cells)
            elif line.strip():
                yield _row(file, number, head, cells)
    if not head:
        _head(file, [])


def _quoted(file: File, delimiter: str) -> Iterator[Row]:
    head: list[str] = []
    with open_text(file, newline="") as text:
        lines = _Lines(text)
        while not head:
            first = next(_records(lines, delimiter), None)
            if first is None:
                break
            _, cells, problem = first
            if problem:
                raise UserError(f"{file.name}, head line: {problem}. Mend it, or give `quoting: none`.")
            if not _is_separator_line(cells):
                head = _head(file, cells)
        for number, cells, problem in _records(lines, delimiter, len(head)):
            if problem:
                yield Row(file.name, number, cells[0], problem)
            elif any(cells):
                yield _row(file, number, head, cells)
    if not head:
        _head(file, [])


class _Lines:
    """Lines that can be given back: those of a row that turns out to be none."""

    def __init__(self, text: Iterator[str]):
        self._text = text
        self._again: deque[str] = deque()
        self.number = 0  # of the line given last
        self.taken: list[str] = []  # for the row that is being read

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if len(self.taken) >= LONGEST:
            raise csv.Error("no end within so many lines")
        line = self._again.popleft() if self._again else next(self._text)
        self.taken.append(line)
        self.number += 1
        return line

    def keep_first(self) -> None:
        """Give all but the first line of this row back."""
        self._again.extendleft(reversed(self.taken[1:]))
        self.number -= len(self.taken) - 1


def _records(lines: _Lines, delimiter: str, columns: int = 0) -> Iterator[tuple[int, list[str], str | None]]:
    """Each row's first line, cells and problem; a row with a problem has its first line as its one cell.

    A row of several lines that has not ``columns`` cells was held together by a mark that belongs to no pair.
    """
    unclosed = "a quotation mark that is not closed or not doubled"
    while True:
        lines.taken = []
        problem: str | None = None
        cells: list[str] = []
        try:
            cells = next(csv.reader(lines, delimiter=delimiter, strict=True))
        except StopIteration:
            return
        except csv.Error as error:
            problem = f"{unclosed} ({error})"
        several = len(lines.taken) > 1
        if problem is None and several and columns and len(cells) != columns:
            problem = f"{unclosed} (it would swallow {len(lines.taken) - 1} lines)"
        if problem is None and several and delimiter == "\t" and any(map(_swallows, cells)):
            problem = f"{unclosed} (it would swallow {len(lines.taken) - 1} lines)"
        start = lines.number - len(lines.taken) + 1
        if problem is None:
            yield start, cells, None
        else:
            first = lines.taken[0].rstrip("\r\n")
            lines.keep_first()
            yield start, [first], problem


def _swallows(cell: str) -> bool:
    return "\t" in cell and "\n" in cell


def _is_separator_line(cells: list[str]) -> bool:
    """Excel's own line ``sep=;`` before the head line."""
    return bool(cells) and cells[0].lower().startswith("sep=") and len("".join(cells)) <= len("sep=;")


def _head(file: File, cells: list[str]) -> list[str]:
    """The columns' names, each once. Raises UserError without any."""
    if not any(cells):
        raise UserError(f"{file.name}: is empty. The first line must name the columns.")
    if any(map(UNDECODED.search, cells)):
        raise UserError(
            f"{file.name}, head line: not UTF-8 text. Save the file as UTF-8, or name its `encoding`."
        )
    seen: Counter[str] = Counter()
    names: list[str] = []
    for name in cells:
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
        if seen[name] == 2:
            file.note(f"two columns are called `{name}`; the second is `{name}_2`")
    return names


def _row(file: File, number: int, head: list[str], cells: list[str]) -> Row:
    surplus = cells[len(head) :]
    problem: str | None = None
    if len(cells) < len(head) or any(surplus):
        problem = f"{len(cells)} columns, where the head line has {len(head)}"
    for name, cell in zip(head, cells, strict=False):
        if problem is None and UNDECODED.search(cell):
            problem = f"{name}: not {encoding_of(file).upper()} text"
    values = dict(zip(head, cells, strict=False))
    if any(surplus):
        values["(more)"] = "\t".join(surplus)
    return Row(file.name, number, values, problem)
