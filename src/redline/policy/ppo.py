"""Fine-grained PPO: ``R_t = reward(token t) - beta * KL_t`` at every step (Xu et al. 2024).

``Ppo.update`` is the method, from top to bottom. What it works with is built in ``redline.policy.train``.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.functional import pad as pad_last

from redline.console import say
from redline.data.records import Prompt, Text
from redline.engine.batching import draw_rows, minibatches, pack, pad
from redline.engine.processes import own_share
from redline.engine.rollout import Rollout
from redline.engine.sharding import gathered
from redline.engine.steps import Stepper
from redline.errors import UserError
from redline.policy.actor import ActorCritic, predicted, rescore
from redline.policy.advantages import AdaptiveKl, gae, importance_weights, masked_mean, token_kl, whiten
from redline.policy.ahead import Ahead
from redline.policy.baselines import Groups, baseline_advantages
from redline.policy.batch import Batch
from redline.policy.drift import drift_warning
from redline.policy.loss import Minibatch, loss_weights, ppo_loss
from redline.policy.metrics import LossSums, batch_metrics, mean_drift, monitors
from redline.policy.monitors import Phases
from redline.policy.settings import Policy
from redline.policy.shaping import Shaping
from redline.reward.rewards import Reward
from redline.sampling.protocol import Drawn, Request, Sampler
from redline.sampling.rollouts import rollout_of, sample_rollout
from redline.types import JsonObject

CALIBRATION = 4  # batches of the reference's responses that the reward scale is measured on


class BadBatch(Exception):
    """A batch that ends the training. ``sound`` is the number of updates whose state can be trusted, None
    where all can."""

    def __init__(self, message: str, rollout: Rollout, step: int, sound: int | None = None):
        super().__init__(message)
        self.rollout, self.step, self.sound = rollout, step, sound


@dataclass(frozen=True)
class Share:
    """A process's share of a batch: prompts as token ids and as given, and how responses are drawn."""

    ids: list[Sequence[int]]
    texts: list[Text]
    request: Request


@dataclass
class Ppo:
    """The parts of one training, and its update.

    ``prompt_ids`` are the prompts as token ids, ``stop`` the tokens that end a response. ``stepper`` holds
    the actor as Accelerate prepared it, its optimizer and schedule.
    """

    settings: Policy
    prompts: Sequence[Prompt]
    prompt_ids: Sequence[Sequence[int]]
    stop: Sequence[int]
    actor: ActorCritic
    sampler: Sampler
    reward: Reward
    stepper: Stepper
    seed: int = 0
    kl: AdaptiveKl = field(init=False)
    shaping: Shaping = field(init=False)
    phases: Phases = field(init=False, default_factory=Phases)
    ahead: Ahead | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.accelerator = self.stepper.accelerator
        kl = self.settings.kl
        self.kl = AdaptiveKl(kl.coefficient, kl.target, kl.horizon)
        self.shaping = Shaping(self.settings, gather_object)
        if self.settings.ahead:
            if not hasattr(self.sampler, "later"):
                raise UserError(
                    "policy.ahead: 1 needs a sampler that draws outside of this process. Set "
                    "policy.sampler, or policy.ahead to 0."
                )
            self.ahead = Ahead(self.drawing_later)

    def update(self, step: int) -> tuple[JsonObject, Batch]:
        """Update number ``step``, from 0; returns its line in the log, and its batch. Raises BadBatch when a
        reward, the loss or a gradient is not finite, or the policy is too far from its reference."""
        settings, self.phases = self.settings, Phases()
        with self.whole_weights():
            # 1. sample responses
            rollout = self.sample(step)
            # 2. score every token
            batch = Batch.of(rollout, self.score(rollout, step))
            # 3. re-score: log-probabilities and values by the policy, log-probabilities by the reference
            self.rescore(batch)
        # 4. shape rewards: scale, terms for the end, KL penalty
        batch.rewards = pad(self.shaping.rows(rollout, batch.rows(batch.raw_rewards)))
        batch.kl = token_kl(batch.logprobs, batch.reference, settings.kl.estimator)
        self.check_kl(batch, step)
        self.check_drift(batch, step)
        # the penalty is k1 whatever is watched: as a reward, k3 has hardly a gradient near the reference
        penalised = batch.rewards - self.kl.coefficient * token_kl(batch.logprobs, batch.reference)
        # 5. advantages and returns
        batch.advantages, batch.returns = self.advantages(penalised, batch)
        batch.importance = self.importance(batch)
        # 6. several epochs of clipped policy and value losses over minibatches
        with self.phases.measure("optimise"):
            losses = self.learn(batch, step)
        metrics = batch_metrics(batch, self.kl.coefficient, self.accelerator, self.total)
        metrics |= losses | monitors(batch, self.total)
        if settings.importance_cap is not None:
            metrics["importance"] = masked_mean(batch.importance, batch.mask, self.total)
        if warning := drift_warning(metrics["sampler_drift"] or 0.0, self.actor.lm.dtype):
            metrics["warning"] = warning
        self.kl.update(metrics["kl"], settings.batch_size)
        rollout.states.clear()  # the largest thing here, and done with
        return metrics | self.phases.metrics(), batch

    def sample(self, step: int) -> Rollout:
        """This process's share of the batch of an update."""
        rows = self.prompt_rows(step)
        if self.ahead is None:
            return self.respond(rows, step)
        share = self.share(rows, step)
        with self.phases.measure("sample"):
            policy = self.actor.current()
            self.sampler.sync(policy)  # handed over while the server still draws from the weights before
            drawn = self.ahead.take(step)
            if step + 1 < self.settings.updates:
                self.ahead.start(step + 1)
            return rollout_of(drawn, policy, share.ids, share.request, texts=share.texts)

    def prompt_rows(self, step: int) -> list[int]:
        """The number of the prompt of each response of an update's batch; the responses to a prompt lie side
        by side."""
        prompts = self.settings.batch_size // self.settings.samples
        rows = draw_rows(len(self.prompts), prompts, step, self.seed)
        return [row for row in rows for _ in range(self.settings.samples)]

    def respond(self, rows: Sequence[int], step: int) -> Rollout:
        """Responses to this process's share of some prompts, the numbers of which are ``rows``."""
        share = self.share(rows, step)
        with self.phases.measure("sample"):
            policy = self.actor.current()
            self.sampler.sync(policy)
            return sample_rollout(self.sampler, policy, share.ids, share.request, texts=share.texts)

    def share(self, rows: Sequence[int], step: int) -> "Share":
        """This process's share of some prompts, the numbers of which are ``rows``."""
        places = own_share(len(rows))
        mine = [rows[place] for place in places]
        seed = (self.seed * 1_000_003 + step) * 1009
        request = Request(self.settings.sampling, self.stop, seed, places)
        ids = [self.prompt_ids[row] for row in mine]
        return Share(ids, [self.prompts[row].prompt for row in mine], request)

    def drawing_later(self, step: int) -> Callable[[], Drawn]:
        """What draws the responses of an update from the weights as they are now."""
        share = self.share(self.prompt_rows(step), step)
        later: Callable[..., Callable[[], Drawn]] = getattr(self.sampler, "later")  # noqa: B009
        return later(share.ids, 1, share.request)

    def score(self, rollout: Rollout, step: int) -> list[Tensor]:
        """The reward of every token, ``[R_i]`` a response."""
        with self.phases.measure("score"):
            try:
                return self.reward(rollout)
            except UserError as error:
                raise BadBatch(str(error), rollout, step) from error

    def rescore(self, batch: Batch) -> None:
        """Log-probabilities, values and entropies by the policy, log-probabilities by the reference."""
        settings = self.settings
        temperature, budget = settings.sampling.temperature, settings.microbatch_tokens
        with self.phases.measure("rescore"):
            own = rescore(self.actor, batch.rollout, temperature, budget, entropy=True)
            reference = rescore(self.actor, batch.rollout, temperature, budget, reference=True)
        batch.logprobs, batch.entropies = pad(own.logprobs), pad(own.entropies)
        batch.reference = pad(reference.logprobs)
        if settings.baseline == "critic":
            batch.values = pad(own.values)

    def advantages(self, rewards: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Advantages, and the returns that the critic learns, where there is one: ``[B, T]``."""
        settings = self.settings
        if batch.values is None:
            return self.advantages_in_groups(rewards, batch), None
        advantages, returns = gae(rewards, batch.values, batch.mask, settings.gamma, settings.gae_lambda)
        if settings.value_lambda is not None:
            _, returns = gae(rewards, batch.values, batch.mask, settings.gamma, settings.value_lambda)
        return advantages, returns

    def advantages_in_groups(self, rewards: Tensor, batch: Batch) -> Tensor:
        """Advantages ``[B, T]`` against the other responses to the prompt, or of the batch."""
        settings, width = self.settings, rewards.shape[1]
        whole = settings.batch_size
        size = settings.samples if settings.baseline == "group" else whole
        missing = settings.sampling.max_new_tokens - width  # all processes add up tensors of one width
        advantages = baseline_advantages(
            pad_last(rewards, (0, missing)),
            pad_last(batch.mask, (0, missing)),
            Groups.of_places(own_share(whole), whole, size),
            settings.gamma,
            settings.credit,
            settings.standardise == "group",
            self.total,
        )
        return advantages[:, :width]

    def standardised(self, batch: Batch) -> Tensor:
        """The advantages ``[B, T]`` that the policy learns from, before importance weights."""
        if self.settings.standardise == "batch":
            return whiten(batch.advantages, batch.mask, self.total)
        return batch.advantages  # they are what they should be, or divided in their groups

    def importance(self, batch: Batch) -> Tensor:
        """The weights of the tokens' advantages ``[B, T]``: 1 without ``importance_cap``, or where the
        sampler gave no log-probabilities."""
        cap, sampled = self.settings.importance_cap, batch.rollout.logprobs
        if cap is None or not sampled:
            return torch.ones_like(batch.logprobs)
        return importance_weights(batch.logprobs, pad(sampled), cap)

    def learn(self, batch: Batch, step: int) -> dict[str, float | None]:
        """All epochs over a batch; returns means of what the loss gave, and the largest error of a ratio that
        should have been 1: before the first step."""
        settings, stepper, device = self.settings, self.stepper, self.accelerator.device
        advantages = self.standardised(batch) * batch.importance
        longest = settings.sampling.max_new_tokens
        sums, ratio_error, norms = LossSums(device, self.total), torch.zeros(1, device=device), []
        order = self.minibatches(step)
        for number, minibatch in enumerate(order):
            rows, before = self.own_rows(batch, minibatch), sums.copy()
            tokens = self.total(torch.tensor(float(sum(batch.sizes[row] for row in rows)))).item()
            whole = Minibatch(tokens, len(minibatch))
            for members, counts in stepper.micro_batches(self.micro_batches(batch, rows)):
                inputs = predicted(batch.rollout, members, self.actor.split.cut, device)
                logprobs, values, _ = stepper.model(*inputs, settings.sampling.temperature)
                old = batch.old_tokens(members, advantages, device)
                sizes = [batch.sizes[row] for row in members]
                weights = loss_weights(sizes, settings.loss_mean, whole, longest).to(device)
                parts = ppo_loss(
                    logprobs, values, old, settings.clip, settings.value_clip, settings.clip_high, weights
                )
                loss = parts.policy_loss + settings.value_coefficient * parts.value_loss
                stepper.backward(counts * loss / tokens)
                sums.add(parts, counts)
                if number == 0 and counts:
                    ratio_error = torch.maximum(ratio_error, (logprobs.detach() - old.logprobs).abs().max())
            sums.tokens += tokens
            if self.moved_enough(sums, before):
                stepper.leave_out()
                break
            norms.append(stepper.step())
            if not math.isfinite(norms[-1]):
                message = f"the loss or gradient of update {step + 1} is not finite"
                raise BadBatch(message, batch.rollout, step, sound=step)
        for _ in order[len(norms) :]:  # the rate goes by updates, however many steps each took
            stepper.skip_rate()
        means: dict[str, float | None] = {**sums.means()}
        if settings.baseline != "critic":
            means |= {"value_loss": None, "value_clip_fraction": None}
        return means | {
            "grad_norm": sum(norms) / max(len(norms), 1),
            "optimizer_steps": len(norms),
            "first_ratio_error": self.accelerator.gather(ratio_error).max().item(),
            "learning_rate": stepper.learning_rate,
        }

    def minibatches(self, step: int) -> list[list[int]]:
        """The minibatches of all epochs of an update, as rows of the whole batch."""
        size, part = self.settings.batch_size, self.settings.minibatch_size
        drawn: list[list[int]] = []
        for epoch in range(self.settings.epochs):
            drawn += minibatches(size, part, self.seed + 7919 * step, epoch)
        return drawn

    def own_rows(self, batch: Batch, minibatch: Sequence[int]) -> list[int]:
        """This process's share of a minibatch, as rows of its own batch: those that have tokens."""
        own, count = self.accelerator.process_index, self.accelerator.num_processes
        return [row // count for row in minibatch if row % count == own and batch.sizes[row // count]]

    def micro_batches(self, batch: Batch, rows: Sequence[int]) -> list[list[int]]:
        """Rows in groups that are computed together."""
        rollout = batch.rollout
        lengths = [len(rollout.prompt_ids[row]) + rollout.sizes[row] for row in rows]
        return [[rows[index] for index in group] for group in pack(lengths, self.settings.microbatch_tokens)]

    def moved_enough(self, sums: LossSums, before: LossSums) -> bool:
        """Whether the policy has moved so far on this batch that the rest of it is left out."""
        limit = self.settings.kl.per_batch
        return limit is not None and sums.mean_since(before, "batch_kl") > limit

    def check_kl(self, batch: Batch, step: int) -> None:
        """Stop a policy that has left its reference: what it learns from there on is noise."""
        sums = torch.tensor([sum(batch.sums(batch.kl)), len(batch)])
        divergence, count = self.total(sums).tolist()
        limit = self.settings.kl.stop
        if not math.isfinite(divergence) or (limit is not None and divergence / count > limit):
            message = (
                f"before update {step + 1} the KL to the reference is {divergence / count:.1f} nats a "
                f"response (policy.kl.stop is {limit})"
            )
            raise BadBatch(message, batch.rollout, step, sound=step - 1)

    def check_drift(self, batch: Batch, step: int) -> None:
        """Stop where the sampler draws from another distribution than the policy's."""
        limit, drift = self.settings.max_drift, mean_drift(batch, self.total)
        if limit is not None and drift > limit:
            message = (
                f"in update {step + 1} the sampler's log-probabilities are {drift:.2g} nats a token from the "
                f"policy's (policy.max_drift is {limit})"
            )
            raise BadBatch(message, batch.rollout, step, sound=step)

    def calibrate(self) -> None:
        """Measure the reward's scale, and the mean length, on responses of the reference."""
        if self.shaping.is_measured:
            return
        size = self.settings.batch_size
        say(f"measuring the reward's scale on {size * CALIBRATION} responses of the reference")
        with self.whole_weights():
            self.shaping.measure(self._samples_of_reference())

    def _samples_of_reference(self) -> Iterator[tuple[Rollout, list[Tensor]]]:
        """Responses of the policy before training, with their rewards."""
        for part in range(CALIBRATION):
            rows = draw_rows(len(self.prompts), self.settings.batch_size, part, self.seed + 1)
            rollout = self.respond(rows, -1 - part)
            yield rollout, self.score(rollout, -1 - part)

    def shaped_rewards(self, rollout: Rollout) -> list[Tensor]:
        """The rewards that PPO takes, ``[R_i]`` a response: for whoever watches."""
        return self.shaping.rows(rollout, self.reward(rollout))

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """Inside, every process has the whole weights, and computes in the precision that it trains in."""
        with gathered(self.stepper.model), self.accelerator.autocast():
            yield

    def total(self, part: Tensor) -> Tensor:
        """A tensor's sum over all processes."""
        summed: Tensor = self.accelerator.reduce(part.to(self.accelerator.device))
        return summed.to(part.device)

    def state_dict(self) -> JsonObject:
        """What a checkpoint keeps besides weights, optimizer and schedule: plain data."""
        return {
            "kl": self.kl.state_dict(),
            "scale": self.shaping.scale,
            "mean_length": self.shaping.mean_length,
            "ahead": {} if self.ahead is None else self.ahead.state_dict(),
        }

    def load_state_dict(self, state: JsonObject) -> None:
        self.kl.load_state_dict(state["kl"])
        self.shaping.scale, self.shaping.mean_length = state["scale"], state["mean_length"]
        if self.ahead is not None:
            self.ahead.load_state_dict(state["ahead"])
