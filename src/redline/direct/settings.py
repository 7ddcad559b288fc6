"""The recipe's sections `sft` and `direct`."""

from typing import Literal

from pydantic import Field

from redline.section import Section


class Sft(Section):
    """Supervised fine-tuning before everything else, with TRL's trainer. Its result becomes the run's
    model."""

    responses: Literal["edited", "chosen"] = "edited"
    """Which to imitate."""
    epochs: float = Field(3, gt=0)
    """Passes over the data."""
    batch_size: int = Field(32, ge=1)
    """Responses a step."""
    lora_rank: int = Field(16, ge=0)
    """Rank of LoRA adapters, merged at the end; 0: full fine-tuning."""
    lr: float = Field(2e-4, gt=0)
    """Peak learning rate."""
    gradient_checkpointing: bool = False
    """As `adapt.gradient_checkpointing`."""


class Direct(Section):
    """In place of PPO: the controls without RL, which a claim about PPO needs. They train what `policy.adapt`
    says."""

    method: Literal["sft", "dpo", "figa", "best_of_n"]
    """sft: imitate the edited responses. dpo: prefer them over the rejected ones (TRL's trainer). figa:
    imitate what edits put in, penalise what they removed (Guo et al. 2023). best_of_n: no training; of `n`
    samples of the model, the one that `policy.reward` likes best."""
    epochs: float = Field(3, gt=0)
    """Passes over the edits."""
    batch_size: int = Field(16, ge=1)
    """Edits a step."""
    lr: float = Field(2e-4, gt=0)
    """Peak learning rate; it falls along a cosine."""
    beta: float = Field(0.1, gt=0)
    """Of DPO: how dear the distance from the reference is."""
    penalty: float = Field(0.5, ge=0)
    """Of FIGA: weight of the removed tokens against that of the inserted ones."""
    n: int = Field(16, ge=2)
    """Of best_of_n: responses sampled for each prompt."""
