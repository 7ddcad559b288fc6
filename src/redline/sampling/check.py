"""Whether this process can sample from a model: tried before anything is trained.

Not every family gives a token at a time what it gives in one pass: some keep their past in another way, some
take no padding, some choose keys by an index once there are enough of them. So the trial has prompts of
unequal length, longer than the model's own windows where the run's prompts are.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from redline.engine.limits import limits, past
from redline.engine.logits import logits_of
from redline.errors import UserError
from redline.sampling.local import InProcess
from redline.sampling.protocol import CurrentPolicy, Request
from redline.sampling.settings import Sampling
from redline.types import Config, Network

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TRIAL_TOKENS = 6
SHORT, LONG = 5, 24  # tokens of the trial's two prompts, where no window asks for more
# nats that a token may be off on average, by the size of a weight in bytes: rounding is a tenth of that
MEAN_ERROR = {4: 0.01, 2: 0.2}
MAX_ERROR = {4: 0.05, 2: 2.0}  # of any one token
CANNOT = (TypeError, AttributeError, IndexError, KeyError, ValueError, RuntimeError, NotImplementedError)


@torch.no_grad()
def check_sampling(lm: "PreTrainedModel", prompt_sizes: Sequence[int] = (), new_tokens: int = 0) -> None:
    """Raise UserError for a model that reads what follows a token, that does something to its logits that
    ``logits_of`` does not know, or whose sampling here is not what one pass gives.

    ``prompt_sizes`` are the tokens of the run's prompts, ``new_tokens`` those of its longest responses: the
    trial goes past a window or an index of the model if the run will.
    """
    longest = max([LONG, *(size + new_tokens for size in prompt_sizes)])
    try:
        _check_one_pass(lm)
        errors = _errors(lm, SHORT, _trial_size(lm, longest))
    except torch.OutOfMemoryError:
        raise
    except CANNOT as reason:
        said = " ".join(str(reason).split())[:200]
        raise UserError(
            f"{lm.name_or_path}: {type(lm).__name__} cannot be sampled from with a cache and padded prompts "
            f"({type(reason).__name__}: {said}). Choose a model of another family."
        ) from reason
    mean, most, size = float(errors.mean()), float(errors.max()), min(lm.dtype.itemsize, 4)
    if not (mean <= MEAN_ERROR[size] and most <= MAX_ERROR[size]):
        raise UserError(
            f"{lm.name_or_path}: {type(lm).__name__} gives other probabilities a token at a time, with "
            f"prompts padded on the left, than in one pass ({mean:.2g} nats a token apart). Choose a model "
            "of another family."
        )


def _trial_size(lm: "PreTrainedModel", longest: int) -> int:
    """Tokens of the longer prompt: past the largest limit that the run's longest row passes."""
    config: Config = lm.config.get_text_config()
    shown = [min(past(limit), longest) for limit in limits(config) if limit < longest]
    places = getattr(config, "max_position_embeddings", None) or 0
    most = places - TRIAL_TOKENS if places > TRIAL_TOKENS else longest
    return min(max([LONG, *shown]), most)


def _random_ids(lm: "PreTrainedModel", count: int) -> list[int]:
    embedding: Network = lm.get_input_embeddings()
    size = int(embedding.weight.shape[0])
    special = {getattr(lm.config.get_text_config(), "pad_token_id", None)}
    ids = torch.randint(3, size, (count + 1,), generator=torch.Generator().manual_seed(count)).tolist()
    return [token if token not in special else 3 + token % 2 for token in ids][:count]


def _check_one_pass(lm: "PreTrainedModel") -> None:
    """Raise UserError for logits that depend on later tokens, or are not those of ``logits_of``."""
    ids = torch.tensor([_random_ids(lm, _trial_size(lm, LONG))], device=lm.device)
    whole = lm(input_ids=ids).logits.float()
    before = lm(input_ids=ids[:, :-1]).logits.float()
    half = ids.shape[1] // 2
    if not _close(whole[:, :half], before[:, :half], 5e-2):
        raise UserError(
            f"{lm.name_or_path}: {type(lm).__name__} reads what follows a token: it is no decoder (or needs "
            "is_decoder in its configuration). Choose a causal language model."
        )
    ours = logits_of(lm, lm.base_model(input_ids=ids).last_hidden_state).float()
    if not _close(whole, ours, 1e-2):
        raise UserError(
            f"{lm.name_or_path}: {type(lm).__name__} changes its logits behind the output embedding in a "
            "way that Redline does not know. Choose a model of another family."
        )


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def _errors(lm: "PreTrainedModel", short: int, long: int) -> Tensor:
    """Differences ``[N]``, in nats, of what the sampler and one pass say of each token, each row alone."""
    prompts = [_random_ids(lm, long), _random_ids(lm, short)]
    sampler = InProcess()
    sampler.sync(CurrentPolicy(lm))
    request = Request(Sampling(max_new_tokens=TRIAL_TOKENS), stop=[], seed=0)
    drawn = sampler.sample(prompts, 1, request)
    errors = []
    for prompt, response, logprobs in zip(prompts, drawn.ids, drawn.logprobs or (), strict=True):
        sequence = torch.tensor([[*prompt, *response]], device=lm.device)
        logits = lm(input_ids=sequence).logits[0, len(prompt) - 1 : -1].float()
        chosen = logits.log_softmax(-1).cpu().gather(1, torch.tensor(response)[:, None])[:, 0]
        errors.append((chosen - torch.tensor(logprobs)).abs())
    return torch.cat(errors)
