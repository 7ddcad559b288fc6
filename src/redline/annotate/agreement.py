"""How far two people agree who edited, or compared, the same items without seeing each other's work.

**Alpha** is Krippendorff's, nominal, over token labels. Two edits of one response share the tokens of that
response (words and punctuation marks, as the redline shows them) and the gaps between them; each is a unit. A
token's label is 1 where it was deleted or replaced, a gap's where something was inserted; all others are 0.
"Already fine" labels all units 0; "cannot be fixed" gives no labels. Of a comparison, a unit is an item and
its label the verdict. 1 is perfect, 0 what chance would give.

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
from redline.annotate.schema import item, person, work
from redline.data.alignment import align, word_spans

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
    """Agreement overall and by pair of people; ``worst``: the ids of the items with the least overlap."""

    overall: Agreement
    pairs: dict[tuple[str, str], Agreement] = field(default_factory=dict)
    worst: list[tuple[str, float]] = field(default_factory=list)


def units(rejected: str, edited: str) -> tuple[np.ndarray, frozenset[Change]]:
    """Labels of the 2n + 1 units of an edit (gap, token, gap, ..., token, gap; int8) and its single
    changes."""
    old = [rejected[start:end] for start, end in word_spans(rejected)]
    new = [edited[start:end] for start, end in word_spans(edited)]
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


def alpha(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float | None:
    """Krippendorff's nominal alpha of two raters over all units of all items; None where all labels are the
    same."""
    import krippendorff

    firsts, seconds = zip(*pairs, strict=True) if (pairs := list(pairs)) else ((), ())
    if not firsts:
        return None
    table = np.stack([np.concatenate(firsts), np.concatenate(seconds)])
    if table.shape[1] == 0 or (table == table.flat[0]).all():
        return None
    return float(krippendorff.alpha(reliability_data=table.astype(float), level_of_measurement="nominal"))


def overlap(first: frozenset[Change], second: frozenset[Change]) -> float:
    """Jaccard index; 1 when both change nothing."""
    return len(first & second) / len(first | second) if first | second else 1.0


def summarise(items: Sequence[tuple[Annotation, Annotation]]) -> Agreement:
    """Agreement over items that two people did."""
    labelled = [(x, y) for x, y in items if x.labels is not None and y.labels is not None]
    overlaps = [overlap(x.changes, y.changes) for x, y in labelled]
    return Agreement(
        len(items),
        alpha((x.labels, y.labels) for x, y in labelled if x.labels is not None and y.labels is not None),
        sum(overlaps) / len(overlaps) if overlaps else None,
        sum(x.verdict == y.verdict for x, y in items) / len(items) if items else None,
    )


def disagreement(engine: Engine, limit: int = 500) -> Disagreement:
    """Agreement over the newest ``limit`` items that two people have done."""
    doubled = (
        select(work.c.item_id)
        .where(work.c.state == "done")
        .group_by(work.c.item_id)
        .having(func.count() > 1)
        .order_by(func.max(work.c.submitted).desc())
        .limit(limit)
        .subquery()
    )
    with engine.connect() as db:
        rows = db.execute(
            select(item.c.key, item.c.body, person.c.name, work.c.verdict, work.c.edited)
            .join(item, item.c.id == work.c.item_id)
            .join(person, person.c.id == work.c.person_id)
            .join(doubled, doubled.c.item_id == work.c.item_id)
            .where(work.c.state == "done")
            .order_by(work.c.item_id, person.c.name)
        ).all()
    by_pair: dict[tuple[str, str], list[tuple[Annotation, Annotation]]] = defaultdict(list)
    overlaps = []
    for key, group in itertools.groupby(rows, key=lambda row: row.key):
        first, second = itertools.islice(
            (_annotation(row.name, row.verdict, row.body, row.edited) for row in group), 2
        )
        by_pair[first.name, second.name].append((first, second))
        if first.labels is not None and second.labels is not None:
            overlaps.append((key, overlap(first.changes, second.changes)))
    every = [pair for pairs in by_pair.values() for pair in pairs]
    worst = sorted((entry for entry in overlaps if entry[1] < 1), key=lambda entry: entry[1])[:5]
    return Disagreement(
        summarise(every), {who: summarise(pairs) for who, pairs in sorted(by_pair.items())}, worst
    )


def _annotation(name: str, verdict: str, body: str, edited: str | None) -> Annotation:
    if verdict in ("a", "b", "tie"):
        code = ["a", "b", "tie"].index(verdict)
        return Annotation(name, verdict, np.array([code], np.int8), frozenset({("=", 0, 0, verdict)}))
    if edited is None:
        return Annotation(name, verdict, None)
    labels, changes = units(texts.editable(json.loads(body)["rejected"]) or "", edited)
    return Annotation(name, verdict, labels, changes)
