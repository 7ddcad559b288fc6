"""What can be known of an experiment before its first run: ``redline check`` on its recipe."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from redline.console import print_json
from redline.errors import CheckFailed, Problems, UserError
from redline.experiment.arms import Cell, arm_problems, cells, load_experiment
from redline.experiment.recipe import Experiment
from redline.recipe import read_plain
from redline.run.check import check_run, judge_problems
from redline.run.run import Run


def is_experiment(path: Path) -> bool:
    """Whether a recipe is an experiment's: it has arms."""
    return "arms" in read_plain(path)


def check_experiment(
    path: Path, overrides: Sequence[str], out: Path | None, ask: bool, dry: bool, as_json: bool
) -> None:
    """Print what is to be mended in any arm of an experiment before it can be run.

    Raises CheckFailed where there is something to mend, UserError with ``dry``, which takes one run.
    """
    if dry:
        raise UserError(f"{path}: --dry-run goes through one run, and this is an experiment. Leave it out.")
    experiment = load_experiment(path, overrides)
    problems = experiment_problems(experiment, out or Path("runs") / experiment.name, ask)
    if as_json:
        print_json({"problems": problems, "arms": list(experiment.arms), "seeds": experiment.seeds})
    if problems:
        lines = [] if as_json else problems
        raise CheckFailed("\n".join([*lines, f"{path}: {len(problems)} to mend"]))
    if not as_json:
        print(f"{path}: nothing to mend in {len(experiment.arms)} arms.")


def experiment_problems(experiment: Experiment, folder: Path, ask: bool = False) -> list[str]:
    """What is to be mended in an experiment's runs: each problem once, with the arms that have it.

    Recipes that are not valid come alone, since nothing else can be known of them. Of an arm's runs the
    first is checked; the others differ in the seed. ``folder`` is the experiment's.
    """
    if invalid := arm_problems(experiment, folder):
        return invalid
    try:
        every = cells(experiment, folder)
    except UserError as error:  # arms that do not fit together
        return str(error).split("\n")
    arms: dict[str, list[str]] = {}
    for cell in _first_of_each_arm(every):
        for problem in _problems_of(cell, ask):
            arms.setdefault(problem, []).append(cell.arm)
    problems = [_line(problem, having, list(experiment.arms)) for problem, having in arms.items()]
    for place, judge in enumerate(experiment.judges[1:], 1):  # every arm's `compare` has the first
        problems += judge_problems(judge, f"judges.{place}", ask)
    return problems


def _first_of_each_arm(every: Sequence[Cell]) -> Iterator[Cell]:
    seen: set[str] = set()
    for cell in every:
        if cell.arm not in seen:
            seen.add(cell.arm)
            yield cell


def _problems_of(cell: Cell, ask: bool) -> list[str]:
    """Less what only waits for another run of the experiment."""
    run = Run(cell.recipe, cell.folder)
    made_here = {str(need.cell.folder) for need in cell.needs}
    try:
        check_run(run.job, set(run.todo()), ask)
    except Problems as error:
        return [line for line in error.problems if not any(folder in line for folder in made_here)]
    return []


def _line(problem: str, having: list[str], every: list[str]) -> str:
    """A problem that all arms have is said without their names."""
    if len(having) == len(every):
        return problem
    arms = "arm" if len(having) == 1 else "arms"
    return f"{arms} {', '.join(having)}: {problem}"
