"""A guard for rewriting tasks, as a judge: which response keeps more of the text that it rewrites.

A comment is easily made polite by saying something else. Below 50 % a policy keeps fewer of the comment's words than the model it
started from; that says nothing of how good either is. Scored by the F1 of the words in common, in lower case, counted as often as
they occur; equal ones tie.
"""

import re
from collections import Counter
from collections.abc import Sequence


def overlap(comment: str, response: str) -> float:
    """F1 of the words in common, from 0 (none) to 1 (the same words)."""
    one, other = (Counter(re.findall(r"[\w']+", text.lower())) for text in (comment, response))
    return 2 * (one & other).total() / max(one.total() + other.total(), 1)


def kept(prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> list[float]:
    """Which response keeps more of the comment in recipes/paradetox_split.py's prompts."""
    found = []
    for prompt, first, second in zip(prompts, a, b, strict=True):
        comment = prompt.removeprefix("Comment: ").removesuffix("\nPolite:")
        x, y = overlap(comment, first), overlap(comment, second)
        found.append(0.5 + 0.5 * ((x > y) - (x < y)))
    return found
