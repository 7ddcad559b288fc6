"""What stands behind a model's last hidden states: the output embedding, a scale, a soft cap."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from redline.types import Config, Network

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# the beginning of a model type -> what its configuration calls the factor, or the divisor, of its logits
FACTORS = {
    "cohere": "logit_scale",
    "hyperclovax": "logits_scaling",
    "falcon_h1": "lm_head_multiplier",
    "muse": "output_multiplier",
}
DIVISORS = {"granite": "logits_scaling", "minicpm3": "logits_scaling"}


def logits_of(lm: "PreTrainedModel", hidden: Tensor) -> Tensor:
    """Logits ``[..., V]`` of last hidden states ``[..., H]``, as the model's own forward makes them."""
    head: Network = lm.get_output_embeddings()
    logits: Tensor = head(scaled(lm, hidden))
    cap = soft_cap(lm)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def scaled(lm: "PreTrainedModel", hidden: Tensor) -> Tensor:
    """Last hidden states times the model's logit scale: before the output embedding that is the same as
    behind it, and no other function needs to know the scale."""
    scale = logit_scale(lm)
    return hidden if scale == 1 else hidden * scale


def logit_scale(lm: "PreTrainedModel") -> float:
    """What a family multiplies its logits by, from its configuration; 1 for most."""
    config: Config = lm.config.get_text_config()
    for family, name in FACTORS.items():
        if config.model_type.startswith(family):
            return float(getattr(config, name) or 1)
    for family, name in DIVISORS.items():
        if config.model_type.startswith(family):
            return 1 / float(getattr(config, name) or 1)
    return 1.0


def soft_cap(lm: "PreTrainedModel") -> float | None:
    """The bound that Gemma and others bend their logits to; None where there is none."""
    cap: float | None = getattr(lm.config.get_text_config(), "final_logit_softcapping", None)
    return cap
