"""Every reward that PPO can take has one type: a rollout in, a float for each response token out.

Terms, forms (continuous, discrete), spreads (last, uniform, shuffled) and weighted sums are functions from
rewards to rewards; the trainer knows none of them by name.
"""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from redline.engine.rollout import Rollout
from redline.engine.trunk import Trunk
from redline.errors import UserError
from redline.functions import load_function
from redline.reward.functions import function_reward
from redline.reward.log_ratio import log_ratio_reward
from redline.reward.model import RewardModel, load_reward_model
from redline.reward.offsets import carry, response_offsets
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
        sequences = batch.sequences
        without_end = [len(ids) - ended for ids, ended in zip(sequences, batch.ended, strict=True)]
        states = None
        if model.shares and model.split.cut in batch.states.layers:
            states = _first(batch.states.at(model.split.cut), without_end)
        prompt_sizes = [len(prompt) for prompt in batch.prompt_ids]
        scored = model.rewards(_first(sequences, without_end), prompt_sizes, states)
        place = _on_last if model.kind == "sequence" else _padded
        return [place(row, size) for row, size in zip(scored, batch.sizes, strict=True)]

    return reward


def discrete(reward: Reward, threshold: float) -> Reward:
    """+1 above ``threshold``, -1 below its negative, else 0 (the discrete ablation of TLCR)."""
    return _map(reward, lambda row: torch.where(row.abs() > threshold, row.sign(), 0.0))


def last(reward: Reward) -> Reward:
    """A response's total on its last token: a dense reward made into a sequence reward."""

    return _map(reward, lambda row: _on_last(row.sum()[None], len(row)))


def uniform(reward: Reward) -> Reward:
    """A response's total spread evenly over its tokens."""

    def spread(row: Tensor) -> Tensor:
        mean = row.sum().item() / max(len(row), 1)
        return torch.full_like(row, mean)

    return _map(reward, spread)


def shuffled(reward: Reward) -> Reward:
    """A response's rewards permuted at random; the permutation depends on the response's tokens alone."""

    def permuted(row: Tensor, ids: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(ids.numpy().tobytes()))
        return row[torch.randperm(len(row), generator=generator)]

    def shuffle(batch: Rollout) -> list[Tensor]:
        return [permuted(row, ids) for row, ids in zip(reward(batch), batch.response_ids, strict=True)]

    return shuffle


def weighted_sum(rewards: Sequence[tuple[float, Reward]]) -> Reward:
    """The sum of rewards times their weights."""

    def total(batch: Rollout) -> list[Tensor]:
        terms = []
        for weight, reward in rewards:
            terms.append([weight * row for row in reward(batch)])
        return [torch.stack(rows).sum(0) for rows in zip(*terms, strict=True)]

    return total


def checked(reward: Reward) -> Reward:
    """The same reward, held to its type: raises UserError naming the sample whose vector has the wrong
    length, NaN or infinity."""

    def check(batch: Rollout) -> list[Tensor]:
        rows = reward(batch)
        if len(rows) != len(batch.response_ids):
            raise UserError(f"the reward gave {len(rows)} vectors for {len(batch.response_ids)} responses.")
        for index, (row, ids) in enumerate(zip(rows, batch.response_ids, strict=True)):
            what = ""
            if row.shape != ids.shape:
                what = f"{len(row)} rewards for {len(ids)} tokens"
            elif not bool(row.isfinite().all()):
                what = "a reward that is NaN or infinite"
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
    weighted = []
    for term in terms:
        if term.log_ratio is not None:
            reward = log_ratio_reward(term.log_ratio, tokenizer)
        elif term.function is not None:
            reward = function_reward(load_function(term.function), tokenizer)
        else:
            model = load_reward_model(_model_of(term, own), share, trunk)
            reward = model_reward(model, tokenizer)
        reward = checked(reward)  # before a form or a sum hides what is wrong
        if term.form == "discrete":
            reward = discrete(reward, term.threshold)
        weighted.append((term.weight, _spread(reward, term.spread)))
    return weighted_sum(weighted)


def _model_of(term: RewardTerm, own: Path | None) -> str:
    if term.model is not None:
        return term.model
    if own is None:
        raise UserError(
            "policy.reward: a term needs `model` (a reward model's folder) or `function`, since the run "
            "trains no reward model."
        )
    return str(own)


def _spread(reward: Reward, spread: str) -> Reward:
    if spread == "last":
        return last(reward)
    if spread == "uniform":
        return uniform(reward)
    if spread == "shuffled":
        return shuffled(reward)
    return reward


def _map(reward: Reward, change: Callable[[Tensor], Tensor]) -> Reward:
    return lambda batch: [change(row) for row in reward(batch)]


def _first(rows: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """The first so many entries of each row."""
    return [row[:size] for row, size in zip(rows, sizes, strict=True)]


def _padded(row: Tensor, size: int) -> Tensor:
    """Rewards of a text's tokens -> of all ``size`` tokens: end-of-text has none."""
    rewards = torch.zeros(size)
    rewards[: len(row)] = row
    return rewards


def _on_last(row: Tensor, size: int) -> Tensor:
    """A sequence score moves to the very last of ``size`` tokens, end-of-text included."""
    rewards = torch.zeros(size)
    if size:
        rewards[-1] = row[-1]
    return rewards


def _by_text(model: RewardModel, tokenizer: "PreTrainedTokenizerBase", batch: Rollout) -> list[Tensor]:
    """The rewards of a model with another tokenizer: its own tokens' rewards, carried over by characters."""
    on_last = model.kind == "sequence"
    rewards = [torch.zeros(size) for size in batch.sizes]
    indices, prompts, texts, spans = [], [], [], []
    for index, (prompt, ids) in enumerate(zip(batch.prompts, batch.response_ids, strict=True)):
        text, offsets = response_offsets(tokenizer, ids.tolist(), prompt)
        if text or on_last:
            indices.append(index)
            prompts.append(prompt)
            texts.append(text)
            spans.append(offsets)
    scored = model.score(prompts, list(texts))
    for index, text, offsets, (read, source, row) in zip(indices, texts, spans, scored, strict=True):
        if on_last:
            rewards[index] = _on_last(row, len(offsets))
            continue
        shift = max(text.find(read), 0)  # a chat template may trim white space in front
        shifted = [(start + shift, end + shift) for start, end in source]
        rewards[index] = carry(row, shifted, offsets)
    return rewards
