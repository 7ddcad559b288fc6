"""The trunk: the frozen lower layers that the policy, its reference, its critic and reward models share.

States that leave the trunk do not change while the upper layers are trained. They are computed once, while
responses are sampled or before a training begins, and every later pass starts from them. ``Trunk`` knows
which layers passes start at, ``LowerStates`` holds the states of sampled sequences, ``StateCache`` those of a
training set.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from redline.engine.batching import pack, pad
from redline.engine.processes import all_shares, own_share, this_process
from redline.engine.views import Split, Tap

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CACHE_BYTES = (
    4 * 2**30
)  # states of a training set are kept up to this size; beyond it they are computed again
ROWS_AT_ONCE = 64  # groups of rows whose states are computed between two signs of progress
TOKENS_AT_ONCE = 4096  # tokens whose states are computed together, where sampling did not keep them


class LowerStates:
    """What entered some layers, for some sequences: ``[T_i, H]`` each, nothing padded. Row ``i`` is that of
    sequence ``i``."""

    def __init__(self, layers: Iterable[int] = (), rows: int = 0):
        self._by_layer = {layer: [torch.empty(0)] * rows for layer in sorted(layers)}

    @property
    def layers(self) -> list[int]:
        return list(self._by_layer)

    def at(self, layer: int) -> list[Tensor]:
        """The states that entered a layer, a tensor a row. Raises KeyError for a layer that was not kept."""
        return self._by_layer[layer]

    def put(self, layer: int, row: int, states: Tensor) -> None:
        self._by_layer[layer][row] = states

    def clear(self) -> None:
        self._by_layer.clear()

    @property
    def nbytes(self) -> int:
        return sum(states.nbytes for rows in self._by_layer.values() for states in rows)


class Trunk:
    """The ``depth`` lowest layers of a model: frozen, and the same for all who share the model.

    ``layers`` are those that a pass begins at: ``depth`` for the policy, and what ``keep`` names for reward
    models. Layer 0 is the whole model, whose input is token ids: nothing has to be kept for it.
    """

    def __init__(self, depth: int = 0):
        self.depth = depth
        self.layers: set[int] = set()
        self.keep(depth)

    def keep(self, layer: int) -> None:
        """Keep what enters this layer from now on. Raises ValueError above the trunk, where states change."""
        if layer > self.depth:
            raise ValueError(f"layer {layer} lies above a trunk of {self.depth} layers")
        if layer:
            self.layers.add(layer)

    def tap(self, lm: "PreTrainedModel") -> Tap:
        """A view of a model on this trunk that keeps, while it runs, what enters the layers."""
        return Tap(lm, self.layers)

    @torch.no_grad()
    def states(self, lm: "PreTrainedModel", sequences: Sequence[Tensor]) -> LowerStates:
        """What enters the layers for sequences of token ids ``[T_i]``."""
        found = LowerStates(self.layers, len(sequences))
        if not self.layers:
            return found
        tap = self.tap(lm)
        for members in pack([len(ids) for ids in sequences], TOKENS_AT_ONCE):
            tap.run(input_ids=pad([sequences[row] for row in members]).to(lm.device), use_cache=False)
            for layer, entered in tap.states.items():
                for place, row in enumerate(members):
                    found.put(layer, row, entered[place, : len(sequences[row])].clone())
        return found


@dataclass
class Row:
    """What a model reads at once: token ids ``[T]``, of which those from ``second`` on continue the first
    ``fork`` tokens.

    A row that does not fork has ``fork == second == T``. ``states`` are its lower states, once they are
    known.
    """

    ids: Tensor
    fork: int
    second: int
    states: Tensor | None = field(default=None, repr=False)


def forks_of(rows: Sequence[Row], device: torch.device) -> Tensor | None:
    """(fork, second) ``[B, 2]`` of some rows, which stands for a mask; None where none of them forks."""
    if all(row.second == len(row.ids) for row in rows):
        return None
    return torch.tensor([[row.fork, row.second] for row in rows], device=device)


class StateCache:
    """The lower states of a training set's rows: computed once, and kept in memory up to ``limit`` bytes.

    ``budget`` is how many tokens are computed together; with 1 each row is computed by itself, so its states
    do not depend on other rows. ``whole`` is entered around each computation: under
    FSDP2 every process needs the whole weights (see ``redline.engine.sharding.gathered``).
    """

    def __init__(
        self,
        split: Split,
        device: torch.device,
        budget: int,
        whole: Callable[[], AbstractContextManager[None]],
        limit: int = CACHE_BYTES,
    ):
        self.split, self.device, self.budget, self.whole, self.limit = split, device, budget, whole, limit
        self.bytes, self.complete = 0, False

    def fill(self, groups: Sequence[Sequence[Row]], advance: Callable[[int], None]) -> None:
        """Compute the states of as many groups of rows as memory takes; ``advance`` is told how many more are
        there.

        Each process computes its share, and all get the whole: any of them may draw any row. Rows that are
        computed together differ in rounding from rows computed alone. So this is done in one order, which a
        resumed training repeats, whatever steps it has left, and with any number of processes.
        """
        if not self.split.cut:
            return
        rows = [
            [row for group in groups[start : start + ROWS_AT_ONCE] for row in group]
            for start in range(0, len(groups), ROWS_AT_ONCE)
        ]
        processes = this_process().num_processes
        with self.whole():
            for first in range(0, len(rows), processes):  # a part for each process
                for part, states in self._shared(rows[first : first + processes]):
                    for row, its_states in zip(part, states, strict=True):
                        if not self._keep(row, its_states):
                            return
                done = min(first + processes, len(rows)) * ROWS_AT_ONCE
                advance(min(done, len(groups)) - first * ROWS_AT_ONCE)
        self.complete = True

    def inputs(self, rows: Sequence[Row], keep: bool = False) -> list[Tensor]:
        """What ``Split.upper`` reads of each row: its states, kept or computed now; its token ids where the
        model runs whole. With ``keep``, states that are computed now are kept too, if memory takes them."""
        if not self.split.cut:
            return [row.ids for row in rows]
        missing = [row for row in rows if row.states is None]
        if self.complete and not missing:
            return [cast(Tensor, row.states) for row in rows]
        with self.whole():  # by all processes together, also by one that misses nothing
            computed = dict(zip(map(id, missing), self._computed(missing), strict=True))
        for row in missing:
            if keep and row.states is None:
                self._keep(row, computed[id(row)])
        return [computed[id(row)] if row.states is None else row.states for row in rows]

    def _keep(self, row: Row, states: Tensor) -> bool:
        """Keep a row's states for as long as the row lives; False where memory does not take them."""
        if self.bytes + states.nbytes > self.limit:
            return False
        row.states = states
        self.bytes += states.nbytes
        weakref.finalize(row, self._free, states.nbytes)
        return True

    def _free(self, size: int) -> None:
        self.bytes -= size

    def _shared(self, parts: Sequence[Sequence[Row]]) -> Iterator[tuple[Sequence[Row], list[Tensor]]]:
        """Parts of the rows with their states; each process computes its share of the parts."""
        mine = [self._computed(parts[place]) for place in own_share(len(parts))]
        return zip(parts, all_shares(mine, len(parts)), strict=True)

    def _computed(self, rows: Sequence[Row]) -> list[Tensor]:
        """The states ``[T, H]`` of some rows."""
        states = [torch.empty(0)] * len(rows)
        for members in pack([len(row.ids) for row in rows], self.budget):
            together = [rows[index] for index in members]
            ids = pad([row.ids for row in together]).to(self.device)
            batch = self.split.lower(ids, forks_of(together, self.device)).cpu()
            for index, entered in zip(members, batch, strict=True):
                states[index] = entered[: len(rows[index].ids)].clone()
        return states
