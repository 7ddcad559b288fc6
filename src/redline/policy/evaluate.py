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
    own, of_reference = (_logprobs(lm, rollouts_a, sampling.temperature) for lm in (new, base))
    kl = torch.stack([(ours - theirs).sum() for ours, theirs in zip(own, of_reference, strict=True)]).double()
    at_one = of_reference if sampling.temperature == 1 else _logprobs(base, rollouts_a, 1.0)
    return responses_a, responses_b, {
        "kl": kl.mean().item(), "kl_error": (kl.std() / len(kl) ** 0.5).item() if len(kl) > 1 else None,
        "perplexity_a": _perplexity(at_one), "perplexity_b": perplexity(base, rollouts_b),
    }


def perplexity(lm: "PreTrainedModel", rollouts: list[Rollout]) -> float:
    """Of all response tokens of some rollouts under a model, at temperature 1."""
    return _perplexity(_logprobs(lm, rollouts, 1.0))


def _perplexity(logprobs: list[Tensor]) -> float:
    return (-torch.cat(logprobs).double().mean()).exp().item()


def _logprobs(lm: "PreTrainedModel", rollouts: list[Rollout], temperature: float) -> list[Tensor]:
    return [row for rollout in rollouts for row in _rows(lm, rollout, temperature)]


@torch.no_grad()
def _rows(lm: "PreTrainedModel", rollout: Rollout, temperature: float, budget: int = 4096) -> list[Tensor]:
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
