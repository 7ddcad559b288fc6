"""Edits to labels: the stage behind ``redline label``."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from redline.console import track
from redline.data.alignment import align, labels, word_spans
from redline.data.chat_template import CannotRender, Turn
from redline.data.check import Rejects
from redline.data.files import check_apart, write_jsonl
from redline.data.read import read
from redline.data.records import Edit, Labels, as_text
from redline.data.settings import Source, assignments
from redline.data.tokenization import (
    WHITESPACE,
    encode_prompt,
    fingerprint,
    load_tokenizer,
    response_turn,
    token_names,
)
from redline.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 64  # edits tokenized at once
Unit = Literal["token", "word"]
OverLong = Literal["crop", "reject"]
Side = tuple[list[str], list[int]]  # tokens and their labels


def label_file(
    source: Source,
    out: Path | str,
    tokenizer: "str | PreTrainedTokenizerBase",
    *,
    unit: Unit = "token",
    max_response_tokens: int | None = None,
    max_prompt_tokens: int | None = None,
    over_long: OverLong = "crop",
    trust_remote_code: bool = False,
    keep_unchanged: bool = False,
) -> int:
    """Label the edits of ``source`` into the file ``out``; what is left out goes to <out>.rejects.jsonl.
    Returns the number.

    ``tokenizer`` is one, or a model's name or folder, or "whitespace". Raises UserError when no edit could be
    labelled, or ``out`` is the file of the edits.
    """
    check_apart([out], [source.path])
    if isinstance(tokenizer, str) and tokenizer != WHITESPACE:
        tokenizer = load_tokenizer(tokenizer, trust_remote_code)
    with Rejects.beside(out) as rejects:
        edits = read(source, Edit, rejects, keep_unchanged=keep_unchanged)
        made = label_edits(
            edits, tokenizer, unit, max_response_tokens, over_long, max_prompt_tokens, rejects, source.path
        )
        count = write_jsonl(out, track(made, "label"))
        rejects.kept = count
        rejects.report(str(out))
    if not count:
        raise UserError(f"{source.path}: no edit could be labelled ({rejects.summary()}).")
    return count


def label_command(
    edits: str,
    out: Path,
    tokenizer: str,
    columns: list[str] | None,
    split: str,
    unit: str,
    max_response_tokens: int | None,
    keep_unchanged: bool,
) -> None:
    """``redline label``: options as the command line gives them."""
    source = Source(path=edits, split=split, columns=assignments(columns, "--columns"))
    if unit not in ("token", "word"):
        raise UserError(f"--unit {unit}: is neither token nor word.")
    label_file(
        source,
        out,
        tokenizer,
        unit="word" if unit == "word" else "token",
        max_response_tokens=max_response_tokens,
        keep_unchanged=keep_unchanged,
    )


def label_edits(
    edits: Iterable[Edit],
    tokenizer: "PreTrainedTokenizerBase | str",
    unit: Unit = "token",
    max_response_tokens: int | None = None,
    over_long: OverLong = "crop",
    max_prompt_tokens: int | None = None,
    rejects: Rejects | None = None,
    file: str = "",
) -> Iterator[Labels]:
    """Labels of each edit, streamed: -1 on deleted and replaced rejected tokens, +1 on inserted and replacing
    edited ones.

    ``tokenizer`` is one, or a model's name or folder, or "whitespace", which takes the words themselves. Of a
    response longer than ``max_response_tokens`` the first so many labels are kept (``crop``), or the edit is
    left out (``reject``), as is one with a longer prompt than ``max_prompt_tokens``.
    """
    rejects = Rejects() if rejects is None else rejects
    edits = iter(edits)
    batches = iter(lambda: list(islice(edits, BATCH)), [])
    sides: Iterator[tuple[Edit, Side, Side]]
    if isinstance(tokenizer, str) and tokenizer != WHITESPACE:
        tokenizer = load_tokenizer(tokenizer)
    if isinstance(tokenizer, str):
        sides = ((edit, *_label_words(edit)) for batch in batches for edit in batch)
        name = WHITESPACE
    else:
        sides = _label_batches(batches, tokenizer, unit, max_prompt_tokens, rejects, file)
        name = fingerprint(tokenizer)
    for edit, rejected, edited in sides:
        longest = max(len(rejected[0]), len(edited[0]))
        if max_response_tokens is not None and longest > max_response_tokens and over_long == "reject":
            rejects.add(f"response longer than {max_response_tokens} tokens", file, None, edit)
            continue
        yield _record(edit, rejected, edited, name, max_response_tokens)


def _record(edit: Edit, rejected: Side, edited: Side, tokenizer: str, size: int | None) -> Labels:
    kept: dict[str, Any] = dict(edit.model_extra or {})
    kept |= {
        name: getattr(edit, name) for name in ("prompt", "editor", "chosen") if name in edit.model_fields_set
    }
    kept |= {
        "id": edit.id,
        "rejected_tokens": rejected[0][:size],
        "rejected_labels": rejected[1][:size],
        "edited_tokens": edited[0][:size],
        "edited_labels": edited[1][:size],
        "tokenizer": tokenizer,
    }
    return Labels.model_construct(
        **kept
    )  # made here from checked parts: validating each label again would double the time


def _label_words(edit: Edit) -> tuple[Side, Side]:
    rejected, edited = as_text(edit.rejected).split(), as_text(edit.edited).split()
    rejected_labels, edited_labels = labels(align(rejected, edited))
    return (rejected, rejected_labels), (edited, edited_labels)


def _label_batches(
    batches: Iterable[list[Edit]],
    tokenizer: "PreTrainedTokenizerBase",
    unit: Unit,
    max_prompt_tokens: int | None,
    rejects: Rejects,
    file: str,
) -> Iterator[tuple[Edit, Side, Side]]:
    names = token_names(tokenizer)
    for batch in batches:
        usable: list[Edit] = []
        turns: list[Turn] = []
        for edit in batch:
            try:
                both = [response_turn(tokenizer, edit.prompt, side) for side in (edit.rejected, edit.edited)]
                if (
                    max_prompt_tokens is not None
                    and len(encode_prompt(tokenizer, edit.prompt)) > max_prompt_tokens
                ):
                    raise CannotRender(f"prompt longer than {max_prompt_tokens} tokens")
            except CannotRender as error:
                rejects.add(str(error), file, None, edit)
                continue
            usable.append(edit)
            turns += both
        if not usable:
            continue
        texts = [turn.text[: turn.end] for turn in turns]
        encoded: Any = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)
        for place, edit in enumerate(usable):
            one, other = (
                _Side(texts[k], turns[k].start, encoded["input_ids"][k], encoded.encodings[k])
                for k in (2 * place, 2 * place + 1)
            )
            if unit == "token":
                one_labels, other_labels = labels(
                    align(one.ids, other.ids, one.starts_word, other.starts_word)
                )
            else:
                one_labels, other_labels = _carried(one, other)
            yield (
                edit,
                ([names[token] for token in one.ids], one.own(one_labels)),
                ([names[token] for token in other.ids], other.own(other_labels)),
            )


class _Side:
    """One tokenized response of a batch; offsets are looked up where they are needed, which is seldom."""

    def __init__(self, text: str, start: int, ids: list[int], encoding: Any):
        self.text, self._start, self.ids, self._encoding = text, start, ids, encoding

    def own(self, labels: list[int]) -> list[int]:
        """The labels, 0 for tokens before the assistant's own text: marks of the chat template."""
        marks = sum(end <= self._start for _, end in self.offsets) if self._start else 0
        return [0] * marks + labels[marks:]

    def starts_word(self, place: int) -> bool:
        start: int = self._encoding.token_to_chars(place)[0]
        return start == 0 or self.text[start - 1 : start].isspace() or self.text[start : start + 1].isspace()

    @property
    def offsets(self) -> list[tuple[int, int]]:
        return list(self._encoding.offsets[: len(self.ids)])


def _carried(one: _Side, other: _Side) -> tuple[list[int], list[int]]:
    """Labels of words and punctuation marks, carried to the tokens that share a character with a changed
    one."""
    spans, other_spans = word_spans(one.text), word_spans(other.text)
    script = align(
        [one.text[start:end] for start, end in spans], [other.text[start:end] for start, end in other_spans]
    )
    word_labels, other_labels = labels(script)
    return carry(spans, word_labels, one.offsets), carry(other_spans, other_labels, other.offsets)


def carry(spans: list[tuple[int, int]], span_labels: list[int], offsets: list[tuple[int, int]]) -> list[int]:
    """A label for each token: that of the first labelled span it shares a character with, else 0. All sorted
    by start."""
    changed = [(start, end, label) for (start, end), label in zip(spans, span_labels, strict=True) if label]
    out = []
    first = 0
    for start, end in offsets:
        while first < len(changed) and changed[first][1] <= start:
            first += 1
        out.append(changed[first][2] if first < len(changed) and changed[first][0] < end else 0)
    return out
