"""Every reward that PPO can take has one type: a rollout in, a float for each response token out.

Terms, forms (continuous, discrete), spreads (last, uniform, shuffled) and weighted sums are functions from
rewards to rewards; the trainer knows none of them by name.
"""

import zlib
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from redline.engine.rollout import Rollout
from redline.engine.trunk import Trunk
from redline.errors import UserError
from redline.functions import load_function
from redline.reward.model import RewardModel, load_reward_model
from redline.reward.offsets import Span, carry, response_offsets
from redline.reward.settings import RewardTerm

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


Reward = Callable[[Rollout], list[Tensor]]
"""Responses in; for each, one float for each of its tokens ``[R_i]`` out."""


def model_reward(model: RewardModel, tokenizer: "PreTrainedTokenizerBase") -> Reward:
    """The reward of a token or sequence model. End-of-text itself earns nothing from a token model; a
    sequence model's score lies on the response's last token.

    Where the model shares the policy's backbone, its lower states come from sampling. Where its tokenizer is
    another, the text is scored and the rewards are carried over by character offsets.
    """
    same = model.tokenizer.get_vocab() == tokenizer.get_vocab()

    def reward(batch: Rollout) -> list[Tensor]:
        if not same:
            return _by_text(model, tokenizer, batch)
        lengths = [
            len(ids) - ended for ids, ended in zip(batch.sequences, batch.ended, strict=True)
        ]  # without end-of-text
        whole = [ids[:length] for ids, length in zip(batch.sequences, lengths, strict=True)]
        states = None
        if model.shares and model.split.cut in batch.states.layers:
            kept = batch.states.at(model.split.cut)
            states = [rows[:length] for rows, length in zip(kept, lengths, strict=True)]
        scored = model.rewards(whole, [len(prompt) for prompt in batch.prompt_ids], states)
        return [
            _put(row, len(ids), last=model.kind == "sequence")
            for row, ids in zip(scored, batch.response_ids, strict=True)
        ]

    return reward


def function_reward(function: Callable[..., Sequence[Any]], tokenizer: "PreTrainedTokenizerBase") -> Reward:
    """The reward of a user's function of (prompts, responses): for each response a number, which lies on its
    last token, or a list of ``(start, end, reward)`` character spans. Raises UserError when it returns
    something else."""

    def reward(batch: Rollout) -> list[Tensor]:
        texts = _texts(tokenizer, batch)
        found = function(list(batch.prompts), [text for text, _ in texts])
        if not hasattr(found, "__len__") or len(found) != len(texts):
            what = f"{len(found)} rewards" if hasattr(found, "__len__") else repr(found)
            raise UserError(
                f"the reward function returned {what} for {len(texts)} responses; it must return a list "
                "with one for each, in order."
            )
        return [
            _from_function(value, offsets, index)
            for index, (value, (_, offsets)) in enumerate(zip(found, texts, strict=True))
        ]

    return reward


def discrete(reward: Reward, threshold: float) -> Reward:
    """+1 above ``threshold``, -1 below its negative, else 0 (the discrete ablation of TLCR)."""
    return _map(reward, lambda row: torch.where(row.abs() > threshold, row.sign(), 0.0))


def last(reward: Reward) -> Reward:
    """A response's total on its last token: a dense reward made into a sequence reward."""

    def moved(row: Tensor) -> Tensor:
        return torch.cat([torch.zeros(len(row) - 1), row.sum()[None]]) if len(row) else row

    return _map(reward, moved)


def uniform(reward: Reward) -> Reward:
    """A response's total spread evenly over its tokens."""
    return _map(reward, lambda row: torch.full_like(row, row.sum().item() / max(len(row), 1)))


def shuffled(reward: Reward) -> Reward:
    """A response's rewards permuted at random; the permutation depends on the response's tokens alone."""

    def permuted(batch: Rollout) -> list[Tensor]:
        return [
            row[
                torch.randperm(
                    len(row), generator=torch.Generator().manual_seed(zlib.crc32(ids.numpy().tobytes()))
                )
            ]
            for row, ids in zip(reward(batch), batch.response_ids, strict=True)
        ]

    return permuted


def weighted_sum(rewards: Sequence[tuple[float, Reward]]) -> Reward:
    """The sum of rewards times their weights."""

    def total(batch: Rollout) -> list[Tensor]:
        parts = [[weight * row for row in reward(batch)] for weight, reward in rewards]
        return [torch.stack(rows).sum(0) for rows in zip(*parts, strict=True)]

    return total


def checked(reward: Reward) -> Reward:
    """The same reward, held to its type: raises UserError naming the sample whose vector has the wrong
    length, NaN or infinity."""

    def check(batch: Rollout) -> list[Tensor]:
        rows = reward(batch)
        if len(rows) != len(batch.response_ids):
            raise UserError(f"the reward gave {len(rows)} vectors for {len(batch.response_ids)} responses.")
        for index, (row, ids) in enumerate(zip(rows, batch.response_ids, strict=True)):
            what = (
                f"{len(row)} rewards for {len(ids)} tokens"
                if row.shape != ids.shape
                else "a reward that is NaN or infinite"
                if not bool(row.isfinite().all())
                else ""
            )
            if what:
                prompt = batch.prompts[index]
                raise UserError(
                    f"the reward gave {what} for sample {index} (prompt {str(prompt)[:80]!r}). "
                    "Check the reward model or function on this prompt."
                )
        return rows

    return check


def build_reward(
    terms: Sequence[RewardTerm],
    own: Path | None,
    tokenizer: "PreTrainedTokenizerBase",
    share: "PreTrainedModel",
    trunk: Trunk,
) -> Reward:
    """The reward of a recipe's terms.

    ``own`` is the folder of the run's reward model, for terms that name no other. Models that share the
    policy's backbone use the weights of ``share``, and ``trunk`` keeps the states that they begin with.
    """
    built = []
    for term in terms:
        if term.function is not None:
            reward = function_reward(load_function(term.function), tokenizer)
        else:
            name = term.model or (str(own) if own else None)
            if name is None:
                raise UserError(
                    "policy.reward: a term needs `model` (a reward model's folder) or `function`, since the "
                    "run trains no reward model."
                )
            model = load_reward_model(name, share, trunk)
            reward = model_reward(model, tokenizer)
        reward = checked(reward)  # before a form or a sum hides what is wrong
        if term.form == "discrete":
            reward = discrete(reward, term.threshold)
        spread = {"token": lambda same: same, "last": last, "uniform": uniform, "shuffled": shuffled}[
            term.spread
        ]
        built.append((term.weight, spread(reward)))
    return weighted_sum(built)


def _map(reward: Reward, change: Callable[[Tensor], Tensor]) -> Reward:
    return lambda batch: [change(row) for row in reward(batch)]


def _put(row: Tensor, size: int, last: bool) -> Tensor:
    """Rewards of the text's tokens -> of all ``size`` tokens; a sequence score moves to the very last,
    end-of-text included."""
    found = torch.zeros(size)
    if last and size:
        found[-1] = row[-1]
    elif not last:
        found[: len(row)] = row
    return found


def _texts(tokenizer: "PreTrainedTokenizerBase", batch: Rollout) -> list[tuple[str, list[Span]]]:
    """The text of each response, and its tokens' characters."""
    return [
        response_offsets(tokenizer, ids.tolist(), prompt)
        for ids, prompt in zip(batch.response_ids, batch.prompts, strict=True)
    ]


def _by_text(model: RewardModel, tokenizer: "PreTrainedTokenizerBase", batch: Rollout) -> list[Tensor]:
    texts = _texts(tokenizer, batch)
    filled = [index for index, (text, _) in enumerate(texts) if text or model.kind == "sequence"]
    scored = model.score([batch.prompts[index] for index in filled], [texts[index][0] for index in filled])
    found = [torch.zeros(len(ids)) for ids in batch.response_ids]
    for index, (text, offsets, row) in zip(filled, scored, strict=True):
        if model.kind == "sequence":
            found[index] = _put(row, len(found[index]), last=True)
        else:
            shift = max(texts[index][0].find(text), 0)  # a chat template may trim white space in front
            found[index] = carry(
                row, [(start + shift, end + shift) for start, end in offsets], texts[index][1]
            )
    return found


def _from_function(value: Any, offsets: list[Span], index: int) -> Tensor:
    size = len(offsets)
    try:
        if isinstance(value, Real):
            return torch.tensor([0.0] * (size - 1) + [float(value)]) if size else torch.zeros(0)
        spans = sorted((int(start), int(end), float(reward)) for start, end, reward in value)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the reward function returned {value!r} for response {index}; it must be a number, or a list of "
            "(start, end, reward) character spans."
        ) from error
    if not size:
        return torch.zeros(0)
    return carry(
        torch.tensor([reward for _, _, reward in spans]), [(start, end) for start, end, _ in spans], offsets
    )
