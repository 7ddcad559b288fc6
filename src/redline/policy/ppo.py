"""Fine-grained PPO: ``R_t = reward(token t) - beta * KL_t`` at every step (Xu et al. 2024). One update:

1. sample responses, keeping the states below the trained layers
2. score every token
3. re-score log-probabilities and values by the policy, log-probabilities by the reference
4. rewards: scale, end-of-text terms, KL penalty; advantages and returns
5. several epochs of clipped policy and value losses over minibatches
"""

import json
import math
import time
import zlib
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from redline.console import console, progress_bar
from redline.data.records import Prompt
from redline.engine.batching import draw_rows, minibatches, pack, pad
from redline.engine.checkpoints import Checkpoints, keep_batch
from redline.engine.models import eos_ids, tokenizer_of
from redline.engine.processes import finish_tracking, new_accelerator, wait_for_everyone
from redline.engine.rollout import Rollout
from redline.engine.saving import save
from redline.engine.schedule import scheduler
from redline.engine.settings import Model
from redline.engine.sharding import assemble, clip_gradients, gathered, prepare, unfinished
from redline.errors import UserError
from redline.policy.actor import ActorCritic, predicted, rescore
from redline.policy.advantages import AdaptiveKl, explained_variance, gae, token_kl, whiten
from redline.policy.files import PolicyFiles
from redline.policy.log import RunLog, sample_records
from redline.policy.loss import LossParts, ppo_loss
from redline.policy.monitors import advantage_monitors, peak_gb, phase_gb, reward_monitors, start_phase
from redline.policy.settings import Policy
from redline.policy.start import load_policy
from redline.policy.watch import Gold, Watch, Watched
from redline.reward.rewards import build_reward
from redline.sampling.check import check_sampling
from redline.sampling.open import open_sampler
from redline.sampling.protocol import Request
from redline.sampling.rollouts import prompt_tokens, sample_rollout

if TYPE_CHECKING:
    from collections.abc import Iterator

CALIBRATION = 4  # batches of the reference's responses that the reward scale is measured on
SHOWN = 32  # of an update's responses, at most, are written to samples.jsonl


@dataclass
class _Pass:
    """What a pass over some rows gave ``[N]``, with the graph behind it."""

    rows: list[int]
    logprobs: Tensor
    values: Tensor
    entropies: Tensor

    def split(self, rollout: Rollout) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Log-probabilities, values and entropies ``[R_i]`` of every response, without the graph."""
        found = [[torch.zeros(0)] * len(rollout) for _ in range(3)]
        sizes = [rollout.sizes[row] for row in self.rows]
        for kind, output in enumerate((self.logprobs, self.values, self.entropies)):
            for row, part in zip(self.rows, output.detach().float().cpu().split(sizes), strict=True):
                found[kind][row] = part
        return found[0], found[1], found[2]


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
) -> dict[str, Any]:
    """Train ``model`` with PPO on ``prompts`` and write the policy to ``out``; returns a summary.

    ``reward`` is the folder of the reward model for terms that name none; ``gold`` the judge that watches.
    Stopped and started again, it continues from its last checkpoint and ends as if it had not been stopped.
    Raises UserError when a reward or the loss is not finite.
    """
    from accelerate.utils import set_seed

    set_seed(seed)
    accelerator = new_accelerator(trackers, out)
    accelerator.init_trackers("policy")
    trainer = Ppo(recipe, model, prompts, out, accelerator, reward, seed)
    summary = trainer.run(gold)
    trainer.save()
    finish_tracking(accelerator)
    return summary


class Ppo:
    """One training: the actor, its reward, the optimizer, and the place in the data."""

    def __init__(
        self,
        recipe: Policy,
        model: Model,
        prompts: Sequence[Prompt],
        out: Path,
        accelerator: Any,
        reward: Path | None,
        seed: int,
    ):
        self.recipe, self.base, self.out, self.seed, self.accelerator = (
            recipe,
            model.name,
            out,
            seed,
            accelerator,
        )
        if not prompts:
            raise UserError(
                "policy: there are no prompts to sample from. Give data.prompts, or edits with prompts."
            )
        if recipe.batch_size < accelerator.num_processes:
            raise UserError(
                f"policy.batch_size is {recipe.batch_size}: each of the {accelerator.num_processes} "
                "processes needs a response of its own. Raise it, or use fewer processes."
            )
        self.tokenizer = tokenizer_of(model)
        self.prompts = list(prompts)
        self.prompt_ids = prompt_tokens(self.tokenizer, self.prompts)
        self.actor = ActorCritic(model, recipe.adapt, recipe.critic == "own").to(accelerator.device)
        if recipe.start is not None:
            load_policy(self.actor, recipe.start)
        check_sampling(self.actor.lm, list(map(len, self.prompt_ids)), recipe.sampling.max_new_tokens)
        positions = getattr(self.actor.lm.config, "max_position_embeddings", None)
        longest = max(map(len, self.prompt_ids)) + recipe.sampling.max_new_tokens
        if positions is not None and longest > positions:
            raise UserError(
                f"policy: the longest prompt and sampling.max_new_tokens make {longest} tokens; "
                f"{model.name} has "
                f"{positions} positions. Lower sampling.max_new_tokens or data.max_prompt_tokens."
            )
        self.eos = eos_ids(self.actor.lm, self.tokenizer, [prompt.prompt for prompt in self.prompts])
        self.sampler = open_sampler(recipe.sampler)
        self.reward = build_reward(recipe.reward, reward, self.tokenizer, self.actor.lm, self.actor.trunk)
        heads = set(self.actor.value_head.parameters())
        trained = [
            parameter
            for parameter in self.actor.parameters()
            if parameter.requires_grad and parameter not in heads
        ]
        how = recipe.optimizer
        optimizer = torch.optim.AdamW(
            [{"params": trained, "lr": how.lr}, {"params": list(heads), "lr": how.head_lr}],
            eps=how.eps,
            weight_decay=how.weight_decay,
        )
        self.model, self.optimizer = prepare(accelerator, self.actor, optimizer)
        minibatches = -(-recipe.batch_size // recipe.minibatch_size)
        self.schedule = scheduler(self.optimizer, how, recipe.updates * recipe.epochs * minibatches)
        fingerprint = zlib.crc32(json.dumps(self.prompt_ids).encode())
        settings = recipe.model_dump(exclude={"checkpoint_every", "sample_every", "microbatch_tokens"})
        settings |= {"seed": seed, "model": model.name, "prompts": fingerprint}
        self.checkpoints = Checkpoints(
            PolicyFiles(out).checkpoints, accelerator, settings, self.model, self.optimizer, self.schedule
        )
        self.kl = AdaptiveKl(recipe.kl.coefficient, recipe.kl.target, recipe.kl.horizon)
        self.scale, self.mean_length = recipe.reward_scale, 1.0
        self.timings: dict[str, float] = {}
        self.memory: dict[str, float] = {}

    def run(self, gold: Gold | None = None) -> dict[str, Any]:
        """All updates that are not done yet, watched by a judge if there is one."""
        start, state = self.checkpoints.load()
        log = RunLog(self.out, start, self.accelerator.is_main_process)
        if state:
            self.kl.load_state_dict(state["kl"])
            self.scale, self.mean_length = state["scale"], state["mean_length"]
        else:
            with self._whole():
                self._calibrate()
        watch = (
            Watch(
                gold,
                Watched(
                    self.actor,
                    self.model,
                    self.accelerator,
                    self.tokenizer,
                    self.recipe,
                    self._score,
                    self.sampler,
                    self.recipe.updates,
                    self.seed,
                    self.out,
                ),
            )
            if gold
            else None
        )
        if watch and start < self.recipe.updates:
            watch.begin(start)
        metrics: dict[str, Any] = {}
        with progress_bar("policy", self.recipe.updates, start, self.accelerator.is_main_process) as bar:
            for step in range(start, self.recipe.updates):
                metrics, columns = self.update(step)
                if watch:
                    metrics |= watch.after(step + 1)
                log.metrics({"update": step + 1, **metrics})
                if (step + 1) % self.recipe.sample_every == 0 or step in (0, self.recipe.updates - 1):
                    log.samples(
                        sample_records(columns.pop("rollout"), self.tokenizer, step + 1, SHOWN, **columns)
                    )
                known = {name: value for name, value in metrics.items() if value is not None}
                self.accelerator.log(known, step=step + 1)
                bar.advance()
                bar.note(f"reward {metrics['reward']:.2f} KL {metrics['kl']:.1f}")
                if (step + 1) % self.recipe.checkpoint_every == 0 or step + 1 == self.recipe.updates:
                    self.checkpoints.save(
                        step + 1,
                        {"kl": self.kl.state_dict(), "scale": self.scale, "mean_length": self.mean_length},
                    )
        return {"updates": self.recipe.updates, "reward_scale": self.scale, **(metrics or log.last())}

    def save(self) -> None:
        """Write the policy as a plain causal language model, with LoRA the adapter beside it."""
        assemble(self.accelerator, self.model)
        if self.accelerator.is_main_process:
            save(self.actor.lm, self.actor.peft, self.tokenizer, self.out, self.base)
        wait_for_everyone()

    def update(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """One update; returns its metrics, and its rollout with the tokens' rewards, values, KL and
        advantages ``[R_i]``."""
        self.timings, self.memory = {}, {}
        temperature = self.recipe.sampling.temperature
        with self._whole():
            rollout, rewards = self._sample_and_score(
                draw_rows(len(self.prompts), self.recipe.batch_size, step, self.seed), step
            )
            with self._timed("rescore"):
                first = self._first_pass(rollout)
                logprobs, values, entropies = (
                    first.split(rollout)
                    if first
                    else rescore(
                        self.actor, rollout, temperature, self.recipe.microbatch_tokens, entropy=True
                    )
                )
                reference, _, _ = rescore(
                    self.actor, rollout, temperature, self.recipe.microbatch_tokens, reference=True
                )
        shaped = self._shaped(rollout, rewards)
        log_ratios = list(zip(logprobs, reference, strict=True))
        kl = [token_kl(policy, base, self.recipe.kl.estimator) for policy, base in log_ratios]
        self._check_kl(kl, rollout, step)
        # the penalty is k1 whatever is watched: as a reward, k3 has hardly a gradient near the reference
        penalised = [
            reward - self.kl.coefficient * token_kl(*pair)
            for reward, pair in zip(shaped, log_ratios, strict=True)
        ]
        mask = pad([torch.ones_like(row, dtype=torch.bool) for row in values])
        advantages, returns = gae(
            pad(penalised), pad(values), mask, self.recipe.gamma, self.recipe.gae_lambda
        )
        if self.recipe.value_lambda is not None:
            _, returns = gae(pad(penalised), pad(values), mask, self.recipe.gamma, self.recipe.value_lambda)
        whitened = whiten(advantages, mask, self._total)
        with self._timed("optimise"):
            losses = self._optimise(rollout, logprobs, values, whitened, returns, step, first)
        metrics: dict[str, Any] = (
            self._metrics(rollout, rewards, shaped, kl, entropies, values, returns, mask, logprobs) | losses
        )
        metrics |= reward_monitors(rewards, shaped, rollout.ended, self._total) | advantage_monitors(
            advantages, mask, self._total
        )
        self.kl.update(metrics["kl"], self.recipe.batch_size)
        rollout.states.clear()  # the largest thing here, and done with
        metrics |= {f"seconds_{phase}": seconds for phase, seconds in self.timings.items()}
        metrics |= {"seconds": sum(self.timings.values())} | {
            f"gb_{phase}": size for phase, size in self.memory.items()
        }
        metrics["peak_gb"] = max(peak_gb(), *self.memory.values())
        return metrics, {
            "rollout": rollout,
            "rewards": shaped,
            "values": values,
            "kl": kl,
            "advantages": [row[:size] for row, size in zip(advantages, rollout.sizes, strict=True)],
        }

    @contextmanager
    def _whole(self) -> "Iterator[None]":
        """Inside, every process has the whole weights, and computes in the precision that it trains in."""
        with gathered(self.model), self.accelerator.autocast():
            yield

    def _sample_and_score(self, rows: list[int], step: int) -> tuple[Rollout, list[Tensor]]:
        places = range(self.accelerator.process_index, len(rows), self.accelerator.num_processes)
        mine = [rows[place] for place in places]
        texts = [self.prompts[row].prompt for row in mine]
        ids, seed = [self.prompt_ids[row] for row in mine], (self.seed * 1_000_003 + step) * 1009
        with self._timed("sample"):
            policy = self.actor.current()
            self.sampler.sync(policy)
            request = Request(self.recipe.sampling, self.eos, seed, places)
            rollout = sample_rollout(self.sampler, policy, ids, request, texts=texts)
        with self._timed("score"):
            try:
                rewards = self.reward(rollout)
            except UserError as error:
                raise UserError(f"{error} The batch is in {self._keep(rollout, step)}.") from error
        return rollout, rewards

    def _calibrate(self) -> None:
        """Measure, on responses of the reference, the scale that gives returns a standard deviation of 1, and
        the mean length."""
        if self.scale is not None and not self.recipe.length_normalise:
            return
        returns, lengths = [], []
        size = self.recipe.batch_size * CALIBRATION
        console.print(f"measuring the reward's scale on {size} responses of the reference", highlight=False)
        for part in range(CALIBRATION):
            rows = draw_rows(len(self.prompts), self.recipe.batch_size, part, self.seed + 1)
            rollout, rewards = self._sample_and_score(rows, -1 - part)
            returns += [
                row.sum() / (max(len(row), 1) if self.recipe.length_normalise else 1) for row in rewards
            ]
            lengths += rollout.sizes
        values = torch.stack(returns).double().to(self.accelerator.device)
        moments = self._total(
            torch.stack(
                [
                    torch.tensor(len(values)).to(values),
                    values.sum(),
                    values.square().sum(),
                    torch.tensor(lengths).sum().to(values),
                ]
            )
        )
        mean = moments[1] / moments[0]
        self.mean_length = (moments[3] / moments[0]).item()
        deviation = (moments[2] / moments[0] - mean.square()).clamp(min=0).sqrt().item()
        deviation *= self.mean_length if self.recipe.length_normalise else 1
        if self.scale is None:
            self.scale = 1 / deviation if deviation > 1e-6 else 1.0
            if deviation <= 1e-6:
                console.print(
                    f"the reward of all {size} responses of the reference is the same ({mean.item():.3g}): "
                    "there is nothing to scale by or to learn from. Check policy.reward.",
                    style="yellow",
                    highlight=False,
                )

    def _score(self, rollout: Rollout) -> list[Tensor]:
        """The rewards that PPO takes."""
        return self._shaped(rollout, self.reward(rollout))

    def _shaped(self, rollout: Rollout, rewards: list[Tensor]) -> list[Tensor]:
        return [self.shape(*parts) for parts in zip(rewards, rollout.ended, strict=True)]

    def shape(self, reward: Tensor, ended: bool) -> Tensor:
        """The reward model's rewards ``[R]`` of a response, scaled, with the terms for ending it or not."""
        shaped = reward * (1.0 if self.scale is None else self.scale)
        if self.recipe.length_normalise:
            shaped = shaped * self.mean_length / max(len(reward), 1)
        if len(shaped):
            shaped[-1] += self.recipe.eos_reward if ended else -self.recipe.no_eos_penalty
        return shaped

    def _first_pass(self, rollout: Rollout) -> _Pass | None:
        """Where the first epoch is one pass over the whole batch, that pass: it is what re-scoring would
        compute."""
        rows = [row for row, size in enumerate(rollout.sizes) if size]
        alone = self.accelerator.num_processes == 1 and self.recipe.minibatch_size >= self.recipe.batch_size
        if (
            not alone
            or not rows
            or len(pack([len(rollout.sequences[row]) for row in rows], self.recipe.microbatch_tokens)) > 1
        ):
            return None
        inputs = predicted(rollout, rows, self.actor.split.cut, self.accelerator.device)
        return _Pass(rows, *self.model(*inputs, self.recipe.sampling.temperature, entropy=True))

    def _optimise(
        self,
        rollout: Rollout,
        logprobs: list[Tensor],
        values: list[Tensor],
        advantages: Tensor,
        returns: Tensor,
        step: int,
        first: _Pass | None,
    ) -> dict[str, float]:
        """All epochs over a batch; returns means of what ``LossParts`` names and the largest ratio error of
        the first pass."""
        recipe, accelerator, device = self.recipe, self.accelerator, self.accelerator.device
        sums, ratio_error = (
            torch.zeros(len(fields(LossParts)), dtype=torch.float64, device=device),
            torch.zeros(1, device=device),
        )
        seen, norms, moved = 0.0, [], False
        order = [
            rows
            for epoch in range(recipe.epochs)
            for rows in minibatches(recipe.batch_size, recipe.minibatch_size, self.seed + 7919 * step, epoch)
        ]
        for number, rows in enumerate(order):
            groups, tokens, passes = self._micro_batches(rollout, rows)
            if first and number == 0:
                groups = [first.rows]
            before = sums.clone()
            # every process makes as many passes, since sharded layers are gathered together: idle ones count
            # for nothing
            for place, members in enumerate(groups + [[0]] * (passes - len(groups))):
                counts = float(place < len(groups))
                old, old_values = (
                    torch.cat([part[row] for row in members]).to(device) for part in (logprobs, values)
                )
                advantage, wanted = (
                    torch.cat([part[row, : rollout.sizes[row]] for row in members]).to(device)
                    for part in (advantages, returns)
                )
                with nullcontext() if place == passes - 1 else unfinished(accelerator, self.model):
                    if first and number == 0:
                        new, value = first.logprobs, first.values
                    else:
                        inputs = predicted(rollout, members, self.actor.split.cut, device)
                        new, value, _ = self.model(*inputs, recipe.sampling.temperature)
                    parts = ppo_loss(
                        new, value, old, old_values, advantage, wanted, recipe.clip, recipe.value_clip
                    )
                    loss = counts * (parts.policy + recipe.value_coefficient * parts.value) / tokens
                    accelerator.backward(loss * accelerator.num_processes)
                sums += counts * torch.stack(
                    [getattr(parts, field.name).detach().double() for field in fields(parts)]
                )
                if number == 0 and counts:
                    ratio_error = torch.maximum(ratio_error, (new.detach() - old).abs().max())
            seen += tokens
            if recipe.kl.per_batch is not None:
                moved = self._total(sums - before)[-1].item() > recipe.kl.per_batch * tokens
            if moved:
                self.optimizer.zero_grad()
                break
            norms.append(clip_gradients(accelerator, self.model, recipe.optimizer.max_grad_norm))
            if not math.isfinite(norms[-1]):
                self._stop_on(
                    rollout, step, f"the loss or gradient of update {step + 1} is not finite", good=step
                )
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
        for _ in order[len(norms) :]:  # the rate goes by updates, however many steps each took
            self.schedule.step()
        policy, value, clipped, value_clipped, distance = (self._total(sums) / max(seen, 1)).tolist()
        return {
            "policy_loss": policy,
            "value_loss": value,
            "clip_fraction": clipped,
            "value_clip_fraction": value_clipped,
            "batch_kl": distance,
            "grad_norm": sum(norms) / max(len(norms), 1),
            "optimizer_steps": len(norms),
            "first_ratio_error": accelerator.gather(ratio_error).max().item(),
            "learning_rate": self.schedule.get_last_lr()[0],
        }

    def _micro_batches(self, rollout: Rollout, rows: list[int]) -> tuple[list[list[int]], float, int]:
        """This process's share of a minibatch in groups of rows, the whole one's tokens, and the most groups
        of any process."""
        own, count = self.accelerator.process_index, self.accelerator.num_processes
        chosen = [row // count for row in rows if row % count == own and rollout.sizes[row // count]]
        lengths = [len(rollout.prompt_ids[row]) + rollout.sizes[row] for row in chosen]
        groups = [
            [chosen[index] for index in group] for group in pack(lengths, self.recipe.microbatch_tokens)
        ]
        share = [float(sum(rollout.sizes[row] for row in chosen)), len(groups)]
        shares = self.accelerator.gather(torch.tensor([share], device=self.accelerator.device))
        return groups, shares[:, 0].sum().item(), int(shares[:, 1].max())

    def _metrics(
        self,
        rollout: Rollout,
        rewards: list[Tensor],
        shaped: list[Tensor],
        kl: list[Tensor],
        entropies: list[Tensor],
        values: list[Tensor],
        returns: Tensor,
        mask: Tensor,
        logprobs: list[Tensor],
    ) -> dict[str, float | None]:
        """Means over the whole batch (all processes) of what describes it."""
        sampled = rollout.logprobs or logprobs  # some samplers give none
        drift = torch.cat(
            [torch.zeros(1), *((new - old).abs() for new, old in zip(logprobs, sampled, strict=True))]
        )
        largest_drift = self.accelerator.gather(drift.max().to(self.accelerator.device)).max().item()
        sums = torch.tensor(
            [
                len(rollout),
                sum(rollout.sizes),
                sum(float(row.sum()) for row in rewards),
                sum(float(row.sum()) for row in shaped),
                sum(float(row.sum()) for row in kl),
                sum(float(row.sum()) for row in entropies),
                sum(rollout.ended),
                float(drift.sum()),
            ],
            dtype=torch.float64,
            device=self.accelerator.device,
        )
        count, tokens, raw, scaled, divergence, entropy, ended, drifted = self._total(sums).tolist()
        at_least = max(tokens, 1)
        return {
            "reward": scaled / count,
            "raw_reward": raw / count,
            "kl": divergence / count,
            "kl_coefficient": self.kl.coefficient,
            "entropy": entropy / at_least,
            "length": tokens / count,
            "ended": ended / count,
            "sampler_drift": drifted / at_least if rollout.logprobs else None,
            "sampler_drift_max": largest_drift if rollout.logprobs else None,
            "explained_variance": explained_variance(torch.cat(values), returns[mask], self._total),
        }

    def _check_kl(self, kl: list[Tensor], rollout: Rollout, step: int) -> None:
        """Stop a policy that has left its reference: what it learns from there on is noise."""
        divergence, count = self._total(torch.tensor([sum(float(row.sum()) for row in kl), len(kl)])).tolist()
        limit = self.recipe.kl.stop
        if not math.isfinite(divergence) or (limit is not None and divergence / count > limit):
            self._stop_on(
                rollout,
                step,
                f"before update {step + 1} the KL to the reference is {divergence / count:.1f} nats a "
                f"response (policy.kl.stop is {limit})",
                good=step - 1,
            )

    def _stop_on(self, rollout: Rollout, step: int, what: str, good: int) -> None:
        """Keep the batch of an update for inspection and end the run; states of up to ``good`` updates are
        sound."""
        path, last = self._keep(rollout, step), self.checkpoints.newest(good)
        raise UserError(
            f"policy: {what}; its batch is in {path}, the last good checkpoint is "
            f"{last or 'none: too early'}. "
            "Lower policy.optimizer.lr, raise policy.kl.coefficient, or use float32, with another --out."
        )

    def _keep(self, rollout: Rollout, step: int) -> Path:
        """Write the batch of an update to a file, for inspection."""
        return keep_batch(self.out, sample_records(rollout, self.tokenizer, max(step + 1, 0)))

    def _total(self, part: Tensor) -> Tensor:
        """A tensor's sum over all processes."""
        return self.accelerator.reduce(part.to(self.accelerator.device)).to(part.device)

    @contextmanager
    def _timed(self, phase: str) -> "Iterator[None]":
        start_phase()
        start = time.perf_counter()
        yield
        self.timings[phase] = self.timings.get(phase, 0.0) + time.perf_counter() - start
        self.memory[phase] = phase_gb()
