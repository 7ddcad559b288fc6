"""Rows of different lengths into batches: packing under a token budget, padding on the right, a place in the
data."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Split rows into groups whose padded size (rows times the longest) stays within ``budget`` tokens.

    Rows are taken longest first, so a group's rows are of about one length. A row longer than the budget
    stands alone. Returns row indices; every row is in exactly one group.
    """
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def pad(rows: Sequence[Tensor], value: float = 0) -> Tensor:
    """Stack rows ``[T_i, ...]`` to ``[B, max T, ...]``, padded on the right."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


def epoch_order(size: int, seed: int, epoch: int) -> list[int]:
    """The order of rows in an epoch: a permutation that depends on nothing but its arguments, so a resumed
    run finds its place."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(size, generator=generator).tolist()


def minibatches(size: int, minibatch: int, seed: int, epoch: int) -> list[list[int]]:
    """The minibatches of an epoch: each row in one of ``ceil(size / minibatch)``, at random, by the arguments
    alone.

    No two rows whose numbers are equal modulo ``minibatch`` meet. So where processes share the rows out by
    stride, each has its equal part of every minibatch, and the minibatches are the same however many
    processes there are.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    count = -(-size // minibatch)
    orders = torch.rand(count, minibatch, generator=generator).argsort(
        0
    )  # a permutation of the minibatches for each remainder
    return [
        [row for row in rows if row < size]
        for rows in (orders * minibatch + torch.arange(minibatch)).tolist()
    ]


def draw_rows(size: int, batch: int, step: int, seed: int) -> list[int]:
    """Rows of batch number ``step`` when epochs of ``size`` rows follow each other without end, each in its
    own order."""
    orders: dict[int, list[int]] = {}
    rows = []
    for place in range(step * batch, (step + 1) * batch):
        epoch, index = divmod(place, size)
        if epoch not in orders:
            orders[epoch] = epoch_order(size, seed, epoch)
        rows.append(orders[epoch][index])
    return rows
