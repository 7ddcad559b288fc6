"""Edits to labels: the stage behind ``redline label``."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from redline.console import print_json, track
from redline.data.chat_template import CannotRender, Turn, lost
from redline.data.check import Rejects
from redline.data.files import check_apart, explain, write_jsonl
from redline.data.read import read, read_files
from redline.data.records import Edit, Labels, Text, as_text
from redline.data.settings import Source
from redline.data.tokenization import WHITESPACE, encode_prompt, fingerprint, load_tokenizer, response_turn
from redline.errors import UserError
from redline.label.invisible import kinds, normalised
from redline.label.settings import Label
from redline.label.tokens import Sides, labelled_tokens, labelled_words
from redline.types import JsonObject

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 64  # edits tokenized at once
SAME_TOKENS = "no changed token: both sides are the same to this tokenizer"
BEFORE = (
    "the chat template writes something before the answer ({text}): labels begin at the answer, and say "
    "nothing of it"
)
INVISIBLE = "differ in what nobody sees: {kind} (`label.invisible: normalise` takes it out)"
OverLong = Literal["crop", "reject"]


def label_file(
    source: Source,
    out: Path | str,
    tokenizer: "str | PreTrainedTokenizerBase",
    settings: Label | None = None,
    *,
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
    rejects = _write_labels(
        source,
        out,
        tokenizer,
        settings,
        max_response_tokens=max_response_tokens,
        max_prompt_tokens=max_prompt_tokens,
        over_long=over_long,
        trust_remote_code=trust_remote_code,
        keep_unchanged=keep_unchanged,
    )
    return rejects.kept


def _write_labels(
    source: Source,
    out: Path | str,
    tokenizer: "str | PreTrainedTokenizerBase",
    settings: Label | None,
    *,
    max_response_tokens: int | None,
    keep_unchanged: bool,
    max_prompt_tokens: int | None = None,
    over_long: OverLong = "crop",
    trust_remote_code: bool = False,
) -> Rejects:
    """Do what ``label_file`` says; returns the counts."""
    check_apart([out], read_files(source))
    if isinstance(tokenizer, str) and tokenizer != WHITESPACE:
        tokenizer = load_tokenizer(tokenizer, trust_remote_code)
    with Rejects.beside(out) as rejects:
        made = label_edits(
            read(source, Edit, rejects, keep_unchanged=keep_unchanged),
            tokenizer,
            settings,
            max_response_tokens=max_response_tokens,
            over_long=over_long,
            max_prompt_tokens=max_prompt_tokens,
            rejects=rejects,
            file=source.name,
        )
        rejects.kept = write_jsonl(out, track(made, "label"))
        rejects.report(str(out))
    if not rejects.kept:
        raise UserError(f"{source.name}: no edit could be labelled ({rejects.summary()}).")
    return rejects


def label_command(
    source: Source,
    out: Path,
    tokenizer: str,
    settings: JsonObject,
    max_response_tokens: int | None,
    keep_unchanged: bool,
    chat_template: str | None = None,
    as_json: bool = False,
) -> None:
    """``redline label``: ``settings`` are the keys of the recipe's section, from the command line;
    ``chat_template`` a file that takes the place of the tokenizer's own; ``as_json`` prints the counts."""
    try:
        label = Label.model_validate(settings)
    except ValidationError as error:
        option, _, what = explain(error).partition(": ")
        raise UserError(f"--{option}: {what}.") from error
    with_template = load_tokenizer(tokenizer, chat_template=chat_template) if chat_template else tokenizer
    rejects = _write_labels(
        source,
        out,
        with_template,
        label,
        max_response_tokens=max_response_tokens,
        keep_unchanged=keep_unchanged,
    )
    if as_json:
        print_json({"out": str(out)} | rejects.as_json())


def label_edits(
    edits: Iterable[Edit],
    tokenizer: "PreTrainedTokenizerBase | str",
    settings: Label | None = None,
    *,
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
    left out (``reject``), as is one with a longer prompt than ``max_prompt_tokens``, and one that changes no
    token that is kept. Edits whose two sides are the same text are labelled, all 0.
    """
    if isinstance(tokenizer, str) and tokenizer != WHITESPACE:
        tokenizer = load_tokenizer(tokenizer)
    rejects = Rejects() if rejects is None else rejects
    labeller = _Labeller(
        tokenizer, settings or Label(), max_response_tokens, over_long, max_prompt_tokens, rejects, file
    )
    edits = iter(edits)
    while batch := list(islice(edits, BATCH)):
        yield from labeller.label(batch)


class _Labeller:
    """Labels batches of edits; what it leaves out goes to ``rejects``."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase | str",
        settings: Label,
        max_response: int | None,
        over_long: OverLong,
        max_prompt: int | None,
        rejects: Rejects,
        file: str,
    ):
        self._tokenizer, self._settings, self._rejects, self._file = tokenizer, settings, rejects, file
        self._max_response, self._over_long, self._max_prompt = max_response, over_long, max_prompt
        self._name = WHITESPACE if isinstance(tokenizer, str) else fingerprint(tokenizer)

    def label(self, batch: list[Edit]) -> Iterator[Labels]:
        for edit, sides in self._sides(list(self._seen(batch))):
            if reason := self._reason_to_leave_out(edit, sides):
                self._rejects.add(reason, self._file, None, edit)
            else:
                yield self._record(edit, sides)

    def _seen(self, batch: list[Edit]) -> Iterator[Edit]:
        """The edits as their readers see them, where that is asked for; else the edits, with a warning."""
        for edit in batch:
            if self._settings.invisible == "keep":
                for kind in kinds(as_text(edit.rejected), as_text(edit.edited)):
                    self._rejects.warn(INVISIBLE.format(kind=kind))
                yield edit
                continue
            sides = {"rejected": _normalised(edit.rejected), "edited": _normalised(edit.edited)}
            visible = edit.model_copy(update=sides)
            if _same(visible) and not _same(edit):
                self._rejects.add("nothing changed that anybody sees", self._file, None, edit)
            else:
                yield visible

    def _sides(self, edits: list[Edit]) -> Iterator[tuple[Edit, Sides]]:
        tokenizer = self._tokenizer
        if isinstance(tokenizer, str):
            for edit in edits:
                yield edit, labelled_words(as_text(edit.rejected), as_text(edit.edited), self._settings)
            return
        usable, turns = [], []
        for edit in edits:
            try:
                both = [response_turn(tokenizer, edit.prompt, side) for side in (edit.rejected, edit.edited)]
                if self._max_prompt is not None:
                    self._check_prompt(len(encode_prompt(tokenizer, edit.prompt)), self._max_prompt)
            except CannotRender as error:
                self._rejects.add(str(error), self._file, None, edit)
                continue
            usable.append(edit)
            turns += both
            self._note_what_stands_before(edit, both[1])
            self._note_what_is_lost(edit, both)
        if usable:
            yield from zip(usable, labelled_tokens(turns, tokenizer, self._settings), strict=True)

    def _note_what_stands_before(self, edit: Edit, turn: Turn) -> None:
        """An empty thought or a channel, which the template puts in front of each answer."""
        before = turn.text[: turn.start].strip()
        if before and isinstance(edit.edited, str) and before not in edit.edited:
            self._rejects.note(BEFORE.format(text=" ".join(before.split())))

    def _note_what_is_lost(self, edit: Edit, turns: list[Turn]) -> None:
        """White space or a thought that the template leaves out."""
        losses = [lost(turn, side) for turn, side in zip(turns, (edit.rejected, edit.edited), strict=True)]
        for loss in dict.fromkeys(losses):
            if loss is not None:
                self._rejects.note(loss)

    @staticmethod
    def _check_prompt(size: int, most: int) -> None:
        if size > most:
            raise CannotRender(f"prompt longer than {most} tokens")

    def _reason_to_leave_out(self, edit: Edit, sides: Sides) -> str | None:
        most = self._max_response
        is_long = most is not None and max(len(sides.rejected), len(sides.edited)) > most
        if is_long and self._over_long == "reject":
            return f"response longer than {most} tokens"
        if any(sides.rejected_labels[:most]) or any(sides.edited_labels[:most]):
            return None
        if is_long and (any(sides.rejected_labels) or any(sides.edited_labels)):
            return f"no changed token among the first {most}"
        return None if _same(edit) else SAME_TOKENS

    def _record(self, edit: Edit, sides: Sides) -> Labels:
        size = self._max_response
        carried: JsonObject = dict(edit.model_extra or {})
        for name in ("prompt", "editor", "chosen"):
            if name in edit.model_fields_set:
                carried[name] = getattr(edit, name)
        carried |= {
            "id": edit.id,
            "rejected_tokens": sides.rejected[:size],
            "rejected_labels": sides.rejected_labels[:size],
            "edited_tokens": sides.edited[:size],
            "edited_labels": sides.edited_labels[:size],
            "tokenizer": self._name,
        }
        # Made here from checked parts: validating each label again would double the time.
        return Labels.model_construct(**carried)


def _same(edit: Edit) -> bool:
    return as_text(edit.rejected).strip() == as_text(edit.edited).strip()


def _normalised(text: Text) -> Text:
    if isinstance(text, str):
        return normalised(text)
    messages = []
    for message in text:
        if isinstance(message.get("content"), str):
            message = message | {"content": normalised(message["content"])}
        messages.append(message)
    return messages
