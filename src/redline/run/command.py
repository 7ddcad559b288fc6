"""The commands about a run: ``redline check``."""

from collections.abc import Sequence
from pathlib import Path

from redline.console import print_json
from redline.errors import CheckFailed, Problems
from redline.recipe import load_recipe
from redline.run.check import check_run
from redline.run.dry import dry_run
from redline.run.run import Run


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
    if as_json:
        print_json({"problems": problems, "stages": todo, "changed": changed})
    if problems:
        lines = [] if as_json else problems
        raise CheckFailed("\n".join([*lines, f"{path}: {len(problems)} to mend"]))
    if dry:
        seconds = dry_run(recipe)
        if not as_json:
            print(f"dry run: all that is trained was saved and loaded again, in {seconds:.0f} s.")
    if as_json:
        return
    for stage, why in changed.items():
        print(f"{stage} will be done again: {'; '.join(why)}")
    print(f"{path}: nothing to mend. To do: {', '.join(todo) or 'nothing'}.")
