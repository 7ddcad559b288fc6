"""What a judge is: the seam, and the simplest kind of judge, one that gives scores."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from redline.data.records import Text
from redline.judge.length import NEUTRAL

JudgeFunction = Callable[[list[Text], list[Text], list[Text]], Sequence[float | None]]
"""``(prompts, a, b) -> preferences for a``: the shortest form of a judge, see ``FunctionJudge``."""


class Judge(Protocol):
    """What a comparison asks.

    ``name`` is for people. ``settings`` say all that its verdicts depend on: they are the judge's half of a
    verdict's key in the cache, and are written into winrate.json. ``both_orders``: whether the order of the
    two may sway it, so that each pair is shown twice. ``batch_size`` pairs go into one call, ``concurrency``
    calls run at once. ``failures`` counts reasons for a None. ``length_prior``: what the length-controlled
    win rate assumes of its taste for length (see ``redline.judge.length``); None where the judge measures
    length itself, so that there is no such win rate.
    """

    name: str
    settings: dict[str, object]
    both_orders: bool
    batch_size: int
    concurrency: int
    failures: dict[str, int]
    length_prior: tuple[float, float] | None

    def prefer(self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text]) -> list[float | None]:
        """For each pair the preference for ``a``, shown first: 1 a, 0 b, 0.5 a tie, between them how sure;
        None: no verdict."""
        ...


class ScoreJudge:
    """A judge that gives every response a score: the higher one wins, equal ones tie. The order cannot sway
    it."""

    both_orders = False
    concurrency = 1

    def __init__(
        self,
        name: str,
        score: Callable[[Sequence[Text], Sequence[Text]], list[float]],
        settings: dict[str, object] | None = None,
        batch_size: int = 256,
        length_prior: tuple[float, float] | None = NEUTRAL,
    ):
        self.name, self.score, self.batch_size = name, score, batch_size
        self.settings: dict[str, object] = {"judge": name} | (settings or {})
        self.length_prior = length_prior
        self.failures: dict[str, int] = {}

    def prefer(self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text]) -> list[float | None]:
        scores = self.score([*prompts, *prompts], [*a, *b])
        verdicts = [
            _by_score(first, second) for first, second in zip(scores[: len(a)], scores[len(a) :], strict=True)
        ]
        count_failures(self, "a score that is no number", verdicts.count(None))
        return verdicts


def _by_score(first: float, second: float) -> float | None:
    if math.isnan(first) or math.isnan(second):
        return None
    if first == second:
        return 0.5
    return float(first > second)


def count_failures(judge: Judge, reason: str, times: int) -> None:
    """Note failures by their reason."""
    if times:
        judge.failures[reason] = judge.failures.get(reason, 0) + times
