"""The quickstart's edits are what their card says."""

import json
import statistics
from pathlib import Path

import pytest

from redline.data.alignment import edit_ratio
from redline.data.units import units

FOLDER = Path(__file__).parents[2] / "recipes" / "quickstart"


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


EDITS, HELD_OUT, OPENINGS, EVAL = (
    rows("edits.jsonl"),
    rows("heldout.jsonl"),
    rows("openings.jsonl"),
    rows("eval.jsonl"),
)
CHANGED = [row for row in EDITS + HELD_OUT if row["rejected"] != row["edited"]]


def test_enough_of_them_and_no_two_openings_alike():
    assert len(EDITS) >= 320
    assert len(HELD_OUT) == 40
    assert len(EVAL) >= 100
    openings = [row["prompt"] for row in EDITS + HELD_OUT + EVAL]
    assert len({" ".join(opening.lower().split()[:4]) for opening in openings}) == len(openings)
    assert {row["opening"] for row in OPENINGS} == {row["prompt"] for row in EDITS + HELD_OUT}
    assert len({row["id"] for row in EDITS + HELD_OUT + EVAL}) == len(openings)


def test_minimal():
    ratios = [edit_ratio(units(row["rejected"]), units(row["edited"])) for row in CHANGED]
    assert statistics.median(ratios) <= 0.15
    assert max(ratios) <= 0.3
    assert 0.9 < len(CHANGED) / len(EDITS + HELD_OUT) < 1


def test_vader_rates_changed_edits_above_their_originals():
    analyzer = pytest.importorskip("vaderSentiment.vaderSentiment").SentimentIntensityAnalyzer()
    scores = [
        [analyzer.polarity_scores(row[side])["compound"] for side in ("rejected", "edited")]
        for row in CHANGED
    ]
    assert sum(after > before for before, after in scores) / len(scores) >= 0.95


def test_responses_are_short_enough():
    from redline.data.tokenization import load_tokenizer

    tokenizer = load_tokenizer("smollm2-135m")
    for side, limit in (("rejected", 40), ("edited", 48)):
        assert max(len(tokenizer(row[side])["input_ids"]) for row in EDITS + HELD_OUT) <= limit
