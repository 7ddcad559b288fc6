"""Files opened for reading: unpacked where they are packed, decoded by their encoding."""

import bz2
import codecs
import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from redline.data.row import File
from redline.errors import UserError

SNIFFED = 4096  # bytes from which an encoding is told
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def _zstandard(path: Path, _: str) -> IO[bytes]:
    import pyarrow

    stream: Any = pyarrow.input_stream(str(path), compression="zstd")
    return io.BufferedReader(stream)


UNPACK: dict[str, Callable[[Path, str], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zstandard,
}


def plain_name(path: Path) -> str:
    """The file's name without the ending that says how it is packed: edits.jsonl.gz -> edits.jsonl."""
    return path.stem if path.suffix.lower() in UNPACK else path.name


def open_bytes(path: Path) -> IO[bytes]:
    """The file's content, unpacked."""
    unpack = UNPACK.get(path.suffix.lower())
    if unpack is None:
        return path.open("rb")
    return unpack(path, "rb")


def encoding_of(file: File) -> str:
    """The encoding that the source names, else what the file's first bytes say, else UTF-8."""
    if file.source.encoding is not None:
        try:
            return codecs.lookup(file.source.encoding).name
        except LookupError as error:
            raise UserError(
                f"encoding: `{file.source.encoding}` is none that Python knows. Give utf-8, utf-16, cp1252, "
                "latin-1, ..."
            ) from error
    with open_bytes(file.path) as content:
        start = content.read(SNIFFED)
    for bom, name in BOMS:
        if start.startswith(bom):
            return name
    if start.count(0) > len(start) // 8:  # of plain letters in UTF-16 every second byte is 0
        even, odd = start[0::2].count(0), start[1::2].count(0)
        return "utf-16-be" if even > odd else "utf-16-le"
    return "utf-8"


def open_text(file: File, newline: str | None = None) -> IO[str]:
    """The file's content as text. Bytes that are no UTF-8 become lone surrogates, which readers look for;
    another encoding was named by somebody, and what it does not know becomes a replacement character."""
    encoding = encoding_of(file)
    errors = "surrogateescape" if encoding in ("utf-8", "utf-8-sig") else "replace"
    return io.TextIOWrapper(open_bytes(file.path), encoding, errors=errors, newline=newline)
