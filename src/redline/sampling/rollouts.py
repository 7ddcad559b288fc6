"""What everything that samples calls: prompts in, a rollout out, whichever sampler draws it."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from redline.console import progress_bar
from redline.data.records import Prompt, Response, Text
from redline.data.tokenization import decode_response
from redline.engine.models import eos_ids, load_causal_lm, tokenizer_of
from redline.engine.rollout import Rollout
from redline.engine.settings import Model
from redline.errors import UserError
from redline.sampling.check import check_sampling
from redline.sampling.local import InProcess
from redline.sampling.protocol import CurrentPolicy, Drawn, Request, Sampler
from redline.sampling.settings import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prompt_tokens(tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[Prompt]) -> list[list[int]]:
    """The token ids of prompts. Raises UserError for a prompt without any, since a model cannot continue
    nothing."""
    from redline.data.tokenization import encode_prompt

    encoded = [encode_prompt(tokenizer, prompt.prompt) for prompt in prompts]
    for prompt, ids in zip(prompts, encoded, strict=True):
        if not ids:
            raise UserError(
                f"prompt {prompt.id}: is empty, and this tokenizer puts no token in front: there is nothing "
                "to continue. Give data.prompts (and data.eval_prompts) with text."
            )
    return encoded


def sample_rollout(
    sampler: Sampler,
    policy: CurrentPolicy,
    prompt_ids: Sequence[Sequence[int]],
    request: Request,
    n: int = 1,
    texts: Sequence[Text] | None = None,
) -> Rollout:
    """``n`` responses to each prompt (token ids; ``texts`` are the prompts as given, for rewards that read
    them), ``n`` rows for the first prompt, then for the second.

    ``sampler.sync(policy)`` came before. The states that ``policy.trunk`` wants and the sampler did not keep
    are computed here. Raises UserError for what cannot be responses to these prompts.
    """
    returned = sampler.sample([list(prompt) for prompt in prompt_ids], n, request)
    drawn = returned if isinstance(returned, Drawn) else Drawn(*returned)
    return rollout_of(drawn, policy, prompt_ids, request, n, texts)


def rollout_of(
    drawn: Drawn,
    policy: CurrentPolicy,
    prompt_ids: Sequence[Sequence[int]],
    request: Request,
    n: int = 1,
    texts: Sequence[Text] | None = None,
) -> Rollout:
    """What a sampler returned, checked and completed; see ``sample_rollout``."""
    repeated = [prompt for prompt in prompt_ids for _ in range(n)]
    texts = [""] * len(prompt_ids) if texts is None else texts
    ids = [[int(token) for token in response] for response in drawn.ids]
    _check(ids, len(repeated), request, policy.lm.config.vocab_size)
    logprobs = [] if drawn.logprobs is None else [[float(nats) for nats in row] for row in drawn.logprobs]
    if drawn.logprobs is not None:
        _check_logprobs(logprobs, ids)
    stop = set(request.stop)
    rollout = Rollout(
        prompts=[text for text in texts for _ in range(n)],
        prompt_ids=[torch.tensor(prompt) for prompt in repeated],
        response_ids=[torch.tensor(response, dtype=torch.long) for response in ids],
        logprobs=[torch.tensor(row, dtype=torch.float32) for row in logprobs],
        ended=[bool(response) and response[-1] in stop for response in ids],
    )
    if drawn.states is None:
        rollout.states = policy.trunk.states(policy.lm, rollout.sequences)
    else:
        rollout.states = drawn.states
    return rollout


def _check(ids: list[list[int]], count: int, request: Request, vocabulary: int) -> None:
    """Raise UserError for token ids that cannot be responses."""
    if len(ids) != count:
        raise UserError(
            f"policy.sampler returned {len(ids)} responses where {count} were asked for. It must return "
            "them all, in order."
        )
    stop, longest = set(request.stop), request.sampling.max_new_tokens
    for index, response in enumerate(ids):
        if len(response) > longest or any(not 0 <= token < vocabulary for token in response):
            raise UserError(
                f"policy.sampler returned {len(response)} tokens for response {index}, of at most {longest} "
                f"in a vocabulary of {vocabulary}. Check that it uses the policy's tokenizer and settings."
            )
        if not stop.isdisjoint(response[:-1]):
            raise UserError(
                f"policy.sampler returned tokens behind the end of text for response {index}. It must stop "
                "there."
            )


def _check_logprobs(logprobs: list[list[float]], ids: list[list[int]]) -> None:
    """Raise UserError for log-probabilities that do not belong to these tokens."""
    sizes = [len(row) for row in logprobs]
    if sizes != [len(response) for response in ids]:
        raise UserError(
            "policy.sampler must return one log-probability for each token of each response, or None in "
            "place of all."
        )
    if not all(math.isfinite(nats) for row in logprobs for nats in row):
        raise UserError(
            "policy.sampler returned a log-probability that is not finite. Return None for all where they "
            "are not known."
        )


def respond(
    sampler: Sampler,
    policy: CurrentPolicy,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Prompt],
    sampling: Sampling,
    seed: int,
    title: str = "sample",
) -> tuple[list[Response], Rollout]:
    """One response to each prompt as a record, and the rollout behind them, with a progress bar. The same
    seed gives every policy the same random numbers."""
    ids = prompt_tokens(tokenizer, prompts)
    check_sampling(policy.lm, list(map(len, ids)), sampling.max_new_tokens)
    texts = [prompt.prompt for prompt in prompts]
    stop = eos_ids(policy.lm, tokenizer, texts)
    sampler.sync(policy)
    with progress_bar(title, len(prompts)) as bar:
        request = Request(sampling, stop, seed, done=bar.advance)
        rollout = sample_rollout(sampler, policy, ids, request, texts=texts)
    responses = [
        Response(
            id=prompt.id,
            prompt=prompt.prompt,
            response=decode_response(tokenizer, response.tolist(), prompt.prompt),
        )
        for prompt, response in zip(prompts, rollout.response_ids, strict=True)
    ]
    return responses, rollout


def sample_responses(
    model: Model, prompts: Sequence[Prompt], sampling: Sampling, seed: int
) -> list[Response]:
    """One response to each prompt by a model, sampled in this process."""
    lm = load_causal_lm(model)
    tokenizer = tokenizer_of(model)
    policy = CurrentPolicy(lm)
    return respond(InProcess(), policy, tokenizer, prompts, sampling, seed, title=f"sample {model.name}")[0]
