"""Text quality beside a win rate: has the policy won with repetitive or longer text? Pure functions on lists
of strings.

Words are what lies between white space, in lower case. Perplexity and KL under the reference need the model:
see ``redline.policy``.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from redline.judge.winrate import TextQuality


def distinct_bigrams(texts: Sequence[str]) -> float:
    """Different word bigrams as a share of all, over the whole set (Li et al. 2016's distinct-2): 1 where
    none comes twice.

    It falls with the amount of text: compare only sets of about the same size. 0 when no text has two words.
    """
    bigrams = [pair for words in map(_words, texts) for pair in pairwise(words)]
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


def _words(text: str) -> list[str]:
    return text.lower().split()
