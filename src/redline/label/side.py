"""One side of an edit as tokens: which tokens begin a word, and between which of them a label may end."""

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

from redline.data.chat_template import Turn
from redline.data.tokenization import token_names
from redline.data.units import Span, Whole, unit_spans, whole_spans

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

SPACE_MARKS = "Ġ▁"  # by which byte-level BPE and SentencePiece write a space
SPACES = " \t\n\rĠ▁Ċĉč"  # white space as vocabularies write it
ENDS_OPEN = frozenset("0123456789.,\rč")  # last letters behind which a number or a line end may go on
GOES_ON = frozenset("0123456789.,\nĊ#")  # first letters that may go on with one; "#" is WordPiece's mark
# white space as byte-level BPE writes it; the rest of ASCII is itself
BYTE_LEVEL = (("Ġ", " "), ("Ċ", "\n"), ("ĉ", "\t"), ("č", "\r"))


class Vocabulary(NamedTuple):
    """What the strings of a vocabulary say, by token id.

    ``ends_open`` and ``goes_on``: in ASCII text a number or a line end goes on only from one to the other.
    The last two are None where the strings do not show spaces (WordPiece). ``is_byte_level``: the strings of
    an ASCII text's tokens spell the text, by ``BYTE_LEVEL``.
    """

    names: list[str]
    is_byte_level: bool
    ends_open: list[bool]
    goes_on: list[bool]
    begins_with_space: list[bool] | None
    ends_with_space: list[bool] | None


def vocabulary(tokenizer: "PreTrainedTokenizerBase") -> Vocabulary:
    """The vocabulary of a tokenizer, remembered for the last ones."""
    return _vocabulary(tokenizer, len(tokenizer))


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: "PreTrainedTokenizerBase", _: int) -> Vocabulary:
    names = token_names(tokenizer)
    first, last = [name[:1] for name in names], [name[-1:] for name in names]
    shows_spaces = any(letter in SPACE_MARKS for letter in first if letter)
    return Vocabulary(
        names,
        is_byte_level="Ġ" in first,
        ends_open=[letter in ENDS_OPEN for letter in last],
        goes_on=[letter in GOES_ON for letter in first],
        begins_with_space=[bool(letter) and letter in SPACES for letter in first] if shows_spaces else None,
        ends_with_space=[bool(letter) and letter in SPACES for letter in last] if shows_spaces else None,
    )


def sides(
    turns: Sequence[Turn], tokenizer: "PreTrainedTokenizerBase", whole: Whole, with_offsets: bool
) -> "list[Side]":
    """The responses as tokens, in order.

    Offsets cost the tokenizer a fifth of its time, and few edits need them. So a response whose tokens spell
    its text is tokenized without, unless ``with_offsets``.
    """
    known = vocabulary(tokenizer)
    texts = [turn.text[: turn.end] for turn in turns]
    spelled: list[int] = []  # places of the texts that their tokens spell
    others: list[int] = []
    for place, (text, turn) in enumerate(zip(texts, turns, strict=True)):
        if known.is_byte_level and text.isascii() and not turn.start and not with_offsets:
            spelled.append(place)
        else:
            others.append(place)
    sides_by_place: dict[int, Side] = {}
    # The tokenizer's own call comes first, also for nothing: it turns off padding that was set before.
    encoded = tokenizer([texts[place] for place in others] or [""], add_special_tokens=False)
    for place, encoding in zip(others, encoded.encodings, strict=False):
        sides_by_place[place] = Side(texts[place], turns[place].start, encoding, known, whole)
    backend = tokenizer.backend_tokenizer
    encodings = backend.encode_batch_fast([texts[place] for place in spelled], add_special_tokens=False)
    for place, encoding in zip(spelled, encodings, strict=True):
        sides_by_place[place] = Side(texts[place], 0, encoding, known, whole, backend.encode)
    return [sides_by_place[place] for place in range(len(turns))]


class Side:
    """The tokens of one response. Character offsets are looked up only where they are needed.

    ``start`` is where the responder's own text begins: what precedes it are marks of the chat template. An
    ``encoding`` without offsets comes with ``encode``, which makes one that has them.
    """

    def __init__(
        self,
        text: str,
        start: int,
        encoding: "Encoding",
        known: Vocabulary,
        whole: Whole,
        encode: "Callable[..., Encoding] | None" = None,
    ):
        self.text, self.ids = text, encoding.ids
        self._start, self._encoding, self._known, self._whole = start, encoding, known, whole
        self._encode = encode
        self._is_plain = text.isascii() and whole == "character"
        self._words: dict[int, frozenset[int]] = {}

    @cached_property
    def tokens(self) -> list[str]:
        """The vocabulary's own strings."""
        return list(map(self._known.names.__getitem__, self.ids))

    @property
    def offsets(self) -> list[Span]:
        """For each token the characters ``[start, end)`` that it stands for."""
        if self._encode is None:
            return list(self._encoding.offsets)
        return list(map(self._span, range(len(self.ids))))

    @cached_property
    def _span(self) -> Callable[[int], Span]:
        """The characters ``[start, end)`` of a token."""
        if self._encode is None:
            return self._encoding.token_to_chars  # type: ignore[return-value]  # None is for added marks
        spelled = "".join(self.tokens)
        for mark, letter in BYTE_LEVEL:
            spelled = spelled.replace(mark, letter)
        if spelled == self.text:
            return list(pairwise(accumulate(map(len, self.tokens), initial=0))).__getitem__
        return self._encode(self.text, add_special_tokens=False).token_to_chars  # type: ignore[return-value]

    def begins_word(self, place: int) -> bool:
        """Whether a word begins with this token: white space comes before it, or first in it."""
        known = self._known
        if not place:
            return True
        if known.begins_with_space is not None and known.ends_with_space is not None:
            return known.begins_with_space[self.ids[place]] or known.ends_with_space[self.ids[place - 1]]
        start = self._span(place)[0]
        return start == 0 or self.text[start - 1 : start].isspace() or self.text[start : start + 1].isspace()

    def may_end_before(self, place: int) -> bool:
        """Whether a label may end or begin before this token: not inside of a character, a number or, with
        ``label.whole: word``, a word."""
        if place in (0, len(self.ids)):
            return True
        if self._is_plain:
            known, before, behind = self._known, self.ids[place - 1], self.ids[place]
            if not (known.goes_on[behind] and known.ends_open[before]):
                return True
        start = self._span(place)[0]
        return not self._is_inside(start) and self._span(place - 1)[1] <= start

    def units_between(self, start: int, end: int, most: int) -> bool:
        """Whether tokens ``[start, end)`` hold at most so many units of text."""
        words = 0
        for place in range(start + 1, end):
            words += self.begins_word(place)
            if words > most:
                return False
        text = self.text[self._span(start)[0] : self._span(end - 1)[1]]
        return len(unit_spans(text)) <= most

    def labels(self, changed: list[Span], label: int) -> list[int]:
        """``label`` for the tokens of the changed runs ``[start, end)``; 0 for the others, and for marks of
        the chat template."""
        labels = [0] * len(self.ids)
        for start, end in changed:
            labels[start:end] = [label] * (end - start)
        if self._start:
            marks = sum(end <= self._start for _, end in self.offsets)
            labels[:marks] = [0] * marks
        return labels

    def _is_inside(self, place: int) -> bool:
        """Whether a place between two characters lies inside of what a label covers as a whole."""
        text = self.text
        if text[place : place + 1] == " ":
            return False
        start = max(text.rfind(" ", 0, place), 0)  # nothing that is whole goes on over a space
        if start not in self._words:
            end = text.find(" ", place)
            stretch = text[start : end if end >= 0 else len(text)]
            inner: set[int] = set()
            for span_start, span_end in whole_spans(stretch, self._whole):
                inner.update(range(start + span_start + 1, start + span_end))
            self._words[start] = frozenset(inner)
        return place in self._words[start]
