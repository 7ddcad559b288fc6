"""Differences between two texts that nobody sees, and the texts without them."""

import unicodedata

NO_BREAK_SPACES = "\u00a0\u2007\u202f"
ZERO_WIDTH = "\u00ad\u200b\u200e\u200f\u2060\ufeff"  # not the joiners, which emoji and Persian need
_PLAIN = str.maketrans(dict.fromkeys(NO_BREAK_SPACES, " ") | dict.fromkeys(ZERO_WIDTH, ""))

LINE_ENDS = "line ends (CRLF)"
SPACES = "no-break spaces"
WIDTHS = "zero-width characters"
ACCENTS = "accents composed or not (NFC)"


def normalised(text: str) -> str:
    """The text with plain line ends and spaces, without zero-width characters, letters composed (NFC)."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.isascii() else unicodedata.normalize("NFC", text.translate(_PLAIN))


def kinds(rejected: str, edited: str) -> list[str]:
    """Which kinds of invisible differences there are between the two: one side has more of them than the
    other."""
    differing = []
    if rejected.count("\r") != edited.count("\r"):
        differing.append(LINE_ENDS)
    if rejected.isascii() and edited.isascii():
        return differing
    if _count(rejected, NO_BREAK_SPACES) != _count(edited, NO_BREAK_SPACES):
        differing.append(SPACES)
    if _count(rejected, ZERO_WIDTH) != _count(edited, ZERO_WIDTH):
        differing.append(WIDTHS)
    if _decomposed(rejected) != _decomposed(edited):
        differing.append(ACCENTS)
    return differing


def _count(text: str, characters: str) -> int:
    return sum(map(text.count, characters))


def _decomposed(text: str) -> int:
    """How many characters fewer the text has when its letters are composed."""
    if unicodedata.is_normalized("NFC", text):
        return 0
    return len(text) - len(unicodedata.normalize("NFC", text))
