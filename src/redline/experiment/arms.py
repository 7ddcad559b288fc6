"""An experiment's recipe, and the runs it asks for: every arm with every seed, each an ordinary recipe and an ordinary folder."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redline.errors import UserError
from redline.experiment.recipe import Experiment
from redline.recipe import Recipe
from redline.recipe_file import check, check_recipe, expanded, parsed, read_plain, set_key
from redline.run import Run


@dataclass(frozen=True)
class Cell:
    """One run of an experiment: an arm with a seed. ``needs`` are folders of the runs whose reward models it takes."""

    arm: str
    seed: int
    recipe: Recipe
    folder: Path
    needs: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.arm}, seed {self.seed}"


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment's recipe and the base it names; ``key=value`` overrides as in `redline run`, `base.policy.updates=5` too.

    Raises UserError with the file and the key.
    """
    whole = [override for override in overrides if override.startswith("base=")]  # another base, which the others then change
    plain = read_plain(path, whole)
    base = plain.get("base")
    if isinstance(base, str):
        beside = path.parent / base
        plain["base"] = read_plain(beside if beside.exists() else Path(base))
    for override in overrides:
        if override not in whole:
            set_key(plain, *parsed(override), override)
    return check(expanded(plain, path), Experiment, str(path))


def cells(experiment: Experiment, out: Path, only: Sequence[str] = ()) -> list[Cell]:
    """The runs of an experiment (of the arms ``only``, if any are named) in the order in which to do them: a seed after the
    other, and arms that take another arm's reward model after it.

    Raises UserError for an arm that is not there, and naming the arm, for a recipe that is not valid, or takes a reward model that
    its arm does not train, or that waits for the run itself.
    """
    unknown = [name for name in only if name not in experiment.arms]
    if unknown:
        raise UserError(f"{experiment.name}: no arm `{unknown[0]}`. There are: {', '.join(experiment.arms)}.")
    every = {cell.folder: cell for arm in experiment.arms for seed in _seeds(experiment, arm)
             for cell in [_cell(experiment, arm, seed, out)]}

    def place(cell: Cell, after: tuple[str, ...] = ()) -> int:
        """How many runs it waits for, one behind the other."""
        if cell.arm in after:
            raise UserError(f"{experiment.name}, arm {cell.arm}: waits for a reward model that waits for it "
                            f"({' <- '.join((*after, cell.arm))}). Take it from an arm that needs no other's.")
        needed = [every[need] for need in cell.needs]
        for other in needed:
            if "reward" not in Run(other.recipe, other.folder).stages:
                raise UserError(f"{experiment.name}, arm {cell.arm}: takes the reward model of `{other.arm}`, which trains none. "
                                "Name an arm that does.")
        return 1 + max((place(other, (*after, cell.arm)) for other in needed), default=-1)

    places = {cell.folder: place(cell) for cell in every.values()}
    found = [cell for cell in every.values() if not only or cell.arm in only]
    seeds = list(dict.fromkeys(cell.seed for cell in found))
    return sorted(found, key=lambda cell: (seeds.index(cell.seed), places[cell.folder]))


def _seeds(experiment: Experiment, arm: str) -> list[int]:
    """The experiment's seeds that an arm is run with."""
    own = experiment.arms[arm].get("seeds", experiment.seeds)
    seeds = [seed for seed in experiment.seeds if seed in own] if isinstance(own, list) else []
    if not seeds:
        raise UserError(f"{experiment.name}, arm {arm}: `seeds` is {own!r}; it is a list of some of the experiment's "
                        f"{experiment.seeds}.")
    return seeds


def _cell(experiment: Experiment, arm: str, seed: int, out: Path) -> Cell:
    where = f"{experiment.name}, arm {arm}"
    if not re.fullmatch(r"\w[\w.+-]*", arm):
        raise UserError(f"{where}: an arm's name is its folder's: letters, digits, `.`, `-`, `_` and `+` only.")
    assert isinstance(experiment.base, dict)  # load_experiment has read the file
    plain = copy.deepcopy(experiment.base)
    for key, value in experiment.arms[arm].items():
        if key != "seeds":
            set_key(plain, key, copy.deepcopy(value), f"{arm}: {key}")
    plain |= {"name": f"{experiment.name}: {arm}, seed {seed}", "seed": seed}
    if experiment.judges:
        first = experiment.judges[0]
        plain["compare"] = {**(plain.get("compare") or {}), **first.model_dump()}
        plain["watch"] = {**(plain.get("watch") or {}), "judge": first.judge, "base_url": first.base_url}
    needs = [_resolve(term, where, experiment, seed, out) for term in _terms(plain) if str(term.get("model", "")).startswith("@")]
    return Cell(arm, seed, check_recipe(plain, where), folder_of(out, arm, seed), tuple(needs))


def folder_of(out: Path, arm: str, seed: int) -> Path:
    """The folder of a run."""
    return out / arm / f"seed-{seed}"


def _terms(plain: dict[str, Any]) -> list[dict[str, Any]]:
    terms = (plain.get("policy") or {}).get("reward") or []
    return [term for term in terms if isinstance(term, dict)] if isinstance(terms, list) else []


def _resolve(term: dict[str, Any], where: str, experiment: Experiment, seed: int, out: Path) -> Path:
    """`@ARM` becomes the folder of that arm's reward model; returns the folder of its run."""
    arm = str(term["model"])[1:]
    if arm not in experiment.arms or seed not in _seeds(experiment, arm):
        raise UserError(f"{where}: takes the reward model of `{arm}`, seed {seed}, which this experiment does not run. "
                        f"Name one of its arms: {', '.join(experiment.arms)}.")
    run = folder_of(out, arm, seed)
    term["model"] = str(run / "reward")
    return run
