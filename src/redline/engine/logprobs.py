"""Log-probabilities without ever holding the logits of more than a few rows."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from redline.engine.switch import plain

CHUNK = 256  # rows of logits in memory at once
BLOCK = 8  # of them, on a CPU, in float32: they stay in its cache


def token_logprobs(
    hidden: Tensor,
    head: torch.nn.Linear,
    targets: Tensor,
    temperature: float = 1.0,
    cap: float | None = None,
    entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities ``[N]`` of ``targets`` ``[N]`` from last hidden states ``[N, H]``, and entropies
    ``[N]`` if asked for.

    ``head`` is the output embedding, ``cap`` Gemma's soft cap of the logits, which exist for ``CHUNK`` rows
    at a time. With a frozen head the gradient with respect to ``hidden`` is computed along with them
    (``(w_target - sum p w) / T``), so the backward pass needs no logits; a trained head, or a cap, computes
    each chunk again there. Entropies carry no gradient.
    """
    if plain():
        return _plain_logprobs(hidden, head, targets, temperature, cap, entropy)
    weight: Tensor = head.weight
    bias: Tensor | None = head.bias
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if not hidden.requires_grad or not torch.is_grad_enabled():
        found, entropies, _ = _scored(hidden, weight, bias, targets, temperature, cap, entropy)
    elif weight.requires_grad or cap is not None:
        found, entropies = _Recomputed.apply(hidden, weight, bias, targets, temperature, cap, entropy)
    else:
        found, entropies = _Fused.apply(hidden, weight, bias, targets, temperature, entropy)
    return found, entropies if entropy else None


def _plain_logprobs(
    hidden: Tensor,
    head: torch.nn.Linear,
    targets: Tensor,
    temperature: float,
    cap: float | None,
    entropy: bool,
) -> tuple[Tensor, Tensor | None]:
    """``token_logprobs`` with whole logits and autograd's own gradients."""
    logits = head(hidden).float()
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    logprobs = (logits / temperature).log_softmax(-1)
    chosen = logprobs.gather(1, targets[:, None])[:, 0]
    if not entropy:
        return chosen, None
    return chosen, -(logprobs.exp() * logprobs).sum(1).detach()


@torch.no_grad()
def _scored(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float,
    cap: float | None,
    entropy: bool,
    gradient: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities ``[N]``, entropies ``[N]`` and the log-probabilities' gradient ``[N, H]`` with
    respect to ``hidden`` (times the temperature; without a cap); what is not asked for is empty."""
    size, device = len(targets), hidden.device
    found, entropies = (torch.empty(length, device=device) for length in (size, size * entropy))
    slope = torch.empty_like(hidden[: size * gradient])
    for start, chunk, blocks in _chunks(hidden, weight, bias):
        totals = torch.empty(len(chunk), 1, device=device)
        for first, part, logits, weights in blocks:
            rows = slice(start + first, start + first + len(part))
            if cap is not None:
                logits.div_(cap).tanh_().mul_(cap)
            if temperature != 1:
                logits.div_(temperature)
            chosen, top = logits.gather(1, targets[rows, None])[:, 0], logits.amax(1)
            total = torch.exp(logits.sub_(top[:, None]), out=weights).sum(
                1
            )  # of probabilities that are not normalised yet
            found[rows] = chosen - top - total.log()
            if entropy:
                entropies[rows] = total.log() - logits.mul_(weights).sum(1) / total
            if gradient:
                part.copy_(weights)
                totals[first : first + len(part), 0] = total
        if gradient:
            rows = slice(start, start + len(chunk))
            slope[rows] = weight[targets[rows]] - (chunk @ weight / totals).to(weight.dtype)
    return found, entropies, slope


def _chunks(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Iterator[tuple[int, Tensor, Iterator[tuple[int, Tensor, Tensor, Tensor]]]]:
    """The logits of ``CHUNK`` rows at a time: the first row's place, the logits, and their blocks. A block is
    its first row's place in the chunk, its logits there, the same in float32, and as much memory beside them.

    All chunks use the same memory, and all blocks: to get memory anew from the system takes longer than to
    fill it.
    """
    size, block = len(hidden), BLOCK if hidden.device.type == "cpu" else CHUNK
    products = torch.empty(min(CHUNK, size), len(weight), dtype=weight.dtype, device=hidden.device)
    exact, other = (torch.empty(min(block, size), len(weight), device=hidden.device) for _ in range(2))
    for start in range(0, size, CHUNK):
        chunk = products[: min(CHUNK, size - start)]
        torch.mm(hidden[start : start + len(chunk)], weight.t(), out=chunk)
        if bias is not None:
            chunk += bias
        yield (
            start,
            chunk,
            (
                (first, part, exact[: len(part)].copy_(part), other[: len(part)])
                for first in range(0, len(chunk), block)
                for part in [chunk[first : first + block]]
            ),
        )


class _Fused(torch.autograd.Function):
    """Of a frozen head without a cap."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        found, entropies, gradient = _scored(
            hidden, weight, bias, targets, temperature, None, entropy, gradient=True
        )
        ctx.save_for_backward(gradient)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropies)
        return found, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (stored,) = ctx.saved_tensors
        return (
            (gradients[0][:, None] / ctx.temperature).to(stored.dtype) * stored,
            None,
            None,
            None,
            None,
            None,
        )


class _Recomputed(torch.autograd.Function):
    """Of any head: logits are computed again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        cap: float | None,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        found, entropies, _ = _scored(hidden, weight, bias, targets, temperature, cap, entropy)
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.temperature, ctx.cap = temperature, cap
        ctx.mark_non_differentiable(entropies)
        return found, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        hidden, weight, bias, targets = ctx.saved_tensors
        temperature, cap, up = ctx.temperature, ctx.cap, gradients[0][:, None] / ctx.temperature
        into = torch.empty_like(hidden)
        for_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        for start, chunk, blocks in _chunks(hidden, weight, bias):
            for first, part, logits, bent in blocks:
                rows = slice(start + first, start + first + len(part))
                if cap is not None:
                    logits.div_(cap).tanh_()
                    torch.square(logits, out=bent).neg_().add_(1)  # the cap's own slope
                    logits.mul_(cap)
                if temperature != 1:
                    logits.div_(temperature)
                logits.sub_(logits.amax(1, keepdim=True)).exp_()
                logits.mul_(-up[rows] / logits.sum(1, keepdim=True)).scatter_add_(
                    1, targets[rows, None], up[rows]
                )
                part.copy_(logits if cap is None else logits.mul_(bent))
            rows = slice(start, start + len(chunk))
            into[rows] = chunk @ weight
            if for_weight is not None:
                for_weight.addmm_(chunk.t(), hidden[rows])
            if for_bias is not None:
                for_bias += chunk.sum(0)
        return into, for_weight, for_bias, None, None, None, None
