"""The counts of what came of the pairs that an LLM was given to edit."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from redline.edit.gates import MEANING
from redline.edit.settings import EditWith
from redline.types import JsonObject

REASONS: dict[str, str] = {
    **{str(gate): meaning for gate, meaning in MEANING.items()},
    "input": "no text to edit",
    "request": "the endpoint refused the request",
}  # why a pair is refused


@dataclass
class Counts:
    """What became of the pairs. ``accepted`` and ``refused`` add up to the finished pairs, those of earlier
    calls included."""

    pairs: int
    before: int = 0
    accepted: int = 0
    no_change: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # by reason: a gate, "input" or "request"
    answers: int = 0
    answers_refused: Counter[str] = field(
        default_factory=Counter
    )  # by gate, those that were asked again included
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_untold: int = 0  # answers whose endpoint did not say how many tokens they took
    failed: dict[str, str] = field(default_factory=dict)  # id -> why it got no answer; not finished

    def note(self, settings: EditWith) -> str:
        parts = [f"{self.accepted} accepted", f"{self.refused.total()} refused"]
        parts += [f"{len(self.failed)} unanswered"] if self.failed else []
        return ", ".join([*parts, f"{self.tokens_in + self.tokens_out:,} tokens", *self._cost(settings)])

    def as_json(self, settings: EditWith) -> JsonObject:
        """All counts for ``--json``; ``cost`` is null without a price."""
        cost = self.cost(settings) if settings.price_in or settings.price_out else None
        return asdict(self) | {"cost": cost}

    def cost(self, settings: EditWith) -> float:
        return (self.tokens_in * settings.price_in + self.tokens_out * settings.price_out) / 1e6

    def _cost(self, settings: EditWith) -> list[str]:
        return [f"cost {self.cost(settings):.2f}"] if settings.price_in or settings.price_out else []

    def lines(self, settings: EditWith) -> Iterator[str]:
        """The summary, a line each."""
        first = f"{self.pairs} pairs: {self.accepted} accepted ({self.no_change} need no change), "
        first += f"{self.refused.total()} refused"
        first += f", {len(self.failed)} without an answer" if self.failed else ""
        yield first + (f"; {self.before} of them finished earlier" if self.before else "")
        for reason, count in self.refused.most_common():
            yield f"  refused {count:>6}  {reason}: {REASONS.get(reason, '')}"
        tokens = ", ".join([f"{self.tokens_in:,} tokens in, {self.tokens_out:,} out", *self._cost(settings)])
        refused = self.answers_refused.total()
        yield f"{self.answers} answers, {refused} refused by a gate; {self.retries} requests made again"
        yield tokens
        if self.tokens_untold:
            yield f"{self.tokens_untold} answers came without a token count and are not in it"


@dataclass(frozen=True)
class Estimate:
    """What it would take to edit ``pairs`` pairs, if no answer is refused: tokens, and the cost where a price
    is given; ``prompts`` are the first filled ones, by the pair's id."""

    pairs: int
    tokens_in: int
    tokens_out: int
    cost: float | None
    prompts: dict[str, str]

    def as_json(self) -> JsonObject:
        """The same for ``--json``."""
        return asdict(self)

    def __str__(self) -> str:
        texts = [f"--- prompt for {name} ---\n{text}\n" for name, text in self.prompts.items()]
        about = f"{self.pairs} pairs: about {self.tokens_in:,} tokens in and {self.tokens_out:,} out"
        if self.cost is not None:
            about += f", cost about {self.cost:.2f}"
        return "\n".join([*texts, f"{about}, if no answer is refused."])
