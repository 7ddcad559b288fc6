"""Log-probabilities of whole responses by a model that shares nothing with the policy."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from redline.engine.batching import pack, pad
from redline.engine.logits import scaled, soft_cap
from redline.engine.logprobs import token_logprobs
from redline.engine.rollout import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def response_logprobs(
    lm: "PreTrainedModel", rollout: Rollout, temperature: float, budget: int = 4096
) -> list[Tensor]:
    """Log-probabilities ``[R_i]`` of every response by a model, in whole passes of at most ``budget``
    tokens."""
    sequences, device = rollout.sequences, next(lm.parameters()).device
    found = [torch.zeros(0)] * len(rollout)
    for members in pack([len(ids) for ids in sequences], budget):
        batch = pad([sequences[index] for index in members]).to(device)
        hidden = lm.base_model(input_ids=batch).last_hidden_state
        for place, index in enumerate(members):
            prompt, size = len(rollout.prompt_ids[index]), rollout.sizes[index]
            rows = scaled(lm, hidden[place, prompt - 1 : prompt - 1 + size])
            targets = rollout.response_ids[index].to(device)
            found[index] = token_logprobs(
                rows, lm.get_output_embeddings(), targets, temperature, soft_cap(lm)
            )[0].cpu()
    return found
