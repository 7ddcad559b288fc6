"""Texts on their way in and out: what can be stored, which part is edited, and line ends that browsers
lose."""

import re
from typing import Any

from rapidfuzz.distance import Levenshtein

from redline.data.alignment import edit_ratio, words
from redline.data.records import Text

LONGEST = 100_000  # characters of one prompt, response or edit


def objection(value: Any) -> str | None:
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


def _content(content: Any) -> str:
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
    """Share of words changed, as the edit gates count it."""
    return edit_ratio(words(rejected), words(edited))
