"""How far people agree who did the same items without seeing each other's work.

**Alpha** is Krippendorff's, nominal, over token labels. Two edits of one response share the tokens of that
response (the units of ``data.units``, as the redline shows them) and the gaps between them; each is a unit. A
token's label is 1 where it was deleted or replaced, a gap's where something was inserted; all others are 0.
"Already fine" labels all units 0; "cannot be fixed" gives no labels. Of a comparison or a thumb, a unit is an
item and its label the verdict. 1 is perfect, 0 what chance would give. Up to five people may have done an
item; who has no labels for a unit is missing there, as Krippendorff defines it.

**Overlap** is the Jaccard index of the single changes of two edits: tokens deleted, and tokens inserted, at
the same place.
"""

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from sqlalchemy import Engine, func, select

from redline.annotate import texts
from redline.annotate.schema import item, person, slot, work
from redline.data import units as text_units
from redline.data.alignment import align

MOST_RATERS = 5
CODES = ("a", "b", "tie", "up", "down")
Change = tuple[str, int, int, str]  # sign, place among the response's tokens, number at this place, token


@dataclass
class Annotation:
    """One person's work on one item: ``labels`` 0 or 1 for each unit (None: no labels) and the set of single
    changes."""

    name: str
    verdict: str
    labels: np.ndarray | None
    changes: frozenset[Change] = frozenset()


@dataclass
class Agreement:
    """Over ``items`` items: alpha (None where it is undefined), mean overlap, and the share of equal
    verdicts."""

    items: int
    alpha: float | None
    overlap: float | None
    verdicts: float | None


@dataclass
class Disagreement:
    """Agreement overall and by pair of people; ``worst``: the items with the least overlap, as number, id and
    mean overlap."""

    overall: Agreement
    pairs: dict[tuple[str, str], Agreement] = field(default_factory=dict)
    worst: list[tuple[int, str, float]] = field(default_factory=list)


def units(rejected: str, edited: str) -> tuple[np.ndarray, frozenset[Change]]:
    """Labels of the 2n + 1 units of an edit (gap, token, gap, ..., token, gap; int8) and its single
    changes."""
    old, new = text_units.units(rejected), text_units.units(edited)
    labels = np.zeros(2 * len(old) + 1, np.int8)
    changes: set[Change] = set()
    for op in align(old, new).ops:
        if op.kind == "equal":
            continue
        labels[2 * op.start + 1 : 2 * op.end + 1 : 2] = 1
        changes |= {("-", place, 0, old[place]) for place in range(op.start, op.end)}
        inserted = new[op.edited_start : op.edited_end]
        if op.kind == "insert":
            labels[2 * op.start] = 1
        changes |= {("+", op.start, number, token) for number, token in enumerate(inserted)}
    return labels, frozenset(changes)


def alpha(items: Iterable[Sequence[np.ndarray]]) -> float | None:
    """Krippendorff's nominal alpha over all units of all items; None where all labels are the same.

    ``items`` has the labels of each person who did an item; people may be other ones from item to item.
    """
    import krippendorff

    blocks = []
    for labels in items:
        block = np.full((MOST_RATERS, len(labels[0])), np.nan)
        block[: len(labels)] = np.stack(labels)
        blocks.append(block)
    if not blocks:
        return None
    table = np.concatenate(blocks, axis=1)
    values = table[~np.isnan(table)]
    if len(values) == 0 or (values == values[0]).all():
        return None
    return float(krippendorff.alpha(reliability_data=table, level_of_measurement="nominal"))


def overlap(first: frozenset[Change], second: frozenset[Change]) -> float:
    """Jaccard index; 1 when both change nothing."""
    return len(first & second) / len(first | second) if first | second else 1.0


def summarise(items: Sequence[Sequence[Annotation]]) -> Agreement:
    """Agreement over items that two or more people did: overlap and equal verdicts as the mean over the pairs
    of people of all items."""
    labels, overlaps, verdicts = [], [], []
    for annotations in items:
        labelled = [one for one in annotations if one.labels is not None]
        if len(labelled) > 1:
            labels.append([one.labels for one in labelled if one.labels is not None])
        overlaps += [overlap(x.changes, y.changes) for x, y in itertools.combinations(labelled, 2)]
        verdicts += [x.verdict == y.verdict for x, y in itertools.combinations(annotations, 2)]
    return Agreement(
        len(items),
        alpha(labels),
        sum(overlaps) / len(overlaps) if overlaps else None,
        sum(verdicts) / len(verdicts) if verdicts else None,
    )


def disagreement(engine: Engine, limit: int = 500) -> Disagreement:
    """Agreement over the newest ``limit`` items that two or more people have done."""
    doubled = (
        select(work.c.item_id)
        .join(slot, slot.c.id == work.c.slot_id)
        .where(work.c.state == "done", slot.c.place > 0)
        .group_by(work.c.item_id)
        .having(func.count() > 1)
        .order_by(func.max(work.c.submitted).desc())
        .limit(limit)
        .subquery()
    )
    with engine.connect() as db:
        rows = db.execute(
            select(item.c.id, item.c.key, item.c.body, person.c.name, work.c.verdict, work.c.edited)
            .join(item, item.c.id == work.c.item_id)
            .join(person, person.c.id == work.c.person_id)
            .join(doubled, doubled.c.item_id == work.c.item_id)
            .where(work.c.state == "done")
            .order_by(work.c.item_id, person.c.name)
        ).all()
    by_pair: dict[tuple[str, str], list[tuple[Annotation, Annotation]]] = defaultdict(list)
    every, overlaps = [], []
    for (number, key), group in itertools.groupby(rows, key=lambda row: (row.id, row.key)):
        annotations = [_annotation(row.name, row.verdict, row.body, row.edited) for row in group]
        every.append(annotations)
        shares = []
        for first, second in itertools.combinations(annotations, 2):
            by_pair[first.name, second.name].append((first, second))
            if first.labels is not None and second.labels is not None:
                shares.append(overlap(first.changes, second.changes))
        if shares and min(shares) < 1:
            overlaps.append((number, key, sum(shares) / len(shares)))
    worst = sorted(overlaps, key=lambda entry: entry[2])[:5]
    pairs = {who: summarise(by_pair[who]) for who in sorted(by_pair)}
    return Disagreement(summarise(every), pairs, worst)


def _annotation(name: str, verdict: str, body: str, edited: str | None) -> Annotation:
    if verdict in CODES:
        code = CODES.index(verdict)
        return Annotation(name, verdict, np.array([code], np.int8), frozenset({("=", 0, 0, verdict)}))
    if edited is None:
        return Annotation(name, verdict, None)
    labels, changes = units(texts.editable(json.loads(body)["rejected"]) or "", edited)
    return Annotation(name, verdict, labels, changes)
