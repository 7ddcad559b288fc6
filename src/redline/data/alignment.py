"""The difference of two token sequences: a shortest Levenshtein script, and one stated choice among the
shortest.

**The tie rule.** Among all scripts with the fewest single-token edits (delete, insert, replace: one each),
take

1. the one with the least 7 * runs + tokens that are not kept, counted on both sides. A run is changed tokens
   with no kept token between them. So there are as few runs as can be, except that a stretch of four or more
   tokens is kept even where that makes one run more: it has moved, or stood still while its neighbours moved;
2. then the one in which the fewest runs start inside a word, where the caller says which tokens start words
   (of a run with sides of different length the longer side counts, else both);
3. then the one whose changes lie latest: where "good" becomes "good good", the second one is the insertion,
   so that a run starts where the two texts first part.

The rule, not the library, decides: RapidFuzz supplies the distance and a first script, from which only those
kept tokens are taken over that *every* shortest script keeps (see ``_anchors``). What lies between them is
solved by dynamic programming: over pairs of equal tokens where these are few (``_by_pair``), else over the
whole table (``_by_row``).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

Kind = Literal["equal", "delete", "insert", "replace"]
Ids = list[int]
Starts = Callable[[int], bool]  # whether a word starts with that token
Inside = Callable[[int], bool]  # whether that token goes on with a word
Table = np.ndarray

RUN = 7  # what a run costs, in tokens that are not kept
SHORTEST_KEPT = RUN // 2 + 1  # tokens of a kept stretch that pays for one more run
MOST_PAIRS = 40  # pairs of equal tokens up to which they are tried one against the other
LARGEST_TABLE = 4_000_000  # cells; a larger stretch without any anchor keeps RapidFuzz's own script
LONGEST_TABLE = 16_000  # rows and columns, so that a cost fits 64 bits
FEW_CELLS = 400  # a stretch up to this size is solved without looking for anchors in it
BLOCK_SIZES = (1, 3, 8, 24)  # kept tokens in a block that may give anchors
MOST_SINGLE = 6  # kept tokens that are tried one by one where no set of blocks gives anchors
NEVER = 1 << 61  # more than any cost


class Cut(NamedTuple):
    """A changed run: tokens ``[start, end)`` of the rejected side become ``[edited_start, edited_end)`` of
    the edited side."""

    start: int
    end: int
    edited_start: int
    edited_end: int


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


class Prices(NamedTuple):
    """What a script pays: for an edit, for a run, for a token not kept, for a run that starts inside a word.

    They are so far apart that no number of the later ones outweighs one of the earlier; a run and a token not
    kept are weighed against each other.
    """

    edit: int
    run: int
    lost: int
    inner: int

    @classmethod
    def of(cls, tokens: int) -> "Prices":
        """For a problem with so many tokens on both sides together."""
        lost = tokens + 1
        run = RUN * lost
        return cls(edit=(run + lost) * lost, run=run, lost=lost, inner=1)


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
    numbers: dict[Hashable, int] = {}
    a = [numbers.setdefault(token, len(numbers)) for token in rejected]
    b = [numbers.setdefault(token, len(numbers)) for token in edited]
    cuts = changed_runs(a, b, rejected_start, edited_start)
    return Script(tuple(_steps(cuts, len(a), len(b))))


def changed_runs(
    rejected: Ids, edited: Ids, rejected_start: Starts | None = None, edited_start: Starts | None = None
) -> list[Cut]:
    """The changed runs of ``align``'s script, in order. Tokens are whole numbers from 0 to 2^60, as token ids
    are: RapidFuzz compares hashes, and such numbers are their own."""
    if rejected == edited:
        return []
    return _solve(rejected, edited, rejected_start or _always, edited_start or _always, 0, 0)


def runs(script: Script) -> list[Cut]:
    """The changed runs of a script, in order."""
    return [Cut(*op[1:]) for op in script.ops if op.kind != "equal"]


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


def edit_ratio(rejected: Sequence[Hashable], edited: Sequence[Hashable]) -> float:
    """Levenshtein distance of two lists of units over the longer one's length: 0 unchanged, 1 nothing
    kept."""
    longer = max(len(rejected), len(edited))
    return Levenshtein.distance(rejected, edited) / longer if longer else 0.0


def _steps(cuts: Sequence[Cut], n: int, m: int) -> Iterator[Op]:
    i = j = 0
    for i0, i1, j0, j1 in cuts:
        if i0 > i:
            yield Op("equal", i, i0, j, j0)
        kind: Kind = "replace"
        if i0 == i1:
            kind = "insert"
        elif j0 == j1:
            kind = "delete"
        yield Op(kind, i0, i1, j0, j1)
        i, j = i1, j1
    if i < n:
        yield Op("equal", i, n, j, m)


def _solve(a: Ids, b: Ids, start_a: Starts, start_b: Starts, at_a: int, at_b: int) -> list[Cut]:
    """The changed runs of one stretch, which lies at ``at_a`` and ``at_b`` of the whole: one run where that
    is best for certain, else by pairs or by table, else stretch by stretch between anchors.

    Each stretch is a problem of its own, since the rule's counts add up over stretches.
    """
    n, m = len(a), len(b)
    shorter = min(n, m)
    prefix = 0
    while prefix < shorter and a[prefix] == b[prefix]:
        prefix += 1
    suffix = 0
    while suffix < shorter and a[-1 - suffix] == b[-1 - suffix]:
        suffix += 1
    kept = min(prefix + suffix, shorter)
    if _is_one_run(a[prefix : n - suffix], b[prefix : m - suffix], max(n, m) - kept, abs(n - m)):
        start = prefix
        if kept < prefix + suffix:  # a pure insertion or deletion, which can slide
            starts, at = (start_b, at_b) if m > n else (start_a, at_a)
            start = _latest_word(starts, at, kept - suffix, prefix)
        return [Cut(at_a + start, at_a + n - kept + start, at_b + start, at_b + m - kept + start)]
    if n * m > FEW_CELLS:
        anchors = _anchors(a, b)
        if anchors:
            return _between(anchors, a, b, start_a, start_b, at_a, at_b)
    best = _best(a, b, lambda place: not start_a(at_a + place), lambda place: not start_b(at_b + place))
    return [Cut(at_a + i0, at_a + i1, at_b + j0, at_b + j1) for i0, i1, j0, j1 in best]


def _is_one_run(middle_a: Ids, middle_b: Ids, edits: int, length_difference: int) -> bool:
    """Whether a single run of so many edits is best for certain, once common ends are set apart.

    The first conditions say that no script has fewer edits: a single one, an insertion or deletion alone, or
    no token in common. The last one: as few edits with a stretch kept inside pay for its run only from
    ``SHORTEST_KEPT`` tokens.
    """
    if edits == 1 or edits == length_difference or set(middle_a).isdisjoint(middle_b):
        return True
    return min(len(middle_a), len(middle_b)) < SHORTEST_KEPT and edits == Levenshtein.distance(
        middle_a, middle_b
    )


def _latest_word(starts: Starts, at: int, first: int, last: int) -> int:
    """Where a run that may start anywhere from ``first`` to ``last`` starts: at the last word, else last."""
    for place in range(last, first - 1, -1):
        if starts(at + place):
            return place
    return last


def _between(
    anchors: list[tuple[int, int]], a: Ids, b: Ids, start_a: Starts, start_b: Starts, at_a: int, at_b: int
) -> list[Cut]:
    """The changed runs from anchor to anchor."""
    cuts: list[Cut] = []
    i = j = 0
    for next_i, next_j in [*anchors, (len(a), len(b))]:
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
    count = Counter(b)
    candidates = []  # the first and the last such token of each block of kept tokens, with the block's size
    for i, j, size in script.as_matching_blocks():
        first = 0 if i or j else 1
        last = size - 1
        while first <= last and count[a[i + first]] > 1:
            first += 1
        while first < last and count[a[i + last]] > 1:
            last -= 1
        if first <= last:
            candidates.append((size, i + first, j + first))
        if first < last:
            candidates.append((size, i + last, j + last))
    for shortest in BLOCK_SIZES:
        chosen = [(i, j) for size, i, j in candidates if size >= shortest]
        if chosen and _all_certain(chosen, a, b, len(script)):
            return chosen
    largest = sorted(candidates, reverse=True)[:MOST_SINGLE]
    return sorted((i, j) for _, i, j in largest if _all_certain([(i, j)], a, b, len(script)))


def _all_certain(chosen: list[tuple[int, int]], a: Ids, b: Ids, distance: int) -> bool:
    marked = a.copy()
    for mark, (i, _) in enumerate(chosen, 2):
        marked[i] = -mark
    expected = distance + len(chosen)
    return Levenshtein.distance(marked, b, score_hint=expected) == expected


def _best(a: Ids, b: Ids, inside_a: Inside, inside_b: Inside) -> list[Cut]:
    """The changed runs by the rule. ``inside_a`` and ``inside_b`` say which tokens lie inside of a word."""
    n, m = len(a), len(b)
    pairs = _equal_pairs(a, b)
    if pairs is not None:
        return _all_kept(pairs, n, m) or _by_pair(pairs, n, m, inside_a, inside_b)
    if n * m <= LARGEST_TABLE and n + m <= LONGEST_TABLE:
        return _by_table(a, b, list(map(inside_a, range(n))), list(map(inside_b, range(m))))
    opcodes = Levenshtein.opcodes(a, b)
    return [Cut(op.src_start, op.src_end, op.dest_start, op.dest_end) for op in opcodes if op.tag != "equal"]


def _equal_pairs(a: Ids, b: Ids) -> list[tuple[int, int]] | None:
    """All (i, j) with equal tokens, in order; None where they are more than ``MOST_PAIRS``."""
    places: dict[int, list[int]] = defaultdict(list)
    for j, token in enumerate(b):
        places[token].append(j)
    pairs: list[tuple[int, int]] = []
    for i, token in enumerate(a):
        if token in places:
            pairs += [(i, j) for j in places[token]]
            if len(pairs) > MOST_PAIRS:
                return None
    return pairs


def _all_kept(pairs: list[tuple[int, int]], n: int, m: int) -> list[Cut]:
    """The runs that keep every equal token, where that is best for certain; else nothing.

    It is where the pairs do not cross and no run is longer on one side while another is longer on the other:
    to keep fewer tokens then costs an edit for each.
    """
    cuts: list[Cut] = []
    next_i = next_j = 0
    longer = edited_longer = False
    for i, j in [*pairs, (n, m)]:
        if i < next_i or j < next_j:
            return []
        gap, edited_gap = i - next_i, j - next_j
        if gap or edited_gap:
            cuts.append(Cut(next_i, i, next_j, j))
            longer |= gap > edited_gap
            edited_longer |= edited_gap > gap
        next_i, next_j = i + 1, j + 1
    return [] if longer and edited_longer else cuts


def _by_pair(pairs: list[tuple[int, int]], n: int, m: int, inside_a: Inside, inside_b: Inside) -> list[Cut]:
    """The rule by dynamic programming over kept tokens: a script is a chain of pairs (i, j) of equal tokens,
    with a run wherever two neighbours of the chain are not adjacent. In O(pairs^2) time.

    ``costs[q]`` is the least cost of a chain that ends with pair q, ``before[q]`` its last pair but one.
    """
    edit, run, lost, inner = Prices.of(n + m)
    ends = [(-1, -1), *pairs, (n, m)]
    starts = [(i + 1, j + 1) for i, j in ends[:-1]]
    behind = [
        (i, j, i < n and inside_a(i), j < m and inside_b(j)) for i, j in starts
    ]  # where a run behind this pair would start, and whether that is inside a word
    costs, before = [0], [0]
    for i, j in ends[1:]:
        best = NEVER * edit
        origin = adjacent = -1
        for place, ((start, edited_start, in_a, in_b), cost) in enumerate(zip(behind, costs, strict=False)):
            gap, edited_gap = i - start, j - edited_start
            if gap < 0 or edited_gap < 0:
                cost = NEVER * edit + 1
            elif gap > edited_gap:
                cost += edit * gap + run + lost * (gap + edited_gap) + inner * in_a
            elif gap < edited_gap:
                cost += edit * edited_gap + run + lost * (gap + edited_gap) + inner * in_b
            elif gap:
                cost += edit * gap + run + lost * (gap + edited_gap) + inner * (in_a or in_b)
            else:
                adjacent = place
                cost = NEVER * edit + 1
            if cost <= best:
                best, origin = cost, place
        if adjacent >= 0 and costs[adjacent] < best:
            best, origin = costs[adjacent], adjacent
        costs.append(best)
        before.append(origin)
    cuts: list[Cut] = []
    place = len(ends) - 1
    while place:
        (i, j), (before_i, before_j) = ends[place], ends[before[place]]
        if (i, j) != (before_i + 1, before_j + 1):
            cuts.append(Cut(before_i + 1, i, before_j + 1, j))
        place = before[place]
    return cuts[::-1]


def _by_table(a: Ids, b: Ids, inside_a: list[bool], inside_b: list[bool]) -> list[Cut]:
    """The rule by dynamic programming over all cells, a row at a time, in O(len(a) len(b)) time and memory.

    ``kept[i, j]`` is the least cost of a[:i] -> b[:j] when the last token is kept (or there is none),
    ``run[i, j]`` when it is not; both are stored less ``(i + j) * step``, which makes a deletion or an
    insertion within a run free.
    """
    n, m = len(a), len(b)
    prices = Prices.of(n + m)
    step = prices.edit + prices.lost
    row_b = np.array(b)
    off_a, off_b = (np.array(inside, np.int64) * prices.inner for inside in (inside_a, inside_b))
    insert = off_b + prices.run
    replace_word = insert - prices.edit  # where the rejected token starts a word
    replace_inside = np.full(m, prices.run + prices.inner - prices.edit)
    match = {token: row_b == token for token in set(a)}
    kept = np.full((n + 1, m + 1), NEVER)
    run = np.full((n + 1, m + 1), NEVER)
    kept[0, 0] = 0
    np.minimum.accumulate(kept[0, :-1] + insert, out=run[0, 1:])
    for i in range(1, n + 1):
        above_kept, above, best = kept[i - 1], run[i - 1], run[i]
        replace = replace_inside if inside_a[i - 1] else replace_word
        np.copyto(kept[i, 1:], np.minimum(above_kept[:-1], above[:-1]) - 2 * step, where=match[a[i - 1]])
        np.minimum(above, above_kept + (prices.run + off_a[i - 1]), out=best)
        rest = best[1:]
        np.minimum(rest, above[:-1] - prices.edit, out=rest)
        np.minimum(rest, above_kept[:-1] + replace, out=rest)
        np.minimum(rest, kept[i, :-1] + insert, out=rest)
        np.minimum.accumulate(best, out=best)
    return _trace(kept, run, off_a, off_b, prices)


def _trace(kept: Table, run: Table, off_a: Table, off_b: Table, prices: Prices) -> list[Cut]:
    """The changed runs of the cheapest script, read from the end: where two cost the same, the later change
    is taken."""
    i, j = len(off_a), len(off_b)
    cuts: list[Cut] = []
    while i or j:
        if kept[i, j] < run[i, j]:
            i, j = i - 1, j - 1
            continue
        start, edited_start = _start_of_run(i, j, kept, int(run[i, j]), off_a, off_b, prices)
        cuts.append(Cut(start, i, edited_start, j))
        i, j = start, edited_start
        if i or j:  # what lies before a run is kept
            i, j = i - 1, j - 1
    return cuts[::-1]


def _start_of_run(
    end: int, edited_end: int, kept: Table, cost: int, off_a: Table, off_b: Table, prices: Prices
) -> tuple[int, int]:
    """Where the run starts that ends at these tokens with this cost: the latest place that explains it."""
    for start in range(end, -1, -1):
        gap = end - start
        gaps_b = np.arange(edited_end, -1, -1)  # the run's length on the edited side, for starts 0, 1, ...
        starts_inside = np.where(gaps_b <= gap, off_a[start] if gap else 0, 0)
        inside_b = np.append(off_b, 0)[: edited_end + 1]
        np.maximum(starts_inside, np.where(gaps_b >= gap, inside_b, 0), out=starts_inside)
        costs = (
            kept[start, : edited_end + 1] + prices.run + starts_inside - prices.edit * np.minimum(gaps_b, gap)
        )
        hits = np.flatnonzero(costs == cost)
        if not gap:
            hits = hits[hits < edited_end]  # a run has at least one token
        if hits.size:
            return start, int(hits[-1])
    raise AssertionError("no start explains the cost of this run")
