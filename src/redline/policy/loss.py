"""The PPO loss: pure functions on tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class OldTokens:
    """What was known of some response tokens before the update. Shapes ``[N]``."""

    logprobs: Tensor  # of the policy that sampled them
    advantages: Tensor
    values: Tensor | None = None  # of its critic; None without one
    returns: Tensor | None = None  # what the critic learns; None without one


@dataclass(frozen=True)
class LossParts:
    """Sums over tokens: divide by a minibatch's count of tokens for its means."""

    policy_loss: Tensor
    value_loss: Tensor
    clip_fraction: Tensor  # tokens whose ratio was clipped
    value_clip_fraction: Tensor  # tokens whose value was clipped
    batch_kl: Tensor  # KL(old, new) in nats, estimated by k3


@dataclass(frozen=True)
class Minibatch:
    """The size of a minibatch over all processes, which losses are divided by."""

    tokens: float
    responses: int


def loss_weights(
    sizes: Sequence[int],
    mean: Literal["token", "sequence", "constant"],
    whole: Minibatch,
    longest: int,
) -> Tensor:
    """What each token of some responses of ``sizes`` tokens counts in the policy loss ``[N]``. The sum of
    weighted losses, divided by the minibatch's tokens, is with ``l[i, t]`` the loss of a token, ``B`` the
    minibatch's responses and ``L`` the ``longest`` response that is allowed:

        token:     sum of l[i, t] / sum of |o_i|           (PPO, DAPO)
        sequence:  1/B sum over i of 1/|o_i| sum of l[i, t]  (GRPO, Shao et al. 2024)
        constant:  1/(B L) sum of l[i, t]                  (Dr. GRPO, Liu et al. 2025)
    """
    rows = []
    for size in sizes:
        divisor = {
            "token": whole.tokens,
            "sequence": float(whole.responses * max(size, 1)),
            "constant": float(whole.responses * longest),
        }[mean]
        rows.append(torch.full((size,), whole.tokens / divisor if divisor else 1.0))
    return torch.cat(rows)


def ppo_loss(
    logprobs: Tensor,
    values: Tensor | None,
    old: OldTokens,
    clip: float,
    value_clip: float,
    clip_high: float | None = None,
    weights: Tensor | None = None,
) -> LossParts:
    """The clipped objective and the clipped value loss (Schulman et al. 2017), summed over tokens. Shapes
    ``[N]``.

    Policy: ``w max(-A r, -A clip(r, 1 - clip, 1 + clip_high))`` with ``r = exp(logprob - old)``.
    ``clip_high`` is ``clip`` where it is None (above it: DAPO's clip-higher, Yu et al. 2025), ``w`` are the
    ``weights`` (see ``loss_weights``), 1 where they are None. Value: half the larger of ``(v - R)^2`` and
    ``(v_clipped - R)^2``, where ``v_clipped`` stays within ``value_clip`` of the old value; 0 without a
    critic, whose ``values`` are None.
    """
    change = logprobs - old.logprobs
    ratio = change.exp()
    above = clip if clip_high is None else clip_high
    plain, held = -old.advantages * ratio, -old.advantages * ratio.clamp(1 - clip, 1 + above)
    policy_loss = torch.maximum(plain, held)
    if weights is not None:
        policy_loss = policy_loss * weights
    value_loss, value_clipped = _value_loss(values, old, value_clip)
    return LossParts(
        policy_loss=policy_loss.sum(),
        value_loss=value_loss,
        clip_fraction=(held > plain).sum(),
        value_clip_fraction=value_clipped,
        batch_kl=(ratio - 1 - change).detach().sum(),
    )


def _value_loss(values: Tensor | None, old: OldTokens, value_clip: float) -> tuple[Tensor, Tensor]:
    """The clipped value loss, and how many values were clipped."""
    if values is None or old.values is None or old.returns is None:
        nothing = torch.zeros((), device=old.logprobs.device)
        return nothing, nothing
    drift = values - old.values
    near = old.values + drift.clamp(-value_clip, value_clip)
    error, held_error = (values - old.returns).square(), (near - old.returns).square()
    clipped = ((drift.abs() > value_clip) & (held_error > error)).sum()
    return 0.5 * torch.maximum(error, held_error).sum(), clipped
