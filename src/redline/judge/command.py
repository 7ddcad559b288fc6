"""``redline compare`` and ``redline judge-check``: from names to files."""

from dataclasses import fields
from pathlib import Path

from redline.console import print_json
from redline.data.check import Rejects
from redline.data.files import check_apart, write_json
from redline.data.read import read_files
from redline.data.reading import Reading
from redline.data.settings import Source
from redline.errors import UserError
from redline.judge.check import JudgeCheck, check_judge
from redline.judge.compare import compare, compare_many, verdicts_beside
from redline.judge.people import Columns, read_human_verdicts
from redline.judge.protocol import Judge
from redline.judge.show import print_check, print_tournament, print_win_rate
from redline.judge.systems import answers_of, is_file_of_responses, read_responses
from redline.judge.winrate import Tournament, WinRate
from redline.sampling.settings import Sampling


def compare_command(
    systems: list[str],
    judge: Judge,
    out: Path,
    prompts: str | Path | None = None,
    sampling: Sampling | None = None,
    cache: Path | None = None,
    seed: int = 0,
    reading: Reading | None = None,
    as_json: bool = False,
) -> WinRate | Tournament:
    """Compare files of responses or models; writes ``out`` and what lies beside it, and prints the result."""
    if len(systems) < 2:
        raise UserError("compare takes two systems or more: redline compare A B --judge J.")
    if len(set(systems)) < len(systems):
        raise UserError("compare: a system is named twice. Give different files or models.")
    cache = cache or out.parent / "verdicts.sqlite"
    if not out.name or out.is_dir():
        raise UserError(f"--out {out}: is a folder. Give a file, such as {out / 'winrate.json'}.")
    reading = reading or Reading()
    sources: dict[str, Source] = {}  # systems that are files of responses
    sampled: dict[str, Path] = {}  # systems that are models: where their responses go
    for place, name in enumerate(systems, 1):
        if is_file_of_responses(name):
            sources[name] = reading.source(name)
        else:
            sampled[name] = out.with_suffix(f".{place}.jsonl")
    asked = reading.source(str(prompts)) if prompts else None
    read: list[Path] = []
    for source in sources.values():
        read += read_files(source)
    if sampled and asked:
        read += read_files(asked)
    _check_places(read, [out, verdicts_beside(out), cache, *sampled.values()])
    answers = {}
    for name in systems:
        if name in sources:
            answers[name] = read_responses(sources[name])
        else:
            answers[name] = answers_of(name, asked, sampling or Sampling(), seed, sampled[name])
    if len(systems) > 2:
        tournament = compare_many({**answers}, judge, cache, seed, verdicts_beside(out))
        write_json(out, tournament.as_json())
        print_json(tournament.as_json()) if as_json else print_tournament(tournament, out)
        return tournament
    first, second = systems
    result = compare(
        answers[first], answers[second], judge, cache, seed, verdicts_beside(out), (first, second)
    )
    write_json(out, result.as_json())
    print_json(result.as_json()) if as_json else print_win_rate(result, out)
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
    source: Source,
    judge: Judge,
    columns: dict[str, str],
    values: dict[str, str],
    cache: Path | None = None,
    again: int = 100,
    out: Path | None = None,
    by: str = "",
    as_json: bool = False,
) -> JudgeCheck:
    """Check a judge against people's verdicts; prints one table, and writes ``out`` where it is given."""
    unknown = sorted(columns.keys() - {field.name for field in fields(Columns)})
    if unknown:
        raise UserError(f"--columns: `{unknown[0]}` is none of prompt, a, b and people.")
    cache = cache or (out.parent if out else Path()) / "verdicts.sqlite"
    _check_places(read_files(source), [cache, *([out] if out else [])])
    with Rejects.beside(out) if out else Rejects() as rejects:
        pairs = read_human_verdicts(source, rejects, Columns(**columns) if columns else None, values, by)
    rejects.report(source.name)
    result = check_judge(pairs, judge, cache, again)
    figures = result.as_json() | {"left_out": rejects.total}
    if out is not None:
        write_json(out, figures)
    print_json(figures) if as_json else print_check(result)
    return result
