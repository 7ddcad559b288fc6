"""The commands about a run: ``redline check``, ``redline run`` and ``redline train``."""

from collections.abc import Sequence
from pathlib import Path

from redline.console import print_json
from redline.errors import CheckFailed, Problems
from redline.recipe import load_recipe
from redline.report.experiment import figures_of
from redline.report.summary import print_summary
from redline.run.check import check_run
from redline.run.dry import dry_run
from redline.run.run import Run, run_file


def run_command(
    path: Path,
    overrides: Sequence[str],
    out: Path | None,
    *,
    only: str | None = None,
    start: str | None = None,
    reuse: Sequence[Path] = (),
    as_json: bool = False,
) -> None:
    """Run a recipe, or the stage ``only`` of it, and print what came out: a summary where the run has come to
    its end in this call, all figures as JSON with ``as_json``."""
    from redline.engine.processes import this_process

    outcome = run_file(path, overrides, out, only, start, reuse)
    if not this_process().is_main_process:
        return
    folder = outcome.files.folder
    if as_json:
        call = {"run": str(folder), "did": outcome.did, "did_before": outcome.before}
        print_json(call | figures_of(folder))
    elif "report" in outcome.did:
        print_summary(folder, outcome.files.report)


def check_command(
    path: Path,
    overrides: Sequence[str],
    out: Path | None,
    ask: bool,
    as_json: bool,
    dry: bool = False,
) -> None:
    """Print what is to be mended in a recipe before it can be run, or what the run would do. ``dry`` goes
    through it on a few records as well.

    Raises CheckFailed where there is something to mend.
    """
    problems: list[str] = []
    todo: list[str] = []
    changed: dict[str, list[str]] = {}
    try:
        recipe = load_recipe(path, list(overrides))
        run = Run(recipe, out or Path("runs") / recipe.name)
        changed = {stage: [str(change) for change in found] for stage, found in run.changed().items()}
        todo = run.todo()
        check_run(run.job, set(todo), ask)
    except Problems as error:
        problems = error.problems
    figures = {"problems": problems, "stages": todo, "changed": changed}
    if problems:
        if as_json:
            print_json(figures)
        lines = [] if as_json else problems
        raise CheckFailed("\n".join([*lines, f"{path}: {len(problems)} to mend"]))
    seconds = dry_run(recipe) if dry else None
    if as_json:
        print_json(figures | {"dry_run_seconds": seconds})
        return
    if seconds is not None:
        print(f"dry run: all that is trained was saved and loaded again, in {seconds:.0f} s.")
    for stage, why in changed.items():
        print(f"{stage} will be done again: {'; '.join(why)}")
    print(f"{path}: nothing to mend. To do: {', '.join(todo) or 'nothing'}.")
