"""From the reward's own values to what PPO learns from: the scale, and the terms for a response's end."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from redline.console import console
from redline.engine.rollout import Rollout
from redline.policy.settings import Policy

SMALLEST_DEVIATION = 1e-6  # of returns: below it there is nothing to scale by


class Shaping:
    """Scales rewards so that returns have a standard deviation of 1, and adds the terms for ending a response
    or not.

    ``total`` adds a tensor up over processes.
    """

    def __init__(self, settings: Policy, total: Callable[[Tensor], Tensor]):
        self.settings, self.total = settings, total
        self.scale, self.mean_length = settings.reward_scale, 1.0

    @property
    def is_measured(self) -> bool:
        """Whether nothing has to be measured on responses of the reference."""
        return self.scale is not None and not self.settings.length_normalise

    def measure(self, samples: Iterable[tuple[Rollout, list[Tensor]]]) -> None:
        """Measure the scale and the mean length on responses of the reference; rewards ``[R_i]`` each."""
        returns, lengths = [], []
        for rollout, rewards in samples:
            for row in rewards:
                divisor = max(len(row), 1) if self.settings.length_normalise else 1
                returns.append(row.sum() / divisor)
            lengths += rollout.sizes
        values = torch.stack(returns).double()
        count, summed, squares, tokens = self.total(
            torch.stack(
                [
                    torch.tensor(len(values)).double(),
                    values.sum(),
                    values.square().sum(),
                    torch.tensor(lengths).sum().double(),
                ]
            )
        )
        mean = summed / count
        self.mean_length = (tokens / count).item()
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt().item()
        if self.settings.length_normalise:
            deviation *= self.mean_length
        if self.scale is not None:
            return
        if deviation > SMALLEST_DEVIATION:
            self.scale = 1 / deviation
            return
        self.scale = 1.0
        console.print(
            f"the reward of all {int(count)} responses of the reference is the same ({mean.item():.3g}): "
            "there is nothing to scale by or to learn from. Check policy.reward.",
            style="yellow",
            highlight=False,
        )

    def shape(self, reward: Tensor, ended: bool) -> Tensor:
        """The rewards ``[R]`` of a response, scaled, with the term for having ended or been cut off."""
        shaped = reward * (1.0 if self.scale is None else self.scale)
        if self.settings.length_normalise:
            shaped = shaped * self.mean_length / max(len(reward), 1)
        if len(shaped):
            shaped[-1] += self.settings.eos_reward if ended else -self.settings.no_eos_penalty
        return shaped

    def rows(self, rollout: Rollout, rewards: Iterable[Tensor]) -> list[Tensor]:
        """``shape`` of each response."""
        return [self.shape(reward, ended) for reward, ended in zip(rewards, rollout.ended, strict=True)]
