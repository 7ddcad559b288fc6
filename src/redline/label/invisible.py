"""Differences between two texts that nobody sees, and the texts without them."""

import re
import unicodedata
from collections.abc import Callable

Normal = Callable[[str], str]


def _line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _spaces(text: str) -> str:
    return re.sub("[\u00a0\u2007\u202f]", " ", text)


def _zero_width(text: str) -> str:
    """Without what has no width and joins nothing: joiners stay, since emoji and Persian need them."""
    return re.sub("[\u00ad\u200b\u200e\u200f\u2060\ufeff]", "", text)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


KINDS: dict[str, Normal] = {
    "line ends (CRLF)": _line_ends,
    "no-break spaces": _spaces,
    "zero-width characters": _zero_width,
    "accents composed or not (NFC)": _composed,
}


def normalised(text: str) -> str:
    """The text with plain line ends and spaces, without zero-width characters, letters composed (NFC)."""
    if text.isascii() and "\r" not in text:
        return text
    for normal in KINDS.values():
        text = normal(text)
    return text


def kinds(rejected: str, edited: str) -> list[str]:
    """Which kinds of invisible differences there are between the two: one side has more of them than the
    other."""
    if rejected.isascii() and edited.isascii() and "\r" not in rejected and "\r" not in edited:
        return []
    return [kind for kind, normal in KINDS.items() if _weight(rejected, normal) != _weight(edited, normal)]


def _weight(text: str, normal: Normal) -> int:
    """How much of a text a normal form changes: characters that go, and characters that become others."""
    plain = normal(text)
    if len(plain) != len(text):
        return len(text) - len(plain)
    return sum(one != other for one, other in zip(text, plain, strict=True))
