"""A file format of your own: records of ``key: value`` lines, set apart by empty lines.

To use it, put this file into src/redline/data/formats/ and name it in ``READERS`` there:

".rec": record_rows,
"""

from collections.abc import Iterator

from redline.data.row import File, Row


def record_rows(file: File) -> Iterator[Row]:
    """The records of a file, in order; each is numbered by its first line."""
    values: dict[str, str] = {}
    start = 1
    with file.path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            key, colon, value = line.rstrip("\n").partition(": ")
            if colon:
                values[key] = value
            elif not line.strip():
                if values:
                    yield Row(file.name, start, values)
                values, start = {}, number + 1
            else:
                yield Row(file.name, number, line, problem="a line is neither empty nor `key: value`")
    if values:
        yield Row(file.name, start, values)
