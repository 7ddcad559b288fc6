"""The stage: a policy without PPO, from labelled edits, feedback and prompts.

The methods train the same layers on the same tokens as PPO does, and are watched by the same judge on the
same prompts."""

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from redline.data.records import Feedback, Labels, Prompt
from redline.direct.anchors import Anchors
from redline.direct.batch import Passes
from redline.direct.extrapolate import train_expo
from redline.direct.method import Method
from redline.direct.methods import BcoMethod, DpoMethod, FigaMethod, MrpoMethod, SftMethod, SpoMethod
from redline.direct.room import Asked, Room
from redline.direct.rows import feedback_rows
from redline.direct.selfplay import SapoMethod, SelmMethod, SpaMethod, SpinMethod
from redline.direct.settings import (
    DirectBco,
    DirectBestOfN,
    DirectDpo,
    DirectExpo,
    DirectFiga,
    DirectMrpo,
    DirectSapo,
    DirectSelm,
    DirectSft,
    DirectSpa,
    DirectSpin,
    DirectSpo,
    Trained,
)
from redline.direct.trainer import DirectTrainer
from redline.engine.models import tokenizer_of
from redline.engine.processes import finish_tracking, new_accelerator, sharded_launch, wait_for_everyone
from redline.engine.saving import save
from redline.engine.settings import Model
from redline.engine.trunk import CACHE_BYTES
from redline.errors import UserError
from redline.policy.actor import ActorCritic
from redline.policy.settings import Policy
from redline.policy.start import load_policy
from redline.policy.watch import Gold, Watch, Watched
from redline.reward.rewards import Reward, build_reward
from redline.sampling.check import check_sampling
from redline.sampling.open import open_sampler
from redline.sampling.protocol import Sampler
from redline.sampling.rollouts import prompt_tokens
from redline.types import JsonObject

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Given:
    """What a method may learn from. ``labels`` are labelled edits, ``feedback`` single responses that people
    liked or disliked, ``prompts`` those that may be sampled from."""

    labels: Sequence[Labels] = ()
    feedback: Sequence[Feedback] = ()
    prompts: Sequence[Prompt] = field(default_factory=list)


def method_for(settings: Trained, hidden: int) -> Method:
    """The method that a section of a recipe configures. ``hidden`` is the width of the model's states."""
    match settings:
        case DirectSft():
            return SftMethod(settings)
        case DirectFiga():
            return FigaMethod(settings)
        case DirectDpo():
            return DpoMethod(settings)
        case DirectBco():
            return BcoMethod(settings)
        case DirectMrpo():
            return MrpoMethod(settings)
        case DirectSpo():
            return SpoMethod(settings, hidden)
        case DirectSpin():
            return SpinMethod(settings)
        case DirectSapo():
            return SapoMethod(settings)
        case DirectSelm():
            return SelmMethod(settings)
        case DirectSpa():
            return SpaMethod(settings)


def make_policy(
    recipe: Trained | DirectExpo | DirectBestOfN,
    policy: Policy,
    model: Model,
    given: Given,
    out: Path,
    *,
    reward: Path | None = None,
    max_response: int = 512,
    seed: int = 0,
    trackers: Sequence[str] = (),
    gold: Gold | None = None,
) -> None:
    """A policy by whatever method a recipe names in PPO's place, in the folder ``out``. See
    ``train_direct``."""
    if isinstance(recipe, DirectBestOfN):
        raise ValueError("best of n makes no policy")
    if not isinstance(recipe, DirectExpo):
        train_direct(
            recipe,
            policy,
            model,
            given,
            out,
            reward=reward,
            max_response=max_response,
            seed=seed,
            trackers=trackers,
            gold=gold,
        )
        return

    def watching(actor: ActorCritic, tokenizer: Any, sampler: Sampler) -> Watch:
        assert gold is not None  # it is only called then
        return _watch(gold, actor, new_accelerator((), out), tokenizer, policy, sampler, seed, out, 0)

    train_expo(
        recipe,
        policy,
        model,
        given.prompts,
        out,
        reward=reward,
        seed=seed,
        watching=watching if gold is not None else None,
    )


def train_direct(
    recipe: Trained,
    policy: Policy,
    model: Model,
    given: Given,
    out: Path,
    *,
    reward: Path | None = None,
    max_response: int = 512,
    seed: int = 0,
    trackers: Sequence[str] = (),
    gold: Gold | None = None,
) -> None:
    """Train ``model`` without PPO and write the policy to ``out``, as PPO would.

    ``policy`` says which weights are trained, how responses are sampled, and by what reward they may be
    ranked; ``reward`` is the folder of the run's reward model. Responses of fewer than ``max_response``
    tokens end with end-of-text; longer ones are cropped to so many, and do not. ``gold`` measures on the way,
    into out/log.jsonl and out/watch/. Stopped and started again, it continues from its last checkpoint and
    ends as if it had not been stopped. Raises UserError for what a method lacks, and for a checkpoint of
    other settings."""
    from accelerate.utils import set_seed

    if sharded_launch():
        raise UserError(
            f"direct.method={recipe.method} does not run sharded, by FSDP or DeepSpeed. Launch one process, "
            "or DDP (accelerate launch --multi_gpu)."
        )
    if isinstance(recipe, DirectSapo) and policy.sampler is not None:
        raise UserError(
            "direct.method=sapo samples from an average of the policy, which policy.sampler cannot draw "
            "from. Take policy.sampler out of the recipe."
        )
    set_seed(seed)
    accelerator = new_accelerator(trackers, out)
    accelerator.init_trackers("policy")
    tokenizer = tokenizer_of(model)
    actor = ActorCritic(model, policy.adapt).to(accelerator.device)
    if policy.start is not None:
        load_policy(actor, policy.start)
    hidden = actor.lm.config.get_text_config().hidden_size
    method = method_for(recipe, hidden)
    anchors = Anchors(actor, method.helpers)
    asked: list[Asked] = []
    if method.draws:
        texts = list(given.prompts)
        asked = [
            Asked(prompt.id, prompt.prompt, ids)
            for prompt, ids in zip(texts, prompt_tokens(tokenizer, texts), strict=True)
        ]
        check_sampling(actor.lm, [len(one.ids) for one in asked], policy.sampling.max_new_tokens)
    keep = _fits(given, max_response, hidden, actor.lm.dtype)
    sampler = open_sampler(policy.sampler)
    room = Room(
        given.labels,
        feedback_rows(given.feedback, tokenizer, max_response),
        asked,
        tokenizer,
        anchors,
        Passes(anchors, policy.microbatch_tokens, keep),
        sampler,
        policy.sampling,
        _reward(policy, reward, tokenizer, actor),
        accelerator,
        model,
        max_response,
        seed,
    )

    def watch(done: int) -> Watch:
        assert gold is not None  # it is only called then
        return _watch(gold, actor, accelerator, tokenizer, policy, sampler, seed, out, done)

    settings: JsonObject = {
        "direct": recipe.model_dump(),
        "adapt": policy.adapt.model_dump(),
        "sampling": policy.sampling.model_dump(),
        "model": model.name,
        "seed": seed,
        "checksum": _checksum(given),
    }
    trainer = DirectTrainer(method, room, recipe.batch_size, recipe.rates, out, settings)
    trainer.run(watch if gold is not None else None)
    if accelerator.is_main_process:
        anchors.delete()
        save(actor.lm, actor.peft, tokenizer, out, model.name)
    wait_for_everyone()
    finish_tracking(accelerator)


def _watch(
    gold: Gold,
    actor: ActorCritic,
    accelerator: "Accelerator",
    tokenizer: Any,
    policy: Policy,
    sampler: Sampler,
    seed: int,
    out: Path,
    done: int,
) -> Watch:
    """What measures the gold score, whenever it is asked to, in a training of which ``done`` steps are
    done."""
    watched = Watched(actor, actor, accelerator, tokenizer, policy, None, sampler, 0, seed, out)
    watch = Watch(replace(gold, every=1), watched)
    watch.begin(done)
    return watch


def _reward(
    policy: Policy, reward: Path | None, tokenizer: Any, actor: ActorCritic
) -> Callable[[], Reward] | None:
    """The run's reward, built when it is first asked for; None where the run has none."""
    if reward is None and any(term.own for term in policy.reward):
        return None
    return lambda: build_reward(policy.reward, reward, tokenizer, actor.lm, actor.trunk)


def _fits(given: Given, max_response: int, hidden: int, dtype: torch.dtype) -> bool:
    """Whether the lower states of all rows can be kept in memory."""
    tokens = sum(
        min(len(side), max_response)
        for record in given.labels
        for side in (record.rejected_tokens, record.edited_tokens)
    )
    return (tokens + len(given.feedback) * max_response) * hidden * dtype.itemsize <= CACHE_BYTES


def _checksum(given: Given) -> int:
    """A number that tells one set of data from another."""
    found = 0
    for records in (given.labels, given.feedback, given.prompts):
        for record in records:
            found = zlib.crc32(json.dumps(record.model_dump(mode="json"), sort_keys=True).encode(), found)
    return found
