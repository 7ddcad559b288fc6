"""The losses of policies without PPO: pure functions of summed log-probabilities.

A margin is ``beta`` times the difference of two log-ratios: that of the liked response against the anchor,
less that of the disliked one. Every function returns one value for each pair or response, without a mean, so
that a caller decides what the mean is over. All are computed in the dtype they are given."""

import torch
import torch.nn.functional as F
from torch import Tensor

SURE, UNSURE = 0.6, 1.0
"""Nats. FIGA penalises a removed token only where its loss lies between the two: below, the token belongs to
the language; above, it is unlikely already, and the loss has no floor (the authors' code)."""


def dpo(margins: Tensor) -> Tensor:
    """``-log sigmoid(m)`` for margins ``[P]`` (Rafailov et al. 2023, equation 7). SPIN, SAPO and MRPO use it
    with other anchors or responses."""
    return -F.logsigmoid(margins)


def smoothed(margins: Tensor, flags: Tensor, alpha: float) -> Tensor:
    """SPA's loss ``[P]``: DPO with a soft label for flagged pairs (Kim et al. 2024, 2406.04412).

    ``-(1 - alpha s) log sigmoid(m) - alpha s log sigmoid(-m)`` equals ``-log sigmoid(m) + alpha s m``.
    ``flags`` ``[P]`` are 1 for pairs that the model is least sure of, else 0. A flagged pair has its minimum
    at ``log((1 - alpha) / alpha)``, so it is held at a small margin."""
    return dpo(margins) + alpha * flags * margins


def bco(rewards: Tensor, sides: Tensor, shift: float | Tensor, weights: Tensor) -> Tensor:
    """Binary classifier optimisation ``[R]`` (Jung et al. 2024, 2404.04656): ``-log sigmoid(s (r - shift))
    w``.

    ``rewards`` ``[R]`` are ``beta`` times the log-ratios, ``sides`` is +1 for a liked response and -1 for a
    disliked one, ``shift`` is the threshold, which carries no gradient.
    """
    return -F.logsigmoid(sides * (rewards - shift)) * weights


def optimism(rewards: Tensor, alpha: float) -> Tensor:
    """SELM's bonus (Zhang et al. 2024, 2405.19332): ``alpha r`` of the anchor's own greedy answers ``[P]``.

    It moves probability away from what the anchor would have said. It has no floor.
    """
    return alpha * rewards


def liked_likelihood(logprobs: Tensor, sizes: Tensor, weight: float) -> Tensor:
    """The optional term that keeps the liked side likely: ``-weight`` times the mean log-probability of a
    token.

    ``logprobs`` ``[P]`` are sums over the responses' tokens, ``sizes`` ``[P]`` their numbers. A remedy for
    minimal edits, on which DPO can lower both sides (Pal et al. 2024, 2402.13228, describe the failure)."""
    return -weight * logprobs / sizes.clamp(min=1)


def weighted_tokens(logprobs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of ``weight * -log p`` over tokens ``[N]``, and how many of them count: SFT, and FIGA (Guo et
    al. 2023, 2311.04072).

    Tokens of negative weight are pushed away. They count only where their loss lies between ``SURE`` and
    ``UNSURE``.
    """
    losses = -logprobs
    counts = (weights > 0) | ((weights < 0) & (losses > SURE) & (losses < UNSURE))
    return (weights.where(counts, 0.0) * losses).sum(), counts.sum()


def combined_reference(
    base: Tensor, extra: Tensor, clip: float, adaptive: bool = True, weights: str = "stated"
) -> Tensor:
    """MRPO's reference ``[P, 2]``, from a base and an extra one (Le et al. 2024, 2405.16388).

    Columns are the liked and the disliked response, entries are summed log-probabilities. The extra reference
    is first held within a band around the base one, of relative half-width ``clip`` (shared out between the
    two sides if ``adaptive``, else the same for both). The result is a weighted harmonic mean of the two
    probabilities, the weight of each pair from how far apart each reference holds the two sides. ``weights``
    "stated" gives the reference with the larger difference the larger weight, as the method is described;
    "released" is the authors' code, which gives it the smaller one. No gradient flows."""
    base, extra = base.detach(), extra.detach()
    size = ((base + extra) / 2).abs()
    if adaptive:
        liked = clip * size[:, :1] / size.sum(1, keepdim=True).clamp(min=1e-12)
        width = torch.cat([liked, clip - liked], 1)
    else:
        width = torch.full_like(base, clip)
    held = extra.minimum(base * (1 - width)).maximum(base * (1 + width))
    apart_base, apart_extra = ((side[:, 0] - side[:, 1]).abs() for side in (base, extra))
    share = (apart_extra / (apart_extra + apart_base + 1e-6))[:, None]
    of_extra = share if weights == "stated" else 1 - share
    return -torch.logaddexp((1 - of_extra).log() - base, of_extra.log() - held)


def degree(logits: Tensor, classes: Tensor) -> Tensor:
    """SPO's self-supervised part ``[R]``: the cross-entropy of how much of the preferred content is gone.

    ``logits`` ``[R, K + 1]`` of a linear head on pooled last states, ``classes`` ``[R]`` from 0 (whole) to K.
    A reconstruction: the paper (2409.17791) has no released code."""
    return F.cross_entropy(logits, classes, reduction="none")
