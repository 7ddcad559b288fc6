"""Before trusting a judge: does it agree with people, with itself, and does order or length sway it?"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import combinations
from pathlib import Path

from redline.data.records import as_text
from redline.errors import UserError
from redline.judge.agreement import agreement, cohen_kappa, fleiss_kappa, kappa_interval, majority
from redline.judge.cache import VerdictCache
from redline.judge.compare import position_bias
from redline.judge.judges import as_judge
from redline.judge.people import JudgedPair
from redline.judge.protocol import Judge, JudgeFunction
from redline.judge.statistics import win_rate_interval
from redline.judge.verdicts import Verdict, judge_pairs, winner
from redline.judge.winrate import Json, PositionBias

Vote = float | None  # 1 (a), 0 (b), 0.5 (a tie); None: not said


@dataclass(frozen=True)
class Share:
    """A share of ``n`` pairs with its 95 % interval over pairs; both None where there is nothing to
    measure."""

    value: float | None
    ci95: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class PeopleAgreement:
    """How far ``count`` people agree with each other; ``complete`` pairs were judged by all of them. The
    first two are means over every two people."""

    count: int
    complete: int
    pairwise_agreement: float | None
    cohen_kappa: float | None
    fleiss_kappa: float | None


@dataclass(frozen=True)
class JudgeAgreement:
    """How far a judge agrees with the people's majority (``n`` pairs), with it where neither says tie
    (``decided`` pairs), and with each person. ``no_majority`` pairs are in neither of the first two."""

    n: int
    agreement: Share
    decided: int
    agreement_decided: Share
    cohen_kappa: float | None
    cohen_kappa_ci95: tuple[float, float] | None
    agreement_each: float | None
    no_majority: int


@dataclass(frozen=True)
class OrderAgreement:
    """Agreement with the people's majority when a is shown first, when it is shown second, the mean of the
    two, and of the verdict that both orders make together (a tie where they name different winners). Over
    ``n`` pairs that have a majority and a verdict in each order."""

    n: int
    shown_first: Share
    shown_second: Share
    mean: float | None
    both: Share


@dataclass(frozen=True)
class LengthBias:
    """How often ``judge`` and ``people`` pick the longer response, of pairs that differ in length, ties left
    out; and how far two rules agree with the people's majority: "the longer wins" (``yardstick``) and "the
    shorter wins" (``shorter``)."""

    judge: Share
    people: Share
    yardstick: Share
    shorter: Share


@dataclass(frozen=True)
class SelfConsistency:
    """Of ``pairs`` asked a second time in the same order, the ``share`` that kept their verdict."""

    pairs: int
    share: Share


@dataclass(frozen=True)
class CheckFailures:
    """``pairs`` without a verdict, those that failed when asked ``again``, and the ``reasons``, counted by
    request."""

    pairs: int
    again: int
    reasons: dict[str, int]


@dataclass(frozen=True)
class JudgeCheck:
    """A judge against people's verdicts. ``by`` is the agreement in each group of a breakdown. ``as_json``
    gives the object of ``judge-check --out``."""

    judge: str
    judge_settings: Json
    n: int
    people: PeopleAgreement
    with_people: JudgeAgreement
    orders: OrderAgreement | None
    position_bias: PositionBias | None
    length_bias: LengthBias
    self_consistency: SelfConsistency
    failures: CheckFailures
    by: dict[str, JudgeAgreement]

    def as_json(self) -> Json:
        """All figures; a share is a number, its interval is beside it as ``..._ci95``."""
        plain = _plain(self)
        assert isinstance(plain, dict)
        return plain


def check_judge(
    pairs: Sequence[JudgedPair],
    judge: Judge | JudgeFunction | str,
    cache: str | Path | None = None,
    again: int = 100,
) -> JudgeCheck:
    """Measure a judge on pairs that people judged. ``again``: how many pairs are asked a second time.

    Raises UserError when the judge gives no verdict at all.
    """
    chosen = as_judge(judge)
    questions = [(pair.prompt, pair.a, pair.b) for pair in pairs]
    with VerdictCache(cache) as known:
        verdicts = judge_pairs(chosen, questions, known)
        failed = _without_preference(verdicts)
        reasons = Counter(chosen.failures)
        if failed == len(pairs):
            raise UserError(
                f"judge {chosen.name}: not one verdict on {len(pairs)} pairs: {'; '.join(reasons)}."
            )
        second = judge_pairs(chosen, questions[:again], known, repeat=1)
        failed_again = _without_preference(second)
        reasons += Counter(chosen.failures)
    said = [_as_vote(verdict.preference) for verdict in verdicts]
    votes = [majority(pair.votes) for pair in pairs]
    return JudgeCheck(
        judge=chosen.name,
        judge_settings=chosen.settings,
        n=len(pairs),
        people=_people(pairs),
        with_people=_with_people(pairs, votes, said),
        orders=_orders(votes, verdicts) if chosen.both_orders else None,
        position_bias=position_bias(verdicts) if chosen.both_orders else None,
        length_bias=_length_bias(pairs, votes, said),
        self_consistency=_consistency(verdicts, second),
        failures=CheckFailures(failed, failed_again, dict(reasons)),
        by=_by_group(pairs, votes, said),
    )


def _without_preference(verdicts: Sequence[Verdict]) -> int:
    return sum(verdict.preference is None for verdict in verdicts)


def _people(pairs: Sequence[JudgedPair]) -> PeopleAgreement:
    by_person = list(zip(*(pair.people for pair in pairs), strict=True))
    count = len(by_person)
    complete = [pair.votes for pair in pairs if len(pair.votes) == count]
    agreements, kappas = [], []
    for one_persons, another_persons in combinations(by_person, 2):
        first, second = _both_said(one_persons, another_persons)
        if first:
            agreements.append(agreement(first, second))
            kappas.append(cohen_kappa(first, second))
    return PeopleAgreement(
        count=count,
        complete=len(complete),
        pairwise_agreement=_mean(agreements),
        cohen_kappa=_mean(kappas),
        fleiss_kappa=fleiss_kappa(complete) if complete and count > 1 else None,
    )


def _with_people(pairs: Sequence[JudgedPair], votes: Sequence[Vote], said: Sequence[Vote]) -> JudgeAgreement:
    ours, theirs = _both_said(votes, said)
    agree, decided = [], []
    for our_verdict, their_verdict in zip(ours, theirs, strict=True):
        same = our_verdict == their_verdict
        agree.append(same)
        if our_verdict != 0.5 and their_verdict != 0.5:
            decided.append(same)
    each = []
    for pair, verdict in zip(pairs, said, strict=True):
        if verdict is not None:
            each += [float(vote == verdict) for vote in pair.votes]
    return JudgeAgreement(
        n=len(ours),
        agreement=_share(agree),
        decided=len(decided),
        agreement_decided=_share(decided),
        cohen_kappa=cohen_kappa(ours, theirs) if ours else None,
        cohen_kappa_ci95=kappa_interval(ours, theirs) if len(ours) > 1 else None,
        agreement_each=_mean(each),
        no_majority=sum(vote is None for vote in votes),
    )


def _by_group(
    pairs: Sequence[JudgedPair], votes: Sequence[Vote], said: Sequence[Vote]
) -> dict[str, JudgeAgreement]:
    places: dict[str, list[int]] = {}
    for place, pair in enumerate(pairs):
        if pair.group:
            places.setdefault(pair.group, []).append(place)
    groups = {}
    for group, members in sorted(places.items()):
        pairs_here = [pairs[place] for place in members]
        votes_here = [votes[place] for place in members]
        said_here = [said[place] for place in members]
        groups[group] = _with_people(pairs_here, votes_here, said_here)
    return groups


def _orders(votes: Sequence[Vote], verdicts: Sequence[Verdict]) -> OrderAgreement:
    first, second, both = [], [], []
    for vote, verdict in zip(votes, verdicts, strict=True):
        if vote is not None and verdict.in_both_orders:
            first.append(vote == _as_vote(verdict.shown_first))
            second.append(vote == _as_vote(verdict.shown_second))
            both.append(vote == _as_vote(verdict.preference))
    shown_first, shown_second = _share(first), _share(second)
    single = [share.value for share in (shown_first, shown_second) if share.value is not None]
    return OrderAgreement(len(both), shown_first, shown_second, _mean(single), _share(both))


def _length_bias(pairs: Sequence[JudgedPair], votes: Sequence[Vote], said: Sequence[Vote]) -> LengthBias:
    longer = [_longer(pair) for pair in pairs]
    shorter = [1 - verdict for verdict in longer]
    return LengthBias(
        judge=_picks_longer(said, longer),
        people=_picks_longer(votes, longer),
        yardstick=_agreement_with(votes, longer),
        shorter=_agreement_with(votes, shorter),
    )


def _picks_longer(verdicts: Sequence[Vote], longer: Sequence[float]) -> Share:
    """How often the longer response wins, where one is longer and one wins."""
    hits = []
    for verdict, long in zip(verdicts, longer, strict=True):
        if verdict in (0.0, 1.0) and long != 0.5:
            hits.append(verdict == long)
    return _share(hits)


def _agreement_with(votes: Sequence[Vote], rule: Sequence[float]) -> Share:
    """How often a rule's verdict is the people's."""
    hits = []
    for vote, verdict in zip(votes, rule, strict=True):
        if vote is not None:
            hits.append(vote == verdict)
    return _share(hits)


def _longer(pair: JudgedPair) -> float:
    """Which response has more characters, as a vote."""
    a, b = len(as_text(pair.a)), len(as_text(pair.b))
    return 0.5 if a == b else float(a > b)


def _consistency(first: Sequence[Verdict], second: Sequence[Verdict]) -> SelfConsistency:
    before, after = _both_said(
        [verdict.shown_first for verdict in first[: len(second)]],
        [verdict.shown_first for verdict in second],
    )
    share = _share([winner(x) == winner(y) for x, y in zip(before, after, strict=True)])
    return SelfConsistency(len(before), share)


def _as_vote(preference: float | None) -> Vote:
    return None if preference is None else winner(preference)


def _both_said(first: Sequence[Vote], second: Sequence[Vote]) -> tuple[list[float], list[float]]:
    """Two raters' verdicts on the pairs that both of them judged."""
    ours, theirs = [], []
    for x, y in zip(first, second, strict=True):
        if x is not None and y is not None:
            ours.append(x)
            theirs.append(y)
    return ours, theirs


def _share(hits: Sequence[bool]) -> Share:
    if not hits:
        return Share(None, None, 0)
    values = [float(hit) for hit in hits]
    return Share(sum(values) / len(values), win_rate_interval(values), len(values))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _plain(value: object) -> object:
    """Dataclasses as dicts; a share becomes its value, with the interval beside it."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if not is_dataclass(value):
        return value
    plain: Json = {}
    for field in fields(value):
        inner = getattr(value, field.name)
        if isinstance(inner, Share):
            plain |= {field.name: inner.value, f"{field.name}_ci95": inner.ci95}
        else:
            plain[field.name] = _plain(inner)
    return plain
