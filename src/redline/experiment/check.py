"""What can be known of an experiment before its first run: ``redline check`` on its recipe."""

from collections.abc import Sequence
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

    Recipes that are not valid come alone, since nothing else can be known of them. ``folder`` is the
    experiment's.
    """
    if invalid := arm_problems(experiment, folder):
        return invalid
    try:
        every = cells(experiment, folder)
    except UserError as error:  # arms that do not fit together
        return str(error).split("\n")
    having: dict[str, list[Cell]] = {}
    for cell in every:
        for problem in _problems_of(cell, ask):
            # a line about the run's own folder is the same for each run
            having.setdefault(problem.replace(str(cell.folder), str(folder)), []).append(cell)
    problems = [f"{_whose(cells_with, every)}{problem}" for problem, cells_with in having.items()]
    for place, judge in enumerate(experiment.judges[1:], 1):  # every arm's `compare` has the first
        problems += judge_problems(judge, f"judges.{place}", ask)
    return problems


def _problems_of(cell: Cell, ask: bool) -> list[str]:
    """Less what only waits for another run of the experiment."""
    run = Run(cell.recipe, cell.folder)
    try:
        check_run(run.job, set(run.todo()), ask)
    except Problems as error:
        return [line for line in error.problems if not any(need.is_named_in(line) for need in cell.needs)]
    return []


def _whose(cells_with: Sequence[Cell], every: Sequence[Cell]) -> str:
    """The arms that have a problem, with the seeds where not all of an arm's have it; empty for all arms."""
    if len(cells_with) == len(every):
        return ""
    names = []
    for arm in dict.fromkeys(cell.arm for cell in cells_with):
        seeds = [str(cell.seed) for cell in cells_with if cell.arm == arm]
        if len(seeds) == sum(cell.arm == arm for cell in every):
            names.append(arm)
        else:
            names.append(f"{arm} (seed {', '.join(seeds)})")
    return f"{'arm' if len(names) == 1 else 'arms'} {', '.join(names)}: "
