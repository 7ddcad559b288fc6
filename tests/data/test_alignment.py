"""The alignment: shortest, carried out it gives the edited side, and its choice among shortest scripts is the
stated one."""

import tarfile
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from redline.data import alignment
from redline.data.alignment import align, apply, edit_ratio, labels

short = st.lists(st.integers(0, 4), max_size=9)
starts = st.lists(st.booleans(), min_size=9, max_size=9)


def cost(script, rejected_start, edited_start):
    """(edits, 7 * runs + tokens not kept, runs that start inside a word) of a script with one operation for
    each changed run."""
    changed = [op for op in script.ops if op.kind != "equal"]
    lost = sum(op.end - op.start + op.edited_end - op.edited_start for op in changed)
    inside = sum(not _at_word(op, rejected_start, edited_start) for op in changed)
    return script.distance, 7 * len(changed) + lost, inside


def _at_word(op, rejected_start, edited_start):
    size, edited_size = op.end - op.start, op.edited_end - op.edited_start
    return (size < edited_size or rejected_start[op.start]) and (
        edited_size < size or edited_start[op.edited_start]
    )


def best_cost(a, b, rejected_start, edited_start):
    """The least cost of any script, by plain recursion over all of them: an independent definition of the
    rule."""

    @lru_cache(None)
    def least(i, j, in_run):
        if i == len(a) and j == len(b):
            return (0, 0, 0)
        found = []
        for di, dj in ((1, 0), (0, 1), (1, 1)):
            if i + di <= len(a) and j + dj <= len(b):
                rest = least(i + di, j + dj, True)
                word = (not di or rejected_start[i]) and (not dj or edited_start[j])
                starts = not in_run
                found.append((rest[0] + 1, rest[1] + 7 * starts + di + dj, rest[2] + (starts and not word)))
        if i < len(a) and j < len(b) and a[i] == b[j]:
            found.append(least(i + 1, j + 1, False))
        return min(found)

    return least(0, 0, False)


@settings(max_examples=400, deadline=None)
@given(short, short, starts, starts)
def test_the_script_is_the_cheapest_by_the_stated_rule(a, b, rejected_start, edited_start):
    script = align(a, b, rejected_start.__getitem__, edited_start.__getitem__)
    assert cost(script, rejected_start, edited_start) == best_cost(
        tuple(a), tuple(b), rejected_start, edited_start
    )


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from("abcdefgh "), max_size=60), st.lists(st.sampled_from("abcdefgh "), max_size=60)
)
def test_a_script_is_shortest_and_gives_the_edited_side(a, b):
    script = align(a, b)
    assert script.distance == Levenshtein.distance(a, b)
    assert apply(script, a, b) == b
    rejected, edited = labels(script)
    assert len(rejected) == len(a)
    assert len(edited) == len(b)
    assert set(rejected) <= {-1, 0}
    assert set(edited) <= {0, 1}
    kept = [token for token, label in zip(a, rejected, strict=True) if not label]
    assert kept == [token for token, label in zip(b, edited, strict=True) if not label]
    assert align(a, b) == script


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_anchors_and_tables_of_any_kind_give_one_result(data):
    """The rule decides, not the way there: with and without anchors, by cell and by row."""
    a = data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=40))
    b = list(a)
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(b)))
        b[place : place + data.draw(st.integers(0, 2))] = data.draw(st.lists(st.integers(0, 14), max_size=2))
    results = set()
    with pytest.MonkeyPatch.context() as patch:
        for few_cells, most_pairs in ((0, 10**9), (0, 0), (400, 40), (10**9, 10**9), (10**9, 0)):
            patch.setattr(alignment, "FEW_CELLS", few_cells)
            patch.setattr(alignment, "MOST_PAIRS", most_pairs)
            results.add(align(a, b))
    assert len(results) == 1


@pytest.mark.parametrize(
    ("a", "b", "ops"),
    [
        ("", "", []),
        ("abc", "abc", [("equal", 0, 3, 0, 3)]),
        ("", "ab", [("insert", 0, 0, 0, 2)]),
        ("ab", "", [("delete", 0, 2, 0, 0)]),
        ("abc", "xyzw", [("replace", 0, 3, 0, 4)]),
        ("ab", "ba", [("replace", 0, 2, 0, 2)]),  # one run, although keeping a letter costs no more
        (
            "xgy",
            "xggy",
            [("equal", 0, 2, 0, 2), ("insert", 2, 2, 2, 3), ("equal", 2, 3, 3, 4)],
        ),  # the later of the two
        ("xggy", "xgy", [("equal", 0, 2, 0, 2), ("delete", 2, 3, 2, 2), ("equal", 3, 4, 2, 3)]),
    ],
)
def test_scripts_by_hand(a, b, ops):
    assert [tuple(op) for op in align(a, b).ops] == ops


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ("deal between Estonia and Russia of July 2011", "deal of July 2011 between Estonia and Russia", 5),
        ("Columbia University College of Law", "College of Law Columbia University", 3),  # fewer edits
        ("a b c d", "c d a b", 0),
        ("p q r s t u", "t u p q r s", 4),
    ],
)
def test_a_moved_stretch_of_four_tokens_is_kept_where_the_edits_allow_it(before, after, kept):
    script = align(before.split(), after.split())
    assert script.distance == Levenshtein.distance(before.split(), after.split())
    assert labels(script)[0].count(0) == kept


def test_a_run_slides_to_a_word_boundary():
    a, b = ["good", "."], ["good", ".", " Great", "."]
    assert labels(align(a, b))[1] == [0, 0, 1, 1]
    word = [token[0] == " " or place == 0 for place, token in enumerate(b)]
    assert labels(align(a, b, lambda i: i == 0, word.__getitem__))[1] == [0, 0, 1, 1]
    a, b = ["un", "fair", " un"], ["un", "fair", " un", "fair", " un"]  # "unfair un" -> "unfair unfair un"
    word = [place == 0 or token[0] == " " for place, token in enumerate(b)]
    assert labels(align(a, b))[1] == [0, 0, 0, 1, 1]
    assert labels(align(a, b, (True, False, True).__getitem__, word.__getitem__))[1] == [0, 0, 1, 1, 0]


def test_tokens_may_be_anything_hashable():
    assert align([-1, -2, "x", (1, 2)], [-2, -2, "x", (1, 3)]).distance == 2  # hash(-1) == hash(-2)


def test_a_stretch_beyond_any_table_keeps_a_shortest_script(monkeypatch):
    monkeypatch.setattr(alignment, "LARGEST_TABLE", 10)
    a, b = list("abababababab"), list("babbabaabbaa")
    assert align(a, b).distance == Levenshtein.distance(a, b)
    assert apply(align(a, b), a, b) == b


def test_ratio():
    assert edit_ratio(["a", "b", "c", "d"], ["a", "b", "x"]) == 0.5
    assert edit_ratio([], []) == 0.0


@pytest.mark.parametrize(
    ("pair", "agreement", "by_rapidfuzz"), [("et-en", 99.3, 99.0), ("ro-en", 99.7, 99.3)]
)
def test_gold_tags_of_post_edits_are_reproduced(
    data_dir: Path, pair: str, agreement: float, by_rapidfuzz: float
):
    """MLQE-PE: OK/BAD for each machine-translated word, from TER alignments of its post-edit. The figures of
    docs/labels.md."""
    archive = data_dir / "mlqe-pe" / f"{pair}-dev.tar.gz"
    if not archive.exists():
        pytest.skip(f"no {archive}")
    with tarfile.open(archive) as tar:
        mt, pe, tags = (
            tar.extractfile(f"{pair}-dev/dev.{name}").read().decode().splitlines()
            for name in ("mt", "pe", "tags")
        )
    right = bare = total = 0
    for translated, post_edited, gold in zip(mt, pe, tags, strict=True):
        ours, _ = labels(align(translated.split(), post_edited.split()))
        kept = {
            op.src_start + place
            for op in Levenshtein.opcodes(translated.split(), post_edited.split())
            if op.tag == "equal"
            for place in range(op.src_end - op.src_start)
        }
        for place, (label, tag) in enumerate(zip(ours, gold.split()[1::2], strict=True)):
            right += (label == 0) == (tag == "OK")
            bare += (place in kept) == (tag == "OK")
        total += len(ours)
    assert total > 15_000
    assert (round(100 * right / total, 1), round(100 * bare / total, 1)) == (agreement, by_rapidfuzz)
