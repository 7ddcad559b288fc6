"""Running a recipe from Python."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from redline.judge.winrate import WinRate
from redline.recipe import Recipe, check_recipe, read_plain, set_key
from redline.reward.quality import RewardMetrics
from redline.run.files import RunFiles
from redline.run.run import Run


@dataclass(frozen=True)
class FinishedRun:
    """A run in its folder, and the results that are there, typed."""

    folder: Path

    @property
    def files(self) -> RunFiles:
        """The names of its files."""
        return RunFiles(self.folder)

    @property
    def win_rate(self) -> WinRate | None:
        """The comparison of the policy with its reference; None before it."""
        path = self.files.winrate
        return TypeAdapter(WinRate).validate_json(path.read_bytes()) if path.exists() else None

    @property
    def reward_metrics(self) -> RewardMetrics | None:
        """How good the reward model is; None where the run trains none, or has not trained it yet."""
        path = self.files.reward.metrics
        return TypeAdapter(RewardMetrics).validate_json(path.read_bytes()) if path.exists() else None


def run_recipe(
    recipe: str | Path | Mapping[str, object] | Recipe,
    *,
    out: str | Path | None = None,
    only: str | None = None,
    start: str | None = None,
    reuse: Sequence[str | Path] = (),
    **overrides: object,
) -> FinishedRun:
    """Run every stage of a recipe that is not done yet: ``redline run`` from Python.

    ``recipe`` is a YAML file, its content as a dict, or a ``Recipe``. ``out`` is the run's folder (default
    runs/<name>), ``only`` a single training stage, ``start`` a stage that is done again with those after it,
    ``reuse`` folders of runs whose stages are taken over. ``overrides`` change keys: ``seed=1``, a section's
    keys by a dict (``policy={"updates": 5}``, which leaves the section's other keys alone), or dotted keys
    (``**{"policy.kl.target": 3}``). Started again, it continues where it stopped.

    Raises UserError as ``redline run`` does: for a key that is not known, data that cannot be used, ...
    """
    where = str(recipe) if isinstance(recipe, str | Path) else "recipe"
    checked = check_recipe(_with(_plain(recipe), overrides), where)
    folder = Path(out) if out is not None else Path("runs") / checked.name
    Run(checked, folder).go(only, [Path(run) for run in reuse], start)
    return FinishedRun(folder)


def _plain(recipe: str | Path | Mapping[str, object] | Recipe) -> dict[str, object]:
    if isinstance(recipe, Recipe):
        return recipe.model_dump(exclude_unset=True)
    if isinstance(recipe, Mapping):
        return dict(recipe)
    return read_plain(recipe)


def _with(plain: dict[str, object], overrides: Mapping[str, object]) -> dict[str, object]:
    """A recipe with some of its keys changed; a dict changes keys of a section."""
    for key, value in overrides.items():
        for dotted, inner in _leaves(key, value):
            set_key(plain, dotted, inner, f"{dotted}={inner}")
    return plain


def _leaves(key: str, value: object) -> list[tuple[str, object]]:
    if not isinstance(value, Mapping):
        return [(key, value)]
    return [leaf for name, inner in value.items() for leaf in _leaves(f"{key}.{name}", inner)]
