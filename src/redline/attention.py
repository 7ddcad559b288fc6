"""Attention of short sequences on a CPU, where plain matrix products beat the fused kernel.

PyTorch's fused CPU kernel takes half of a backward pass at the lengths that rollouts have; written out, with the scores of all
heads in one product and grouped heads never repeated, forward and backward pass of a small model take three quarters of the
time. Its memory grows with queries times keys, so longer sequences keep the fused kernel, as do other devices; a step of sampling
has one query, and is written out at any length.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "redline_short"
LONGEST = 256  # tokens: beyond so many queries times so many keys the fused kernel is used
OTHER = ("position_bias", "softcap", "s_aux", "cache")  # options that mean a kind of attention not written out here


def use_short_attention(model: "PreTrainedModel") -> None:
    """Let a model on the CPU that uses PyTorch's fused attention use this one for short sequences."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if model.device.type != "cpu" or model.config._attn_implementation != "sdpa":
        return
    AttentionInterface.register(NAME, short_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def short_attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
                    scaling: float | None = None, is_causal: bool | None = None, **options: Any) -> tuple[Tensor, None]:
    """Transformers' attention interface: query ``[B, heads, T, D]``, key and value ``[B, kv heads, S, D]`` ->
    ``[B, T, heads, D]``. A mask ``[B, 1, T, S]`` is True (or 0) where a query may look; without one, attention is causal."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    size, length = query.shape[2], key.shape[2]
    if size * length > LONGEST**2 or any(options.get(name) is not None for name in OTHER) or options.get("dropout"):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, is_causal=is_causal, **options)
    batch, heads, _, width = query.shape
    shared = key.shape[1]
    grouped = query.reshape(batch * shared, heads // shared * size, width)
    keys = key.reshape(batch * shared, length, width).transpose(1, 2)
    scores = torch.baddbmm(grouped.new_zeros(()), grouped, keys, beta=0, alpha=width**-0.5 if scaling is None else scaling)
    scores = scores.view(batch, heads, size, length)
    if attention_mask is not None and attention_mask.dtype != torch.bool:
        scores = scores + attention_mask
    elif attention_mask is not None:
        scores.masked_fill_(attention_mask.logical_not(), torch.finfo(scores.dtype).min)
    elif getattr(module, "is_causal", True) if is_causal is None else is_causal:
        seen = torch.ones(size, length, dtype=torch.bool, device=scores.device).tril(length - size)
        scores.masked_fill_(seen.logical_not(), torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1).view(batch * shared, heads // shared * size, length)
    out = torch.bmm(weights, value.reshape(batch * shared, length, width)).view(batch, heads, size, width)
    return out.transpose(1, 2).contiguous(), None
