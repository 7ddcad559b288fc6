"""Asking a judge about many pairs: in both orders where order can sway it, from the cache where it has been
asked before."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from redline.console import progress_bar
from redline.data.records import Text
from redline.judge.cache import VerdictCache, verdict_key
from redline.judge.protocol import Judge

Pair = tuple[Text, Text, Text]  # prompt, a, b


@dataclass(frozen=True)
class Verdict:
    """What a judge said of one pair.

    ``preference`` for a: the mean of both orders, 0.5 where they name different winners (or only one of them
    a tie), None where an order failed. ``shown_first`` and ``shown_second``: the preference for a with a
    shown first and second; the latter None for judges that are asked once. ``identical``: the two responses
    were the same text, a tie that nobody was asked about.
    """

    preference: float | None
    shown_first: float | None
    shown_second: float | None = None
    identical: bool = False

    @property
    def in_both_orders(self) -> bool:
        """Whether there is a verdict with a shown first and one with a shown second."""
        return self.shown_first is not None and self.shown_second is not None

    @property
    def disagrees(self) -> bool:
        """Whether the order changed the winner."""
        if self.shown_first is None or self.shown_second is None:
            return False
        return winner(self.shown_first) != winner(self.shown_second)

    @property
    def towards_first(self) -> float:
        """The mean preference for whatever was shown first; 0.5 where one order has no verdict."""
        if self.shown_first is None or self.shown_second is None:
            return 0.5
        return (self.shown_first + 1 - self.shown_second) / 2


def winner(preference: float) -> float:
    """A preference as a plain verdict: 1, 0.5 or 0."""
    return 0.5 if preference == 0.5 else float(preference > 0.5)


def combine(shown_first: float | None, shown_second: float | None) -> float | None:
    """Two orders' preferences for a as one: their mean; a tie where the winners differ; None where one is
    missing."""
    if shown_first is None or shown_second is None:
        return None
    return (shown_first + shown_second) / 2 if winner(shown_first) == winner(shown_second) else 0.5


def judge_pairs(
    judge: Judge, pairs: Sequence[Pair], cache: VerdictCache, repeat: int = 0, show: bool = True
) -> list[Verdict]:
    """The judge's verdict on every pair, in their order. Each answer is in the cache before the next is
    waited for.

    ``repeat`` above 0 asks again what the cache has answered before: to measure how far a judge agrees with
    itself. Afterwards ``judge.failures`` holds the reasons of this call's failures.
    """
    judge.failures.clear()
    questions: dict[str, Pair] = {}  # by key, so that a question which comes twice is asked once
    keys: list[tuple[str, str | None] | None] = []
    for prompt, a, b in pairs:
        if a == b:
            keys.append(None)
            continue
        first = verdict_key(judge.settings, prompt, a, b, repeat)
        questions[first] = (prompt, a, b)
        second = verdict_key(judge.settings, prompt, b, a, repeat) if judge.both_orders else None
        if second:
            questions[second] = (prompt, b, a)
        keys.append((first, second))
    answers = _answers(judge, questions, cache, show)
    return [_verdict(place, answers) for place in keys]


def _answers(
    judge: Judge, questions: dict[str, Pair], cache: VerdictCache, show: bool
) -> dict[str, float | None]:
    answers: dict[str, float | None] = {key: cache.get(key) for key in questions}
    open_keys = [key for key, answer in answers.items() if answer is None]
    batches = [
        open_keys[start : start + judge.batch_size] for start in range(0, len(open_keys), judge.batch_size)
    ]

    def ask(batch: list[str]) -> list[float | None]:
        prompts, a, b = zip(*(questions[key] for key in batch), strict=True)
        return judge.prefer(prompts, a, b)

    with progress_bar(
        f"judging ({judge.name})", len(questions), len(questions) - len(open_keys), show
    ) as bar:
        for batch, given in _run(ask, batches, judge.concurrency):
            known = [(key, answer) for key, answer in zip(batch, given, strict=True) if answer is not None]
            cache.put((key, answer, judge.name) for key, answer in known)
            answers.update(known)
            bar.advance(len(batch))
            if judge.failures:
                bar.note(f"{sum(judge.failures.values())} failed")
    return answers


def _run(
    ask: Callable[[list[str]], list[float | None]], batches: list[list[str]], concurrency: int
) -> Iterator[tuple[list[str], list[float | None]]]:
    if concurrency == 1:
        for batch in batches:
            yield batch, ask(batch)
        return
    pool, failure = ThreadPoolExecutor(concurrency), None
    try:
        asked = {pool.submit(ask, batch): batch for batch in batches}
        for done in as_completed(asked):
            if done.cancelled():
                continue
            if (error := done.exception()) is None:
                yield asked[done], done.result()
            elif (
                failure is None
            ):  # ask nothing more, but keep the answers that are under way: they are paid for
                failure = error
                for other in asked:
                    other.cancel()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if failure is not None:
        raise failure


def _verdict(place: tuple[str, str | None] | None, answers: dict[str, float | None]) -> Verdict:
    if place is None:
        return Verdict(0.5, None, None, identical=True)
    first, second = place
    shown_first = answers[first]
    if second is None:
        return Verdict(shown_first, shown_first)
    other = answers[second]
    shown_second = None if other is None else 1 - other
    return Verdict(combine(shown_first, shown_second), shown_first, shown_second)
