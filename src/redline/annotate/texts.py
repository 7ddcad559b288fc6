"""Texts on their way in and out: what can be stored, which part is edited, and line ends that browsers
lose."""

import json
import re
from collections.abc import Sequence
from typing import Any

from rapidfuzz.distance import Levenshtein

from redline.data.alignment import align, edit_ratio
from redline.data.records import Text
from redline.data.units import unit_spans, units
from redline.types import Json, JsonObject

LONGEST = 100_000  # characters of one prompt, response or edit


def objection(value: Json) -> str | None:
    """Why a record's text cannot be kept exactly as it is, or None. ``value``: a string, or a list or dict of
    them."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        return next((why for inner in value if (why := objection(inner))), None)
    if not isinstance(value, str):
        return None
    if len(value) > LONGEST:
        return f"is too long ({len(value):,} characters; {LONGEST:,} is the limit)"
    if "\0" in value:
        return "holds a NUL character, which databases and browsers do not keep"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"is not valid Unicode (a lone surrogate at character {error.start})"
    return None


def editable(response: Text) -> str | None:
    """The text that is edited: the response, or its last message's content. None when that is not text."""
    if isinstance(response, str):
        return response
    content = response[-1].get("content") if response else None
    return content if isinstance(content, str) else None


def with_text(response: Text, text: str) -> Text:
    """``response`` with its editable text replaced."""
    if isinstance(response, str):
        return text
    return [*response[:-1], {**response[-1], "content": text}]


def messages(prompt: Text, response: Text = "") -> list[dict[str, str]]:
    """What is shown above the editor, as ``role`` and ``text``: the prompt, and a response's messages before
    its last."""
    before = [{"role": "prompt", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    before += response[:-1] if isinstance(response, list) else []
    return [
        {"role": str(message.get("role", "")), "text": _content(message.get("content"))} for message in before
    ]


def _content(content: Json) -> str:
    if isinstance(content, list):  # parts, as multimodal chat templates take them
        return "\n\n".join(
            str(part.get("text", f"[{part.get('type', 'part')}]")) if isinstance(part, dict) else str(part)
            for part in content
        )
    return "" if content is None else str(content)


_LINE_END = re.compile(r"\r\n|\r|\n")


def restore_line_ends(original: str, edited: str) -> str:
    """``edited``, which a browser gave line feeds only, with the original's line ends where its lines were
    kept.

    A new line takes the kind of line end that the original has most.
    """
    ends = _LINE_END.findall(original)
    if "\r" not in original:
        return edited
    usual = max(("\n", "\r\n", "\r"), key=ends.count)
    old, new = _LINE_END.split(original), _LINE_END.split(edited)
    kept = {}
    for op in Levenshtein.opcodes(old, new):
        for step in range(
            min(op.src_end - op.src_start, op.dest_end - op.dest_start)
        ):  # kept, or replaced in place
            kept[op.dest_start + step] = op.src_start + step
    parts = []
    for number, line in enumerate(new):
        parts.append(line)
        if number < len(new) - 1:
            end = ends[kept[number]] if kept.get(number, len(ends)) < len(ends) else usual
            parts.append(
                "\r" if end == "\n" and "".join(parts[-2:]).endswith("\r") else end
            )  # or the two would become one
    return "".join(parts)


def browser_text(text: str) -> str:
    """``text`` as a browser's text field will hold it."""
    return _LINE_END.sub("\n", text)


def ratio(rejected: str, edited: str) -> float:
    """Share of units changed, as the edit gates count it."""
    return edit_ratio(units(rejected), units(edited))


def changes(original: str, edited: str) -> list[JsonObject]:
    """The changed runs of an edit, in order, as the redline shows them.

    Each has ``start`` and ``end`` (characters of ``original``), ``edited_start`` and ``edited_end``
    (characters of ``edited``), ``deleted`` and ``inserted``.
    """
    old, new = unit_spans(original), unit_spans(edited)
    before = [original[start:end] for start, end in old]
    after = [edited[start:end] for start, end in new]
    runs = []
    for op in align(before, after).ops:
        if op.kind == "equal":
            continue
        start, end = _characters(old, op.start, op.end, len(original))
        edited_start, edited_end = _characters(new, op.edited_start, op.edited_end, len(edited))
        runs.append(
            {
                "start": start,
                "end": end,
                "edited_start": edited_start,
                "edited_end": edited_end,
                "deleted": original[start:end],
                "inserted": edited[edited_start:edited_end],
            }
        )
    return runs


def _characters(spans: list[tuple[int, int]], start: int, end: int, length: int) -> tuple[int, int]:
    """The characters of units ``[start, end)``; where there are none, the empty place before ``start``."""
    if start < end:
        return spans[start][0], spans[end - 1][1]
    place = spans[start][0] if start < len(spans) else length
    return place, place


def reasons_of(original: str, edited: str, given: Sequence[Any], allowed: Sequence[str]) -> list[JsonObject]:
    """The changes that have a reason, as ``changes`` describes them, with ``reason``.

    ``given``: what the page sent; see ``submissions.Submission``. Raises ValueError where it is malformed or
    a reason is not in ``allowed``. A reason whose change is not there any more is left out.
    """
    runs = changes(original, edited)
    kept: dict[int, JsonObject] = {}
    for entry in given:
        if not isinstance(entry, dict) or entry.get("reason") not in allowed:
            raise ValueError("The reason of a change is not in the project's list. Reload the page.")
        number = entry.get("number")
        texts_of_change = (browser_text(str(entry.get("deleted"))), browser_text(str(entry.get("inserted"))))
        if not isinstance(number, int) or not 0 <= number < len(runs):
            continue
        run = runs[number]
        if (browser_text(run["deleted"]), browser_text(run["inserted"])) == texts_of_change:
            kept[number] = run | {"reason": entry["reason"]}
    return [kept[number] for number in sorted(kept)]


def stored_reasons(stored: str | None) -> list[JsonObject]:
    """The reasons that the database holds for a work, as ``reasons_of`` made them."""
    return json.loads(stored) if stored else []


def for_page(reason: JsonObject) -> JsonObject:
    """A kept reason as the page asks for it: by the texts of its change, which may be in another place by
    then."""
    return {
        "deleted": browser_text(reason["deleted"]),
        "inserted": browser_text(reason["inserted"]),
        "reason": reason["reason"],
    }
