"""Attention of short sequences on a CPU, where plain matrix products beat the fused kernel.

PyTorch's fused CPU kernel takes half of a backward pass at the lengths that rollouts have; written out, with
the scores of all heads in one product and grouped heads never repeated, a block of queries at a time and only
the keys that it can see, attention takes a third (128 tokens) to seven tenths (768) of its time. What it
keeps for the backward pass grows with queries times keys, so longer sequences keep the fused kernel, as do
other devices; a step of sampling has one query, and is written out at any length.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from redline.engine.switch import plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "redline_short"
LONGEST = 768  # tokens: beyond so many queries times so many keys the fused kernel is used
TRIED = 160  # tokens of the row on which it is compared with the fused kernel: more than one block of queries
OTHER = (
    "position_bias",
    "softcap",
    "s_aux",
    "cache",
)  # options that mean a kind of attention not written out here


def try_short_attention(model: "PreTrainedModel") -> None:
    """Let a model use this attention (see ``use_short_attention``) if its last hidden states stay as they
    were, on a row longer than a block of queries."""
    before = _trial(model)
    use_short_attention(model)
    if model.config._attn_implementation != NAME:
        return
    after = _trial(model)
    if before is None or after is None or not _alike(before, after, model.dtype):
        model.set_attn_implementation("sdpa")


def use_short_attention(model: "PreTrainedModel") -> None:
    """Let a model on the CPU that uses PyTorch's fused attention use this one for short sequences. Not a
    family that chooses keys by an index, and masks the others only where it knows the attention's name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if (
        plain()
        or model.device.type != "cpu"
        or model.config._attn_implementation != "sdpa"
        or _has_index(model)
    ):
        return
    AttentionInterface.register(NAME, short_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def _has_index(model: "PreTrainedModel") -> bool:
    names = model.config.get_text_config().to_dict()
    return any(name.startswith("index") for name in names)


@torch.no_grad()
def _trial(model: "PreTrainedModel") -> Tensor | None:
    """Last hidden states of a row longer than a block of queries; None where the model cannot be asked."""
    size = model.config.get_text_config().vocab_size
    ids = torch.randint(0, size, (1, TRIED), generator=torch.Generator().manual_seed(0))
    try:
        states: Tensor = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    except (TypeError, AttributeError, IndexError, ValueError, RuntimeError):
        return None
    return states.float()


def _alike(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    tolerance = 5e-2 if torch.finfo(dtype).bits == 16 else 1e-3  # the same sums in another order
    return bool((one - other).norm() <= tolerance * one.norm())


def short_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention interface: query ``[B, heads, T, D]``, key and value ``[B, kv heads, S, D]`` ->
    ``[B, T, heads, D]``. A mask ``[B, 1, T, S]`` is True (or 0) where a query may look; without one,
    attention is causal."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    size, length = query.shape[2], key.shape[2]
    if (
        size * length > LONGEST**2
        or any(options.get(name) is not None for name in OTHER)
        or options.get("dropout")
    ):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, is_causal=is_causal, **options
        )
    causal = attention_mask is None and (
        getattr(module, "is_causal", True) if is_causal is None else is_causal
    )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    block = _queries(size)
    parts = []
    for start in range(0, size, block):
        stop = min(start + block, size)
        past = length - size + start  # keys before the block's first query
        end = past + stop - start
        if causal and stop - start > 1:
            mask = torch.ones(stop - start, end, dtype=torch.bool, device=query.device).tril(past)
        elif causal:
            mask = None
        else:
            mask = None if attention_mask is None else attention_mask[:, :, start:stop]
            end = length if mask is None or _sees(mask[..., end:]) else end
        parts.append(
            _block(
                query[:, :, start:stop],
                key[:, :, :end],
                value[:, :, :end],
                None if mask is None else mask[..., :end],
                scale,
            )
        )
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1), None


def pairs(length: float) -> float:
    """The share of all pairs of tokens that causal attention on a CPU computes, in sequences of so many
    tokens."""
    return 0.5 + 0.5 * min(1.0, _queries(length) / length) if length <= LONGEST else 0.5


def _queries(size: float) -> int:
    """Queries a block, all blocks about alike: enough for the matrix products, and few enough to leave many
    keys out."""
    blocks = max(1, round(size / min(128, max(64, size / 4))))
    return math.ceil(size / blocks)


def _sees(mask: Tensor) -> bool:
    """Whether a mask shows any query any key. A mask without values (a plan's trace) shows none."""
    shown = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min
    return type(mask) is Tensor and bool(shown.any())


def _block(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention of some queries to some keys: ``[B, heads, T, D]`` and ``[B, kv heads, S, D]`` -> ``[B, T,
    heads, D of value]``."""
    batch, heads, size, width = query.shape
    shared, length = key.shape[1:3]
    grouped = query.reshape(batch * shared, heads // shared * size, width)
    keys = key.reshape(batch * shared, length, width).transpose(1, 2)
    scores = torch.baddbmm(grouped.new_zeros(()), grouped, keys, beta=0, alpha=scale).view(
        batch, heads, size, length
    )
    if mask is not None and mask.dtype != torch.bool:
        scores = scores + mask
    elif mask is not None:
        scores.masked_fill_(mask.logical_not(), torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1).view(batch * shared, heads // shared * size, length)
    out = torch.bmm(weights, value.reshape(batch * shared, length, -1)).view(batch, heads, size, -1)
    return out.transpose(1, 2).contiguous()
