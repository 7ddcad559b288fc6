"""Excel workbooks: the first sheet, or the one that ``config`` names; its first row names the columns."""

from collections.abc import Iterator
from typing import Any
from zipfile import BadZipFile

from redline.data.row import File, Row
from redline.errors import UserError


def workbook_rows(file: File) -> Iterator[Row]:
    """Rows of a sheet; ``line`` is the row's number in it."""
    sheet = _sheet(file)
    rows = sheet.iter_rows(values_only=True)
    head = [str(name) if name is not None else "" for name in next(rows, ())]
    if not any(head):
        raise UserError(f"{file.name}: is empty. The first row must name the columns.")
    for number, cells in enumerate(rows, 2):
        if any(cell is not None for cell in cells):
            values = dict(zip(head, cells, strict=False))
            values.pop("", None)
            yield Row(file.name, number, values)


def _sheet(file: File) -> Any:
    try:
        from openpyxl import load_workbook
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError as error:
        raise UserError(f"{file.name}: needs openpyxl. Run: pip install openpyxl") from error
    try:
        workbook = load_workbook(file.path, read_only=True, data_only=True)
    except (InvalidFileException, BadZipFile, KeyError, ValueError) as error:
        raise UserError(f"{file.name}: not a readable workbook ({error}). Save it as .xlsx.") from error
    names = workbook.sheetnames
    wanted = file.source.config or names[0]
    if wanted not in names:
        raise UserError(f"{file.name}: has no sheet `{wanted}`. It has: {', '.join(names)}.")
    if len(names) > 1 and file.source.config is None:
        file.note(f"the sheet `{wanted}` is read; `config` names another ({', '.join(names[1:])})")
    return workbook[wanted]
