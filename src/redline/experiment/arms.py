"""An experiment's recipe, and the runs it asks for: every arm with every seed, each an ordinary recipe and an
ordinary folder."""

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from redline.errors import UserError
from redline.experiment.recipe import Experiment
from redline.recipe import Recipe, check, check_recipe, expanded, parsed, read_plain, set_key
from redline.run.files import RunFiles
from redline.run.run import Run
from redline.types import JsonObject

WHAT = {"reward": "reward model", "policy": "policy"}  # what a stage makes


@dataclass(frozen=True)
class Need:
    """What a run takes from another: the reward model or the policy, by the stage that makes it."""

    cell: "Cell"
    stage: str

    @property
    def folder(self) -> Path:
        """The folder of the reward model or policy that is taken."""
        files = RunFiles(self.cell.folder)
        return files.reward.folder if self.stage == "reward" else files.policy.folder

    def is_named_in(self, line: str) -> bool:
        """Whether a line is about this folder, and not about one whose name begins or ends alike."""
        return re.search(rf"(?<![\w./-]){re.escape(str(self.folder))}(?![\w-])", line) is not None


@dataclass(frozen=True)
class Cell:
    """One run of an experiment: an arm with a seed. ``needs`` is what it takes from other runs."""

    arm: str
    seed: int
    recipe: Recipe
    folder: Path
    needs: tuple[Need, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.arm}, seed {self.seed}"

    @property
    def lacks(self) -> list[Need]:
        """Those of ``needs`` in which what is taken is not done, with the settings that their recipes have
        now."""
        return [
            need for need in self.needs if not Run(need.cell.recipe, need.cell.folder).is_done(need.stage)
        ]


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment's recipe and the base it names; ``key=value`` overrides as in `redline run`,
    `base.policy.updates=5` too.

    Raises UserError with the file and the key.
    """
    whole = [
        override for override in overrides if override.startswith("base=")
    ]  # another base, which the others then change
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
    """The runs of an experiment (of the arms ``only``, if any are named) in the order in which to do them: a
    seed after the other, and arms that take another arm's reward model or policy after it.

    An arm is run with those of its seeds that the experiment has. Raises UserError for an arm that is not
    there or has none of the seeds, for arms whose judges differ, and naming the arm, for a recipe that is not
    valid, or takes what its arm does not make, or what waits for the run itself.
    """
    unknown = [name for name in only if name not in experiment.arms]
    if unknown:
        raise UserError(f"{experiment.name}: no arm `{unknown[0]}`. There are: {', '.join(experiment.arms)}.")
    without = [arm for arm in only or experiment.arms if not _seeds(experiment, arm)]
    if without and (only or len(without) == len(experiment.arms)):
        raise UserError(
            f"{experiment.name}, arm {without[0]}: `seeds` is {experiment.arms[without[0]]['seeds']}, none "
            f"of the experiment's {experiment.seeds}. Change one of the two."
        )
    made: dict[Path, Cell] = {}

    def cell(arm: str, seed: int, after: tuple[str, ...] = ()) -> Cell:
        """A run, made after those that it takes something from."""
        if arm in after:
            raise UserError(
                f"{experiment.name}, arm {arm}: waits for an arm that waits for it "
                f"({' <- '.join((*after, arm))}). Take it from an arm that needs no other's."
            )
        folder = folder_of(out, arm, seed)
        if folder not in made:
            recipe, takes = _recipe(experiment, arm, seed, out)
            needs = tuple(Need(cell(other, seed, (*after, arm)), stage) for other, stage in takes)
            for need in needs:
                if need.stage not in Run(need.cell.recipe, need.cell.folder).stages:
                    raise UserError(
                        f"{experiment.name}, arm {arm}: takes the {WHAT[need.stage]} of `{need.cell.arm}`, "
                        "which trains none. Name an arm that does."
                    )
            made[folder] = Cell(arm, seed, recipe, folder, needs)
        return made[folder]

    every = [cell(arm, seed) for arm in experiment.arms for seed in _seeds(experiment, arm)]
    judges = list(dict.fromkeys(one.recipe.compare.judge for one in every))
    if len(judges) > 1:
        raise UserError(
            f"{experiment.name}: its arms have different judges ({', '.join(judges)}), so nothing can be "
            f"put side by side. Name who judges all of them: `judges: [{{judge: {judges[0]}}}]`."
        )
    found = [one for one in every if not only or one.arm in only]
    seeds = list(dict.fromkeys(one.seed for one in found))
    return sorted(found, key=lambda one: (seeds.index(one.seed), _place(one)))


def arm_problems(experiment: Experiment, out: Path) -> list[str]:
    """What makes an arm's recipe no valid one: of every arm and seed, each line once and with the arm's
    name."""
    problems: list[str] = []
    for arm in experiment.arms:
        try:
            seeds = _seeds(experiment, arm)
        except UserError as error:
            problems.append(str(error))
            continue
        for seed in seeds:
            try:
                _recipe(experiment, arm, seed, out)
            except UserError as error:
                problems += str(error).split("\n")
    return list(dict.fromkeys(problems))


def _place(cell: Cell) -> int:
    """How many runs it waits for, one behind the other."""
    return 1 + max((_place(need.cell) for need in cell.needs), default=-1)


def _seeds(experiment: Experiment, arm: str) -> list[int]:
    """The experiment's seeds that an arm is run with."""
    own = experiment.arms[arm].get("seeds", experiment.seeds)
    if not isinstance(own, list) or not own:
        raise UserError(
            f"{experiment.name}, arm {arm}: `seeds` is {own!r}; it is a list of some of the experiment's "
            f"{experiment.seeds}."
        )
    return [seed for seed in experiment.seeds if seed in own]


def _recipe(experiment: Experiment, arm: str, seed: int, out: Path) -> tuple[Recipe, list[tuple[str, str]]]:
    """The recipe of a run, and the arms that it takes something from, each with the stage that makes it."""
    where = f"{experiment.name}, arm {arm}"
    if not re.fullmatch(r"\w[\w.+-]*", arm):
        raise UserError(
            f"{where}: an arm's name is its folder's: letters, digits, `.`, `-`, `_` and `+` only."
        )
    assert isinstance(experiment.base, dict)  # load_experiment has read the file
    plain = copy.deepcopy(experiment.base)
    for key, value in experiment.arms[arm].items():
        if key != "seeds":
            set_key(plain, key, copy.deepcopy(value), f"{arm}: {key}")
    plain |= {"name": f"{experiment.name}: {arm}, seed {seed}", "seed": seed}
    check_recipe(plain, where)  # what follows reads it
    if experiment.judges:
        first = experiment.judges[0]
        plain["compare"] = {**plain.get("compare", {}), **first.model_dump()}
        plain["watch"] = {**plain.get("watch", {}), "judge": first.judge, "base_url": first.base_url}
    takes = [
        _resolve(section, key, stage, where, experiment, seed, out) for section, key, stage in _taken(plain)
    ]
    return check_recipe(plain, where), takes


def folder_of(out: Path, arm: str, seed: int) -> Path:
    """The folder of a run."""
    return out / arm / f"seed-{seed}"


def _taken(plain: JsonObject) -> Iterator[tuple[JsonObject, str, str]]:
    """Where a recipe names an arm, `@ARM`: the section, its key, and the stage of the arm that makes what is
    taken."""
    policy, direct = plain.get("policy") or {}, plain.get("direct") or {}
    places = [(policy, "start", "policy")]
    places += [(direct, key, "policy") for key in ("policy", "extra", "seed")]
    for term in policy.get("reward") or []:
        places.append((term, "model", "reward"))
        ratio = term.get("log_ratio") or {}
        places += [(ratio, key, "policy") for key in ("model", "over")]
    for section, key, stage in places:
        if str(section.get(key)).startswith("@"):
            yield section, key, stage


def _resolve(
    section: JsonObject, key: str, stage: str, where: str, experiment: Experiment, seed: int, out: Path
) -> tuple[str, str]:
    """`@ARM` becomes the folder of that arm's reward model or policy; returns the arm and the stage."""
    arm = str(section[key])[1:]
    if arm not in experiment.arms or seed not in _seeds(experiment, arm):
        raise UserError(
            f"{where}: takes the {WHAT[stage]} of `{arm}`, seed {seed}, which this experiment does not run. "
            f"Name one of its arms: {', '.join(experiment.arms)}."
        )
    files = RunFiles(folder_of(out, arm, seed))
    section[key] = str(files.reward.folder if stage == "reward" else files.policy.folder)
    return arm, stage
