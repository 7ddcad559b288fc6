"""A policy beside its reference on held-out prompts: responses from the same random numbers, KL, and perplexity."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from redline.batches import pack, pad
from redline.data.records import Prompt, Response
from redline.models import load_causal_lm, load_tokenizer
from redline.policy.loss import token_logprobs
from redline.policy.sample import respond
from redline.recipe import Model, Sampling
from redline.rollout import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def side_by_side(policy: Model, reference: Model, prompts: Sequence[Prompt], sampling: Sampling, seed: int,
                 ) -> tuple[list[Response], list[Response], dict[str, Any]]:
    """Responses of the policy and of the reference, and figures that guard a win rate.

    ``kl``: nats a response, KL(policy, reference) estimated on the policy's own samples at the sampling temperature, with its
    standard error; ``perplexity_a`` and ``perplexity_b``: of the two models' responses under the reference, at temperature 1.
    """
    tokenizer = load_tokenizer(reference.name, reference.trust_remote_code, reference.revision)
    new, base = load_causal_lm(policy), load_causal_lm(reference)
    responses_a, rollouts_a = respond(new, tokenizer, prompts, sampling, seed, title="sample the policy")
    responses_b, rollouts_b = respond(base, tokenizer, prompts, sampling, seed, title="sample the reference")
    pairs = [both for rollout in rollouts_a
             for both in zip(*(_logprobs(lm, rollout, sampling.temperature) for lm in (new, base)), strict=True)]
    log_ratio = [(own - other).sum() for own, other in pairs]
    kl = torch.stack(log_ratio).double()
    return responses_a, responses_b, {
        "kl": kl.mean().item(), "kl_error": (kl.std() / len(kl) ** 0.5).item() if len(kl) > 1 else None,
        "perplexity_a": perplexity(base, rollouts_a), "perplexity_b": perplexity(base, rollouts_b),
    }


def perplexity(lm: "PreTrainedModel", rollouts: list[Rollout]) -> float:
    """Of all response tokens of some rollouts under a model, at temperature 1."""
    parts = torch.cat([part for rollout in rollouts for part in _logprobs(lm, rollout, 1.0)])
    return (-parts.double().mean()).exp().item()


@torch.no_grad()
def _logprobs(lm: "PreTrainedModel", rollout: Rollout, temperature: float, budget: int = 4096) -> list[Tensor]:
    """Log-probabilities ``[R_i]`` of every response by a model, in whole passes."""
    sequences, device = rollout.sequences, next(lm.parameters()).device
    found = [torch.zeros(0)] * len(rollout)
    for members in pack([len(ids) for ids in sequences], budget):
        hidden = lm.base_model(input_ids=pad([sequences[index] for index in members]).to(device)).last_hidden_state
        for place, index in enumerate(members):
            prompt, size = len(rollout.prompt_ids[index]), rollout.sizes[index]
            rows = hidden[place, prompt - 1:prompt - 1 + size]
            cap = getattr(lm.config, "final_logit_softcapping", None)
            found[index] = token_logprobs(rows, lm.get_output_embeddings(), rollout.response_ids[index].to(device), temperature,
                                          cap)[0].cpu()
    return found
