"""From the reward's own values to what PPO learns from: the scale, and the terms for a response's end."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from redline.console import warn
from redline.engine.rollout import Rollout
from redline.policy.scale import reward_scale
from redline.policy.settings import Policy


class Shaping:
    """Scales rewards so that returns have a standard deviation of 1, and adds the terms for ending a response
    or not.

    ``gather`` joins the lists of all processes.
    """

    def __init__(self, settings: Policy, gather: Callable[[list[Any]], list[Any]]):
        self.settings, self.gather = settings, gather
        self.scale, self.mean_length = settings.reward_scale, 1.0

    @property
    def is_measured(self) -> bool:
        """Whether nothing has to be measured on responses of the reference."""
        return self.scale is not None and not self.settings.length_normalise

    def measure(self, samples: Iterable[tuple[Rollout, list[Tensor]]]) -> None:
        """Measure the scale and the mean length on responses of the reference; rewards ``[R_i]`` each."""
        measured: list[tuple[float, int]] = []
        for rollout, rewards in samples:
            for row, size in zip(rewards, rollout.sizes, strict=True):
                divisor = max(len(row), 1) if self.settings.length_normalise else 1
                measured.append((float(row.sum()) / divisor, size))
        measured = self.gather(measured)
        self.mean_length = sum(size for _, size in measured) / len(measured)
        if self.scale is not None:
            return
        factor = self.mean_length if self.settings.length_normalise else 1.0
        returns = torch.tensor([total * factor for total, _ in measured], dtype=torch.float64)
        self.scale, warning = reward_scale(returns)
        if warning:
            warn(warning)

    def shape(self, reward: Tensor, ended: bool) -> Tensor:
        """The rewards ``[R]`` of a response, scaled, with the term for having ended or been cut off."""
        shaped = reward * (1.0 if self.scale is None else self.scale)
        if self.settings.length_normalise:
            shaped = shaped * self.mean_length / max(len(reward), 1)
        if len(shaped):
            if ended:
                shaped[-1] += self.settings.eos_reward
            else:
                shaped[-1] -= self.settings.no_eos_penalty
        return shaped

    def rows(self, rollout: Rollout, rewards: Iterable[Tensor]) -> list[Tensor]:
        """``shape`` of each response."""
        return [self.shape(reward, ended) for reward, ended in zip(rewards, rollout.ended, strict=True)]
