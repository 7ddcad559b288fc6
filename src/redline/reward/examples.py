"""Labelled edits as token ids, and the rows in which a model reads them: two sides apart, or in one row that
forks."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from redline.console import say
from redline.data.records import Labels
from redline.engine.trunk import Row
from redline.errors import UserError
from redline.reward.settings import Reward

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class Side:
    """One response after its prompt: token ids ``[P + R]``, the prompt's size P, and labels ``[R]``."""

    ids: Tensor
    prompt_size: int
    labels: Tensor


@dataclass
class Example:
    """An edit: the better response (edited, or chosen) and the worse (rejected).

    ``rows`` are what a model reads of it, one or two; ``places`` where each side's response lies: the row,
    and the columns ``[R]``.
    """

    id: str
    better: Side
    worse: Side
    rows: list[Row] = field(init=False, repr=False)
    places: list[tuple[int, Tensor]] = field(init=False, repr=False)

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.better, self.worse

    @property
    def cost(self) -> int:
        """Tokens that a pass computes for it, padding between its rows included."""
        return len(self.rows) * max(len(row.ids) for row in self.rows)

    def lay_out(self, joint: bool) -> None:
        """Arrange the two sides in rows: one each, or ``joint`` in one, where what they begin with stands
        once.

        A causal model has the same states for the same beginning, so both ways have equal losses and
        gradients.
        """
        better = torch.arange(self.better.prompt_size, len(self.better.ids))
        worse = torch.arange(self.worse.prompt_size, len(self.worse.ids))
        if not joint:
            self.rows = [Row(side.ids, len(side.ids), len(side.ids)) for side in self.sides]
            self.places = [(0, better), (1, worse)]
            return
        fork, second = common_prefix(self.better.ids, self.worse.ids), len(self.better.ids)
        self.rows = [Row(torch.cat([self.better.ids, self.worse.ids[fork:]]), fork, second)]
        worse_in_row = torch.where(worse < fork, worse, worse - fork + second)
        self.places = [(0, better), (0, worse_in_row)]


def common_prefix(first: Tensor, second: Tensor) -> int:
    """How many tokens two sequences have in common before they first differ."""
    size = min(len(first), len(second))
    differ = (first[:size] != second[:size]).nonzero()
    if len(differ):
        return int(differ[0])
    return size


def checksum(edits: Iterable[Example]) -> int:
    """A number that tells one list of edits from another: of their tokens and labels, in order."""
    crc = 0
    for example in edits:
        for side in example.sides:
            crc = zlib.crc32(side.ids.numpy().tobytes(), crc)
            crc = zlib.crc32(side.labels.numpy().tobytes(), crc)
    return crc


def examples(
    records: Iterable[Labels], tokenizer: "PreTrainedTokenizerBase", recipe: Reward, max_response: int
) -> list[Example]:
    """Labelled edits as token ids. Left out, and said, are edits with an empty side; for a sequence model
    also those that change nothing, which teach it nothing."""
    from redline.data.tokenization import encode_prompt, encode_response, token_ids

    encoded, left_out = [], 0
    for record in records:
        prompt = encode_prompt(tokenizer, record.prompt)
        rejected, edited = token_ids(record, tokenizer)
        labels = record.edited_labels
        if recipe.kind == "sequence" and recipe.pairs == "chosen":
            chosen = (record.model_extra or {}).get("chosen")
            if chosen is None:
                raise UserError(
                    f"edit {record.id}: has no `chosen` response, which reward.pairs=chosen needs. Use "
                    "pairs=edited."
                )
            edited = list(encode_response(tokenizer, record.prompt, chosen)[1])
            labels = [0] * len(edited)
        if not rejected or not edited or (recipe.kind == "sequence" and rejected == edited):
            left_out += 1
            continue
        better = _side(prompt, edited, labels, max_response)
        worse = _side(prompt, rejected, record.rejected_labels, max_response)
        encoded.append(Example(record.id, better, worse))
    if left_out:
        say(
            f"{left_out} of {left_out + len(encoded)} edits are left out: a side is empty, or (for sequence "
            "models) both are the same"
        )
    return encoded


def _side(prompt: list[int], response: list[int], labels: list[int], max_response: int) -> Side:
    """A response of at most ``max_response`` tokens after its prompt."""
    ids = torch.tensor(prompt + response[:max_response])
    return Side(ids, len(prompt), torch.tensor(labels[:max_response]))
