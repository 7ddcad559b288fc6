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


def test_words_that_are_said_more_often_are_counted_once_a_text():
    before = ["The soup was cold."] * 45 + ["Happy days, happy nights."] * 5
    after = ["The soup was cold."] * 15 + ["Happy happy days."] * 35
    words = text.words_more_often(before, after)
    assert text.Phrase("happy", 5, 35) in words
    assert "soup" not in [phrase.text for phrase in words]
    assert text.openings_more_often(before, after) == [text.Phrase("happy happy", 0, 35)]
    assert text.words_more_often(before, before) == text.words_more_often([], after) == []


def test_words_of_scripts_without_spaces():
    words = text.words_more_often(["今天很冷。"] * 40, ["今天很好。"] * 40)
    assert words == [text.Phrase("好", 0, 40)]


@pytest.mark.parametrize(("before", "after", "overused"), [(10, 71, True), (0, 20, False), (30, 71, False)])
def test_when_a_phrase_is_overused(before, after, overused):
    assert text.is_overused(text.Phrase("happy", before, after), 140) == overused
