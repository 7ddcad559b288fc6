"""Advantages without a critic: what a response earns beside other responses of its batch. Pure functions on
padded tensors and their masks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from redline.policy.advantages import gae

EPSILON = 1e-4  # beside the deviation that advantages are divided by; TRL's


@dataclass(frozen=True)
class Groups:
    """Which responses are compared with each other.

    ``of_rows`` ``[B]`` is the group of each response of this process. A batch of all processes has ``count``
    groups of ``size`` responses.
    """

    of_rows: Tensor
    count: int
    size: int

    @classmethod
    def of_places(cls, places: Sequence[int], batch_size: int, size: int) -> "Groups":
        """The groups of the responses at some places of a batch, in which ``size`` responses of a group lie
        side by side."""
        return cls(torch.tensor([place // size for place in places]), batch_size // size, size)


def group_sums(
    values: Tensor, groups: Groups, total: Callable[[Tensor], Tensor] = lambda part: part
) -> Tensor:
    """The sum over each response's group ``[B, T]`` of ``values`` ``[B, T]``. ``total`` adds a tensor up over
    processes, so a group may lie on several; they must agree in ``T``."""
    sums = values.new_zeros(groups.count, values.shape[1])
    return total(sums.index_add(0, groups.of_rows, values))[groups.of_rows]


def less_group_mean(
    values: Tensor, groups: Groups, total: Callable[[Tensor], Tensor] = lambda part: part
) -> Tensor:
    """``values`` ``[B, T]`` less their mean over each response's group, place by place."""
    return values - group_sums(values, groups, total) / groups.size


def group_deviation(
    centred: Tensor, mask: Tensor, groups: Groups, total: Callable[[Tensor], Tensor] = lambda part: part
) -> Tensor:
    """The deviation ``[B, 1]`` of each response's group: the root of ``n / (n - 1)`` times the mean square of
    ``centred`` ``[B, T]`` over the group's tokens, where ``mask`` ``[B, T]`` is True. ``centred`` is already
    less the group's mean. ``total`` adds a tensor up over processes."""
    squares = centred.square().where(mask, 0).sum(1, keepdim=True)
    counts = mask.sum(1, keepdim=True).to(squares.dtype)
    mean = group_sums(squares, groups, total) / group_sums(counts, groups, total).clamp(min=1)
    unbiased = groups.size / max(groups.size - 1, 1)
    return (unbiased * mean).sqrt()


def baseline_advantages(
    rewards: Tensor,
    mask: Tensor,
    groups: Groups,
    gamma: float,
    credit: Literal["token", "response"],
    by_group: bool = False,
    total: Callable[[Tensor], Tensor] = lambda part: part,
) -> Tensor:
    """Advantages ``[B, T]`` against the other ``n - 1`` responses of a group; zero where masked.

    ``rewards`` ``[B, T]`` with the KL penalty in them; ``mask`` is True at response tokens. With the rewards
    to go ``G[i, t] = sum over k >= t of gamma^(k - t) r[i, k]``, which are 0 behind a response's end:

        token:     A[i, t] = G[i, t] - sum over j != i of G[j, t] / (n - 1)
        response:  A[i, t] = G[i, 0] - sum over j != i of G[j, 0] / (n - 1)

    No other response depends on token ``t`` of response ``i``, so the baseline leaves the policy gradient
    unbiased. A response that has ended counts with 0, which is what it has still to come; a mean over those
    that go on would be unbiased too, but over fewer and fewer responses, and over none for the longest.
    ``response`` is RLOO (Ahmadian et al. 2024); with a reward on the last token alone, gamma 1 and equal
    lengths, ``token`` is too.

    With ``by_group`` the mean is over all ``n`` responses, and divided by is ``s + 1e-4``:

        response:  s = deviation of G[j, 0] over the group, with n - 1, as in GRPO (Shao et al. 2024)
        token:     s = sqrt(n / (n - 1) * mean of (G[j, t] - G_bar[t])^2 over the group's tokens)

    They are equal where ``token`` and ``response`` are. The deviation of whole returns would not do for
    ``token``: responses may earn their equal returns at different places. ``total`` adds a tensor up over
    processes, which must agree in ``T``.
    """
    to_go, _ = gae(rewards.double(), torch.zeros_like(rewards).double(), mask, gamma, 1.0)
    compared = to_go if credit == "token" else to_go[:, :1].expand_as(to_go)
    centred = less_group_mean(compared, groups, total)
    if by_group:
        counted = mask if credit == "token" else torch.ones_like(mask[:, :1])
        deviation = group_deviation(centred[:, : counted.shape[1]], counted, groups, total)
        advantages = centred / (deviation + EPSILON)
    else:
        advantages = groups.size / (groups.size - 1) * centred
    return advantages.where(mask, 0).to(rewards.dtype)
