"""The seam for rewards of one's own: a Python function of prompts and responses."""

import inspect
import traceback
from collections.abc import Callable, Sequence, Sized
from numbers import Real
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from redline.engine.rollout import Rollout
from redline.errors import UserError
from redline.reward.offsets import Span, carry, response_offsets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from redline.data.records import Text

OfResponse = float | Sequence[float] | Tensor | Sequence[tuple[int, int, float]]
"""What a reward function may return for a response (see ``RewardFunction``)."""

EXPECTED = (
    "it must be one float for each token, a number for the whole response, or a list of (start, end, reward) "
    "character spans"
)


class RewardFunction(Protocol):
    """A reward: ``(prompts, responses) -> one float for each response token``.

    ``prompts`` are as the data has them (text, or messages), ``responses`` are text without special tokens.
    It returns one entry for each response, in order, in any of these forms:

    - a list, array or tensor of floats, one for each of the response's tokens. A function with a parameter
      named ``tokens`` is given them: for each response the list of its tokens' texts ("" for special tokens,
      such as end-of-text).
    - a number: the reward of the whole response, which lies on its last token.
    - a list of ``(start, end, reward)``: rewards of characters ``[start, end)`` of the response, which are
      carried to the tokens that share these characters.

    In a recipe it is named ``policy.reward: [{function: "my_rewards.py:brevity"}]``.
    """

    def __call__(self, prompts: "list[Text]", responses: list[str]) -> Sequence[OfResponse]: ...


def _raised(function: Callable[..., object], error: Exception) -> str:
    """What a function raised, and the line that did."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    name = getattr(function, "__name__", type(function).__name__)
    return f"the reward function {name} raised {said} ({last.filename}, line {last.lineno}). Correct it."


def function_reward(
    function: Callable[..., Sequence[OfResponse]], tokenizer: "PreTrainedTokenizerBase"
) -> Callable[[Rollout], list[Tensor]]:
    """The reward of a user's function: for each response a tensor ``[R_i]``. It raises UserError when the
    function returns something else than ``RewardFunction`` says."""
    wants_tokens = "tokens" in inspect.signature(function).parameters

    def reward(batch: Rollout) -> list[Tensor]:
        texts, offsets = [], []
        for prompt, ids in zip(batch.prompts, batch.response_ids, strict=True):
            text, spans = response_offsets(tokenizer, ids.tolist(), prompt)
            texts.append(text)
            offsets.append(spans)
        options = {}
        if wants_tokens:
            options["tokens"] = _tokens(texts, offsets)
        try:
            returned = function(list(batch.prompts), texts, **options)
        except (UserError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever the user's own function raises is the user's to mend
            raise UserError(_raised(function, error)) from error
        _check_count(returned, len(texts))
        rewards = []
        for index, (value, spans) in enumerate(zip(returned, offsets, strict=True)):
            rewards.append(_on_tokens(value, spans, index))
        return rewards

    return reward


def _tokens(texts: Sequence[str], offsets: Sequence[list[Span]]) -> list[list[str]]:
    """The text of each token of each response."""
    tokens = []
    for text, spans in zip(texts, offsets, strict=True):
        tokens.append([text[start:end] for start, end in spans])
    return tokens


def _check_count(returned: object, count: int) -> None:
    if isinstance(returned, Sized):
        if len(returned) == count:
            return
        what = f"{len(returned)} rewards"
    else:
        what = repr(returned)
    raise UserError(
        f"the reward function returned {what} for {count} responses; it must return a list with one for "
        "each, in order."
    )


def _on_tokens(value: OfResponse, offsets: list[Span], index: int) -> Tensor:
    """What a function returned for a response -> its tokens' rewards ``[R]``."""
    size = len(offsets)
    plain: object = value
    if hasattr(value, "tolist"):  # a tensor or an array
        plain = value.tolist()
    if isinstance(plain, Real):
        return _on_last(float(plain), size)
    if isinstance(plain, Sequence) and plain and all(isinstance(entry, Real) for entry in plain):
        return _dense([float(entry) for entry in plain], size, index)
    spans = _spans(plain, index)
    if not size:
        return torch.zeros(0)
    rewards = torch.tensor([reward for _, _, reward in spans])
    source = [(start, end) for start, end, _ in spans]
    return carry(rewards, source, offsets)


def _spans(value: object, index: int) -> list[tuple[int, int, float]]:
    try:
        if not isinstance(value, Sequence):
            raise TypeError
        return sorted((int(start), int(end), float(reward)) for start, end, reward in value)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the reward function returned {value!r} for response {index}; {EXPECTED}."
        ) from error


def _on_last(reward: float, size: int) -> Tensor:
    rewards = torch.zeros(size)
    if size:
        rewards[-1] = reward
    return rewards


def _dense(rewards: list[float], size: int, index: int) -> Tensor:
    if len(rewards) != size:
        raise UserError(
            f"the reward function returned {len(rewards)} floats for response {index}, which has {size} "
            f"tokens; {EXPECTED}. A parameter named `tokens` is given the tokens."
        )
    return torch.tensor(rewards)
