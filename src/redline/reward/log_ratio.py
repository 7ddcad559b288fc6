"""A reward from two language models: how much likelier one holds each token than the other.

What DPO, BCO or SPIN have learned becomes a reward for every token (as in RTO, 2404.18922). With a text in
front of the first model's prompts, that model is a teacher in hindsight: it knows what was asked for."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from redline.data.records import Text
from redline.data.tokenization import encode_prompt, encode_response, load_tokenizer
from redline.engine.models import load_causal_lm
from redline.engine.rollout import Rollout
from redline.engine.settings import Model
from redline.engine.trunk import LowerStates
from redline.engine.whole_pass import response_logprobs
from redline.reward.offsets import carry, response_offsets
from redline.reward.settings import LogRatio

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Scorer = Callable[[Rollout], list[Tensor]]


def log_ratio_reward(settings: LogRatio, tokenizer: "PreTrainedTokenizerBase") -> Scorer:
    """``beta (log pi_A - log pi_B)`` of each response token ``[R_i]``, at temperature 1. Neither model is
    trained.

    ``tokenizer`` is the policy's. A model with another one reads the text; its tokens' log-probabilities move
    to the policy's tokens by characters."""
    score = _logprobs_by(settings.model, settings.context, tokenizer)
    score_over = _logprobs_by(settings.over, "", tokenizer)

    def reward(batch: Rollout) -> list[Tensor]:
        pairs = zip(score(batch), score_over(batch), strict=True)
        return [settings.beta * (logprobs - over) for logprobs, over in pairs]

    return reward


def with_context(prompt: Text, context: str) -> Text:
    """A prompt with a text in front: above a text, or as the system's message of a conversation (joined to
    one that is there)."""
    if not context:
        return prompt
    if isinstance(prompt, str):
        return f"{context}\n\n{prompt}"
    if prompt and prompt[0].get("role") == "system":
        joined = {**prompt[0], "content": f"{context}\n\n{prompt[0].get('content', '')}"}
        return [joined, *prompt[1:]]
    return [{"role": "system", "content": context}, *prompt]


def _logprobs_by(name: str, context: str, ours: "PreTrainedTokenizerBase") -> Scorer:
    """Log-probabilities of a model, on the policy's tokens."""
    lm, theirs = load_causal_lm(Model(name=name)), load_tokenizer(name)
    same = theirs.get_vocab() == ours.get_vocab()

    def prompts_of(batch: Rollout) -> list[Tensor]:
        if same and not context:
            return batch.prompt_ids
        texts = [with_context(prompt, context) for prompt in batch.prompts]
        return [torch.tensor(encode_prompt(theirs, text), dtype=torch.long) for text in texts]

    def score(batch: Rollout) -> list[Tensor]:
        read = replace(batch, prompt_ids=prompts_of(batch), logprobs=[], states=LowerStates())
        if same:
            return response_logprobs(lm, read, 1.0)
        their_ids, their_offsets, our_offsets = [], [], []
        for prompt, ids in zip(batch.prompts, batch.response_ids, strict=True):
            text, offsets = response_offsets(ours, ids.tolist(), prompt)
            response = encode_response(theirs, prompt, text)
            their_ids.append(torch.tensor(response.ids, dtype=torch.long))
            their_offsets.append(response.offsets)
            our_offsets.append(offsets)
        logprobs = response_logprobs(lm, replace(read, response_ids=their_ids), 1.0)
        on_theirs = zip(logprobs, their_offsets, our_offsets, strict=True)
        return [carry(row, source, target) for row, source, target in on_theirs]

    return score
