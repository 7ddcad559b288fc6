"""Text quality beside a win rate: has the policy won with repetitive or longer text? Pure functions on lists
of strings.

For the measures of one set, words are what lies between white space, in lower case; what two sets are
compared by are the units of ``redline.data.units``, so that it holds for every script. Perplexity and KL
under the reference need the model: see ``redline.policy``.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

from redline.data.units import units
from redline.judge.winrate import TextQuality

OPENING = 2  # words
UNLIKELY = 3.0  # standard errors between two shares before they count as different
LEAST = 3  # texts more than before
OFTEN, TIMES = 0.2, 3  # overused: in this share of the texts, and in this many times as many as before


@dataclass(frozen=True)
class Phrase:
    """A word or an opening, and in how many of the texts before and after it stands, once a text."""

    text: str
    before: int
    after: int


def distinct_bigrams(texts: Sequence[str]) -> float:
    """Different word bigrams as a share of all, over the whole set (Li et al. 2016's distinct-2): 1 where
    none comes twice.

    It falls with the amount of text: compare only sets of about the same size. 0 when no text has two words.
    """
    bigrams = list(chain.from_iterable(pairwise(_words(text)) for text in texts))
    return len(set(bigrams)) / len(bigrams) if bigrams else 0.0


def repetition_rate(texts: Sequence[str], n: int = 3) -> float:
    """Share of word n-grams that repeat an earlier one of the same text, averaged over the texts that have
    any.

    0: nothing is said twice; near 1: one phrase over and over (Welleck et al. 2020's seq-rep-n). Unlike
    distinct bigrams it does not depend on how many texts there are.
    """
    rates = []
    for words in map(_words, texts):
        grams = Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
        if grams:
            rates.append(1 - len(grams) / grams.total())
    return sum(rates) / len(rates) if rates else 0.0


def mean_length(texts: Sequence[str]) -> float:
    """Mean number of words."""
    return sum(len(_words(text)) for text in texts) / len(texts) if texts else 0.0


def describe(texts: Sequence[str]) -> TextQuality:
    """All of these of one system's responses."""
    return TextQuality(mean_length(texts), distinct_bigrams(texts), repetition_rate(texts))


def words_more_often(before: Sequence[str], after: Sequence[str], most: int = 8) -> list[Phrase]:
    """The words that stand in clearly more of the texts after than before, the clearest first (see
    ``_more_often``)."""
    return _more_often(before, after, _unit_words, most)


def openings_more_often(before: Sequence[str], after: Sequence[str], most: int = 8) -> list[Phrase]:
    """The first ``OPENING`` words with which clearly more of the texts begin after than before, the clearest
    first (see ``_more_often``)."""

    def opening(text: str) -> list[str]:
        return [" ".join(_unit_words(text)[:OPENING])]

    return _more_often(before, after, opening, most)


def is_overused(phrase: Phrase, texts: int) -> bool:
    """Whether a phrase stands in so many of the ``texts`` answers after that they have become alike: in a
    fifth of them, and in three times as many as before."""
    return phrase.after >= OFTEN * texts and phrase.after >= TIMES * max(phrase.before, 1)


def _more_often(
    before: Sequence[str], after: Sequence[str], phrases_of: Callable[[str], Iterable[str]], most: int
) -> list[Phrase]:
    """The phrases whose share of the texts rose by at least ``UNLIKELY`` standard errors (two proportions,
    pooled) and that stand in at least ``LEAST`` texts more. The two sets may differ in size."""
    counts_before, counts_after = _texts_with(before, phrases_of), _texts_with(after, phrases_of)
    rises = {}
    for phrase, count in counts_after.items():
        rise = _rise(counts_before[phrase], len(before), count, len(after))
        if rise >= UNLIKELY and count >= counts_before[phrase] + LEAST:
            rises[phrase] = rise
    clearest = sorted(rises, key=lambda phrase: (-rises[phrase], phrase))
    return [Phrase(phrase, counts_before[phrase], counts_after[phrase]) for phrase in clearest[:most]]


def _texts_with(texts: Sequence[str], phrases_of: Callable[[str], Iterable[str]]) -> Counter[str]:
    """In how many texts each phrase stands."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(phrases_of(text)) - {""})
    return counts


def _rise(before: int, texts_before: int, after: int, texts_after: int) -> float:
    """By how many standard errors a share has risen; 0 where there is nothing to compare."""
    if not texts_before or not texts_after:
        return 0.0
    pooled = (before + after) / (texts_before + texts_after)
    error = math.sqrt(pooled * (1 - pooled) * (1 / texts_before + 1 / texts_after))
    return (after / texts_after - before / texts_before) / error if error else 0.0


def _unit_words(text: str) -> list[str]:
    """The words of a text in any script, folded to one case, without signs."""
    return [unit.casefold() for unit in units(text) if any(map(str.isalnum, unit))]


def _words(text: str) -> list[str]:
    return text.lower().split()
