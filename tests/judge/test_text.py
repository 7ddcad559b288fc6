"""Text quality figures."""

import pytest

from redline.judge import text
from redline.judge.winrate import TextQuality


def test_distinct_bigrams_over_the_whole_set():
    assert text.distinct_bigrams(["a b c", "A b d"]) == pytest.approx(3 / 4)  # ab, bc, ab, bd
    assert text.distinct_bigrams(["word", ""]) == 0.0


def test_repetition_is_within_each_text():
    assert text.repetition_rate(["very good " * 10]) == pytest.approx(1 - 2 / 18)
    assert text.repetition_rate(["the food was good", "the food was good"]) == 0.0
    assert text.repetition_rate(["too short", ""]) == 0.0


def test_mean_length_in_words():
    assert text.mean_length(["one two", "three  four\nfive six"]) == 3.0
    assert text.describe(["x y"]) == TextQuality(mean_words=2.0, distinct_bigrams=1.0, repetition_rate=0.0)
