"""One batch of PPO, from sampling to the loss."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from redline.engine.batching import pad
from redline.engine.rollout import Rollout
from redline.policy.loss import OldTokens


@dataclass
class Batch:
    """Some responses and all that an update learns of their tokens.

    ``B`` responses, ``T`` tokens of the longest, padded on the right: what lies in the padding never matters.
    The fields are filled in their order; see ``redline.policy.ppo.Ppo.update``. All lie on the CPU.
    """

    rollout: Rollout
    raw_rewards: Tensor  # [B, T] as the reward gave them
    mask: Tensor  # [B, T] True at response tokens
    logprobs: Tensor = field(init=False)  # [B, T] of the policy, re-scored
    values: Tensor | None = field(init=False, default=None)  # [B, T] of the critic; None without one
    entropies: Tensor = field(init=False)  # [B, T] of the policy, in nats
    reference: Tensor = field(init=False)  # [B, T] log-probabilities of the reference
    kl: Tensor = field(init=False)  # [B, T] each token's estimate, in nats
    rewards: Tensor = field(init=False)  # [B, T] scaled, with the terms for the end
    advantages: Tensor = field(init=False)  # [B, T]
    importance: Tensor = field(init=False)  # [B, T] weights of the advantages, 1 without a correction
    returns: Tensor | None = field(init=False, default=None)  # [B, T] what the critic learns

    @classmethod
    def of(cls, rollout: Rollout, rewards: Sequence[Tensor]) -> "Batch":
        """Responses with their rewards, ``[R_i]`` each."""
        mask = pad([torch.ones(size, dtype=torch.bool) for size in rollout.sizes])
        return cls(rollout, pad(rewards), mask)

    def __len__(self) -> int:
        return len(self.rollout)

    @property
    def sizes(self) -> list[int]:
        """Tokens of each response."""
        return self.rollout.sizes

    def rows(self, column: Tensor) -> list[Tensor]:
        """One of the tensors ``[B, T]`` without padding: ``[R_i]`` a response."""
        return [row[:size] for row, size in zip(column, self.sizes, strict=True)]

    def sums(self, column: Tensor) -> list[float]:
        """The sum of each response's tokens."""
        return [float(row.sum()) for row in self.rows(column)]

    def old_tokens(self, rows: list[int], advantages: Tensor, device: torch.device) -> OldTokens:
        """What the loss needs of some responses, ``[N]``: their tokens, one response behind the other.
        ``advantages`` ``[B, T]`` are those that the policy is moved by."""

        def tokens(column: Tensor) -> Tensor:
            return torch.cat([column[row, : self.sizes[row]] for row in rows]).to(device)

        return OldTokens(
            logprobs=tokens(self.logprobs),
            advantages=tokens(advantages),
            values=None if self.values is None else tokens(self.values),
            returns=None if self.returns is None else tokens(self.returns),
        )
