"""What a judge is: the seam, and the simplest kind of judge, one that gives scores."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from redline.data.records import Text
from redline.judge.length import NEUTRAL


class Judge(Protocol):
    """What a comparison asks.

    ``settings`` say all that its verdicts depend on: they are the judge's half of a verdict's key in the
    cache, and are written into winrate.json. ``both_orders``: whether the order of the two may sway it, so
    that each pair is shown twice. ``batch_size`` pairs go into one call, ``concurrency`` calls run at once.
    ``failures`` counts reasons for a None. ``length_prior``: what the length-controlled win rate assumes of
    its taste for length (see ``redline.judge.length``).
    """

    name: str
    settings: dict[str, Any]
    both_orders: bool
    batch_size: int
    concurrency: int
    failures: dict[str, int]
    length_prior: tuple[float, float]

    def prefer(self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text]) -> list[float | None]:
        """For each pair the preference for ``a``, shown first: 1 a, 0 b, 0.5 a tie, between them how sure;
        None: no verdict."""
        ...


class ScoreJudge:
    """A judge that gives every response a score: the higher one wins, equal ones tie. The order cannot sway
    it."""

    both_orders = False
    concurrency = 1
    length_prior = NEUTRAL

    def __init__(
        self,
        name: str,
        score: Callable[[Sequence[Text], Sequence[Text]], list[float]],
        settings: dict[str, Any] | None = None,
        batch_size: int = 256,
    ):
        self.name, self.score, self.batch_size = name, score, batch_size
        self.settings: dict[str, Any] = {"judge": name} | (settings or {})
        self.failures: dict[str, int] = {}

    def prefer(self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text]) -> list[float | None]:
        scores = self.score([*prompts, *prompts], [*a, *b])
        found = [
            None if math.isnan(x) or math.isnan(y) else 0.5 if x == y else float(x > y)
            for x, y in zip(scores[: len(a)], scores[len(a) :], strict=True)
        ]
        count_failures(self, "a score that is no number", found.count(None))
        return found


def count_failures(judge: Judge, reason: str, times: int) -> None:
    """Note failures by their reason."""
    if times:
        judge.failures[reason] = judge.failures.get(reason, 0) + times
