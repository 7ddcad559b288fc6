"""The stage: a policy without PPO, from labelled edits, feedback and prompts.

The methods train the same layers on the same tokens as PPO does, and are watched by the same judge on the
same prompts."""

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from redline.data.records import Feedback, Labels, Prompt
from redline.direct.anchors import Anchors
from redline.direct.batch import Passes
from redline.direct.extrapolate import train_expo
from redline.direct.room import Asked, Room
from redline.direct.rows import feedback_rows
from redline.direct.settings import DirectBestOfN, DirectExpo, DirectSapo, Trained
from redline.direct.trainer import DirectTrainer
from redline.engine.models import tokenizer_of
from redline.engine.processes import finish_tracking, new_accelerator, sharded_launch, wait_for_everyone
from redline.engine.saving import save
from redline.engine.settings import Model
from redline.errors import UserError
from redline.policy.actor import ActorCritic
from redline.policy.settings import Policy
from redline.policy.start import load_policy
from redline.policy.watch import Gold, Watched, watch_when_asked
from redline.reward.rewards import Reward, build_reward
from redline.sampling.check import check_sampling
from redline.sampling.open import open_sampler
from redline.sampling.rollouts import prompt_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Given:
    """What a method may learn from. ``labels`` are labelled edits, ``feedback`` single responses that people
    liked or disliked, ``prompts`` those that may be sampled from."""

    labels: Sequence[Labels] = ()
    feedback: Sequence[Feedback] = ()
    prompts: Sequence[Prompt] = field(default_factory=list)


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
    """A policy by whatever method a recipe names in PPO's place, in the folder ``out``. See ``train_direct``
    and ``train_expo``."""
    if isinstance(recipe, DirectBestOfN):
        raise ValueError("best of n makes no policy")
    if isinstance(recipe, DirectExpo):
        train_expo(recipe, policy, model, given.prompts, out, reward=reward, seed=seed, gold=gold)
    else:
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

    _check(recipe, policy)
    set_seed(seed)
    accelerator = new_accelerator(trackers, out)
    accelerator.init_trackers("policy")
    tokenizer = tokenizer_of(model)
    actor = ActorCritic(model, policy.adapt).to(accelerator.device)
    if policy.start is not None:
        load_policy(actor, policy.start)
    method = recipe.make(actor.lm.config.get_text_config().hidden_size)
    anchors = Anchors(actor, method.helpers)
    sampler = open_sampler(policy.sampler)
    room = Room(
        labels=given.labels,
        thumbs=feedback_rows(given.feedback, tokenizer, max_response),
        prompts=_asked(given.prompts, tokenizer, actor, policy) if method.draws else [],
        tokenizer=tokenizer,
        anchors=anchors,
        passes=Passes(anchors, policy.microbatch_tokens),
        sampler=sampler,
        sampling=policy.sampling,
        reward=_reward(policy, reward, tokenizer, actor),
        accelerator=accelerator,
        model=model,
        max_response=max_response,
        seed=seed,
    )
    settings = {
        "direct": recipe.model_dump(),
        "adapt": policy.adapt.model_dump(),
        "sampling": policy.sampling.model_dump(),
        "model": model.name,
        "seed": seed,
        "checksum": _checksum(given),
    }
    watch = None
    if gold is not None:
        watched = Watched(actor, actor, accelerator, tokenizer, policy, None, sampler, 0, seed, out)
        watch = partial(watch_when_asked, gold, watched)
    DirectTrainer(method, room, recipe.batch_size, recipe.rates, out, settings).run(watch)
    if accelerator.is_main_process:
        anchors.delete()
        save(actor.lm, actor.peft, tokenizer, out, model.name)
    wait_for_everyone()
    finish_tracking(accelerator)


def _check(recipe: Trained, policy: Policy) -> None:
    """Raise UserError for what these methods cannot do."""
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


def _asked(
    prompts: Sequence[Prompt], tokenizer: "PreTrainedTokenizerBase", actor: ActorCritic, policy: Policy
) -> list[Asked]:
    """The prompts to sample from. Raises UserError for one that leaves no room for a response."""
    asked = []
    for prompt, ids in zip(prompts, prompt_tokens(tokenizer, prompts), strict=True):
        asked.append(Asked(prompt.id, prompt.prompt, ids))
    check_sampling(actor.lm, [len(prompt.ids) for prompt in asked], policy.sampling.max_new_tokens)
    return asked


def _reward(
    policy: Policy, reward: Path | None, tokenizer: "PreTrainedTokenizerBase", actor: ActorCritic
) -> Callable[[], Reward] | None:
    """The run's reward, built when it is first asked for; None where the run has none."""
    if reward is None and any(term.own for term in policy.reward):
        return None
    return lambda: build_reward(policy.reward, reward, tokenizer, actor.lm, actor.trunk)


def _checksum(given: Given) -> int:
    """A number that tells one set of data from another."""
    checksum = 0
    for records in (given.labels, given.feedback, given.prompts):
        for record in records:
            text = json.dumps(record.model_dump(mode="json"), sort_keys=True)
            checksum = zlib.crc32(text.encode(), checksum)
    return checksum
