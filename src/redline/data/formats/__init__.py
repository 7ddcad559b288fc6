"""File formats: one module each, one line each in ``READERS``.

To add one, write a function ``(file: File) -> Iterator[Row]`` (see ``redline.data.row``) and name it here.
"""

from redline.data.formats.json_values import json_rows
from redline.data.formats.parquet import parquet_rows
from redline.data.formats.tables import table_rows
from redline.data.formats.workbook import workbook_rows
from redline.data.row import Reader

READERS: dict[str, Reader] = {
    ".jsonl": json_rows,
    ".ndjson": json_rows,
    ".json": json_rows,
    ".csv": table_rows,
    ".tsv": table_rows,
    ".parquet": parquet_rows,
    ".xlsx": workbook_rows,
}
