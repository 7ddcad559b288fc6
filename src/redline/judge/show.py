"""What ``redline compare`` and ``redline judge-check`` print."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from redline.judge.check import JudgeAgreement, JudgeCheck, PeopleAgreement, Share
from redline.judge.compare import verdicts_beside
from redline.judge.winrate import Failures, Tournament, WinRate

CheckRow = tuple[str, str, str, str]  # what was measured, the figure, its interval, a note


def print_win_rate(result: WinRate, out: Path) -> None:
    """The sentence that says it, and the table beside it, on stdout."""
    rows = _win_rate_rows(result)
    rows += _failure_rows([result.failures])
    rows += _unmatched_rows(result.unmatched)
    _print(result, rows, out)


def print_tournament(result: Tournament, out: Path) -> None:
    """The first system over the last in a sentence, and all comparisons in the table below it."""
    rows = _win_rate_rows(result.first_over_last)
    rows += _failure_rows([pair.failures for pair in result.pairs])
    rows += _unmatched_rows(result.unmatched)
    for pair in result.pairs:
        low, high = pair.ci95
        rows.append((f"{pair.a} over {pair.b}", f"{pair.win_rate:.3f} [{low:.3f}, {high:.3f}], n = {pair.n}"))
    for difference in result.differences:
        low, high = difference.ci95
        rows.append(
            (
                f"{difference.a} - {difference.b}, over {difference.over}",
                f"{difference.difference:+.3f} [{low:+.3f}, {high:+.3f}], p = {difference.sign_test_p:.2g}",
            )
        )
    rows += [(f"strength of {name}", f"{strength:+.3f}") for name, strength in result.bradley_terry.items()]
    _print(result.first_over_last, rows, out)


def _print(result: WinRate, rows: list[tuple[str, str]], out: Path) -> None:
    screen = Console(highlight=False, soft_wrap=True)
    screen.print(str(result), markup=False, soft_wrap=True)
    table = Table(show_header=False, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    screen.print(table, markup=False)
    screen.print(f"written: {out}, {verdicts_beside(out)}", markup=False, soft_wrap=True)


def _win_rate_rows(result: WinRate) -> list[tuple[str, str]]:
    text_a, text_b = result.text["a"], result.text["b"]
    controlled = _number(result.length_controlled_win_rate)
    if result.length_prior is None:
        controlled = "none: this judge measures length"
    rows = [
        ("wins / ties / losses", f"{result.wins} / {result.ties} / {result.losses}"),
        ("standard error", _number(result.standard_error)),
        ("sign test", f"p = {result.sign_test_p:.2g}"),
        ("length-controlled win rate", controlled),
        ("mean length, characters", f"{result.mean_length_a:.0f} against {result.mean_length_b:.0f}"),
        ("distinct bigrams", f"{text_a.distinct_bigrams:.3f} against {text_b.distinct_bigrams:.3f}"),
        ("repeated trigrams", f"{text_a.repetition_rate:.3f} against {text_b.repetition_rate:.3f}"),
    ]
    if result.position_bias is not None:
        bias = result.position_bias
        rows.append(
            (
                "order changed the winner",
                f"{bias.disagreements} of {bias.pairs} pairs ({bias.share:.1%}), "
                f"preference for the first {bias.prefers_first:.3f}",
            )
        )
    return rows


def _failure_rows(failures: list[Failures]) -> list[tuple[str, str]]:
    count = sum(failure.pairs for failure in failures)
    if not count:
        return []
    reasons = dict.fromkeys(reason for failure in failures for reason in failure.reasons)
    return [("pairs without a verdict", f"{count}: {'; '.join(reasons)}")]


def _unmatched_rows(unmatched: dict[str, int]) -> list[tuple[str, str]]:
    left_out = [f"{name}: {count}" for name, count in unmatched.items() if count]
    return [("left out, not answered by all", ", ".join(left_out))] if left_out else []


def print_check(result: JudgeCheck) -> None:
    """A judge's check as one table on stdout."""
    table = Table(
        title=escape(f"judge {result.judge} on {result.n} pairs; in brackets 95 % intervals over pairs"),
        title_justify="left",
        show_header=False,
        box=None,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right")
    table.add_column("", no_wrap=True)
    table.add_column("")
    for row in _check_rows(result):
        table.add_row(*row)
    Console(highlight=False, soft_wrap=True).print(table, markup=False)


def _check_rows(result: JudgeCheck) -> list[CheckRow]:
    rows: list[CheckRow] = []
    if result.people.count > 1:
        rows += _people_rows(result.people)
    rows += _agreement_rows(result.with_people)
    rows += _order_rows(result)
    length = result.length_bias
    rows += [
        _row("judge picks the longer", length.judge, "of pairs that differ in length, ties out"),
        _row("people pick the longer", length.people, "above this, the judge's is bias"),
        _row('"the longer wins" with people', length.yardstick, "what a judge must beat"),
        _row('"the shorter wins" with people', length.shorter, "and this"),
    ]
    consistency, failures = result.self_consistency, result.failures
    note = f"{consistency.pairs} pairs, same order"
    if failures.again:
        note += f"; {failures.again} without an answer"
    rows.append(_row("same verdict when asked again", consistency.share, note))
    rows.append(("pairs without a verdict", str(failures.pairs), "", "; ".join(failures.reasons)))
    for group, part in result.by.items():
        rows.append(_row(f"{group}: with the majority", part.agreement, f"{part.n} pairs"))
        rows.append(_row("  where neither says tie", part.agreement_decided, f"{part.decided} pairs"))
    return rows


def _people_rows(people: PeopleAgreement) -> list[CheckRow]:
    return [
        (
            "people with each other",
            _number(people.pairwise_agreement),
            "",
            f"mean of {people.count} people's pairs",
        ),
        ("  Cohen's kappa", _number(people.cohen_kappa), "", "mean of the pairs"),
        (
            "  Fleiss' kappa",
            _number(people.fleiss_kappa),
            "",
            f"{people.complete} pairs that all of them judged",
        ),
    ]


def _agreement_rows(part: JudgeAgreement) -> list[CheckRow]:
    return [
        _row("judge with people's majority", part.agreement, f"{part.n} pairs with majority and verdict"),
        _row("  where neither says tie", part.agreement_decided, f"{part.decided} pairs; chance is 0.5"),
        (
            "  Cohen's kappa",
            _number(part.cohen_kappa),
            _interval(part.cohen_kappa_ci95),
            "0: as by chance",
        ),
        ("judge with each person", _number(part.agreement_each), "", "mean"),
    ]


def _order_rows(result: JudgeCheck) -> list[CheckRow]:
    orders, bias = result.orders, result.position_bias
    if orders is None or bias is None:
        return [("order changed the winner", "-", "", "order cannot sway this judge")]
    return [
        _row("with the majority, a shown first", orders.shown_first, f"{orders.n} pairs"),
        _row("with the majority, b shown first", orders.shown_second, "the same pairs"),
        ("  mean of the two orders", _number(orders.mean), "", "what a single question would reach"),
        _row("  both orders together", orders.both, "a tie where they name different winners"),
        (
            "order changed the winner",
            _number(bias.share),
            "",
            f"preference for the first {bias.prefers_first:.3f}",
        ),
    ]


def _row(name: str, share: Share, note: str) -> CheckRow:
    return name, _number(share.value), _interval(share.ci95), note


def _interval(ci95: tuple[float, float] | None) -> str:
    return "" if ci95 is None else f"[{ci95[0]:.3f}, {ci95[1]:.3f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
