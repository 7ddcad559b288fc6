"""The labels of one edit, side by side: which tokens it changed."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from redline.data.alignment import Cut, align, changed_runs, runs
from redline.data.chat_template import Turn
from redline.data.units import Span, unit_spans
from redline.label.runs import filled, widened
from redline.label.settings import Label
from redline.label.side import Side, sides

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Sides(NamedTuple):
    """Both sides of an edit: tokens, and a label for each (-1 or 0 rejected, +1 or 0 edited)."""

    rejected: list[str]
    rejected_labels: list[int]
    edited: list[str]
    edited_labels: list[int]


def labelled_words(rejected: str, edited: str, settings: Label) -> Sides:
    """By white space: the words are the tokens."""
    old, new = rejected.split(), edited.split()
    cuts = filled(runs(align(old, new)), lambda before, after: after.start - before.end <= settings.fill)
    old_labels, new_labels = [0] * len(old), [0] * len(new)
    for start, end, edited_start, edited_end in cuts:
        old_labels[start:end] = [-1] * (end - start)
        new_labels[edited_start:edited_end] = [1] * (edited_end - edited_start)
    return Sides(old, old_labels, new, new_labels)


def labelled_tokens(
    turns: Sequence[Turn], tokenizer: "PreTrainedTokenizerBase", settings: Label
) -> Iterator[Sides]:
    """By a tokenizer. ``turns`` holds the rejected and the edited response of each edit, one after the
    other."""
    responses = sides(turns, tokenizer, settings.whole, with_offsets=settings.unit == "word")
    changed_tokens = _by_token if settings.unit == "token" else _by_unit
    for rejected, edited in zip(responses[::2], responses[1::2], strict=True):
        changed, edited_changed = changed_tokens(rejected, edited, settings)
        yield Sides(
            rejected.tokens,
            rejected.labels(changed, -1),
            edited.tokens,
            edited.labels(edited_changed, 1),
        )


def _by_token(rejected: Side, edited: Side, settings: Label) -> tuple[list[Span], list[Span]]:
    """The changed tokens of both sides, as ranges: the tokenizer's own tokens are aligned."""
    cuts = changed_runs(rejected.ids, edited.ids, rejected.begins_word, edited.begins_word)
    cuts = widened(cuts, rejected, edited)
    if settings.fill:
        cuts = filled(
            cuts, lambda before, after: rejected.units_between(before.end, after.start, settings.fill)
        )
    return _both(cuts)


def _by_unit(rejected: Side, edited: Side, settings: Label) -> tuple[list[Span], list[Span]]:
    """The changed tokens of both sides, as ranges: units of text are aligned, and every token that shares a
    character with a changed one is changed."""
    spans, edited_spans = unit_spans(rejected.text), unit_spans(edited.text)
    script = align(
        [rejected.text[start:end] for start, end in spans],
        [edited.text[start:end] for start, end in edited_spans],
    )
    cuts = filled(runs(script), lambda before, after: after.start - before.end <= settings.fill)
    changed, edited_changed = _both(cuts)
    return (
        carried(_picked(spans, changed), rejected.offsets),
        carried(_picked(edited_spans, edited_changed), edited.offsets),
    )


def _picked(spans: Sequence[Span], ranges: Sequence[Span]) -> list[Span]:
    """The spans at the places that some ranges cover."""
    picked: list[Span] = []
    for start, end in ranges:
        picked += spans[start:end]
    return picked


def _both(cuts: Sequence[Cut]) -> tuple[list[Span], list[Span]]:
    return [(cut.start, cut.end) for cut in cuts], [(cut.edited_start, cut.edited_end) for cut in cuts]


def carried(changed: Sequence[Span], offsets: Sequence[Span]) -> list[Span]:
    """The tokens, as ranges of one, that share a character with a changed span. All sorted by start."""
    tokens: list[Span] = []
    first = 0
    for place, (start, end) in enumerate(offsets):
        while first < len(changed) and changed[first][1] <= start:
            first += 1
        if first < len(changed) and changed[first][0] < end:
            tokens.append((place, place + 1))
    return tokens
