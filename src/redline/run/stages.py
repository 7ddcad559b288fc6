"""The stages of a run as functions of its job: each reads files and writes files."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

from redline.console import say
from redline.data.check import Rejects, problem
from redline.data.files import read_jsonl, write_jsonl
from redline.data.read import read
from redline.data.records import Edit, Feedback, Pair, Prompt, Record
from redline.data.settings import Source
from redline.errors import UserError
from redline.run.check_start import check_same_original, taken_policies
from redline.run.comparison import compare, watching_judge
from redline.run.job import Job

Stage = Callable[[Job], None]
TRAINING = ("sft", "reward", "policy")  # the stages that all processes work on


def stages_of(job: Job) -> dict[str, Stage]:
    """The stages that a recipe has, in their order."""
    recipe = job.recipe
    stages: dict[str, Stage] = {"data": read_data}
    if recipe.data.pairs is not None and recipe.data.edits is None:
        stages["edit"] = edit
    if recipe.has_edits:
        stages["label"] = label
    if recipe.sft is not None:
        stages["sft"] = sft
    if recipe.trains_reward:
        stages["reward"] = reward
    if not job.selects_best_of_n:
        stages["policy"] = policy
    return stages | {"compare": compare, "report": report}


def read_data(job: Job) -> None:
    """Read every source into data/, checked, with what was left out beside it."""
    data, files = job.recipe.data, job.files
    sources: list[tuple[str, Source | None, Any]] = [
        ("pairs", data.pairs if data.edits is None else None, Pair),
        ("edits", data.edits, Edit),
        ("feedback", data.feedback, Feedback),
        ("validation", data.validation, Edit),
        ("test", data.test, Edit),
        ("prompts", data.prompts, Prompt),
        ("eval_prompts", data.eval_prompts, Prompt),
    ]
    for name, source, kind in sources:
        if source is None:
            continue
        refuse = _unfit(job, kind)
        with Rejects(files.data_rejects(name)) as rejects:
            # answers that were accepted as they are: no labels come of them, but a like does
            records = read(source, kind, rejects, keep_unchanged=True, refuse=refuse)
            rejects.kept = write_jsonl(files.data(name), records)
            rejects.report(name)
        if not rejects.kept:
            raise UserError(f"data.{name}: {source.name} gave no usable record ({rejects.summary()}).")


def _unfit(job: Job, kind: type[Record]) -> Callable[[Any], str | None] | None:
    """Why a prompt, or a pair that an LLM would be paid to edit, is of no use to the model, if it is. Edits
    are checked when they are labelled, right after."""
    from redline.data.fits import fits
    from redline.engine.models import tokenizer_of

    if kind not in (Pair, Prompt):
        return None
    model = job.labelled_for if kind is Pair else job.recipe.model
    return fits(tokenizer_of(model), job.recipe.data.max_prompt_tokens)


def edit(job: Job) -> None:
    """An LLM edits the pairs."""
    from redline.edit.llm import edit_pairs

    pairs = list(read_jsonl(job.files.data("pairs"), Pair))
    edit_pairs(pairs, job.files.data("edits"), job.editor)


def label(job: Job) -> None:
    """Label the edits; hold a share of them out for validation, unless the recipe names a source."""
    from redline.engine.models import tokenizer_of
    from redline.label.stage import label_edits

    data, tokenizer = job.recipe.data, tokenizer_of(job.labelled_for)
    sets = {"train": job.training_edits(), "validation": job.validation_edits()}
    if data.test is not None:
        sets["test"] = job.edits("test")
    refused = {}
    for name, edits in sets.items():
        with Rejects(job.files.labels_rejects(name)) as rejects:
            labels = label_edits(
                _usable(edits, rejects, name),
                tokenizer,
                job.recipe.label,
                max_response_tokens=data.max_response_tokens,
                over_long=data.over_long,
                max_prompt_tokens=data.max_prompt_tokens,
                rejects=rejects,
                file=name,
            )
            rejects.kept = write_jsonl(job.files.labels(name), labels)
            rejects.report(f"labels/{name}")
            if not rejects.kept:
                refused[name] = rejects.summary() if rejects.total else ""
    for name, why in refused.items():
        if why:
            raise UserError(f"data: none of the {name} edits can be used: {why}. Mend what is named there.")
        raise UserError(
            f"data: there are no {name} edits. Give more edits, or another data.validation_share."
        )


def _usable(edits: Iterator[Edit], rejects: Rejects, name: str) -> Iterator[Edit]:
    """Edits that say something: an LLM's "no change needed" teaches nothing, and is counted."""
    for edit in edits:
        if reason := problem(edit):
            rejects.add(reason, name, None, edit)
        else:
            yield edit


def sft(job: Job) -> None:
    """Supervised fine-tuning before everything else."""
    from redline.direct.sft import train_sft

    recipe, data = job.recipe, job.recipe.data
    assert recipe.sft is not None  # the stage is there only with its section
    train_sft(
        recipe.sft,
        recipe.model,
        list(job.training_edits()),
        job.files.sft.folder,
        seed=recipe.seed,
        max_tokens=data.max_prompt_tokens + data.max_response_tokens,
        trackers=recipe.trackers,
    )


def reward(job: Job) -> None:
    """Train the reward model."""
    from redline.reward.train import train_reward

    result = train_reward(
        job.recipe.reward,
        job.model,
        job.labels("train"),
        job.labels("validation"),
        job.files.reward.folder,
        test=job.labels("test"),
        seed=job.recipe.seed,
        max_response=job.recipe.data.max_response_tokens,
        trackers=job.recipe.trackers,
    )
    say(str(result))


def policy(job: Job) -> None:
    """Train the policy: by PPO, or by the method that the recipe names in its place."""
    recipe = job.recipe
    for key, finished in taken_policies(recipe).items():
        check_same_original(job, key, finished)
    if recipe.direct is not None:
        without_ppo(job)
        return
    from redline.policy.train import train_policy

    own = job.files.reward.folder
    train_policy(
        recipe.policy,
        job.model,
        job.training_prompts(),
        job.files.policy.folder,
        reward=own if own.exists() else None,
        seed=recipe.seed,
        trackers=recipe.trackers,
        gold=watching_judge(job),
    )


def without_ppo(job: Job) -> None:
    """The policy of a method in PPO's place."""
    from redline.direct.stage import Given, make_policy

    recipe, own = job.recipe, job.files.reward.folder
    assert recipe.direct is not None  # asked before
    make_policy(
        recipe.direct,
        recipe.policy,
        job.model,
        Given(job.labels("train"), job.thumbs(), job.training_prompts()),
        job.files.policy.folder,
        reward=own if own.exists() else None,
        max_response=recipe.data.max_response_tokens,
        seed=recipe.seed,
        trackers=recipe.trackers,
        gold=watching_judge(job),
    )


def report(job: Job) -> None:
    """The page and the model cards."""
    from redline.report.page import write_report

    write_report(job.files.folder)


def free_memory() -> None:
    """Let go of a finished stage's models: what holds itself in a circle stays until it is looked for."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
