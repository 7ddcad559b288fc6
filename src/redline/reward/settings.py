"""The recipe's section `reward`, and the terms of the reward that a policy learns from."""

from typing import Literal

from pydantic import Field, model_validator

from redline.engine.settings import Adapt, Model, Optimizer
from redline.section import Section


class Reward(Section):
    """The reward model, trained on both sides of each edit."""

    kind: Literal["token", "sequence"] = "token"
    """token: a reward for every token, from labels. sequence: one for the response (Bradley-Terry), the usual
    baseline."""
    loss: Literal["soft", "hard", "pairwise"] = "soft"
    """Of token models. soft: TLCR's two classes, neutral = (0.5, 0.5). hard: three classes. pairwise:
    Bradley-Terry over the sum of rewards on changed tokens."""
    pairs: Literal["edited", "chosen"] = "edited"
    """What a sequence model prefers over the rejected response."""
    model: Model | None = None
    """Another backbone than the policy's; bidirectional ones work too."""
    depth: int | None = Field(None, ge=1)
    """Keep only so many of the backbone's layers, counted from below. None: all."""
    adapt: Adapt = Field(default_factory=Adapt)
    """What is trained."""
    optimizer: Optimizer = Field(default_factory=lambda: Optimizer(decay="cosine"))
    """How."""
    epochs: float = Field(4, gt=0)
    """Passes over the edits."""
    batch_size: int = Field(16, ge=1)
    """Edits a step (each has two sides)."""
    changed_weight: float = Field(3.0, gt=0)
    """Weight of changed tokens against neutral ones in the classification losses."""
    eval_every: float = Field(0.5, gt=0)
    """Epochs between validations; the best checkpoint is kept."""

    @model_validator(mode="after")
    def _loss_is_of_token_models(self) -> "Reward":
        if self.kind == "sequence" and "loss" in self.model_fields_set:
            raise ValueError(
                "`reward.loss` is of token models, and `reward.kind` is sequence, whose loss is "
                "Bradley-Terry. Leave `loss` out"
            )
        return self


class LogRatio(Section):
    """A reward from two language models, for each token: `beta` times the difference of their
    log-probabilities. What DPO or BCO has learned, as a token reward."""

    model: str
    """Folder or name of the model whose likelier tokens are rewarded (in an experiment `@ARM`: its
    policy)."""
    over: str
    """Folder or name of the model that it is compared with."""
    context: str = ""
    """Text put in front of each prompt for `model` alone, a guideline for example: it then judges in
    hindsight."""
    beta: float = Field(0.1, gt=0)
    """Factor: what the method's own `beta` was."""


class RewardTerm(Section):
    """One term of the reward that PPO takes: a float for each response token."""

    model: str | None = None
    """Folder of a reward model; without it (and without `function`), the one this run trained."""
    function: str | None = None
    """`module:function` or `file.py:function`, called with (prompts, responses). It returns for each response
    one float a token (a parameter `tokens` is given them), a float for the whole, or a list of (start, end,
    reward) character spans."""
    log_ratio: LogRatio | None = None
    """Two language models in place of a reward model."""
    form: Literal["continuous", "discrete"] = "continuous"
    """Of a token model: p+ - p-, or +1 / -1 / 0 where one class is surer than `threshold`."""
    threshold: float = Field(0.5, ge=0, lt=1)
    """How far p+ - p- must be from 0 to count as +1 or -1 in the discrete form."""
    spread: Literal["token", "last", "uniform", "shuffled"] = "token"
    """Where the reward lies: on its own tokens; their sum on the last token, evenly, or permuted at random
    (controls)."""
    weight: float = 1.0
    """Factor of this term."""

    @property
    def own(self) -> bool:
        """Whether it is the reward model that this run trains."""
        return self.model is None and self.function is None and self.log_ratio is None

    @model_validator(mode="after")
    def _is_one_kind(self) -> "RewardTerm":
        kinds = {"model": self.model, "function": self.function, "log_ratio": self.log_ratio}
        present = [name for name, value in kinds.items() if value is not None]
        if self.log_ratio is not None and len(present) > 1:
            raise ValueError(
                f"a term has one of `model`, `function` and `log_ratio`; this has {' and '.join(present)}"
            )
        return self
