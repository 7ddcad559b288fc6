"""A policy beside its reference on held-out prompts: responses from the same random numbers, KL, and
perplexity."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from redline.data.records import Prompt, Response
from redline.data.tokenization import load_tokenizer
from redline.engine.batching import pack, pad
from redline.engine.logprobs import token_logprobs
from redline.engine.models import load_causal_lm
from redline.engine.rollout import Rollout
from redline.engine.settings import Model
from redline.sampling.local import respond
from redline.sampling.settings import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def side_by_side(
    policy: Model,
    reference: Model,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    seed: int,
) -> tuple[list[Response], list[Response], dict[str, Any]]:
    """Responses of the policy and of the reference, and figures that guard a win rate.

    ``kl``: nats a response, KL(policy, reference) estimated on the policy's own samples at the sampling
    temperature, with its standard error; ``perplexity_a`` and ``perplexity_b``: of the two models' responses
    under the reference, at temperature 1.
    """
    tokenizer = load_tokenizer(reference.name, reference.trust_remote_code, reference.revision)
    new, base = load_causal_lm(policy), load_causal_lm(reference)
    responses_a, rollout_a = respond(new, tokenizer, prompts, sampling, seed, title="sample the policy")
    responses_b, rollout_b = respond(base, tokenizer, prompts, sampling, seed, title="sample the reference")
    of_reference = logprobs(base, rollout_a, sampling.temperature)
    kl = torch.stack(
        [(own - other).sum() for own, other in zip(rollout_a.logprobs, of_reference, strict=True)]
    ).double()
    if sampling.temperature == 1:
        at_one = of_reference, rollout_b.logprobs
    else:
        at_one = logprobs(base, rollout_a, 1.0), logprobs(base, rollout_b, 1.0)
    return (
        responses_a,
        responses_b,
        {
            "kl": kl.mean().item(),
            "kl_error": (kl.std() / len(kl) ** 0.5).item() if len(kl) > 1 else None,
            "perplexity_a": perplexity(at_one[0]),
            "perplexity_b": perplexity(at_one[1]),
        },
    )


def perplexity(logprobs: list[Tensor]) -> float:
    """Of all tokens of some responses, from their log-probabilities at temperature 1."""
    return (-torch.cat(logprobs).double().mean()).exp().item()


@torch.no_grad()
def logprobs(lm: "PreTrainedModel", rollout: Rollout, temperature: float, budget: int = 4096) -> list[Tensor]:
    """Log-probabilities ``[R_i]`` of every response by a model, in whole passes."""
    sequences, device = rollout.sequences, next(lm.parameters()).device
    found = [torch.zeros(0)] * len(rollout)
    for members in pack([len(ids) for ids in sequences], budget):
        hidden = lm.base_model(
            input_ids=pad([sequences[index] for index in members]).to(device)
        ).last_hidden_state
        for place, index in enumerate(members):
            prompt, size = len(rollout.prompt_ids[index]), rollout.sizes[index]
            rows = hidden[place, prompt - 1 : prompt - 1 + size]
            cap = getattr(lm.config, "final_logit_softcapping", None)
            found[index] = token_logprobs(
                rows, lm.get_output_embeddings(), rollout.response_ids[index].to(device), temperature, cap
            )[0].cpu()
    return found
