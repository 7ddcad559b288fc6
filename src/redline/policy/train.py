"""A whole PPO training: the parts are built, updates run with checkpoints and a log, the policy is saved."""

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from redline.console import progress_bar, say
from redline.data.records import Prompt, as_text
from redline.data.show import visible
from redline.engine.checkpoints import Checkpoints, keep_batch, not_finite
from redline.engine.models import check_tokens, eos_ids, tokenizer_of
from redline.engine.processes import finish_tracking, new_accelerator, wait_for_everyone
from redline.engine.saving import save
from redline.engine.schedule import scheduler
from redline.engine.settings import Model
from redline.engine.sharding import assemble, prepare
from redline.engine.steps import Stepper, adamw
from redline.errors import UserError
from redline.policy.actor import ActorCritic
from redline.policy.batch import Batch
from redline.policy.files import PolicyFiles
from redline.policy.log import RunLog, sample_records
from redline.policy.ppo import BadBatch, Ppo
from redline.policy.settings import Policy
from redline.policy.start import load_policy
from redline.policy.watch import Gold, Watch, Watched
from redline.reward.rewards import build_reward
from redline.sampling.check import check_sampling
from redline.sampling.open import open_sampler
from redline.sampling.rollouts import prompt_tokens
from redline.types import JsonObject

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

SHOWN = 32  # of an update's responses, at most, are written to samples.jsonl


@dataclass(frozen=True)
class PolicySummary:
    """How a training ended. ``metrics`` are those of its last update, as ``log.jsonl`` has them."""

    updates: int
    reward_scale: float
    metrics: dict[str, float | None]


def train_policy(
    recipe: Policy,
    model: Model,
    prompts: Sequence[Prompt],
    out: Path,
    *,
    reward: Path | None = None,
    seed: int = 0,
    trackers: Sequence[str] = (),
    gold: Gold | None = None,
) -> PolicySummary:
    """Train ``model`` with PPO on ``prompts`` and write the policy to ``out``.

    ``reward`` is the folder of the reward model for terms that name none; ``gold`` the judge that watches.
    Stopped and started again, it continues from its last checkpoint and ends as if it had not been stopped.
    Raises UserError when a reward or the loss is not finite.
    """
    from accelerate.utils import set_seed

    set_seed(seed)
    accelerator = new_accelerator(trackers, out)
    accelerator.init_trackers("policy")
    tokenizer = tokenizer_of(model)
    ppo = build_ppo(recipe, model, prompts, accelerator, reward, seed)
    training = Training(ppo, tokenizer, model.name, out)
    summary = training.run(gold)
    training.save()
    finish_tracking(accelerator)
    return summary


def build_ppo(
    recipe: Policy,
    model: Model,
    prompts: Sequence[Prompt],
    accelerator: "Accelerator",
    reward: Path | None = None,
    seed: int = 0,
) -> Ppo:
    """The parts of a recipe's training. Raises UserError for prompts, models and rewards that cannot be used
    together."""
    if not prompts:
        raise UserError(
            "policy: there are no prompts to sample from. Give data.prompts, or edits with prompts."
        )
    if recipe.batch_size < accelerator.num_processes:
        raise UserError(
            f"policy.batch_size is {recipe.batch_size}: each of the {accelerator.num_processes} "
            "processes needs a response of its own. Raise it, or use fewer processes."
        )
    tokenizer = tokenizer_of(model)
    prompt_ids = prompt_tokens(tokenizer, prompts)
    critic = recipe.critic if recipe.baseline == "critic" else None
    actor = ActorCritic(model, recipe.adapt, critic).to(accelerator.device)
    if recipe.start is not None:
        load_policy(actor, recipe.start)
    check_tokens(actor.lm, prompt_ids, model.name)
    check_sampling(actor.lm, [len(ids) for ids in prompt_ids], recipe.sampling.max_new_tokens)
    _check_positions(actor, model, prompt_ids, recipe)
    stop = eos_ids(actor.lm, tokenizer, [prompt.prompt for prompt in prompts])
    sampler = open_sampler(recipe.sampler)
    reward_of = build_reward(recipe.reward, reward, tokenizer, actor.lm, actor.trunk)
    prepared, optimizer = prepare(accelerator, actor, adamw(actor.value_head, actor, recipe.optimizer))
    steps = recipe.updates * recipe.epochs * -(-recipe.batch_size // recipe.minibatch_size)
    schedule = scheduler(optimizer, recipe.optimizer, steps)
    stepper = Stepper(accelerator, prepared, optimizer, schedule, recipe.optimizer.max_grad_norm)
    return Ppo(
        settings=recipe,
        prompts=list(prompts),
        prompt_ids=prompt_ids,
        stop=stop,
        actor=actor,
        sampler=sampler,
        reward=reward_of,
        stepper=stepper,
        seed=seed,
    )


def _check_positions(
    actor: ActorCritic, model: Model, prompt_ids: Sequence[Sequence[int]], recipe: Policy
) -> None:
    """Raise UserError where prompt and response may be longer than the model can read."""
    positions = getattr(actor.lm.config, "max_position_embeddings", None)
    longest = max(len(ids) for ids in prompt_ids) + recipe.sampling.max_new_tokens
    if positions is not None and 0 < positions < longest:
        raise UserError(
            f"policy: the longest prompt and sampling.max_new_tokens make {longest} tokens; {model.name} has "
            f"{positions} positions. Lower sampling.max_new_tokens or data.max_prompt_tokens."
        )


NO_MATTER = {"checkpoint_every", "sample_every", "show_samples", "microbatch_tokens"}  # to a result


class Training:
    """The updates of one training in the folder ``out``; ``base`` is the name of the model that it began
    with."""

    def __init__(self, ppo: Ppo, tokenizer: "PreTrainedTokenizerBase", base: str, out: Path):
        self.ppo, self.tokenizer, self.base, self.out = ppo, tokenizer, base, out
        self.accelerator = ppo.accelerator
        settings = ppo.settings.model_dump(exclude=NO_MATTER)
        settings |= {
            "seed": ppo.seed,
            "model": base,
            "prompts": zlib.crc32(json.dumps(ppo.prompt_ids).encode()),
        }
        stepper = ppo.stepper
        self.checkpoints = Checkpoints(
            PolicyFiles(out).checkpoints,
            self.accelerator,
            settings,
            stepper.model,
            stepper.optimizer,
            stepper.schedule,
        )

    def run(self, gold: Gold | None = None) -> PolicySummary:
        """All updates that are not done yet, watched by a judge if there is one."""
        ppo, updates, main = self.ppo, self.ppo.settings.updates, self.accelerator.is_main_process
        start, state = self.checkpoints.load()
        log = RunLog(self.out, start, main)
        with self._bad_batches_kept():
            if state:
                ppo.load_state_dict(state)
            else:
                ppo.calibrate()
            watch = self._watch(gold) if gold else None
            if watch and start < updates:
                watch.begin(start)
            metrics: JsonObject = {}
            with progress_bar("policy", updates, start, main) as bar:
                for step in range(start, updates):
                    metrics, batch = ppo.update(step)
                    if watch:
                        metrics |= watch.after(step + 1)
                    self._log(log, step, metrics, batch)
                    bar.advance()
                    bar.note(f"reward {metrics['reward']:.2f} KL {metrics['kl']:z.1f}")
                    if (step + 1) % ppo.settings.checkpoint_every == 0 or step + 1 == updates:
                        self.checkpoints.save(step + 1, ppo.state_dict())
        scale = ppo.shaping.scale
        last: dict[str, float | None] = metrics or log.last()
        return PolicySummary(updates, 1.0 if scale is None else scale, last)

    def save(self) -> None:
        """Write the policy as a plain causal language model, with LoRA the adapter beside it."""
        assemble(self.accelerator, self.ppo.stepper.model)
        if self.accelerator.is_main_process:
            save(self.ppo.actor.lm, self.ppo.actor.peft, self.tokenizer, self.out, self.base)
        wait_for_everyone()

    def _watch(self, gold: Gold) -> Watch:
        ppo = self.ppo
        watched = Watched(
            ppo.actor,
            ppo.stepper.model,
            self.accelerator,
            self.tokenizer,
            ppo.settings,
            ppo.shaped_rewards,
            ppo.sampler,
            ppo.settings.updates,
            ppo.seed,
            self.out,
        )
        return Watch(gold, watched)

    def _log(self, log: RunLog, step: int, metrics: JsonObject, batch: Batch) -> None:
        """An update's line in the log and, now and then, its responses."""
        log.metrics({"update": step + 1, **metrics})
        if (step + 1) % self.ppo.settings.sample_every == 0 or step in (0, self.ppo.settings.updates - 1):
            names = ("rewards", "values", "kl", "advantages")
            known = {name: getattr(batch, name) for name in names}
            columns = {name: batch.rows(column) for name, column in known.items() if column is not None}
            records = sample_records(batch.rollout, self.tokenizer, step + 1, SHOWN, **columns)
            log.samples(records)
            self._show(records[: self.ppo.settings.show_samples], step)
        figures = {name: value for name, value in metrics.items() if value is not None}
        self.accelerator.log(figures, step=step + 1)

    def _show(self, records: Sequence[JsonObject], step: int) -> None:
        """Some responses, as text, on the console and in the trackers."""
        for number, record in enumerate(records, 1):
            text = f"{as_text(record['prompt'])} -> {record['text']}"
            if self.accelerator.is_main_process:
                say(f"update {step + 1}, sample {number}: {visible(' '.join(text.split()))}")
            self.accelerator.log({f"sample {number}": text}, step=step + 1)

    @contextmanager
    def _bad_batches_kept(self) -> Iterator[None]:
        """A batch that ends the training is kept for inspection, and named in one line."""
        try:
            yield
        except BadBatch as error:
            records = sample_records(error.rollout, self.tokenizer, max(error.step + 1, 0))
            path = keep_batch(self.out, records)
            if error.sound is None:
                raise UserError(f"{error} The batch is in {path}.") from error
            advice = "Lower policy.optimizer.lr, raise policy.kl.coefficient, or use float32"
            last = self.checkpoints.newest(error.sound)
            raise not_finite("policy", str(error), f"its batch is in {path}", last, advice) from error
