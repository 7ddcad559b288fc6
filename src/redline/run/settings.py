"""The recipe of `redline rounds`."""

from typing import Literal

from pydantic import Field, model_validator

from redline.data.settings import Source
from redline.edit.settings import EditWith
from redline.sampling.settings import Sampling
from redline.section import Section


class Draw(Section):
    """Which answers of the last policy are corrected next."""

    n: int = Field(1, ge=1)
    """Answers to each prompt; of several the worst by the last round's reward model is corrected."""
    limit: int | None = Field(None, ge=1)
    """Prompts of a round: each round takes the next ones, and begins again when all have had their turn."""
    sampling: Sampling = Field(default_factory=Sampling)
    """How they are drawn."""


class Rounds(Section):
    """Round after round: sample the last policy, correct its answers, train on all edits so far."""

    name: str = "rounds"
    """The folder is runs/<name> unless --out says otherwise."""
    rounds: int = Field(3, ge=1)
    """How many. The first learns from the recipe's own edits."""
    recipe: str
    """What a round runs: a recipe with `data.edits`. From the second round on the last policy takes the place
    of its model, and all edits so far that of its edits."""
    prompts: Source
    """Prompts that the policies answer."""
    draw: Draw = Field(default_factory=Draw)
    """Which answers are corrected."""
    edit: EditWith | Literal["people"]
    """Who corrects them: an LLM, or people. With `people` the command stops and says where the answers lie
    and where it looks for the edits."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seeds the sampling; each round's runs have the recipe's own seed."""

    @model_validator(mode="after")
    def _has_rounds(self) -> "Rounds":
        if self.rounds > 1 and self.edit != "people" and self.edit.template == "reasoned":
            raise ValueError(
                "edit.template: `reasoned` shows the chosen response, which a sampled answer does not have; "
                "give `template: plain`"
            )
        return self
