"""Text as coloured tokens: blue-green, underlined where the reward is positive; orange-red, dashed where it
is negative."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from redline.data.show import visible
from redline.errors import UserError
from redline.report.charts import number
from redline.types import JsonObject

LEVELS = 4  # shades on each side of neutral
LONGEST = 600  # tokens of a response that are drawn
LABELS = {-1: "removed by the edit", 0: "left as it was", 1: "put in by the edit"}


@dataclass(frozen=True)
class Tokens:
    """A response by its tokens: characters ``[start, end)`` of ``text`` each, and for each some named
    numbers.

    ``numbers`` has at least ``reward``. ``labels`` are -1 (an edit removed it), 0 and +1 (an edit put it in).
    Of the whole response ``left_out`` tokens before these and ``more`` after them are not here.
    """

    text: str
    offsets: Sequence[tuple[int, int]]
    numbers: dict[str, Sequence[float]]
    labels: Sequence[int] = field(default_factory=list)
    ended: bool = False
    left_out: int = 0
    more: int = 0

    def window(self, place: int, around: int) -> "Tokens":
        """The tokens at most ``around`` before and after one."""
        start, end = max(0, place - around), min(len(self.offsets), place + around + 1)
        return Tokens(
            self.text,
            self.offsets[start:end],
            {name: row[start:end] for name, row in self.numbers.items()},
            self.labels[start:end],
            self.ended and end == len(self.offsets),
            start,
            len(self.offsets) - end,
        )


def from_record(record: JsonObject, columns: dict[str, str], where: str) -> Tokens:
    """Tokens of a record with ``text``, ``offsets`` and a number a token under each key of ``columns`` (key
    -> its name here).

    Raises UserError, naming the file ``where`` and the record, when the lengths differ or a key is missing.
    """
    offsets, name = record.get("offsets"), str(record.get("id", "?"))
    rows = {}
    for key, title in columns.items():
        if isinstance(record.get(key), list):
            rows[title] = record[key]
    labels = record.get("labels") or []
    if not isinstance(record.get("text"), str) or not isinstance(offsets, list) or "reward" not in rows:
        raise UserError(
            f"{where}, record {name}: expected `text`, `offsets` and `rewards`. Repeat the stage that "
            "wrote it."
        )
    sizes = {len(row) for row in rows.values()}
    if labels:
        sizes.add(len(labels))
    if sizes != {len(offsets)}:
        raise UserError(
            f"{where}, record {name}: {len(offsets)} offsets but another number of rewards or labels. "
            "Repeat the stage that wrote it."
        )
    return Tokens(
        record["text"],
        [(int(start), int(end)) for start, end in offsets],
        rows,
        labels,
        bool(record.get("ended")),
    )


def scale_of(many: Sequence[Tokens]) -> float:
    """The reward that gets full colour: the 95th percentile of the sizes of all rewards (1 when all are
    0)."""
    sizes: list[float] = []
    for tokens in many:
        sizes += [abs(value) for value in tokens.numbers["reward"] if math.isfinite(value)]
    if not sizes:
        return 1.0
    sizes.sort()
    return sizes[int(0.95 * (len(sizes) - 1))] or sizes[-1] or 1.0


def level(reward: float, scale: float) -> int:
    """From -LEVELS to LEVELS: the shade of a reward; 0 for what is no number."""
    if math.isnan(reward):
        return 0
    size = round(LEVELS * min(abs(reward) / scale, 1.0))
    return size if reward > 0 else -size


def render(tokens: Tokens, scale: float, summary: str, chosen: int | None = None) -> Markup:
    """The tokens as HTML: each shows its numbers when it is pointed at. Below them stands ``summary``, the
    one Tab stop of the text, which opens a table of all the numbers. ``chosen`` is outlined."""
    end_of_last = tokens.offsets[0][0] if tokens.offsets else 0
    pieces = [Markup('<span class="more">… </span>')] if tokens.left_out else []
    rows = []
    for place, (start, end) in enumerate(tokens.offsets[:LONGEST]):
        between = _visible_space(tokens.text[end_of_last:start])
        piece = tokens.text[max(start, end_of_last) : end]
        end_of_last = max(end_of_last, end)
        shown = _visible_token(tokens, place, piece)
        if piece.startswith(" ") and piece.strip(" "):
            between += " "
        pieces.append(
            Markup('{}<span class="{}" data-tip="{}">{}</span>').format(
                between, _classes(tokens, place, scale, chosen), _tip(tokens, place, shown), shown
            )
        )
        rows.append(_row(tokens, place, shown))
    more = tokens.more + max(0, len(tokens.offsets) - LONGEST)
    if more:
        pieces.append(Markup('<span class="more"> … {} more tokens</span>').format(f"{more:,}"))
    return Markup(
        '<div class="tokens"><div class="said"><p dir="auto">{}</p></div><details class="numbers">'
        "<summary>{}</summary><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></details></div>"
    ).format(Markup("").join(pieces), summary, _head(tokens), Markup("").join(rows))


def _visible_space(text: str) -> str:
    return visible(text).replace("\n", "↵").replace("\t", "⇥")


def _visible_token(tokens: Tokens, place: int, piece: str) -> str:
    """What is shown of a token that is the characters ``piece``, without the spaces before it."""
    shown = _visible_space(piece.lstrip(" "))
    if shown:
        return shown
    if piece:
        return " "
    is_last = place == len(tokens.offsets) - 1
    return "⟨end⟩" if tokens.ended and is_last else "·"


def _classes(tokens: Tokens, place: int, scale: float, chosen: int | None) -> str:
    """The classes of a token: its shade, its label, its outline."""
    names = ["t"]
    shade = level(float(tokens.numbers["reward"][place]), scale)
    if shade:
        names.append(f"p{shade}" if shade > 0 else f"n{-shade}")
    if tokens.labels and tokens.labels[place]:
        names.append("new" if tokens.labels[place] > 0 else "gone")
    if place == chosen:
        names.append("chosen")
    return " ".join(names)


def _tip(tokens: Tokens, place: int, shown: str) -> str:
    """What is shown of a token that is pointed at."""
    parts = [f"{name} {figure}" for name, figure in _figures(tokens, place).items()]
    if tokens.labels:
        parts.append(LABELS.get(tokens.labels[place], ""))
    return f"“{shown}”  " + "  ·  ".join(parts)


def _figures(tokens: Tokens, place: int) -> dict[str, str]:
    """A token's numbers for people, by their names."""
    figures = {}
    for name, row in tokens.numbers.items():
        figures[name] = number(float(row[place]), 2, signed=name != "KL")
    return figures


def _head(tokens: Tokens) -> Markup:
    names = ["token", *tokens.numbers]
    if tokens.labels:
        names.append("edit")
    return Markup("").join(Markup('<th scope="col">{}').format(name) for name in names)


def _row(tokens: Tokens, place: int, shown: str) -> Markup:
    """A token's row of the table; HTML lets its cells end by themselves."""
    figures = list(_figures(tokens, place).values())
    if tokens.labels:
        figures.append(LABELS.get(tokens.labels[place], ""))
    cells = Markup("").join(Markup("<td>{}").format(figure) for figure in figures)
    name = shown if shown.strip() else "␣"
    return Markup('<tr><th scope="row">{}{}').format(name, cells)


def legend(scale: float, labels: bool = False) -> Markup:
    """What the colours mean."""
    negative = [f"n{size}" for size in range(LEVELS, 0, -1)]
    positive = [f"p{size}" for size in range(1, LEVELS + 1)]
    swatches = Markup("")
    for kind in [*negative, "z", *positive]:
        swatches += Markup('<span class="t {}">&#8199;</span>').format(kind)
    marks = Markup("")
    if labels:
        marks = Markup(
            ' <span><span class="t gone">struck</span> the edit removed it</span> '
            '<span><span class="t new">bold</span> the edit put it in</span>'
        )
    return Markup(
        '<p class="legend"><span>reward {} {} {}</span>{} <span class="how">point at a token, or open the '
        "line below a text, for its numbers</span></p>"
    ).format(number(-scale, 2), swatches, number(scale, 2, signed=True), marks)
