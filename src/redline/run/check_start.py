"""The finished policies that a recipe builds on: whether they are there, and were trained from its model."""

from collections.abc import Iterator
from pathlib import Path

from redline.data.files import read_json
from redline.engine.settings import ADAPTER
from redline.errors import UserError
from redline.recipe import Recipe
from redline.run.folder import made_with
from redline.run.job import Job


def taken_policies(recipe: Recipe) -> dict[str, str]:
    """The folders of finished policies that a recipe names, by their keys."""
    keys = {"policy.start": recipe.policy.start}
    for name in ("policy", "extra", "seed"):
        keys[f"direct.{name}"] = getattr(recipe.direct, name, None)
    return {key: policy for key, policy in keys.items() if policy is not None}


def start_problems(job: Job) -> Iterator[str]:
    """What is wrong with the policies that a recipe names. From what SFT they were trained can be told only
    when this run has done its own."""
    for key, policy in taken_policies(job.recipe).items():
        if not Path(policy).expanduser().is_dir():
            yield f"{key}: {policy} is no folder of a policy. Give one that a run has finished."
        elif job.recipe.sft is None:
            try:
                check_same_original(job, key, policy)
            except UserError as error:
                yield str(error)


def check_same_original(job: Job, key: str, policy: str) -> None:
    """Raise UserError where a finished policy was trained from another model than this run's."""
    config = Path(policy).expanduser() / ADAPTER / "adapter_config.json"
    if not config.exists():
        return
    theirs = str(read_json(config)["base_model_name_or_path"])
    if made_with(theirs) != made_with(job.model.name):
        raise UserError(
            f"{key}: {policy} was trained from {theirs}, and this run's model is {job.model.name}. Give both "
            "the same `model` and `sft`."
        )
