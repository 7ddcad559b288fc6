"""Best of n: of several responses of an untrained model the one that the reward likes best, a yardstick for
what it knows."""

import math
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from redline.data.records import Prompt, Response
from redline.engine.models import load_causal_lm, tokenizer_of
from redline.engine.rollout import Rollout
from redline.engine.settings import Model
from redline.engine.trunk import Trunk
from redline.engine.whole_pass import response_logprobs
from redline.policy.evaluate import perplexity
from redline.reward.rewards import build_reward
from redline.reward.settings import RewardTerm
from redline.sampling.local import InProcess
from redline.sampling.protocol import CurrentPolicy, Sampler
from redline.sampling.rollouts import respond
from redline.sampling.settings import Sampling
from redline.types import JsonObject

APART = 104_729  # between the seeds of the n samples: no other run's seed is met


def best_of_n(
    model: Model,
    terms: Sequence[RewardTerm],
    reward: Path | None,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    n: int,
    seed: int,
    sampler: Sampler | None = None,
) -> tuple[dict[int, list[Response]], list[Response], JsonObject]:
    """The best of 1, 2, 4, ... and ``n`` responses to each prompt, the reference's own, and the figures
    beside a win rate.

    ``sampler`` draws them; None: this process. Responses are ranked by the sum of their rewards. The
    reference's are drawn apart from the n. ``kl`` is
    ``log n - (n - 1) / n``, the KL of best-of-n from its model for rewards that never tie (Stiennon et al.
    2020, appendix G.3).
    """
    lm, tokenizer = load_causal_lm(model), tokenizer_of(model)
    score = build_reward(terms, reward, tokenizer, lm, Trunk())
    sampler, policy = InProcess() if sampler is None else sampler, CurrentPolicy(lm)
    reference, base = respond(
        sampler, policy, tokenizer, prompts, sampling, seed, title="sample the reference"
    )
    best: list[tuple[float, Response, Tensor]] = []
    found: dict[int, list[Response]] = {}
    for draw in range(1, n + 1):
        responses, rollout = respond(
            sampler, policy, tokenizer, prompts, sampling, seed + APART * draw, title=f"sample {draw} of {n}"
        )
        totals = [float(row.sum()) for row in score(rollout)]
        drawn = list(zip(totals, responses, rollout.response_ids, strict=True))
        best = (
            [max(pair, key=lambda one: one[0]) for pair in zip(best, drawn, strict=True)] if best else drawn
        )
        if draw == n or draw & (draw - 1) == 0:
            found[draw] = [response for _, response, _ in best]
    chosen = Rollout(base.prompts, base.prompt_ids, [ids for _, _, ids in best], [], [])
    return (
        found,
        reference,
        {
            "kl": kl_of(n),
            "kl_error": 0.0,
            "perplexity_a": perplexity(response_logprobs(lm, chosen, 1.0)),
            "perplexity_b": perplexity(response_logprobs(lm, base, 1.0)),
        },
    )


def kl_of(n: int) -> float:
    """KL of best-of-n from its model, in nats a response."""
    return math.log(n) - (n - 1) / n
