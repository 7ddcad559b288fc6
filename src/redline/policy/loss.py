"""The PPO loss, and log-probabilities without ever holding the logits of more than a few rows. Pure functions on tensors."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 128  # rows of logits in memory at once


@dataclass
class LossParts:
    """Sums over tokens: divide by a minibatch's count of tokens for its means."""

    policy: Tensor
    value: Tensor
    clipped: Tensor
    value_clipped: Tensor
    moved: Tensor


def ppo_loss(logprobs: Tensor, values: Tensor, old_logprobs: Tensor, old_values: Tensor, advantages: Tensor, returns: Tensor,
             clip: float, value_clip: float) -> LossParts:
    """The clipped objective and the clipped value loss (Schulman et al. 2017), summed over tokens. Shapes ``[N]``.

    policy: ``max(-A r, -A clip(r, 1 ± clip))`` with ``r = exp(logprob - old)``. value: half the larger of ``(v - R)^2`` and
    ``(v_clipped - R)^2``, where ``v_clipped`` stays within ``value_clip`` of the old value. moved: KL(old, new), estimated by k3.
    """
    change, drift = logprobs - old_logprobs, values - old_values
    ratio = change.exp()
    plain, held = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    near = old_values + drift.clamp(-value_clip, value_clip)
    error, held_error = (values - returns).square(), (near - returns).square()
    return LossParts(
        policy=torch.maximum(plain, held).sum(), value=0.5 * torch.maximum(error, held_error).sum(), clipped=(held > plain).sum(),
        value_clipped=((drift.abs() > value_clip) & (held_error > error)).sum(), moved=(ratio - 1 - change).detach().sum(),
    )


def token_logprobs(hidden: Tensor, head: torch.nn.Linear, targets: Tensor, temperature: float = 1.0, cap: float | None = None,
                   entropy: bool = False) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities ``[N]`` of ``targets`` ``[N]`` from last hidden states ``[N, H]``, and entropies ``[N]`` if asked for.

    ``head`` is the output embedding, ``cap`` Gemma's soft cap of the logits. Logits are computed in float32 for ``CHUNK`` rows at a
    time. With a frozen head the gradient with respect to ``hidden`` is computed along with them (``(w_target - sum p w) / T``), so
    the backward pass needs no logits; a trained head, or a cap, computes each chunk again there. Entropies carry no gradient.
    """
    if not hidden.requires_grad or not torch.is_grad_enabled():
        parts = [_chunk(rows, head, wanted, temperature, cap, entropy)
                 for rows, wanted in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True)]
    elif head.weight.requires_grad or cap is not None:
        parts = [checkpoint(_chunk, rows, head, wanted, temperature, cap, entropy, use_reentrant=False)
                 for rows, wanted in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True)]
    else:
        found, entropies = _Fused.apply(hidden, head.weight, head.bias, targets, temperature, entropy)
        return found, entropies if entropy else None
    if not parts:
        return hidden.new_zeros(0, dtype=torch.float32), hidden.new_zeros(0, dtype=torch.float32) if entropy else None
    entropies = torch.cat([part for _, part in parts if part is not None]) if entropy else None
    return torch.cat([part for part, _ in parts]), entropies


def _chunk(hidden: Tensor, head: torch.nn.Linear, targets: Tensor, temperature: float, cap: float | None, entropy: bool,
           ) -> tuple[Tensor, Tensor | None]:
    logits = head(hidden).float()
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    logits = logits / temperature
    normaliser = logits.logsumexp(1)
    found = logits.gather(1, targets[:, None])[:, 0] - normaliser
    if not entropy:
        return found, None
    with torch.no_grad():
        return found, normaliser - ((logits - normaliser[:, None]).exp() * logits).sum(1)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float,
                entropy: bool) -> tuple[Tensor, Tensor]:
        found, entropies = (torch.empty(size, device=hidden.device) for size in (len(targets), len(targets) * entropy))
        gradient = torch.empty_like(hidden)
        for start in range(0, len(targets), CHUNK):
            rows = slice(start, start + CHUNK)
            logits = torch.nn.functional.linear(hidden[rows], weight, bias).float()
            if temperature != 1:
                logits.div_(temperature)
            chosen, top = logits.gather(1, targets[rows, None])[:, 0], logits.amax(1)
            logits.sub_(top[:, None])
            expected = (logits.exp() * logits).sum(1) if entropy else None
            total = logits.exp_().sum(1)  # from here on unnormalised probabilities, in the logits' place
            if expected is not None:
                entropies[rows] = total.log() - expected / total
            found[rows] = chosen - top - total.log()
            gradient[rows] = weight[targets[rows]] - (logits.to(weight.dtype) @ weight / total[:, None]).to(weight.dtype)
        ctx.save_for_backward(gradient)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropies)
        return found, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (stored,) = ctx.saved_tensors
        return (gradients[0][:, None] / ctx.temperature).to(stored.dtype) * stored, None, None, None, None, None
