"""Edits, labels and scores in the terminal, in colour; with marks such as [-old-]{+new+} where there is no
colour."""

import math
import re
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text as Line

from redline.data.alignment import align
from redline.data.check import Rejects
from redline.data.files import explain
from redline.data.read import read
from redline.data.records import Edit, Labels, Pair, Prompt, Record, Response, Scores, Text, as_text
from redline.data.rows import rows
from redline.data.settings import Source
from redline.data.units import unit_spans
from redline.errors import UserError
from redline.types import Json, JsonObject

R = TypeVar("R", bound=Record)
Pieces = Iterator[tuple[str, str]]  # (style, text); style "" is unchanged
DELETED, INSERTED = "red strike", "green underline"
STYLES = {-1: DELETED, 0: "", 1: INSERTED}  # of labels
MARKS = {DELETED: ("[-", "-]"), INSERTED: ("{+", "+}")}  # where there is no colour


class Verdict(Record):
    """Two compared responses, and the judge's preference for the first; None without a verdict."""

    a: Text
    b: Text
    preference: float | None = None


class LeftOut(Record):
    """A record that was left out, and why."""

    reason: str


KINDS: tuple[tuple[set[str], type[Record]], ...] = (
    ({"rejected_labels", "edited_labels"}, Labels),
    ({"text", "offsets", "rewards"}, Scores),
    ({"rejected", "edited"}, Edit),
    ({"rejected", "gate", "why"}, LeftOut),
    ({"reason", "record"}, LeftOut),
    ({"a", "b", "prompt"}, Verdict),
    ({"chosen", "rejected"}, Pair),
    ({"prompt", "response"}, Response),
    ({"prompt"}, Prompt),
)
KNOWN = "edits, labels, scores, pairs, prompts, responses, verdicts or what was left out"


class _Shown(Rejects):
    """What cannot be read, printed where it stands."""

    def __init__(self, console: Console):
        super().__init__()
        self._console = console

    def add(self, reason: str, file: str, line: int | None, record: Json) -> None:
        super().add(reason, file, line, record)
        print_safe(self._console, [("bold red", f"{file}, line {line}: {reason}")])


def show_file(source: Source | Path | str, limit: int = 10, console: Console | None = None) -> None:
    """Print the first ``limit`` records of a source of edits, labels or scores; which it is, their keys say.

    A record that cannot be read is named and skipped. Raises UserError when the source holds none of the
    three.
    """
    console = console or Console(highlight=False)
    if not isinstance(source, Source):
        source = Source(path=str(source))
    is_mapped = bool(source.columns) or source.format != "auto"
    if not is_mapped and _kind_of(source) is not Edit:
        _show_our_own(source, limit, console)
        return
    shown = _Shown(console)
    for edit in read(source.model_copy(update={"limit": limit}), Edit, shown, keep_unchanged=True):
        _show(edit, console)


def _kind_of(source: Source) -> type[Record] | None:
    """What the first row that can be read is."""
    for row in rows(source):
        if not row.problem:
            return _kind_by_keys(row.values)
    return None


def _kind_by_keys(values: Any) -> type[Record] | None:
    """The first kind of record whose keys are all there."""
    for keys, kind in KINDS:
        if keys <= set(values):
            return kind
    return None


def _show_our_own(source: Source, limit: int, console: Console) -> None:
    for row in islice(rows(source), limit):
        heading = f"{row.file}, line {row.line}"
        if row.problem or not isinstance(row.values, dict):
            print_safe(console, [("bold red", f"{heading}: {row.problem}")])
            continue
        kind = _kind_by_keys(row.values)
        if kind is None:
            raise UserError(
                f"{heading}: none of what is shown here ({KNOWN}). Its keys: "
                f"{', '.join(map(str, row.values))}."
            )
        try:
            record = kind.model_validate(_plain(kind, row.values, row.line))
        except ValidationError as error:
            print_safe(console, [("bold red", f"{heading}: {explain(error)}")])
            continue
        _show(record, console)


def _plain(kind: type[Record], row: JsonObject, line: int | None) -> JsonObject:
    """A row as its kind of record; what was left out lies in one of its keys, or beside its reason."""
    if kind is LeftOut and "why" in row:
        row = {**row, "reason": f"{row['gate']}: {row['why']}"}
    elif kind is LeftOut and isinstance(row.get("record"), dict):
        row = {**row["record"], "reason": str(row["reason"])}
    row = {"id": str(line), "prompt": "", **row}
    return {**row, "id": str(row["id"])}


def _show(record: Record, console: Console) -> None:
    more = record.model_extra or {}
    sides = [str(more[key]) for key in ("set", "side", "system") if key in more]
    heading = f"{record.id}  "
    if sides:
        heading += f"({' '.join(sides)})  "
    print_safe(console, [("bold", heading), ("dim", _short(getattr(record, "prompt", "")))])
    for pieces in _pieces(record):
        print_safe(console, pieces)
    console.print()


def _pieces(record: Record) -> Iterable[Pieces]:
    if isinstance(record, Labels):
        return _label_pieces(record)
    if isinstance(record, Scores):
        return [_score_pieces(record)]
    if isinstance(record, LeftOut):
        return [iter([("bold red", record.reason)])]
    if isinstance(record, Verdict):
        return [iter([("", line)]) for line in _verdict_lines(record)]
    if isinstance(record, Pair):
        sides = {"chosen": record.chosen, "rejected": record.rejected}
        return [iter([("dim", f"{name}  "), ("", as_text(text))]) for name, text in sides.items()]
    if isinstance(record, Response):
        return [iter([("", as_text(record.response))])]
    if isinstance(record, Prompt):
        return []
    assert isinstance(record, Edit)
    return [diff(as_text(record.rejected), as_text(record.edited))]


def _verdict_lines(record: Verdict) -> list[str]:
    names = (record.model_extra or {}).get("systems") or ["a", "b"]
    verdict = "no verdict"
    if record.preference is not None:
        verdict = f"preference for {names[0]}: {record.preference:g}"
    return [f"{names[0]}  {as_text(record.a)}", f"{names[1]}  {as_text(record.b)}", verdict]


def _with_space_before(text: str) -> list[str]:
    """The units of a text, each with the white space before it; white space at the end stands alone."""
    pieces, done = [], 0
    for _, end in unit_spans(text):
        pieces.append(text[done:end])
        done = end
    if done < len(text):
        pieces.append(text[done:])
    return pieces


def diff(rejected: str, edited: str) -> Pieces:
    """Pieces of the difference in units of text, in reading order: what was deleted before what was inserted
    in its place."""
    before, after = _with_space_before(rejected), _with_space_before(edited)
    for op in align([piece.strip() for piece in before], [piece.strip() for piece in after]).ops:
        old, new = "".join(before[op.start : op.end]), "".join(after[op.edited_start : op.edited_end])
        if op.kind == "equal":
            yield "", new
        else:
            yield DELETED, old
            yield INSERTED, new


def _label_pieces(record: Labels) -> Iterator[Pieces]:
    sides = ((record.rejected_tokens, record.rejected_labels), (record.edited_tokens, record.edited_labels))
    for name, (tokens, labels) in zip(("rejected", "edited"), sides, strict=True):
        if len(tokens) != len(labels):
            raise UserError(
                f"labels of record {record.id}: {len(tokens)} {name} tokens but {len(labels)} labels."
            )
        yield _runs(tokens, labels, record.tokenizer == "whitespace")


def _runs(tokens: list[str], labels: list[int], spaced: bool) -> Pieces:
    place = 0
    for label, run in groupby(labels):
        size = len(list(run))
        text = readable(tokens[place : place + size], spaced)
        if spaced and place:
            text = " " + text
        yield STYLES.get(label, ""), text
        place += size


def _score_pieces(record: Scores) -> Pieces:
    """Each token on a scale from red over white to green; the record's largest reward in size is full
    colour."""
    if len(record.offsets) != len(record.rewards):
        raise UserError(
            f"scores of record {record.id}: {len(record.offsets)} offsets but {len(record.rewards)} rewards."
        )
    sizes = [abs(reward) for reward in record.rewards if math.isfinite(reward)]
    largest = max(sizes, default=0.0) or 1.0
    done = 0
    for (start, end), reward in zip(record.offsets, record.rewards, strict=True):
        yield "", record.text[done:start]
        yield f"black on {_shade(reward, largest)} {reward:+.2f}", record.text[max(start, done) : end]
        done = max(done, end)
    yield "", record.text[done:]


def _shade(reward: float, largest: float) -> str:
    """The colour of a reward: white at 0, red below, green above."""
    pale = 255
    if not math.isnan(reward):
        pale -= round(155 * min(abs(reward) / largest, 1.0))
    return f"rgb(255,{pale},{pale})" if reward < 0 else f"rgb({pale},255,{pale})"


def print_safe(console: Console, pieces: Iterable[tuple[str, str]]) -> None:
    """Print pieces on one line of output, coloured or marked; nothing in them is read as markup or terminal
    commands."""
    line = Line()
    for style, raw in pieces:
        text = visible(raw)
        if not text:
            continue
        style, _, reward = style.partition(") ")
        if console.is_terminal and console.color_system:
            line.append(text, style + ")" if reward else style)
        elif reward:
            line.append(f"{text}({reward})")
        else:
            left, right = MARKS.get(style, ("", ""))
            blank = ""
            if left and text.strip():
                blank = text[: len(text) - len(text.lstrip())]
            line.append(blank + left + text[len(blank) :] + right)
    console.print(line, soft_wrap=True, highlight=False, markup=False, emoji=False)


def visible(text: str) -> str:
    """Control characters (terminal commands, reversed writing) as the signs or escapes that stand for
    them."""

    def sign(match: re.Match[str]) -> str:
        code = ord(match[0])
        return chr(0x2400 + code) if code < 32 else f"\\u{code:04x}"

    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", sign, text)


def readable(tokens: list[str], spaced: bool = False) -> str:
    """Vocabulary strings as text: byte-level BPE decoded, SentencePiece's mark for a space replaced."""
    if spaced:
        return " ".join(tokens)
    joined = "".join(tokens)
    if not all(letter in BYTES for letter in joined):
        return joined.replace("▁", " ")
    # no text has letters beyond \xff of this kind by chance; without them the bytes have to decode
    is_certain = any(letter > "\xff" for letter in joined)
    try:
        return bytes(BYTES[letter] for letter in joined).decode(
            "utf-8", "replace" if is_certain else "strict"
        )
    except UnicodeDecodeError:
        return joined


def _short(prompt: Any, size: int = 200) -> str:
    text = " ".join(as_text(prompt).split())
    return text if len(text) <= size else "… " + text[-size:]


def _byte_letters() -> dict[str, int]:
    """The letters by which byte-level BPE (Radford et al. 2019) writes bytes: printable ones stand for
    themselves."""
    letters = {}
    for byte in [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]:
        letters[chr(byte)] = byte
    others = [byte for byte in range(256) if chr(byte) not in letters]
    for place, byte in enumerate(others):
        letters[chr(256 + place)] = byte
    return letters


BYTES = _byte_letters()
