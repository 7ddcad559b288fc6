"""What an update writes into the log: means over a batch, over all processes."""

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from redline.policy.advantages import explained_variance
from redline.policy.batch import Batch
from redline.policy.loss import LossParts
from redline.policy.monitors import advantage_monitors, reward_monitors
from redline.types import JsonObject

if TYPE_CHECKING:
    from accelerate import Accelerator


class LossSums:
    """Sums of what the loss returns, by name, over micro-batches; ``tokens`` is how many they are means of.

    ``total`` adds a tensor up over processes.
    """

    NAMES = tuple(part.name for part in fields(LossParts))

    def __init__(self, device: torch.device, total: Callable[[Tensor], Tensor]):
        self.sums = {name: torch.zeros((), dtype=torch.float64, device=device) for name in self.NAMES}
        self.tokens, self.total = 0.0, total

    def add(self, parts: LossParts, counts: float) -> None:
        for name in self.NAMES:
            self.sums[name] = self.sums[name] + counts * getattr(parts, name).detach().double()

    def means(self) -> dict[str, float]:
        """The mean of each over all tokens of all processes."""
        total = self.total(torch.stack(list(self.sums.values()))) / max(self.tokens, 1)
        return dict(zip(self.NAMES, total.tolist(), strict=True))

    def copy(self) -> "LossSums":
        other = LossSums(self.sums["policy_loss"].device, self.total)
        other.sums, other.tokens = dict(self.sums), self.tokens
        return other

    def mean_since(self, before: "LossSums", name: str) -> float:
        """The mean of one part over the tokens added since."""
        added = self.total(self.sums[name] - before.sums[name]).item()
        return added / max(self.tokens - before.tokens, 1)


def batch_metrics(
    batch: Batch, kl_coefficient: float, accelerator: "Accelerator", total: Callable[[Tensor], Tensor]
) -> JsonObject:
    """The means of a batch of all processes, in the order of the log. A figure that cannot be had is None."""
    rollout = batch.rollout
    logprobs = batch.rows(batch.logprobs)
    knows = bool(rollout.logprobs)  # some samplers give no log-probabilities
    drift = _drift(logprobs, rollout.logprobs if knows else logprobs)
    largest_drift = accelerator.gather(drift.max().to(accelerator.device)).max().item()
    sums = torch.tensor(
        [
            len(batch),
            sum(batch.sizes),
            sum(batch.sums(batch.raw_rewards)),
            sum(batch.sums(batch.rewards)),
            sum(batch.sums(batch.kl)),
            sum(batch.sums(batch.entropies)),
            sum(rollout.ended),
            float(drift.sum()),
        ],
        dtype=torch.float64,
    )
    count, tokens, raw_reward, reward, kl, entropy, ended, drifted = total(sums).tolist()
    tokens_or_one = max(tokens, 1)
    return {
        "reward": reward / count,
        "raw_reward": raw_reward / count,
        "kl": kl / count,
        "kl_coefficient": kl_coefficient,
        "entropy": entropy / tokens_or_one,
        "length": tokens / count,
        "ended": ended / count,
        "sampler_drift": drifted / tokens_or_one if knows else None,
        "sampler_drift_max": largest_drift if knows else None,
        "explained_variance": _explained_variance(batch, total),
    }


def _explained_variance(batch: Batch, total: Callable[[Tensor], Tensor]) -> float | None:
    """Of the returns by the critic; None without one."""
    if batch.values is None or batch.returns is None:
        return None
    return explained_variance(batch.values[batch.mask], batch.returns[batch.mask], total)


def mean_drift(batch: Batch, total: Callable[[Tensor], Tensor]) -> float:
    """How far the sampler's log-probabilities are from the re-scored ones, in nats a token; 0 for a sampler
    that does not know them."""
    if not batch.rollout.logprobs:
        return 0.0
    apart = _drift(batch.rows(batch.logprobs), batch.rollout.logprobs)
    summed, tokens = total(torch.tensor([float(apart.sum()), float(sum(batch.sizes))])).tolist()
    return float(summed / max(tokens, 1))


def monitors(batch: Batch, total: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Where a batch's reward lies, and its advantages before whitening."""
    raw, shaped = batch.rows(batch.raw_rewards), batch.rows(batch.rewards)
    rewards = reward_monitors(raw, shaped, batch.rollout.ended, total)
    return rewards | advantage_monitors(batch.advantages, batch.mask, total)


def _drift(rescored: Iterable[Tensor], sampled: Iterable[Tensor]) -> Tensor:
    """How far the sampler's log-probabilities are from the re-scored ones, by token ``[1 + N]``; the first
    is 0, so that there is one."""
    apart = [(new - old).abs() for new, old in zip(rescored, sampled, strict=True)]
    return torch.cat([torch.zeros(1), *apart])
