"""How minimal edits are: ratios, what happened to the words, by editor, outliers, duplicates."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median, quantiles

from rich.console import Console
from rich.table import Table
from rich.text import Text as Line

from redline.data.alignment import align, edit_ratio
from redline.data.records import Edit, Text, as_text
from redline.data.show import visible
from redline.data.units import units
from redline.edit.prompts import response_text

BIN = 0.05  # width of the histogram's bins
KINDS = ("kept", "substituted", "deleted", "inserted")


@dataclass
class Group:
    """The edits of one editor, or all: their ratios, and how many words were kept, substituted, deleted and
    inserted."""

    ratios: list[float] = field(default_factory=list)
    words: Counter[str] = field(default_factory=Counter)

    @property
    def edits(self) -> int:
        return len(self.ratios)

    @property
    def unchanged(self) -> int:
        return self.ratios.count(0.0)

    @property
    def mean(self) -> float:
        return sum(self.ratios) / len(self.ratios) if self.ratios else 0.0

    @property
    def median(self) -> float:
        return median(self.ratios) if self.ratios else 0.0

    def histogram(self) -> list[int]:
        """Edits in each bin of width ``BIN`` from 0 to 1; a ratio on a border counts in the bin it ends, 0 in
        the first."""
        counts = Counter(max(0, -int(-round(ratio / BIN, 9) // 1) - 1) for ratio in self.ratios)
        return [counts[place] for place in range(round(1 / BIN))]

    def as_json(self) -> dict[str, object]:
        """The figures as plain data."""
        words = {kind: self.words[kind] for kind in KINDS}
        figures = {"edits": self.edits, "unchanged": self.unchanged, "mean": self.mean, "median": self.median}
        return figures | {"words": words, "histogram": self.histogram()}


@dataclass
class Reason:
    """The single changes that have one reason, of `redline annotate`'s export: how many, in which edits, and
    the most frequent of them as (deleted, inserted)."""

    edits: int = 0
    changes: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass
class Statistics:
    """Figures on a set of edits."""

    all: Group
    by_editor: dict[str, Group]
    by_reason: dict[str, Reason]  # the reasons that people gave for single changes, the most frequent first
    outliers: list[
        tuple[str, float, str]
    ]  # (id, ratio, editor) beyond Tukey's upper fence, the largest ratio first
    fence: float
    repeated_ids: dict[str, int]  # id -> how often, where more than once
    repeated_texts: list[list[str]]  # ids of edits that have both texts in common

    def as_json(self) -> dict[str, object]:
        """The figures as plain data."""
        return {
            **self.all.as_json(),
            "by_editor": {name: group.as_json() for name, group in self.by_editor.items()},
            "fence": self.fence,
            "outliers": [{"id": name, "ratio": ratio, "editor": who} for name, ratio, who in self.outliers],
            "repeated_ids": self.repeated_ids,
            "repeated_texts": self.repeated_texts,
        }


def statistics(edits: Iterable[Edit]) -> Statistics:
    """Figures on ``edits``. Words are what edit ratios count; the fence is Q3 + 1.5 (Q3 - Q1) of the ratios
    (Tukey)."""
    every, by_editor = Group(), defaultdict[str, Group](Group)
    ids: list[tuple[str, float, str]] = []
    texts = defaultdict[bytes, list[str]](list)
    by_reason = defaultdict[str, Reason](Reason)
    for edit in edits:
        _count_reasons(edit, by_reason)
        rejected, edited = _text(edit.rejected), _text(edit.edited)
        before, after = units(rejected), units(edited)
        ratio, kinds = edit_ratio(before, after), word_changes(before, after)
        for group in (every, by_editor[edit.editor]):
            group.ratios.append(ratio)
            group.words.update(kinds)
        ids.append((edit.id, ratio, edit.editor))
        texts[hashlib.sha256(repr((rejected, edited)).encode()).digest()].append(edit.id)
    lower, _, upper = quantiles(every.ratios, n=4, method="inclusive") if every.edits > 1 else (0.0, 0.0, 1.0)
    fence = min(1.0, upper + 1.5 * (upper - lower))
    counts = Counter(edit_id for edit_id, _, _ in ids)
    return Statistics(
        every,
        dict(sorted(by_editor.items(), key=lambda item: -item[1].edits)),
        dict(sorted(by_reason.items(), key=lambda item: -item[1].changes.total())),
        sorted((line for line in ids if line[1] > fence), key=lambda line: -line[1]),
        fence,
        {edit_id: count for edit_id, count in counts.items() if count > 1},
        [same for same in texts.values() if len(set(same)) > 1],
    )


def _count_reasons(edit: Edit, by_reason: dict[str, Reason]) -> None:
    """Count the changes of an edit that have a reason; what is no list of reasons is somebody else's key."""
    given = (edit.model_extra or {}).get("reasons")
    if not isinstance(given, list):
        return
    met = set()
    for change in given:
        if not isinstance(change, dict) or not isinstance(change.get("reason"), str):
            continue
        reason = by_reason[change["reason"]]
        reason.changes[str(change.get("deleted", "")), str(change.get("inserted", ""))] += 1
        met.add(change["reason"])
    for name in met:
        by_reason[name].edits += 1


def _text(response: Text) -> str:
    """What an editor was given to edit; of a conversation without an assistant's text, all of it."""
    try:
        return response_text(response)
    except ValueError:
        return as_text(response)


def word_changes(rejected: list[str], edited: list[str]) -> Counter[str]:
    """Words kept, substituted, deleted and inserted. Of a changed run with more words on one side, the rest
    is deleted or inserted."""
    found: Counter[str] = Counter()
    for kind, start, end, edited_start, edited_end in align(rejected, edited).ops:
        old, new = end - start, edited_end - edited_start
        if kind == "equal":
            found["kept"] += old
        else:
            found["substituted"] += min(old, new)
            found["deleted"] += max(0, old - new)
            found["inserted"] += max(0, new - old)
    return found


def show(figures: Statistics, title: str, out: Console) -> None:
    """Print the figures as tables; nothing in a name is read as markup or terminal commands."""
    out.print(
        Line.assemble(
            (visible(title), "bold"),
            f": {figures.all.edits} edits, {figures.all.unchanged} of them unchanged; "
            f"edit ratio mean {figures.all.mean:.3f}, median {figures.all.median:.3f}",
        )
    )
    histogram = figures.all.histogram()
    table = Table("edit ratio", "edits", "", box=None, pad_edge=False)
    last = max((place for place, count in enumerate(histogram) if count), default=-1)
    for place, count in enumerate(histogram[: last + 1]):
        bar = "█" * round(40 * count / max(histogram)) or ("▏" if count else "")
        table.add_row(f"{place * BIN:.2f}-{(place + 1) * BIN:.2f}", str(count), bar)
    out.print(table)
    table = Table(
        "editor",
        "edits",
        "same",
        "mean",
        "median",
        *KINDS,
        box=None,
        pad_edge=False,
        caption_justify="left",
        caption="same: unchanged; mean, median: of the edit ratio; kept to inserted: words",
    )
    for editor, group in {
        **figures.by_editor,
        **({"all": figures.all} if len(figures.by_editor) > 1 else {}),
    }.items():
        table.add_row(
            Line(visible(editor)),
            str(group.edits),
            str(group.unchanged),
            f"{group.mean:.3f}",
            f"{group.median:.3f}",
            *(f"{group.words[kind]:,}" for kind in KINDS),
        )
    out.print(table)
    if figures.by_reason:
        _show_reasons(figures.by_reason, out)
    if figures.outliers:
        ids = ", ".join(f"{edit_id} ({ratio:.2f})" for edit_id, ratio, _ in figures.outliers[:8])
        out.print(Line(visible(f"{len(figures.outliers)} outliers, ratio above {figures.fence:.2f}: {ids}")))
    if figures.repeated_ids:
        ids = ", ".join(
            f"{edit_id} ({count} times)" for edit_id, count in list(figures.repeated_ids.items())[:8]
        )
        out.print(Line(visible(f"{len(figures.repeated_ids)} ids occur more than once: {ids}")))
    if figures.repeated_texts:
        ids = "; ".join(" = ".join(same[:4]) for same in figures.repeated_texts[:4])
        out.print(Line(visible(f"{len(figures.repeated_texts)} edits occur under several ids: {ids}")))


def _show_reasons(by_reason: dict[str, Reason], out: Console) -> None:
    table = Table("reason", "changes", "edits", "most often", box=None, pad_edge=False)
    for name, reason in by_reason.items():
        (deleted, inserted), times = reason.changes.most_common(1)[0]
        example = f"{deleted[:30] or '(nothing)'} -> {inserted[:30] or '(nothing)'} ({times})"
        counts = (str(reason.changes.total()), str(reason.edits))
        table.add_row(Line(visible(name)), *counts, Line(visible(example)))
    out.print(table)
