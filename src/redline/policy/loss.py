"""The PPO loss: pure functions on tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class OldTokens:
    """What was known of some response tokens before the update. Shapes ``[N]``."""

    logprobs: Tensor  # of the policy that sampled them
    values: Tensor  # of its critic
    advantages: Tensor
    returns: Tensor


@dataclass(frozen=True)
class LossParts:
    """Sums over tokens: divide by a minibatch's count of tokens for its means."""

    policy_loss: Tensor
    value_loss: Tensor
    clip_fraction: Tensor  # tokens whose ratio was clipped
    value_clip_fraction: Tensor  # tokens whose value was clipped
    batch_kl: Tensor  # KL(old, new) in nats, estimated by k3


def ppo_loss(logprobs: Tensor, values: Tensor, old: OldTokens, clip: float, value_clip: float) -> LossParts:
    """The clipped objective and the clipped value loss (Schulman et al. 2017), summed over tokens. Shapes
    ``[N]``.

    Policy: ``max(-A r, -A clip(r, 1 ± clip))`` with ``r = exp(logprob - old)``. Value: half the larger of
    ``(v - R)^2`` and ``(v_clipped - R)^2``, where ``v_clipped`` stays within ``value_clip`` of the old value.
    """
    change, drift = logprobs - old.logprobs, values - old.values
    ratio = change.exp()
    plain, held = -old.advantages * ratio, -old.advantages * ratio.clamp(1 - clip, 1 + clip)
    near = old.values + drift.clamp(-value_clip, value_clip)
    error, held_error = (values - old.returns).square(), (near - old.returns).square()
    return LossParts(
        policy_loss=torch.maximum(plain, held).sum(),
        value_loss=0.5 * torch.maximum(error, held_error).sum(),
        clip_fraction=(held > plain).sum(),
        value_clip_fraction=((drift.abs() > value_clip) & (held_error > error)).sum(),
        batch_kl=(ratio - 1 - change).detach().sum(),
    )
