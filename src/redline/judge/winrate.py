"""What a comparison found, typed. ``as_json`` gives the object of winrate.json."""

from dataclasses import asdict, dataclass, field

from redline.judge.statistics import Difference

Json = dict[str, object]


@dataclass(frozen=True)
class PositionBias:
    """How much the order swayed a judge: of ``pairs`` judged in both orders, the ``disagreements`` (the
    winner changed), their ``share``, and ``prefers_first``, the mean preference for the response shown first
    (0.5: no side preferred)."""

    pairs: int
    disagreements: int
    share: float
    prefers_first: float


@dataclass(frozen=True)
class TextQuality:
    """Figures of one system's responses that guard a win rate (see ``redline.judge.text``)."""

    mean_words: float
    distinct_bigrams: float
    repetition_rate: float


@dataclass(frozen=True)
class Failures:
    """``pairs`` without a verdict, and the ``reasons``, counted by request."""

    pairs: int
    reasons: dict[str, int]


@dataclass(frozen=True)
class WinRate:
    """The win rate of system ``a`` over system ``b``, and what one may say of it.

    All shares are from 0 to 1. ``ci95`` is a 95 % interval of ``win_rate`` over the prompts; ``n`` is the
    number of judged pairs, ``wins + ties + losses``. ``length_controlled_win_rate`` and ``length_effect`` are
    None for a judge that measures length itself. ``mean_length_a`` and ``mean_length_b`` are characters.
    ``position_bias`` is None for a judge that the order cannot sway. ``identical`` counts pairs of equal
    texts, ``unmatched`` the responses that only one system has. docs/compare.md explains every field.
    """

    win_rate: float
    ci95: tuple[float, float]
    n: int
    judge: str
    wins: int
    ties: int
    losses: int
    standard_error: float | None
    sign_test_p: float
    length_controlled_win_rate: float | None
    length_effect: float | None
    length_prior: tuple[float, float] | None
    mean_length_a: float
    mean_length_b: float
    text: dict[str, TextQuality]
    position_bias: PositionBias | None
    identical: int
    failures: Failures
    judge_settings: Json
    seed: int
    redline: str
    unmatched: dict[str, int]
    a: str
    b: str

    def __str__(self) -> str:
        low, high = self.ci95
        return (
            f"{self.a} over {self.b}, judged by {self.judge}: win rate {self.win_rate:.3f} "
            f"[{low:.3f}, {high:.3f}], n = {self.n}"
        )

    def as_json(self) -> Json:
        """The object of winrate.json."""
        return asdict(self)


@dataclass(frozen=True)
class SystemDifference(Difference):
    """A difference of the win rates of ``a`` and ``b`` over the reference ``over``, prompt by prompt."""

    a: str = field(kw_only=True)
    b: str = field(kw_only=True)
    over: str = field(kw_only=True)

    def as_json(self) -> Json:
        """The object in winrate.json: the names first."""
        figures = asdict(self)
        names = {name: figures.pop(name) for name in ("a", "b", "over")}
        return names | figures


@dataclass(frozen=True)
class Tournament:
    """Three systems or more, every two of them compared; the last of ``systems`` is the reference.

    ``pairs``: the comparisons. ``differences``: of the win rates over the reference. ``bradley_terry``:
    strengths in log units, mean 0. ``unmatched``: for each system, its responses to prompts that some other
    system did not answer.
    """

    systems: list[str]
    pairs: list[WinRate]
    differences: list[SystemDifference]
    bradley_terry: dict[str, float]
    unmatched: dict[str, int]

    @property
    def first_over_last(self) -> WinRate:
        """The comparison of the first system with the reference."""
        return self.between(self.systems[0], self.systems[-1])

    def between(self, a: str, b: str) -> WinRate:
        """The comparison of two systems, named in the order in which they were given."""
        return next(pair for pair in self.pairs if (pair.a, pair.b) == (a, b))

    def as_json(self) -> Json:
        """The object of winrate.json: ``first_over_last`` at its top level, everything else beside it."""
        return self.first_over_last.as_json() | {
            "unmatched": self.unmatched,
            "systems": self.systems,
            "pairs": [_without_unmatched(pair) for pair in self.pairs],
            "differences": [difference.as_json() for difference in self.differences],
            "bradley_terry": self.bradley_terry,
        }


def _without_unmatched(pair: WinRate) -> Json:
    """A pair of several systems: what was left out is said once, for all of them."""
    plain = pair.as_json()
    del plain["unmatched"]
    return plain
