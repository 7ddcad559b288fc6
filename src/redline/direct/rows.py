"""Edits and feedback as rows: a response after its prompt, as token ids, and what side it is on."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from redline.data.alignment import align
from redline.data.records import Feedback, Labels, Text
from redline.data.tokenization import encode_prompt, encode_response, token_ids, turn_end
from redline.engine import trunk
from redline.errors import UserError
from redline.reward.offsets import token_offsets
from redline.types import JsonObject

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAVED = ("id", "prompt", "ids", "before", "side", "pair", "weight", "tag", "token_weights", "given", "marks")


@dataclass(eq=False)
class Row:
    """A response after its prompt.

    ``ids`` are the token ids of both, the first ``before`` of them the prompt's. ``side`` is +1 for a liked
    response, -1 for a disliked one, 0 for neither. The rows of a pair share the number ``pair``; -1 stands
    alone. ``weight`` is a method's own weight of the row, ``tag`` a class or a flag. ``token_weights`` holds
    one number for each response token, for losses of tokens. ``given`` holds summed log-probabilities that
    the method has fixed itself, by name. ``marks`` are places in the response that a method has noted.

    ``reading`` is the row as the engine reads it, with the states that enter the cut. ``known`` are summed
    log-probabilities by frozen models, with the version of the model. Both are computed again where they are
    missing."""

    ids: list[int]
    before: int
    side: int = 0
    pair: int = -1
    weight: float = 1.0
    tag: int = 0
    id: str = ""
    prompt: Text = ""
    token_weights: list[float] | None = None
    given: dict[str, float] = field(default_factory=dict)
    marks: list[int] = field(default_factory=list)
    reading: trunk.Row | None = field(default=None, repr=False)
    known: dict[str, tuple[int, float]] = field(default_factory=dict, repr=False)

    @property
    def response(self) -> list[int]:
        return self.ids[self.before :]

    @property
    def places(self) -> list[int]:
        """Where in ``ids`` the tokens are that count. Nothing predicts the first token of all, so it never
        does."""
        first = max(self.before, 1)
        if self.token_weights is None:
            return list(range(first, len(self.ids)))
        return [place for place in range(first, len(self.ids)) if self.token_weights[place - self.before]]

    @property
    def weights(self) -> list[float]:
        """The weights of the tokens that count, in the order of ``places``: 1 where the row has none."""
        if self.token_weights is None:
            return [1.0] * len(self.places)
        return [self.token_weights[place - self.before] for place in self.places]

    def read(self) -> trunk.Row:
        """The row as the engine reads it."""
        if self.reading is None:
            self.reading = trunk.Row(torch.tensor(self.ids), len(self.ids), len(self.ids))
        return self.reading

    def with_ids(self, ids: list[int], side: int) -> "Row":
        """The same row with other tokens, on a side of its own."""
        return replace(self, ids=ids, side=side, given={}, reading=None, known={})

    def plain(self) -> JsonObject:
        """What is kept of it in a file."""
        return {name: getattr(self, name) for name in SAVED}


@dataclass(frozen=True)
class EditRows:
    """A labelled edit as token ids: its prompt, and its two sides with their labels, cropped and ended alike.

    ``edited`` is the liked side: the edited response, or the chosen one where a recipe asks for that.
    """

    id: str
    prompt: Text
    prompt_ids: list[int]
    edited: list[int]
    edited_labels: list[int]
    rejected: list[int]
    rejected_labels: list[int]

    @property
    def changed(self) -> bool:
        return self.edited != self.rejected


def in_units(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows in units that stay together: those of a pair, and each of the others alone."""
    units: list[list[Row]] = []
    pairs: dict[int, list[Row]] = {}
    for row in rows:
        if row.pair in pairs:
            pairs[row.pair].append(row)
            continue
        unit = [row]
        units.append(unit)
        if row.pair >= 0:
            pairs[row.pair] = unit
    return units


def in_one(units: Iterable[Sequence[Row]]) -> list[Row]:
    """The rows of some units, in one list."""
    rows: list[Row] = []
    for unit in units:
        rows += unit
    return rows


def end_token(tokenizer: "PreTrainedTokenizerBase", prompt: Text) -> int | None:
    """The token that ends a response to a prompt: what closes a turn in the chat template, or end-of-text."""
    turn = None if isinstance(prompt, str) else turn_end(tokenizer)
    ending: Any = tokenizer.eos_token_id if turn is None else turn
    return ending


def cropped(ids: Sequence[int], limit: int, end: int | None) -> list[int]:
    """At most ``limit`` tokens of a response; the end token only behind one that really ended there."""
    ending = [end] if len(ids) < limit and end is not None else []
    return [*ids[:limit], *ending]


def edit_rows(
    records: Iterable[Labels],
    tokenizer: "PreTrainedTokenizerBase",
    max_response: int,
    pairs: str = "edited",
) -> list[EditRows]:
    """Labelled edits as token ids. ``pairs`` "chosen" takes the preferred response in place of the edited
    one. Raises UserError where an edit lacks it."""
    rows = []
    for record in records:
        rejected, edited = token_ids(record, tokenizer)
        labels = list(record.edited_labels)
        if pairs == "chosen":
            edited = chosen_ids(record, tokenizer)
            labels = [0] * len(edited)
        end = end_token(tokenizer, record.prompt)
        sides = []
        for ids, marks in ((edited, labels), (rejected, list(record.rejected_labels))):
            side = cropped(ids, max_response, end)
            marks = marks[: len(side)]
            sides.append((side, [*marks, *[0] * (len(side) - len(marks))]))
        rows.append(
            EditRows(record.id, record.prompt, encode_prompt(tokenizer, record.prompt), *sides[0], *sides[1])
        )
    return rows


def chosen_ids(record: Labels, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The token ids of the ``chosen`` response that an edit's pair had."""
    chosen = (record.model_extra or {}).get("chosen")
    if chosen is None:
        raise UserError(
            f"edit {record.id}: has no `chosen` response, which direct.pairs=chosen needs. Use pairs=edited."
        )
    return list(encode_response(tokenizer, record.prompt, chosen).ids)


def pair_of(edit: EditRows, number: int) -> tuple[Row, Row]:
    """An edit's liked and disliked row, as pair ``number``."""

    def row(side: int, ids: list[int]) -> Row:
        return Row(
            [*edit.prompt_ids, *ids], len(edit.prompt_ids), side, number, id=edit.id, prompt=edit.prompt
        )

    return row(1, edit.edited), row(-1, edit.rejected)


def feedback_rows(
    records: Iterable[Feedback], tokenizer: "PreTrainedTokenizerBase", max_response: int
) -> list[Row]:
    """Single responses that people liked or disliked."""
    rows = []
    for record in records:
        before = encode_prompt(tokenizer, record.prompt)
        ids = encode_response(tokenizer, record.prompt, record.response).ids
        response = cropped(ids, max_response, end_token(tokenizer, record.prompt))
        side = 1 if record.liked else -1
        rows.append(Row([*before, *response], len(before), side, id=record.id, prompt=record.prompt))
    return rows


def opening_size(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int], words: int) -> int:
    """How many of a response's first tokens make its first ``words`` words, or fewer where one token reaches
    into the next word. At least one token is left for the response."""
    text, offsets = token_offsets(tokenizer, list(ids))
    end, seen, inside = 0, 0, False
    for place, letter in enumerate(text):
        if letter.isspace():
            inside = False
        elif not inside:
            inside, seen = True, seen + 1
        if seen > words:
            break
        if inside:
            end = place + 1
    size = sum(1 for _, stop in offsets if stop <= end)
    return min(size, len(ids) - 1)


def with_opening(row: Row, size: int, tokenizer: "PreTrainedTokenizerBase") -> Row | None:
    """The same row whose first ``size`` response tokens count as its prompt; None where no token would be
    left."""
    if not 0 < size < len(row.response):
        return None
    before = row.before + size
    text = str(tokenizer.decode(row.ids[:before], skip_special_tokens=True))
    return Row(row.ids, before, row.side, row.pair, id=row.id, prompt=text)


def common_beginning(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two lists begin with in common."""
    size = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        size += 1
    return size


def undone(edit: EditRows, levels: int, seed: int) -> list[tuple[int, list[int]]]:
    """Answers between an edit's two sides: for each degree from 1 to ``levels - 1`` the edited side with so
    many of ``levels`` parts of its changes undone, in a seeded order.

    An edit of fewer changes gives fewer degrees; none is given twice, nor as a copy of either side.
    """
    ops = align(edit.rejected, edit.edited).ops
    changes = [place for place, op in enumerate(ops) if op.kind != "equal"]
    order = list(changes)
    random.Random(f"{seed} {edit.id}").shuffle(order)
    made: list[tuple[int, list[int]]] = []
    before = 0
    for degree in range(1, levels):
        count = round(degree * len(order) / levels)
        if count in (0, before, len(order)):
            continue
        before, undo = count, set(order[:count])
        ids: list[int] = []
        for place, op in enumerate(ops):
            if place in undo:
                ids += edit.rejected[op.start : op.end]
            else:
                ids += edit.edited[op.edited_start : op.edited_end]
        made.append((degree, ids))
    return made
