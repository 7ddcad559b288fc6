"""``examples/plain_ppo.py`` as what the trainer is held against: its update, and what a log would show."""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

PATH = Path(__file__).resolve().parents[2] / "examples/plain_ppo.py"
spec = importlib.util.spec_from_file_location("plain_ppo", PATH)
plain_ppo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plain_ppo)
Settings = plain_ppo.Settings


@dataclass
class Sampled(plain_ppo.Sample):
    """A sample, and whether its response ends with end-of-text."""

    ended: bool = False


@dataclass
class Update:
    """What an update saw: the means that a log would show, the gradient of every optimizer step, and what
    each response's tokens had ``[R]``: values, KL, and advantages before whitening."""

    means: dict[str, float] = field(default_factory=dict)
    gradients: list[list[Tensor]] = field(default_factory=list)
    columns: dict[str, list[Tensor]] = field(default_factory=dict)


def score_at_the_end(size: int, score: float) -> Tensor:
    """A sequence reward as a vector: the score on the last token."""
    reward = torch.zeros(size)
    reward[-1] = score
    return reward


class PlainPpo(plain_ppo.PlainPpo):
    """The example's loop, watched. With ``unbiased_returns`` the critic learns the sums of what follows
    (gamma 1) in place of advantage + value."""

    unbiased_returns = False

    def prepare(self, sample):
        known = super().prepare(sample)
        if self.unbiased_returns:
            rewards = sample.reward.to(known.kl) * self.settings.scale - self.settings.beta * known.kl
            known.returns = rewards.flip(0).cumsum(0).flip(0)
        return known

    def watched(self, batch: list, minibatches: list[list[int]]) -> Update:
        """One update, and what it saw."""
        known, norms, gradients = [self.prepare(sample) for sample in batch], [], []
        entropy = sum(self.entropy(sample) for sample in batch)

        def note(*_):
            gradients.append([parameter.grad.clone() for parameter in self.trained])

        clip = torch.nn.utils.clip_grad_norm_

        def clipped(parameters, limit):
            norms.append(clip(parameters, limit).item())

        hook = self.optimizer.register_step_pre_hook(note)
        plain_ppo.nn.utils.clip_grad_norm_ = clipped
        try:
            means = self.update(batch, minibatches)
        finally:
            plain_ppo.nn.utils.clip_grad_norm_ = clip
            hook.remove()
        columns = {name: [getattr(one, name) for one in known] for name in ("values", "kl", "advantages")}
        return Update(means | self.batch_means(batch, known, norms, entropy), gradients, columns)

    @torch.no_grad()
    def entropy(self, sample) -> float:
        """The sum over a response's tokens."""
        logits = self.policy(input_ids=torch.cat([sample.prompt, sample.response])[None]).logits[0]
        before = torch.arange(len(sample.response)) + len(sample.prompt) - 1
        chances = torch.distributions.Categorical(logits=logits[before] / self.settings.temperature)
        return chances.entropy().sum().item()

    def batch_means(self, batch: list, known: list, norms: list[float], entropy: float) -> dict[str, float]:
        """What a log shows of the batch itself."""
        count, total = len(batch), sum(len(sample.response) for sample in batch)
        kl, advantages, values, returns = (
            torch.cat([getattr(one, name) for one in known])
            for name in ("kl", "advantages", "values", "returns")
        )
        raw_reward = sum(sample.reward.sum().item() for sample in batch) / count
        unexplained = (returns - values).var(correction=0) / returns.var(correction=0)
        return {
            "advantage_mean": advantages.mean().item(),
            "advantage_std": advantages.var(correction=0).sqrt().item(),
            "grad_norm": sum(norms) / len(norms),
            "length": total / count,
            "ended": sum(sample.ended for sample in batch) / count,
            "raw_reward": raw_reward,
            "reward": raw_reward * self.settings.scale,
            "kl": kl.sum().item() / count,
            "entropy": entropy / total,
            "explained_variance": 1 - unexplained.item() if total > 1 else float("nan"),
        }
