"""The gates an LLM's answer must pass before it is an edit: pure functions of the two texts, each of which
can be left out."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from redline.data.alignment import edit_ratio
from redline.data.units import units

Gate = Literal["parsed", "empty", "unchanged", "after", "remark", "format", "ratio", "verify"]
GATES: tuple[Gate, ...] = get_args(Gate)  # in the order in which they are asked
MEANING: dict[Gate, str] = {
    "parsed": "cut short, or not in the form that the template asks for",
    "empty": "nothing in it",
    "unchanged": "the response as it was",
    "after": "text after the end",
    "remark": "a refusal, or a remark about the edit",
    "format": "another language or format",
    "ratio": "more words changed than the limit allows",
    "verify": "not preferred to the original in both orders",
}  # why each gate refuses


@dataclass(frozen=True)
class Refusal:
    """Which gate refused an answer, and why: the sentence is said to the model when it is asked again."""

    gate: str
    why: str


def check(
    rejected: str, edited: str, *, after: str = "", max_ratio: float = 0.5, skip: Collection[str] = ()
) -> Refusal | None:
    """The first gate that refuses ``edited`` as a minimal edit of ``rejected``, or None when all let it pass.

    ``after`` is what the model wrote after the end of its edit; ``max_ratio`` the largest edit ratio
    (word-level Levenshtein distance over the longer length, 0 to 1); ``skip`` names gates that are not asked.
    Answers that could not be parsed, or that say that no change is needed, do not come here.
    """
    asked = {
        "empty": lambda: empty(edited),
        "unchanged": lambda: unchanged(rejected, edited),
        "after": lambda: text_after(rejected, edited, after),
        "remark": lambda: remark(rejected, edited),
        "format": lambda: other_format(rejected, edited),
        "ratio": lambda: too_much(rejected, edited, max_ratio),
    }
    for gate in GATES:
        if gate in asked and gate not in skip and (why := asked[gate]()):
            return Refusal(gate, why)
    return None


def empty(edited: str) -> str | None:
    """Nothing to read in it."""
    return None if edited.strip() else "it is empty"


def unchanged(rejected: str, edited: str) -> str | None:
    """The same text; white space at its ends does not count."""
    return "it is the response as it was, unchanged" if rejected.strip() == edited.strip() else None


def too_much(rejected: str, edited: str, limit: float) -> str | None:
    """More words changed than the limit allows."""
    ratio = edit_ratio(units(rejected), units(edited))
    if ratio <= limit:
        return None
    return (
        f"it changes {ratio:.0%} of the words, and at most {limit:.0%} may change; keep more of the "
        "response as it is"
    )


_REMARKS = re.compile(
    r"""^\W*(?:
      (?:sure|certainly|of\ course|absolutely|okay|ok)\b[^.\n]{0,60}
       \b(?:edit(?:ed)?|correct(?:ed)?|revised|version|response)\b
    | here(?:\ is|\ are|['’]s)\b[^.\n]{0,60}
       \b(?:edits?|edited|correct|corrected|correction|revised|revision|improved|version)\b
    | (?:the\ |my\ )?(?:minimally\ )?(?:edited|corrected|revised|improved|rewritten)
       \ (?:response|answer|text|version)\b
    | (?:i['’]?m|i\ am)\ (?:very\ |so\ )?sorry,?\ (?:but|i)\b
    | (?:i['’]?m|i\ am)\ (?:not\ able|unable)\ to\b
    | (?:sorry,?\ (?:but\ )?)?i\ (?:can['’]?t|cannot|can\ not|won['’]?t|will\ not)
      \ (?:help|assist|edit|fulfill?|comply|do\ that|provide|continue|correct|rewrite)
    | as\ an?\ (?:ai|artificial\ intelligence|language\ model|large\ language\ model)\b
    | i(?:['’]ve|\ have)?\ (?:made|changed|edited|corrected|replaced|removed|revised)\b
      [^.\n]{0,60}\b(?:response|edit|changes?|words?|sentence|original|text)\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)


def remark(rejected: str, edited: str) -> str | None:
    """A refusal, or a remark about the edit, at the start of the answer, where the original has none
    there."""
    found = _REMARKS.match(edited)
    if found is None or _REMARKS.match(rejected):
        return None
    start = " ".join(found[0].split())[:60]
    return (
        f'it begins with "{start}", which is a refusal or a remark about the edit; write the response alone'
    )


_TAIL = re.compile(
    r"""(?:
      <\|[a-z_]+\|> | </s> | <(?:end_of_turn|eos)> | \[/?INST\]
    | ^[ \t]*(?:\#{2,}[ \t]*)?(?:user|human|assistant|instruction)[ \t]*:
    | ^[ \t]*={3,}[ \t]*(?:edited|end)\b
    | ^[ \t]*[*(\[]{0,3}(?:notes?|explanation|(?:changes|edits)(?:\ made)?|what\ (?:i\ )?changed
      |summary\ of\ changes|reasoning)
      (?:\ on\ the\ (?:edit|edits|changes))?[*]{0,2}:
    | ^[ \t]*(?:i\ (?:have\ )?(?:changed|made|corrected|edited|replaced|removed)
      |the\ (?:edits?|changes?)\ (?:i\ made|made))\b
    )""",
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)


def text_after(rejected: str, edited: str, after: str = "") -> str | None:
    """Text after the end: past the end line, another turn of the conversation, or a note on the changes."""
    if after.strip():
        return "there is text after the end of the edit"
    before = Counter(match[0].strip().lower() for match in _TAIL.finditer(rejected))
    for match in _TAIL.finditer(edited):
        sign = match[0].strip().lower()
        before[sign] -= 1
        if before[sign] < 0:
            return f'it goes on after its end: "{match[0].strip()}" does not belong to the response'
    return None


def other_format(rejected: str, edited: str) -> str | None:
    """Another language, other letters, or another format: code blocks, JSON, quotation marks around the
    whole."""
    old, new = script(rejected), script(edited)
    if old != new and old and new:
        return f"it is written in {new} letters, the response in {old} ones; keep its language"
    spoken, now = language(rejected), language(edited)
    if spoken != now and spoken and now:
        return f"it is written in another language ({now}, not {spoken}); keep the language"
    fences, kept = _fences(rejected), _fences(edited)
    if fences != kept:
        return (
            f"it has {kept} code fence lines (```) where the response has {fences}; keep code blocks "
            "as they are"
        )
    if _is_json(rejected) and not _is_json(edited):
        return "the response is valid JSON and this is not"
    if _quoted(edited) and not _quoted(rejected):
        return "it stands in quotation marks; write the response without them"
    return None


def script(text: str) -> str | None:
    """The alphabet of most letters, by Unicode name: LATIN, CYRILLIC, CJK ...; None for fewer than three
    letters.

    Japanese counts as CJK whichever of its three scripts a text uses most.
    """
    found: Counter[str] = Counter()
    for letter in text:
        if letter.isalpha():
            found["LATIN" if letter.isascii() else unicodedata.name(letter, "?").split()[0]] += 1
    for kana in ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"):
        found["CJK"] += found.pop(kana, 0)
    if found.total() < 3:
        return None
    return found.most_common(1)[0][0]


_COMMON = {  # short words that are frequent in one language and rare in the others
    "English": "the and is are was were of to that this with for you it not have from they which would",
    "German": "der die das und ist nicht ein eine mit auf für ich sie wir den dem von zu auch sich wird",
    "French": "le les des est et une dans que pour pas vous sur avec ce cette sont nous qui du au",
    "Spanish": "el los las es y una que para por con del se su como más pero está son al lo",
    "Italian": "il gli è e una che per non con del della di sono come più questo anche alla nel si",
    "Portuguese": "o os as é e uma que para não com do da em se mais como foi são ao um",
    "Dutch": "de het een en is niet van dat die op met voor zijn ook maar wordt aan er naar bij",
}
_LANGUAGE_OF = {language: frozenset(line.split()) for language, line in _COMMON.items()}


def language(text: str) -> str | None:
    """Which of seven European languages a text is in, by its commonest short words; None where they do not
    say clearly.

    Clearly: at least five of them, a tenth of the words, and twice as many as of any other language.
    """
    spoken = re.findall(r"\w+", text.lower())
    counts = Counter(
        {language: sum(word in common for word in spoken) for language, common in _LANGUAGE_OF.items()}
    )
    (first, most), (_, second) = counts.most_common(2)
    return first if most >= max(5, 0.1 * len(spoken)) and most >= 2 * second else None


def _fences(text: str) -> int:
    return len(re.findall(r"^[ \t]*(?:```|~~~)", text, re.MULTILINE))


def _is_json(text: str) -> bool:
    if not text.strip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _quoted(text: str) -> bool:
    stripped = text.strip()
    return len(stripped) > 1 and (stripped[0], stripped[-1]) in {
        ('"', '"'),
        ("“", "”"),
        ("«", "»"),
        ("„", "“"),
    }
