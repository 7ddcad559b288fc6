"""Keywords of an English text by RAKE (Rose et al. 2010), for SPO's degrees as its paper has them."""

import re
from collections import Counter

WORDS = """
a about above after again against all also am an and any are as at be because been before being below
between both but by can could did do does doing don down during each even few for from further get got had
has have having he her here hers herself him himself his how however i if in into is it its itself just
like made make many may me might more most much must my myself no nor not now of off on once one only or
other our ours ourselves out over own rather really s same see she should so some such t than that the
their theirs them themselves then there these they this those through to too two under until up upon us
very was we were what when where which while who whom why will with within without would yet you your
yours yourself yourselves
"""
STOP = frozenset(WORDS.split())  # words that begin no phrase and end none
WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")


def phrases(text: str) -> list[tuple[float, int, int]]:
    """The candidate phrases of a text, the best first: score, and characters ``[start, end)``.

    A phrase is a run of words without a stop word or punctuation in it. A word's score is its degree (words
    that it stands beside in phrases, itself included) over its frequency, a phrase's the sum of its words'.
    """
    runs: list[list[re.Match[str]]] = [[]]
    end = 0
    for word in WORD.finditer(text):
        if text[end : word.start()].strip():
            runs.append([])
        end = word.end()
        if word[0].lower() in STOP:
            runs.append([])
        else:
            runs[-1].append(word)
    frequency: Counter[str] = Counter()
    degree: Counter[str] = Counter()
    for run in runs:
        for word in run:
            frequency[word[0].lower()] += 1
            degree[word[0].lower()] += len(run)
    scored = []
    for run in filter(None, runs):
        score = sum(degree[word[0].lower()] / frequency[word[0].lower()] for word in run)
        scored.append((score, run[0].start(), run[-1].end()))
    return sorted(scored, key=lambda phrase: (-phrase[0], phrase[1]))


def without_keywords(text: str, levels: int) -> list[tuple[int, str]]:
    """For each degree from 1 to ``levels`` the text without so many of ``levels`` parts of its key phrases,
    the best scored first. A text of fewer phrases gives fewer degrees."""
    scored = phrases(text)
    made: list[tuple[int, str]] = []
    before = 0
    for degree in range(1, levels + 1):
        count = round(degree * len(scored) / levels)
        if count == before:
            continue
        before, shorter = count, text
        for _, start, end in sorted(scored[:count], key=lambda phrase: -phrase[1]):
            shorter = shorter[:start].rstrip(" ") + shorter[end:]
        made.append((degree, shorter))
    return made
