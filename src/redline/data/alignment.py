"""The difference of two token sequences: a shortest Levenshtein script, and one stated choice among the
shortest.

**The tie rule.** Among all scripts with the fewest single-token edits (delete, insert, replace: one each),
take

1. the one with the fewest changed runs (a run is changed tokens with no kept token between them);
2. then the one in which the fewest runs start inside a word, where the caller says which tokens start words
   (of a run with sides of different length the longer side counts, else both);
3. then the one that keeps the most tokens;
4. then the one whose changes lie latest: where "good" becomes "good good", the second one is the insertion,
   so that a run starts where the two texts first part.

The rule, not the library, decides: RapidFuzz supplies the distance and a first script, from which only those
kept tokens are taken over that *every* shortest script keeps (see ``_anchors``); what lies between them is
solved by dynamic programming.
"""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

Kind = Literal["equal", "delete", "insert", "replace"]
Ids = list[int]
Starts = Callable[[int], bool]  # whether a word starts with that token
Cut = tuple[int, int, int, int]  # a changed run: a[i0:i1] becomes b[j0:j1]

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
LARGEST_TABLE = 4_000_000  # cells; a larger stretch without any anchor keeps RapidFuzz's own script
LONGEST_TABLE = 16_000  # rows and columns, so that a cost fits 64 bits
FEW_CELLS = 100  # a stretch up to this size is solved without looking for anchors in it
SHORTEST = (1, 3, 8, 24)  # kept tokens in a block that may give anchors
SMALL_TABLE = 1_500  # cells
NEVER = 1 << 61  # more than any cost
Table = Any  # rows of costs: lists, or a NumPy array


class Prices(NamedTuple):
    """What a script pays: for an edit, for a run, once more for a run that starts inside a word, for a token
    not kept."""

    edit: int
    start: int
    inner: int
    lost: int


class Op(NamedTuple):
    """One step: tokens ``[start, end)`` of the rejected side against ``[edited_start, edited_end)`` of the
    edited side."""

    kind: Kind
    start: int
    end: int
    edited_start: int
    edited_end: int


@dataclass(frozen=True, slots=True)
class Script:
    """Steps in order, covering both sides without a gap. A ``replace`` may have sides of different length."""

    ops: tuple[Op, ...]

    @property
    def distance(self) -> int:
        """Single-token edits: the Levenshtein distance."""
        return sum(
            max(op.end - op.start, op.edited_end - op.edited_start) for op in self.ops if op.kind != "equal"
        )


def align(
    rejected: Sequence[Hashable],
    edited: Sequence[Hashable],
    rejected_start: Starts | None = None,
    edited_start: Starts | None = None,
) -> Script:
    """A shortest script from ``rejected`` to ``edited``, chosen by the rule at the head of this module.

    ``rejected_start(i)`` says whether a word starts with token ``i`` of the rejected side, ``edited_start``
    likewise (asked only where it matters); without them every token counts as a word.
    """
    a: Any = list(rejected)
    b: Any = list(edited)
    if not (_are_ids(a) and _are_ids(b)):
        names: dict[Hashable, int] = {}
        name = names.setdefault
        a, b = [name(token, len(names)) for token in a], [name(token, len(names)) for token in b]
    cuts = [] if a == b else _solve(a, b, rejected_start or _always, edited_start or _always)
    return Script(tuple(_steps(cuts, len(a), len(b))))


def _are_ids(tokens: list[Any]) -> bool:
    """Whether RapidFuzz, which compares hashes, can take them as they are: small integers are their own
    hashes."""
    return set(map(type, tokens)) <= {int} and (not tokens or (min(tokens) >= 0 and max(tokens) < 1 << 60))


def _always(_: int) -> bool:
    return True


def labels(script: Script) -> tuple[list[int], list[int]]:
    """-1 for each deleted or replaced rejected token, +1 for each inserted or replacing edited token, 0 for
    the others."""
    rejected: list[int] = []
    edited: list[int] = []
    for kind, start, end, edited_start, edited_end in script.ops:
        rejected += [0 if kind == "equal" else -1] * (end - start)
        edited += [0 if kind == "equal" else 1] * (edited_end - edited_start)
    return rejected, edited


def apply(script: Script, rejected: Sequence[Hashable], edited: Sequence[Hashable]) -> list[Hashable]:
    """Carry the script out: kept tokens from ``rejected``, new ones from ``edited``. The result equals
    ``edited``."""
    out: list[Hashable] = []
    for kind, start, end, edited_start, edited_end in script.ops:
        out += rejected[start:end] if kind == "equal" else edited[edited_start:edited_end]
    return out


def words(text: str) -> list[str]:
    """The words of a text: what lies between white space, punctuation left on them. Edit ratios count these.

    In scripts written without spaces (Thai, Lao, Burmese, Khmer, kana, Han) each character counts, lest a
    sentence be one word.
    """
    return text.split() if text.isascii() else _WORD.findall(text)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Character ranges of words and punctuation marks, each mark alone: the units of word alignment.

    Finer than ``words``, so that a word before a new full stop is not counted as changed.
    """
    return [match.span() for match in re.finditer(r"\w+(?:['’]\w+)*|[^\w\s]", text)]


def edit_ratio(rejected: Sequence[Hashable], edited: Sequence[Hashable]) -> float:
    """Levenshtein distance of two lists of words over the longer one's length: 0 unchanged, 1 nothing
    kept."""
    longer = max(len(rejected), len(edited))
    return Levenshtein.distance(rejected, edited) / longer if longer else 0.0


def _steps(cuts: Sequence[Cut], n: int, m: int) -> Iterator[Op]:
    i = j = 0
    for i0, i1, j0, j1 in cuts:
        if i0 > i:
            yield Op("equal", i, i0, j, j0)
        yield Op("replace" if i1 > i0 and j1 > j0 else "delete" if i1 > i0 else "insert", i0, i1, j0, j1)
        i, j = i1, j1
    if i < n:
        yield Op("equal", i, n, j, m)


def _solve(a: Ids, b: Ids, start_a: Starts, start_b: Starts, at_a: int = 0, at_b: int = 0) -> list[Cut]:
    """The changed runs: one where that is enough, else by table, else stretch by stretch between anchors.

    Each stretch is a problem of its own, since the rule's counts add up over stretches. ``a`` and ``b`` lie
    at ``at_a`` and ``at_b`` of the whole.
    """
    n, m = len(a), len(b)
    shorter = min(n, m)
    prefix = suffix = 0
    while prefix < shorter and a[prefix] == b[prefix]:
        prefix += 1
    while suffix < shorter and a[-1 - suffix] == b[-1 - suffix]:
        suffix += 1
    kept = min(prefix + suffix, shorter)
    one_run = max(n, m) - kept
    if (
        one_run == 1 or one_run == abs(n - m) or one_run == Levenshtein.distance(a, b)
    ):  # the fewest runs there can be
        place = prefix
        if kept - suffix < prefix:  # a pure insertion or deletion, which can slide
            starts, at = (start_b, at_b) if m > n else (start_a, at_a)
            place = next((k for k in range(prefix, kept - suffix - 1, -1) if starts(at + k)), prefix)
        return [(at_a + place, at_a + n - kept + place, at_b + place, at_b + m - kept + place)]
    anchors = _anchors(a, b) if n * m > FEW_CELLS else []
    if not anchors:
        inside_a = [not start_a(k) for k in range(at_a, at_a + n)]
        inside_b = [not start_b(k) for k in range(at_b, at_b + m)]
        return [
            (at_a + i0, at_a + i1, at_b + j0, at_b + j1)
            for i0, i1, j0, j1 in _table(a, b, inside_a, inside_b)
        ]
    cuts = []
    i = j = 0
    for next_i, next_j in [*anchors, (n, m)]:
        part_a, part_b = a[i:next_i], b[j:next_j]
        if part_a != part_b:
            cuts += _solve(part_a, part_b, start_a, start_b, at_a + i, at_b + j)
        i, j = next_i, next_j
    return cuts


def _anchors(a: Ids, b: Ids) -> list[tuple[int, int]]:
    """Pairs (i, j) of kept tokens that every shortest script keeps, as one more distance proves.

    Replace r kept tokens of ``a`` by tokens that occur nowhere. A shortest script that keeps all of them then
    costs r more; one that misses any costs less than r more. So if the distance grows by r, no shortest
    script misses one; and a token that occurs only once in ``b`` can be kept only against that one. If it
    grows by less, short blocks are not trusted.
    """
    script = Levenshtein.editops(a, b)
    once = {token for token, count in Counter(b).items() if count == 1}
    candidates = []  # the first and the last such token of each block of kept tokens, with the block's size
    for i, j, size in script.as_matching_blocks():
        first, last = (0 if i or j else 1), size - 1
        while first <= last and a[i + first] not in once:
            first += 1
        while first < last and a[i + last] not in once:
            last -= 1
        if first <= last:
            candidates.append((size, i + first, j + first))
        if first < last:
            candidates.append((size, i + last, j + last))
    for shortest in SHORTEST:
        chosen = [(i, j) for size, i, j in candidates if size >= shortest]
        if not chosen:
            break
        marked = a.copy()
        for mark, (i, _) in enumerate(chosen, 2):
            marked[i] = -mark
        if Levenshtein.distance(marked, b) == len(script) + len(chosen):
            return chosen
    return []


def _table(a: Ids, b: Ids, inside_a: list[bool], inside_b: list[bool]) -> list[Cut]:
    """The rule by dynamic programming, in O(len(a) len(b)) time and memory.

    Cost of a script as one integer, its parts in the rule's order: edits, runs, runs that start inside a
    word, tokens not kept. ``kept[i][j]`` is the least cost of a[:i] -> b[:j] when the last token is kept (or
    there is none), ``run[i][j]`` when it is not; both are stored less ``(i + j) * step``, which makes a
    deletion or an insertion within a run free.
    """
    n, m = len(a), len(b)
    if n * m > LARGEST_TABLE or n + m > LONGEST_TABLE:
        return [
            (op.src_start, op.src_end, op.dest_start, op.dest_end)
            for op in Levenshtein.opcodes(a, b)
            if op.tag != "equal"
        ]
    digit = (n + m + 1).bit_length()
    prices = Prices(*(1 << digit * place for place in (3, 2, 1, 0)))
    kept, run = (_by_cell if n * m <= SMALL_TABLE else _by_row)(a, b, inside_a, inside_b, prices)
    return _trace(kept, run, inside_a, inside_b, prices)


def _by_cell(
    a: Ids, b: Ids, inside_a: list[bool], inside_b: list[bool], prices: Prices
) -> tuple[Table, Table]:
    """In plain Python, and only the cells near the diagonal that a shortest script can pass: quicker for
    small tables."""
    edit, start, inner, lost = prices
    n, m, step = len(a), len(b), edit + lost
    distance = Levenshtein.distance(a, b)
    lowest, highest = (
        -((distance - m + n) // 2),
        (distance + m - n) // 2,
    )  # j - i, as |j - i| + |m - j - n + i| <= distance
    kept, run = ([[NEVER] * (m + 1) for _ in range(n + 1)] for _ in range(2))
    kept[0][0] = 0
    inserts = [start + inner * inside for inside in inside_b]
    run[0][1:] = inserts[:1] * m
    for i in range(1, n + 1):
        here_kept, here = kept[i], run[i]
        above_kept, above, token = kept[i - 1], run[i - 1], a[i - 1]
        delete = start + inner * inside_a[i - 1]
        for j in range(max(0, i + lowest), min(m, i + highest) + 1):
            best, cost = above[j], above_kept[j] + delete
            if cost < best:
                best = cost
            if j:
                insert, before, before_kept = inserts[j - 1], above[j - 1], above_kept[j - 1]
                cost = before_kept + (delete if delete > insert else insert) - edit
                if cost < best:
                    best = cost
                if before - edit < best:
                    best = before - edit
                if here[j - 1] < best:
                    best = here[j - 1]
                if here_kept[j - 1] + insert < best:
                    best = here_kept[j - 1] + insert
                if token == b[j - 1]:
                    here_kept[j] = (before if before < before_kept else before_kept) - 2 * step
            here[j] = best
    return kept, run


def _by_row(
    a: Ids, b: Ids, inside_a: list[bool], inside_b: list[bool], prices: Prices
) -> tuple[Table, Table]:
    """A row at a time with NumPy: quicker for large tables."""
    edit, start, inner, lost = prices
    n, m, step = len(a), len(b), edit + lost
    row_b, off_b = np.array(b), np.array(inside_b, np.int64)
    insert = off_b * inner + start
    replace = insert - edit, np.full(m, start + inner - edit)
    match = {token: row_b == token for token in set(a)}
    kept, run = np.full((2, n + 1, m + 1), NEVER)
    kept[0, 0] = 0
    np.minimum.accumulate(kept[0, :-1] + insert, out=run[0, 1:])
    for i in range(1, n + 1):
        inside = inside_a[i - 1]
        above_kept, above, best = kept[i - 1], run[i - 1], run[i]
        np.copyto(kept[i, 1:], np.minimum(above_kept[:-1], above[:-1]) - 2 * step, where=match[a[i - 1]])
        np.minimum(above, above_kept + (start + inner * inside), out=best)
        rest = best[1:]
        np.minimum(rest, np.minimum(above[:-1] - edit, above_kept[:-1] + replace[inside]), out=rest)
        np.minimum(rest, kept[i, :-1] + insert, out=rest)
        np.minimum.accumulate(best, out=best)
    return kept, run


def _trace(kept: Table, run: Table, inside_a: list[bool], inside_b: list[bool], prices: Prices) -> list[Cut]:
    """The changed runs of the cheapest script, read from the end: where two cost the same, the later change
    is taken."""
    edit, start, inner, _ = prices
    i, j = len(inside_a), len(inside_b)
    cuts: list[Cut] = []
    end: tuple[int, int] | None = None  # of the run being read
    while i or j:
        if end is None:
            if kept[i][j] < run[i][j]:
                i, j = i - 1, j - 1
                continue
            end = i, j
        here = run[i][j]
        for back_i, back_j, price in ((1, 0, 0), (0, 1, 0), (1, 1, -edit)):
            if back_i > i or back_j > j:
                continue
            from_i, from_j = i - back_i, j - back_j
            within = (back_i == 1 and inside_a[from_i]) or (back_j == 1 and inside_b[from_j])
            opened = kept[from_i][from_j] + price + start + inner * within == here
            if opened or run[from_i][from_j] + price == here:
                i, j = from_i, from_j
                break
        if opened:
            cuts.append((i, end[0], j, end[1]))
            end, i, j = None, max(i - 1, 0), max(j - 1, 0)  # what lies before a run is kept
    return cuts[::-1]
