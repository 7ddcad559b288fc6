"""A policy method of your own: IPO (Azar et al. 2024, equation 17), a squared loss on the margin of pairs.

``train_direct`` takes the section as it is. To use the method in recipes, put the class into a file in
src/redline/direct/, its section into settings.py there, and the section's name into ``Trained`` at the end of
settings.py, and let ``made_by`` name that file. The line in ``Trained`` is all that is changed of what was
there before.
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
    summary = "preferring the edits by a fixed margin (IPO)"
    made_by = "my_method:IpoMethod"
    tau: float = Field(0.1, gt=0)
    """Strength of the regularisation: the target of the margin is 1 / (2 tau)."""


class IpoMethod(Method):
    """The edited response over the rejected one, with the original model as the anchor."""

    against = ("original",)

    def __init__(self, settings: DirectIpo, hidden: int):
        self.epochs = [settings.epochs]
        self.target = 1 / (2 * settings.tau)

    def collect(self, room: Room, number: int) -> list[Row]:
        return edit_pairs(room, "edited")

    def loss(self, batch: Batch) -> Loss:
        return of_pairs((batch.margins(1.0, "original") - self.target) ** 2)
