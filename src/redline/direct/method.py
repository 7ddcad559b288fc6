"""What a method is: where its rows come from, and their loss."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from redline.direct.batch import Batch
from redline.direct.room import Room
from redline.direct.rows import Row
from redline.types import JsonObject


class Loss(NamedTuple):
    """The sum of a batch's loss, with gradient, and of how many terms. A step divides the sum over its whole
    batch by the number over its whole batch, so it does not matter in how many passes it was computed."""

    total: Tensor
    terms: Tensor | int


class Method:
    """A policy without PPO. A method overrides ``collect`` and ``loss``, and what else it needs.

    It is made of its section of the recipe and the width of the model's states.

    ``rounds``: how often data are made and trained on. ``against``: the frozen models whose log-probabilities
    the loss reads ("original", "anchor"). ``helpers``: the adapters it keeps. ``head``: a trained module
    beside the policy, with a learning rate ``head_rate`` times the policy's."""

    rounds = 1
    epochs: Sequence[float] = (1.0,)
    """Passes over each round's rows; the last one goes on."""
    against: tuple[str, ...] = ()
    helpers: tuple[str, ...] = ()
    neutral = False
    """Whether the loss reads frozen log-probabilities of rows on neither side."""
    pooled = False
    """Whether it reads mean last states."""
    draws = False
    """Whether it samples responses."""
    prepares = True
    """Whether frozen log-probabilities of a round's rows are computed before its first step, many at once."""
    head: nn.Module | None = None
    head_rate = 1.0

    def start(self, room: Room) -> None:
        """Once, before everything. Not called again in a training that goes on."""

    def begin(self, room: Room, number: int) -> None:
        """Before a round's rows are made: move the anchor, say. A training that goes on in the round has it
        from its checkpoint."""

    def collect(self, room: Room, number: int) -> list[Row]:
        """The rows of round ``number``. They are kept in a file; a training that goes on reads them there."""
        raise NotImplementedError

    def before_step(self, room: Room, rows: list[Row], step: int, of: int) -> list[Row]:
        """What a step trains on, when the round's order gives it ``rows``; ``step`` of the ``of`` in this
        round, counted from 0."""
        return rows

    def loss(self, batch: Batch) -> Loss:
        """The loss of some rows."""
        raise NotImplementedError

    def after_step(self, room: Room, seen: Batch) -> dict[str, float]:
        """After an optimizer step, with its whole batch, of all processes; returns figures for the log."""
        return {}

    def state(self) -> JsonObject:
        """What a checkpoint has to hold beside the weights: plain data."""
        return {}

    def load_state(self, state: JsonObject) -> None:
        """Put back what ``state`` gave."""

    def ends_round(self, seen: Batch) -> bool:
        """Whether the round shall end here, whatever was planned."""
        return False


def of_pairs(losses: Tensor) -> Loss:
    """The loss of pairs ``[P]``, a term each."""
    return Loss(losses.sum(), len(losses))


def pair_figures(batch: Batch, beta: float, against: str) -> dict[str, float]:
    """How pairs fare: margin, how often it is right, and how each side's log-probability has moved (nats a
    response)."""
    liked, disliked = batch.liked, batch.disliked
    if not len(liked):
        return {}
    moved = batch.policy - batch.anchors[against]
    margins = beta * (moved[liked] - moved[disliked])
    return {
        "margin": float(margins.mean()),
        "accuracy": float((margins > 0).float().mean()),
        "liked": float(moved[liked].mean()),
        "disliked": float(moved[disliked].mean()),
        "liked_tokens": float(batch.sizes[liked].float().mean()),
        "disliked_tokens": float(batch.sizes[disliked].float().mean()),
    }
