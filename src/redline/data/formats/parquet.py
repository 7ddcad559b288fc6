"""Parquet files, a batch of rows at a time."""

from collections.abc import Iterator

from redline.data.row import File, Row
from redline.errors import UserError


def parquet_rows(file: File) -> Iterator[Row]:
    """Rows of a Parquet file; ``line`` is the row's number."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(file.path) as content:
            for batch in content.iter_batches(batch_size=256):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(file.name, number, values)
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise UserError(
            f"{file.name}: not a readable Parquet file ({' '.join(str(error).split())})."
        ) from error
