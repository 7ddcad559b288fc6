"""Rewards move between tokenizers, and from a user's spans to tokens, by character offsets. Pure
functions."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from redline.data.records import Text
from redline.data.tokenization import leading_space

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
CONTEXT = 16  # tokens that a decoder needs before one to give it the text that it has behind all of them
# SentencePiece's name for a byte: one that is wrong makes all of a run of them unreadable
BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def response_offsets(
    tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int], prompt: Text
) -> tuple[str, list[Span]]:
    """``token_offsets`` of a response; behind a prompt of text, with the space that it begins with."""
    text, offsets = token_offsets(tokenizer, ids)
    if not isinstance(prompt, str) or not leading_space(tokenizer, ids):
        return text, offsets
    moved = [(start + 1, end + 1) for start, end in offsets]
    return f" {text}", [(0, moved[0][1]), *moved[1:]]


def token_offsets(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> tuple[str, list[Span]]:
    """The text of sampled token ids and the characters ``[start, end)`` of each token.

    Sampled ids need not be how the tokenizer would split their text, so the text is never tokenized again:
    offsets come from decoding ever longer prefixes, of which only the last tokens are decoded again. Special
    tokens have empty spans. Of the tokens that together make one character (emoji, Korean), the last one has
    it.
    """

    def decode(part: Sequence[int]) -> str:
        return str(tokenizer.decode(list(part), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def ends_bytes(token: int) -> bool:  # a run goes on behind tokens without text
        return not BYTE.fullmatch(str(tokenizer.convert_ids_to_tokens(token))) and decode([token]) != ""

    text, offsets, end = decode(ids), [], 0
    first = 0  # the first of the tokens that are decoded again
    before = 0  # characters of the text in front of theirs
    for size in range(1, len(ids) + 1):
        part = decode(ids[first:size])
        readable = len(text)
        if size < len(ids):
            readable = before + len(part.rstrip("\ufffd"))
        start, end = end, max(end, readable)
        offsets.append((start, end))
        if size - first > 3 * CONTEXT:
            last = ids[size - CONTEXT : size]
            context = decode(last)
            # not in the middle of a character, nor where the text begins, nor in a run of bytes that the next
            # may make unreadable
            if context and context[-1] != "\ufffd" and any(ends_bytes(token) for token in last):
                first, before = size - CONTEXT, before + len(part) - len(context)
    return text, offsets


def carry(rewards: Tensor, source: Sequence[Span], target: Sequence[Span]) -> Tensor:
    """Rewards ``[S]`` on spans ``source`` -> rewards ``[T]`` on spans ``target`` of the same text; the total
    stays the same.

    A span's reward goes to the target tokens that share characters with it, in proportion to how many. A span
    that meets none (it is empty, or covers characters that no token has) gives its reward to the first token
    ending after its start, else to the last. Raises ValueError when there is something to carry and no token
    to carry it to.
    """
    carried = torch.zeros(len(target), dtype=rewards.dtype)
    first = 0  # both lists ascend: targets before this one end before the source span starts
    for reward, (start, end) in zip(rewards, source, strict=True):
        while first < len(target) - 1 and target[first][1] <= start:
            first += 1
        shares = []
        for index in range(first, len(target)):
            if target[index][0] >= max(end, start + 1):
                break
            overlap = min(end, target[index][1]) - max(start, target[index][0])
            if overlap > 0:
                shares.append((index, overlap))
        if not shares:
            if not len(target):
                raise ValueError("there is no token to carry a reward to")
            shares = [(first, 1)]
        total = sum(overlap for _, overlap in shares)
        for index, overlap in shares:
            carried[index] += reward * overlap / total
    return carried
