"""What other tools write: one function each, one line each in ``EXPORTS``, chosen by a source's `format`.

A function takes a row as it stands in the file and gives the rows that it stands for, with our names where
the tool has names of its own for them; `columns` may map them further. It raises Broken where the row is no
finished work.
"""

from collections.abc import Callable

from redline.data.exports.annotation import argilla, doccano, label_studio, prodigy
from redline.data.exports.training import alpaca, openai
from redline.types import JsonObject

Rows = list[JsonObject]
EXPORTS: dict[str, Callable[[JsonObject], Rows]] = {
    "alpaca": alpaca,
    "openai": openai,
    "label_studio": label_studio,
    "argilla": argilla,
    "prodigy": prodigy,
    "doccano": doccano,
}
