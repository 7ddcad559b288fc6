"""A policy beside its reference on held-out prompts: responses from the same random numbers, KL, and
perplexity."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from redline.data.records import Prompt, Response
from redline.engine.models import load_causal_lm, tokenizer_of
from redline.engine.settings import ADAPTER, Model
from redline.engine.whole_pass import response_logprobs
from redline.sampling.local import InProcess
from redline.sampling.protocol import CurrentPolicy, Sampler
from redline.sampling.rollouts import respond
from redline.sampling.settings import Sampling
from redline.types import JsonObject


def side_by_side(
    policy: Model,
    reference: Model,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    seed: int,
    sampler: Sampler | None = None,
) -> tuple[list[Response], list[Response], JsonObject]:
    """Responses of the policy and of the reference, and figures that guard a win rate.

    ``sampler`` draws them; None: this process. A LoRA policy's adapter is expected in its folder's `adapter`.
    ``kl``: nats a response, KL(policy, reference) estimated on the policy's own samples at the sampling
    temperature, with its standard error; ``perplexity_a`` and ``perplexity_b``: of the two models' responses
    under the reference, at temperature 1.
    """
    tokenizer = tokenizer_of(reference)
    new, base = load_causal_lm(policy), load_causal_lm(reference)
    adapter = Path(policy.name) / ADAPTER
    drawn_from = CurrentPolicy(new, adapter if adapter.is_dir() else None)
    sampler = InProcess() if sampler is None else sampler
    responses_a, rollout_a = respond(
        sampler, drawn_from, tokenizer, prompts, sampling, seed, title="sample the policy"
    )
    responses_b, rollout_b = respond(
        sampler, CurrentPolicy(base), tokenizer, prompts, sampling, seed, title="sample the reference"
    )
    # another sampler's arithmetic differs from that of the passes that are subtracted: only our own is taken
    ours = isinstance(sampler, InProcess)
    if ours:
        of_policy = rollout_a.logprobs
    else:
        of_policy = response_logprobs(new, rollout_a, sampling.temperature)
    of_reference = response_logprobs(base, rollout_a, sampling.temperature)
    log_ratios = [(own - other).sum() for own, other in zip(of_policy, of_reference, strict=True)]
    kl = torch.stack(log_ratios).double()
    # perplexity is taken at temperature 1: what is already known there is not computed again
    policy_at_one = of_reference
    if sampling.temperature != 1:
        policy_at_one = response_logprobs(base, rollout_a, 1.0)
    if ours and sampling.temperature == 1:
        base_at_one = rollout_b.logprobs
    else:
        base_at_one = response_logprobs(base, rollout_b, 1.0)
    kl_error = None
    if len(kl) > 1:
        kl_error = (kl.std() / len(kl) ** 0.5).item()
    figures = {
        "kl": kl.mean().item(),
        "kl_error": kl_error,
        "perplexity_a": perplexity(policy_at_one),
        "perplexity_b": perplexity(base_at_one),
    }
    return responses_a, responses_b, figures


def perplexity(logprobs: list[Tensor]) -> float:
    """Of all tokens of some responses, from their log-probabilities at temperature 1."""
    return (-torch.cat(logprobs).double().mean()).exp().item()
