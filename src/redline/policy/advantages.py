"""Returns and advantages: pure functions on padded tensors and their masks. What lies in masked positions
never matters."""

from collections.abc import Callable

import torch
from torch import Tensor


def token_kl(logprobs: Tensor, reference: Tensor, estimator: str = "k1") -> Tensor:
    """Each token's estimate of KL(policy, reference) in nats, from the log-probabilities of sampled tokens.
    Any shape.

    k1: ``log p - log q``, unbiased, either sign. k2: half its square, never negative, biased far from the
    reference. k3: ``q/p - 1 - log(q/p)``, unbiased, never negative (Schulman 2020).
    """
    ratio = reference - logprobs
    if estimator == "k2":
        return ratio.square() / 2
    return -ratio if estimator == "k1" else ratio.exp() - 1 - ratio


def importance_weights(logprobs: Tensor, sampled: Tensor, cap: float) -> Tensor:
    """Truncated importance weights ``min(p / q, cap)`` (Ionides 2008) of tokens that another distribution
    than the policy's drew: ``p`` the policy's probability, ``q`` the sampler's. Any shape. Equal
    probabilities give 1.
    """
    return (logprobs - sampled).exp().clamp(max=cap)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016): advantages and returns ``[B, T]``, zero where
    masked.

    ``rewards``, ``values`` ``[B, T]``; ``mask`` ``[B, T]`` is True at valid tokens. Masked steps are skipped:
    a step bootstraps from the next *valid* value, wherever it stands, and the last valid step from 0.
    """
    rewards, values = rewards.where(mask, 0), values.where(mask, 0)
    advantages = torch.zeros_like(values)
    next_value, running = values.new_zeros(len(values)), values.new_zeros(len(values))
    for step in reversed(range(values.shape[1])):
        valid = mask[:, step]
        delta = rewards[:, step] + gamma * next_value - values[:, step]
        running = torch.where(valid, delta + gamma * lam * running, running)
        next_value = torch.where(valid, values[:, step], next_value)
        advantages[:, step] = torch.where(valid, running, 0)
    return advantages, (advantages + values).where(mask, 0)


def whiten(values: Tensor, mask: Tensor, total: Callable[[Tensor], Tensor] = lambda part: part) -> Tensor:
    """Shift and scale the valid entries to mean 0 and variance 1; masked ones become 0. Shapes ``[B, T]``.

    ``total`` adds a tensor up over processes, so that every process whitens with the moments of the whole
    batch. With fewer than two valid entries there is nothing to scale by: they are returned as they are.
    Entries that are all equal become 0.
    """
    kept = values.where(mask, 0).double()
    count, summed = total(torch.stack([mask.sum().double(), kept.sum()]))
    mean = summed / count.clamp(min=1)
    variance = total(((kept - mean) * mask).square().sum()) / count.clamp(min=1)
    if count < 2:
        return values.where(mask, 0)
    return ((kept - mean) / (variance + 1e-8).sqrt() * mask).to(values.dtype)


def masked_mean(values: Tensor, mask: Tensor, total: Callable[[Tensor], Tensor] = lambda part: part) -> float:
    """The mean of the valid entries ``[B, T]`` over all processes."""
    count, summed = total(torch.stack([mask.sum().double(), values.where(mask, 0).double().sum()])).tolist()
    return float(summed / max(count, 1))


def explained_variance(
    values: Tensor, returns: Tensor, total: Callable[[Tensor], Tensor] = lambda part: part
) -> float:
    """1 - Var(returns - values) / Var(returns) over valid entries ``[N]``: 1 is a perfect critic, 0 no better
    than the mean.

    ``total`` adds a tensor up over processes, as in ``whiten``.
    """
    parts = torch.stack([returns - values, returns]).double()
    count = total(torch.tensor(float(parts.shape[1]), dtype=torch.float64))
    means = total(parts.sum(1)) / count
    error, variance = (total((parts - means[:, None]).square().sum(1)) / count).tolist()
    return float("nan") if variance == 0 else 1 - error / variance


class AdaptiveKl:
    """A KL coefficient that holds the policy at a target distance from its reference.

    ``level`` follows the target slowly (Ziegler et al. 2019, section 2.2): after each batch it grows by
    ``clip(kl / target - 1, ±0.2) * responses / horizon`` of itself. Ours: the coefficient is the level times
    ``kl / target`` of the last batch, within [0.1, 10]: Ziegler's rule alone answers many updates late, lets
    the KL of a short run swing to many times the target and then chokes it; the factor answers at once, and
    is small while a run is near its reference. The level rests below half the target, for the same reason.
    Without a target the coefficient stays as it is.
    """

    def __init__(self, coefficient: float, target: float | None, horizon: int):
        self.level, self.target, self.horizon = coefficient, target, horizon
        self.factor = 1.0 if target is None else 0.1  # a policy begins as its reference

    @property
    def coefficient(self) -> float:
        """What a token's KL is multiplied by."""
        return self.level * self.factor

    def update(self, kl: float, responses: int) -> None:
        """``kl``: mean nats a response of a batch of ``responses``."""
        if self.target is None:
            return
        self.factor = min(max(kl / self.target, 0.1), 10.0)
        if kl > self.target / 2:
            self.level *= 1 + min(max(kl / self.target - 1, -0.2), 0.2) * responses / self.horizon

    def state_dict(self) -> dict[str, float]:
        return {"level": self.level, "factor": self.factor}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.level, self.factor = state["level"], state["factor"]
