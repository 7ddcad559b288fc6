"""``redline compare`` and ``redline judge-check``: from names to files, and what they print."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from redline.data.check import Rejects
from redline.data.files import check_apart, write_json
from redline.errors import UserError
from redline.judge.check import Columns, check_judge, read_human_verdicts
from redline.judge.compare import compare, compare_many, verdicts_beside
from redline.judge.protocol import Judge
from redline.judge.systems import is_file_of_responses, responses_of
from redline.sampling.settings import Sampling


def compare_command(
    systems: list[str],
    judge: Judge,
    out: Path,
    prompts: Path | None = None,
    sampling: Sampling | None = None,
    cache: Path | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> dict[str, Any]:
    """Compare files of responses or models; writes ``out`` and what lies beside it, and prints the result."""
    if len(systems) < 2:
        raise UserError("compare takes two systems or more: redline compare A B --judge J.")
    if len(set(systems)) < len(systems):
        raise UserError("compare: a system is named twice. Give different files or models.")
    cache = cache or out.parent / "verdicts.sqlite"
    if not out.name or out.is_dir():
        raise UserError(f"--out {out}: is a folder. Give a file, such as {out / 'winrate.json'}.")
    kept = {
        name: out.with_suffix(f".{place}.jsonl")
        for place, name in enumerate(systems, 1)
        if not is_file_of_responses(name)
    }
    _check_places(
        [*(Path(name) for name in systems if name not in kept), *([prompts] if kept and prompts else [])],
        [out, verdicts_beside(out), cache, *kept.values()],
    )
    answers = {
        name: responses_of(name, prompts, sampling or Sampling(), seed, limit, kept.get(name, out))
        for name in systems
    }
    if len(systems) == 2:
        first, second = systems
        result = compare(
            answers[first], answers[second], judge, cache, seed, verdicts_beside(out), (first, second)
        )
    else:
        result = compare_many({**answers}, judge, cache, seed, verdicts_beside(out))
    write_json(out, result)
    print_result(result, out)
    return result


def _check_places(read: list[Path], written: list[Path]) -> None:
    """Raises UserError where a comparison would write over what it reads, or write two things into one
    file."""
    check_apart(written, read)
    places = [path.resolve() for path in written]
    for path in written:
        if places.count(path.resolve()) > 1:
            raise UserError(f"{path}: two things would be written there. Choose another --out or --cache.")


def check_command(
    path: Path,
    judge: Judge,
    columns: dict[str, str],
    values: dict[str, str],
    cache: Path | None = None,
    limit: int | None = None,
    again: int = 100,
    out: Path | None = None,
) -> dict[str, Any]:
    """Check a judge against people's verdicts; prints one table, and writes ``out`` where it is given."""
    unknown = sorted(columns.keys() - {field.name for field in fields(Columns)})
    if unknown:
        raise UserError(f"--columns: `{unknown[0]}` is none of prompt, a, b and people.")
    cache = cache or (out.parent if out else Path()) / "verdicts.sqlite"
    _check_places([path], [cache, *([out] if out else [])])
    with Rejects.beside(out) if out else Rejects() as rejects:
        verdicts = read_human_verdicts(path, rejects, Columns(**columns) if columns else None, values)
    rejects.report(str(path))
    result = {**check_judge(verdicts[:limit], judge, cache, again), "left_out": rejects.total}
    if out is not None:
        write_json(out, result)
    print_check(result)
    return result


def print_result(result: dict[str, Any], out: Path) -> None:
    """The line that says it, and the table beside it, on stdout."""
    from rich.console import Console
    from rich.table import Table

    screen = Console(highlight=False)
    low, high = result["ci95"]
    screen.print(
        f"{result['a']} over {result['b']}, judged by {result['judge']}: win rate {result['win_rate']:.3f} "
        f"[{low:.3f}, {high:.3f}], n = {result['n']}",
        markup=False,
        soft_wrap=True,
    )
    table = Table(show_header=False, box=None, pad_edge=False)
    p = result["sign_test_p"]
    rows = [
        ("wins / ties / losses", f"{result['wins']} / {result['ties']} / {result['losses']}"),
        ("standard error", _number(result["standard_error"])),
        ("sign test", f"p = {p:.2g}"),
        ("length-controlled win rate", _number(result["length_controlled_win_rate"])),
        ("mean length, characters", f"{result['mean_length_a']:.0f} against {result['mean_length_b']:.0f}"),
        (
            "distinct bigrams",
            " against ".join(f"{result['text'][side]['distinct_bigrams']:.3f}" for side in "ab"),
        ),
        (
            "repeated trigrams",
            " against ".join(f"{result['text'][side]['repetition_rate']:.3f}" for side in "ab"),
        ),
    ]
    if result["position_bias"]:
        bias = result["position_bias"]
        rows.append(
            (
                "order changed the winner",
                f"{bias['disagreements']} of {bias['pairs']} pairs ({bias['share']:.1%}), "
                f"preference for the first {bias['prefers_first']:.3f}",
            )
        )
    failures = [
        one["failures"] for one in result.get("pairs", [result])
    ]  # of three systems or more: in all comparisons
    if failed := sum(one["pairs"] for one in failures):
        reasons = dict.fromkeys(reason for one in failures for reason in one["reasons"])
        rows.append(("pairs without a verdict", f"{failed}: " + "; ".join(reasons)))
    unmatched = {name: count for name, count in result["unmatched"].items() if count}
    if unmatched:
        rows.append(
            (
                "left out, not answered by all",
                ", ".join(f"{name}: {count}" for name, count in unmatched.items()),
            )
        )
    for one in result.get("pairs", []):
        low, high = one["ci95"]
        rows.append(
            (f"{one['a']} over {one['b']}", f"{one['win_rate']:.3f} [{low:.3f}, {high:.3f}], n = {one['n']}")
        )
    for difference in result.get("differences", []):
        low, high = difference["ci95"]
        rows.append(
            (
                f"{difference['a']} - {difference['b']}, over {difference['over']}",
                f"{difference['difference']:+.3f} [{low:+.3f}, {high:+.3f}], p = "
                f"{difference['sign_test_p']:.2g}",
            )
        )
    for name, strength in result.get("bradley_terry", {}).items():
        rows.append((f"strength of {name}", f"{strength:+.3f}"))
    for row in rows:
        table.add_row(*row)
    screen.print(table, markup=False)
    screen.print(f"written: {out}, {verdicts_beside(out)}", markup=False, soft_wrap=True)


def print_check(result: dict[str, Any]) -> None:
    """A judge's check as one table on stdout."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=escape(f"judge {result['judge']} on {result['n']} pairs"),
        title_justify="left",
        show_header=False,
        box=None,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right")
    table.add_column("")
    people, bias, length = result["people"], result["position_bias"], result["length_bias"]
    rows: list[tuple[str, float | None, str]] = []
    if people["count"] > 1:
        rows += [
            (
                "people with each other",
                people["pairwise_agreement"],
                f"mean of {people['count']} people's pairs",
            ),
            ("  Cohen's kappa", people["cohen_kappa"], "mean of the pairs"),
            (
                "  Fleiss' kappa",
                people["fleiss_kappa"],
                f"{people['complete']} pairs that all of them judged",
            ),
        ]
    with_people = result["with_people"]
    rows += [
        (
            "judge with people's majority",
            with_people["agreement"],
            f"{with_people['n']} pairs with majority and verdict",
        ),
        (
            "  where neither says tie",
            with_people["agreement_decided"],
            f"{with_people['decided']} pairs; chance is 0.5",
        ),
        ("  Cohen's kappa", with_people["cohen_kappa"], "0: as by chance"),
        ("judge with each person", with_people["agreement_each"], "mean"),
        (
            "order changed the winner",
            bias["share"] if bias else None,
            f"preference for the first {bias['prefers_first']:.3f}"
            if bias
            else "order cannot sway this judge",
        ),
        ("judge picks the longer", length["judge"], "of pairs that differ in length, ties out"),
        ("people pick the longer", length["people"], "above this, the judge's is bias"),
        ('"the longer wins" with people', length["yardstick"], "what a judge must beat"),
        (
            "same verdict when asked again",
            result["self_consistency"]["share"],
            f"{result['self_consistency']['pairs']} pairs, same order"
            + (f"; {result['failures']['again']} without an answer" if result["failures"]["again"] else ""),
        ),
        (
            "pairs without a verdict",
            float(result["failures"]["pairs"]),
            "; ".join(result["failures"]["reasons"]),
        ),
    ]
    for name, value, note in rows:
        table.add_row(
            name, f"{value:.0f}" if name.startswith("pairs") and value is not None else _number(value), note
        )
    Console(highlight=False).print(table, markup=False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
