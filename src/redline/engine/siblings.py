"""Layers of one module that, as a rule, read the same input, computed together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

NAMES = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def siblings(children: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Some of a module's children by name, in groups: those of one input together, the others alone."""
    left = dict(children)
    for names in NAMES:
        if left.keys() >= set(names):
            yield [left.pop(name) for name in names]
    yield from ([child] for child in left.values())


class Together:
    """The outputs of some layers, computed when one of them is given an input that the one before was not."""

    def __init__(self, compute: Callable[[Tensor], Sequence[Tensor]]):
        self.compute = compute
        self.given: Tensor | None = None
        self.found: Sequence[Tensor] = ()

    def __call__(self, place: int, x: Tensor) -> Tensor:
        """The output of the layer at ``place`` for ``x``."""
        if x is not self.given:
            self.given, self.found = x, self.compute(x)
        found = self.found[place]
        if place == len(self.found) - 1:
            self.given, self.found = None, ()  # nobody will ask again
        return found
