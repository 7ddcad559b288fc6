"""Everything that can be known of a run before its first stage, without training and without loading a model.

Each problem is one line: where, what, and how to mend it. All are found at once.
"""

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from redline.chat import Endpoint, NoAnswer, key_for
from redline.data.files import read_json
from redline.direct.settings import DirectExpo, DirectSapo
from redline.embedded import EMBEDDED
from redline.engine.processes import NO_WANDB_KEY, wandb_can_log_in
from redline.errors import Problems, UserError
from redline.functions import is_function_name, load_function
from redline.hub import check_on_hub
from redline.judge.settings import JudgedBy
from redline.run.check_data import data_problems
from redline.run.check_model import ModelFiles, disk_problems
from redline.run.check_start import start_problems
from redline.run.job import Job
from redline.sampling.settings import VllmServer

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}


def check_run(job: Job, stages: set[str], ask: bool = False) -> None:
    """Check what the ``stages`` of a run need. With ``ask``, one request goes to each endpoint.

    Raises Problems, which has all that was found.
    """
    problems = list(dict.fromkeys(_problems(job, stages, ask)))
    if problems:
        raise Problems(problems)


def _problems(job: Job, stages: set[str], ask: bool) -> Iterator[str]:
    yield from _tracker_problems(job)
    yield from _model_problems(job, stages)
    if "edit" in stages:
        yield from _editor_problems(job, ask)
    if "policy" in stages or job.selects_best_of_n:
        yield from _reward_problems(job)
        yield from _policy_problems(job)
        yield from start_problems(job)
    if "policy" in stages:
        yield from _watch_problems(job, ask)
    if "compare" in stages:
        yield from judge_problems(job.recipe.compare, "compare", ask)
    yield from data_problems(job, stages)
    yield from disk_problems(job.recipe, job.files.folder, stages)


def _tracker_problems(job: Job) -> Iterator[str]:
    for tracker in job.recipe.trackers:
        if find_spec(PACKAGES[tracker]) is None:
            yield (
                f"trackers: {tracker} is not installed. Run `pip install {tracker}`, or take it out of the "
                "recipe."
            )
        elif tracker == "wandb" and not wandb_can_log_in():
            yield NO_WANDB_KEY


def _model_problems(job: Job, stages: set[str]) -> Iterator[str]:
    recipe = job.recipe
    own = ModelFiles(recipe.model, "model")
    yield from own.problems()
    backbone = own
    if recipe.reward.model is not None:
        backbone = ModelFiles(recipe.reward.model, "reward.model")
        yield from backbone.problems()
    with suppress(UserError):  # it was yielded above
        if "reward" in stages:
            yield from backbone.adapt_problems(recipe.reward.adapt, "reward.adapt", recipe.reward.depth)
        if "policy" in stages:
            yield from own.adapt_problems(recipe.policy.adapt, "policy.adapt")


def _editor_problems(job: Job, ask: bool) -> Iterator[str]:
    from redline.edit.prompts import load_template, read_guideline

    edit = job.recipe.edit
    assert edit is not None  # the stage is there only with its section
    yield from _tried("edit.template", lambda: load_template(edit.template))
    yield from _tried("edit.guideline", lambda: read_guideline(edit.guideline))
    if edit.base_url:
        yield from _endpoint_problems("edit", edit.model, edit.base_url, edit.api_key_env, ask)
        return
    local = job.recipe.model.model_copy(update={"name": edit.model, "revision": None})
    for problem in ModelFiles(local, "edit").problems():
        about_name = problem.startswith("edit.name: ")
        if about_name and edit.model != EMBEDDED and "/" not in edit.model:
            problem += " A model at an endpoint needs edit.base_url."
        yield problem.replace("edit.name", "edit.model")


def _endpoint_problems(
    where: str, model: str, base_url: str, api_key_env: str | None, ask: bool
) -> Iterator[str]:
    """The URL and the key of an endpoint; with ``ask``, whether it answers."""
    problems = list(_tried(f"{where}.base_url", lambda: key_for(base_url, api_key_env)))
    yield from problems
    if ask and not problems:
        yield from _tried(where, lambda: _ask(model, base_url, api_key_env))


def _ask(model: str, base_url: str, api_key_env: str | None) -> None:
    import asyncio

    async def once() -> None:
        async with Endpoint(model, base_url, retries=0, timeout=10, api_key_env=api_key_env) as endpoint:
            try:
                await endpoint.ask([{"role": "user", "content": "Say yes."}], max_tokens=16)
            except NoAnswer as error:
                raise UserError(f"{endpoint.base_url}: {model} does not answer ({error}).") from error

    asyncio.run(once())


def _watch_problems(job: Job, ask: bool) -> Iterator[str]:
    watch, compare = job.recipe.watch, job.recipe.compare
    if not watch.every or watch.judge is None:
        return
    same = watch.judge == compare.judge
    asked = compare if same else JudgedBy(judge=watch.judge)
    own = {"base_url": watch.base_url, "api_key_env": watch.api_key_env}
    asked = asked.model_copy(update={key: value for key, value in own.items() if value})
    yield from judge_problems(asked, "watch", ask)


def judge_problems(section: JudgedBy, where: str, ask: bool) -> Iterator[str]:
    """Whether a judge can be had; ``where`` is the section that names it."""
    from redline.judge.judges import HumanJudge, check_model_name
    from redline.judge.llm import read_template

    name, key = section.judge, f"{where}.judge"
    template = section.template
    if template is not None:
        yield from _tried(f"{where}.template", lambda: read_template(template))
    if section.base_url:
        if name in ("vader", "length") or name.startswith("human:"):
            yield f"{where}.base_url is given, and {key} {name} is no LLM. Leave one of the two out."
        yield from _endpoint_problems(where, name, section.base_url, section.api_key_env, ask)
    elif name == "vader":
        if find_spec("vaderSentiment") is None:
            yield f"{key}: vaderSentiment is not installed. Run: pip install vaderSentiment"
    elif name == "human" or name.startswith("human:"):
        path = name.partition(":")[2]
        if not path:
            yield f"{key}: name the file with the verdicts, human:verdicts.jsonl."
        else:
            yield from _tried(key, lambda: HumanJudge(path))
    elif is_function_name(name):
        yield from _function_problems(name, key, "prompts, a, b")
    elif name != "length":
        problems = list(_tried(key, lambda: check_model_name(name)))
        yield from problems or _scorer_problems(name, key)


def _reward_problems(job: Job) -> Iterator[str]:
    for number, term in enumerate(job.recipe.policy.reward):
        where = f"policy.reward.{number}"
        if term.function is not None:
            yield from _function_problems(term.function, f"{where}.function", "prompts, responses")
            if term.model is not None:
                yield f"{where} has `model` and `function`. Make two terms of them."
        elif term.model is not None:
            yield from _scorer_problems(term.model, f"{where}.model")
        if term.log_ratio is not None:
            for key in ("model", "over"):
                named = job.recipe.model.model_copy(
                    update={"name": getattr(term.log_ratio, key), "revision": None, "chat_template": None}
                )
                for problem in ModelFiles(named, f"{where}.log_ratio").problems():
                    yield problem.replace(f"{where}.log_ratio.name", f"{where}.log_ratio.{key}")


def _policy_problems(job: Job) -> Iterator[str]:
    policy = job.recipe.policy
    sampler = policy.sampler
    if isinstance(sampler, VllmServer):
        yield from _server_problems(sampler, job)
    elif sampler is not None:
        yield from _function_problems(sampler, "policy.sampler", "")
    yield from _direct_problems(job)
    if job.recipe.direct is None and policy.minibatch_size > policy.batch_size:
        yield (
            f"policy.minibatch_size is {policy.minibatch_size}, and a batch has policy.batch_size "
            f"{policy.batch_size} responses. Lower it."
        )
    for where, sampling in (
        ("policy.sampling", policy.sampling),
        ("compare.sampling", job.recipe.compare.sampling),
    ):
        if sampling is not None and sampling.min_new_tokens > sampling.max_new_tokens:
            yield (
                f"{where}.min_new_tokens is {sampling.min_new_tokens}, more than max_new_tokens "
                f"{sampling.max_new_tokens}. Lower it."
            )


def _direct_problems(job: Job) -> Iterator[str]:
    """What a method in PPO's place cannot do with the rest of the recipe."""
    direct, policy = job.recipe.direct, job.recipe.policy
    if isinstance(direct, DirectSapo) and policy.sampler is not None:
        yield (
            "direct.method=sapo samples from an average of the policy, which policy.sampler cannot draw "
            "from. Take policy.sampler out of the recipe."
        )
    searches = isinstance(direct, DirectExpo) and len(direct.strengths) > 1 and direct.kl_limit is None
    if searches and policy.kl.target is None:
        yield "direct.method=expo: policy.kl.target is null, so give direct.kl_limit."


def _server_problems(server: VllmServer, job: Job) -> Iterator[str]:
    """What is wrong with a server that shall draw the responses, without asking it."""
    where = "policy.sampler"
    trains = job.recipe.direct is None or job.recipe.direct.method != "best_of_n"
    if trains and not job.recipe.policy.adapt.lora_rank:
        yield f"{where}: a vLLM server takes adapters. Set policy.adapt.lora_rank above 0, or leave it out."
    for url in server.urls:
        if not url.startswith(("http://", "https://")):
            yield f"{where}.url: {url} is no address. Give one such as http://127.0.0.1:8000."
    if server.api_key_env is not None and not os.environ.get(server.api_key_env):
        yield f"{where}.api_key_env: the environment variable {server.api_key_env} is not set."


def _scorer_problems(name: str, where: str) -> Iterator[str]:
    """Whether a folder holds a reward model."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        is_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or folder.parent.name == "runs"
        if is_path or "/" not in name:
            yield f"{where}: {name} is not there. Give a reward model's folder, or its Hugging Face name."
        else:
            yield from _tried(where, lambda: check_on_hub(name))
        return
    config = folder / "config.json"
    if not config.exists():
        yield f"{where}: {name} is not a model folder (it has no config.json)."
        return
    kinds = read_json(config).get("architectures") or []
    is_reward = "redline" in read_json(config)
    is_reward = is_reward or any("Classification" in kind or "Reward" in kind for kind in kinds)
    if kinds and not is_reward:
        yield (
            f"{where}: {name} is a {kinds[0]}, no reward model. Give a folder that `redline train reward` "
            "wrote."
        )


def _function_problems(name: str, where: str, parameters: str) -> Iterator[str]:
    """Whether a user's function is there and can be called with as many arguments as it will be."""
    problems = list(_tried(where, lambda: load_function(name)))
    yield from problems
    if problems:
        return
    arguments = [None for part in parameters.split(",") if part.strip()]
    with suppress(ValueError):  # some callables written in C do not tell
        try:
            inspect.signature(load_function(name)).bind(*arguments)
        except TypeError as error:
            yield f"{where}: `{name}` is called with ({parameters}), and cannot be ({error})."


def _tried(where: str, attempt: Callable[[], object]) -> Iterator[str]:
    """The line of the mistake that an attempt meets, if any, with its place in front."""
    try:
        attempt()
    except UserError as error:
        yield f"{where}: {error}"
