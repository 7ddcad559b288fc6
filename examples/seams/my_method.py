"""A policy method of your own: IPO (Azar et al. 2024, equation 17), a squared loss on the margin of pairs.

To use it in recipes, put this file into src/redline/direct/, add the section to ``Trained`` in settings.py,
and one line to ``method_for`` in stage.py:

case DirectIpo():
    return IpoMethod(settings)
"""

from typing import Literal

from pydantic import Field

from redline.direct.batch import Batch
from redline.direct.method import Loss, Method, of_pairs
from redline.direct.methods import edit_pairs
from redline.direct.room import Room
from redline.direct.rows import Row
from redline.direct.settings import DirectDpo


class DirectIpo(DirectDpo):
    """Identity preference optimisation: the margin is drawn to a target, not to infinity."""

    method: Literal["ipo"]  # type: ignore[assignment]
    tau: float = Field(0.1, gt=0)
    """Strength of the regularisation: the target of the margin is 1 / (2 tau)."""


class IpoMethod(Method):
    """The edited response over the rejected one, with the original model as the anchor."""

    against = ("original",)

    def __init__(self, settings: DirectIpo):
        self.epochs = [settings.epochs]
        self.target = 1 / (2 * settings.tau)

    def collect(self, room: Room, number: int) -> list[Row]:
        return edit_pairs(room, "edited")

    def loss(self, batch: Batch) -> Loss:
        return of_pairs((batch.margins(1.0, "original") - self.target) ** 2)
