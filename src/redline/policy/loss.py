"""The PPO loss: pure functions on tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class LossParts:
    """Sums over tokens: divide by a minibatch's count of tokens for its means."""

    policy: Tensor
    value: Tensor
    clipped: Tensor
    value_clipped: Tensor
    moved: Tensor


def ppo_loss(
    logprobs: Tensor,
    values: Tensor,
    old_logprobs: Tensor,
    old_values: Tensor,
    advantages: Tensor,
    returns: Tensor,
    clip: float,
    value_clip: float,
) -> LossParts:
    """The clipped objective and the clipped value loss (Schulman et al. 2017), summed over tokens. Shapes
    ``[N]``.

    policy: ``max(-A r, -A clip(r, 1 ± clip))`` with ``r = exp(logprob - old)``. value: half the larger of
    ``(v - R)^2`` and ``(v_clipped - R)^2``, where ``v_clipped`` stays within ``value_clip`` of the old value.
    moved: KL(old, new), estimated by k3.
    """
    change, drift = logprobs - old_logprobs, values - old_values
    ratio = change.exp()
    plain, held = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    near = old_values + drift.clamp(-value_clip, value_clip)
    error, held_error = (values - returns).square(), (near - returns).square()
    return LossParts(
        policy=torch.maximum(plain, held).sum(),
        value=0.5 * torch.maximum(error, held_error).sum(),
        clipped=(held > plain).sum(),
        value_clipped=((drift.abs() > value_clip) & (held_error > error)).sum(),
        moved=(ratio - 1 - change).detach().sum(),
    )
