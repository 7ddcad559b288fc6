r"""The units of a text: what a person would call one word, one character or one mark.

The annotation page, the meter of a change, the gates, agreement, ``redline show`` and ``--unit word`` all
count these units, so the rules are made for two languages: Python, and the JavaScript of the page. A unit is
a match of ``PATTERN``, an expression that the package ``regex`` and a browser (``new RegExp(PATTERN, "gu")``)
read alike; only Thai needs one more step. The alternatives of the expression, in this order:

1. **Emoji**: a pictograph with its skin tone, variation selector and everything that a joiner (U+200D) ties
   to it; two regional indicators, which are a flag.
2. **Thai**: a stretch of Thai letters and marks, the group ``thai``. BudouX's Thai model (a table of n-gram
   weights of 33 KB; the file ``thai_model()`` names it) cuts it into words. The cut is then held to three
   rules: none before a combining mark (``EXTEND``), none behind a vowel that is written before its consonant
   (``[\u0e40-\u0e44]``), none before a vowel that is written behind it (``[\u0e30\u0e32\u0e45]``).
   Scores are sums of whole numbers and halves, so both languages get the same ones.
3. **Single characters**: one character of a script that is written without spaces and for which Redline has
   no segmenter (Han, kana, Bopomofo, Yi, Lao, Khmer, Burmese and the Tai scripts), with its marks.
4. **Words**: letters, marks, digits and ``_``, and invisible format characters inside. An apostrophe joins
   two of them (``don't``), ``.`` and ``,`` and no-break spaces join two digits (``3.14``, ``1,000``), a
   quotation mark or gershayim joins two Hebrew letters, a middle dot two letters.
5. **Anything else that is not white space**: one sign, with its marks.

White space lies between units and belongs to none. Units never cut a grapheme cluster of Unicode's annex 29:
the tests hold them against ``\X``.

Why not two segmenters, ICU's in the browser and a Python one here: they disagree with each other, and
browsers disagree among themselves (ICU cuts Thai by a dictionary, others by a neural network), so the page
would show changes that the labels do not have. Why not a dictionary on both sides: it weighs 20 MB as a
Python package and 1 MB on the page, BudouX 0.1 MB and 33 KB.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import Literal

import regex

Span = tuple[int, int]  # characters [start, end) of a text
Whole = Literal["character", "word"]

SPACE = r"\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""White space, for use inside ``[...]``: Python's, which is not JavaScript's ``\\s``."""

_TAGS = f"{chr(0xE0020)}-{chr(0xE007F)}"  # spell the region of a flag such as Scotland's
EXTEND = rf"\p{{M}}\u200c\u200d\u0e33\u0eb3\uff9e\uff9f🏻-🏿{_TAGS}"
"""What is written onto the character before it, for use inside ``[...]``: combining marks, joiners, skin
tones."""

_VIRAMA = r"\u094d\u09cd\u0acd\u0b4d\u0c4d\u0d4d\u1039\u17d2\u1a60"  # ties the next consonant to this one
_SINGLE_SCRIPTS = (
    "Han", "Hiragana", "Katakana", "Bopomofo", "Yi", "Lao", "Khmer", "Myanmar", "Tai_Le", "New_Tai_Lue",
    "Tai_Tham", "Tai_Viet",
)  # fmt: skip
_SINGLE = "".join(rf"\p{{Script={script}}}" for script in _SINGLE_SCRIPTS) + r"\u30fc\uff70"
_PICTOGRAPH = r"\p{Extended_Pictographic}"
_PREPENDED = r"\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2"  # Arabic and Syriac signs that span a number
_NO_BREAK = r"\xa0\u202f"  # no-break spaces, which group digits
_BETWEEN_DIGITS = rf"(?<=\p{{Nd}})[.,\u066b\u066c{_NO_BREAK}](?=\p{{Nd}})"
_MANY_MARKS = rf"[{EXTEND}]*"
_CONJUNCT = rf"(?:[{EXTEND}]*?[{_VIRAMA}]\u200d?(?=\p{{L}})"  # to be continued with the next consonant

_EMOJI = (
    rf"(?:\p{{Regional_Indicator}}\p{{Regional_Indicator}}|{_PICTOGRAPH}){_MANY_MARKS}"
    rf"(?:(?<=\u200d){_PICTOGRAPH}{_MANY_MARKS})*"
)
_THAI_LETTER = r"(?=[\p{L}\p{M}])\p{Script=Thai}"
_THAI = rf"{_THAI_LETTER}(?:{_THAI_LETTER}|[{EXTEND}])*"
_CHARACTER = rf"(?=[\p{{L}}\p{{M}}\p{{Nl}}])[{_SINGLE}]{_CONJUNCT}[{_SINGLE}])*{_MANY_MARKS}"
_LETTER = rf"(?:(?![{_SINGLE}\p{{Script=Thai}}{_PICTOGRAPH}])[\p{{L}}\p{{M}}]|[\p{{N}}_{_PREPENDED}])"
_JOIN = "|".join(
    (
        r"['’]",
        _BETWEEN_DIGITS,
        r"(?<=\p{Script=Hebrew})[\x22\u05f4](?=\p{Script=Hebrew})",
        r"(?<=\p{L})\xb7(?=\p{L})",
    )
)
_LETTERS = rf"{_LETTER}(?:{_LETTER}|[{EXTEND}]|(?!\u200b)\p{{Cf}})*"
_WORD = rf"{_LETTERS}(?:(?:{_JOIN}){_LETTERS})*"
_SIGN = rf"[^{SPACE}]{_MANY_MARKS}|(?![\p{{Cc}}\u2028\u2029])[{SPACE}][{EXTEND}]+"

PATTERN = f"{_EMOJI}|(?<thai>{_THAI})|{_CHARACTER}|{_WORD}|{_SIGN}"
"""One unit, as the package ``regex`` and a browser read it (flags ``gu``)."""

_HANGUL_VOWELS = r"[\u1160-\u11a7\ud7b0-\ud7c6]"
_HANGUL = (
    r"[\u1100-\u115f\ua960-\ua97c]*(?:[\uac00-\ud7a3]"
    rf"{_HANGUL_VOWELS}*|{_HANGUL_VOWELS}+)[\u11a8-\u11ff\ud7cb-\ud7fb]*"
    r"|[\u1100-\u115f\ua960-\ua97c]+|[\u11a8-\u11ff\ud7cb-\ud7fb]+"
)
_CLUSTER = (
    rf"\r\n|[\p{{Cc}}\u2028\u2029]|{_EMOJI}|(?:{_HANGUL}){_MANY_MARKS}"
    rf"|[{_PREPENDED}]*(?s:.){_CONJUNCT}\p{{L}})*{_MANY_MARKS}"
)
_NUMBER = rf"\p{{Nd}}+(?:{_BETWEEN_DIGITS}\p{{Nd}}+)*"

_UNIT = regex.compile(PATTERN)
_ASCII_UNIT = re.compile(r"\w+(?:(?:'|(?<=[0-9])[.,](?=[0-9]))\w+)*|[^\w\s]")
_CHARACTER_OR_NUMBER = regex.compile(f"{_NUMBER}{_MANY_MARKS}|{_CLUSTER}")
_ASCII_CHARACTER_OR_NUMBER = re.compile(r"[0-9]+(?:[.,][0-9]+)*|\r\n|.", re.DOTALL)
_NEVER_BEFORE = regex.compile(rf"[{EXTEND}\u0e30\u0e32\u0e45]")
_NEVER_BEHIND = frozenset("เแโใไ")


def units(text: str) -> list[str]:
    """The units of a text, in order, without the white space between them."""
    return [text[start:end] for start, end in unit_spans(text)]


def unit_spans(text: str) -> list[Span]:
    """Where the units of a text lie: characters ``[start, end)``, in order."""
    if text.isascii():
        return [match.span() for match in _ASCII_UNIT.finditer(text)]
    spans: list[Span] = []
    for match in _UNIT.finditer(text):
        if match.group("thai") is None:
            spans.append(match.span())
        else:
            spans += thai_words(text, *match.span())
    return spans


def whole_spans(text: str, whole: Whole) -> list[Span]:
    """The stretches of a text that a label covers as a whole or not at all.

    ``character``: grapheme clusters, white space among them, and numbers with their separators as one;
    together they cover the text. ``word``: the units; white space is free.
    """
    if whole == "word":
        return unit_spans(text)
    pattern = _ASCII_CHARACTER_OR_NUMBER if text.isascii() else _CHARACTER_OR_NUMBER
    return [match.span() for match in pattern.finditer(text)]


def thai_words(text: str, start: int, end: int) -> list[Span]:
    """The words of the stretch ``text[start:end]`` of Thai, by rule 2 at the head of this module."""
    spans: list[Span] = []
    word_start = chunk_end = start
    for chunk in _thai_parser().parse(text[start:end]):
        chunk_end += len(chunk)
        if chunk_end == end or _may_cut_thai(text, chunk_end):
            spans.append((word_start, chunk_end))
            word_start = chunk_end
    return spans


def _may_cut_thai(text: str, place: int) -> bool:
    return text[place - 1] not in _NEVER_BEHIND and not _NEVER_BEFORE.match(text, place)


def thai_model() -> Path:
    """BudouX's Thai model, a JSON file, for the page's script."""
    import budoux

    return Path(budoux.__file__).parent / "models" / "th.json"


@lru_cache(maxsize=1)
def _thai_parser():  # type: ignore[no-untyped-def]  # BudouX's class; importing it here keeps this module light
    import budoux

    return budoux.load_default_thai_parser()
