"""Ordinary PPO for language models, written to be read and to be trusted: what the engine is held against.

One response at a time, whole passes, nothing padded, nothing packed, nothing cached; advantages by their
definition; one critic head. Works in any dtype. It shares no code with the engine.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Sampled:
    """A prompt, a response to it (token ids ``[P]`` and ``[R]``), and the response's reward ``[R]`` as the
    reward model gave it."""

    prompt: Tensor
    response: Tensor
    reward: Tensor
    ended: bool = False


@dataclass
class Settings:
    clip: float = 0.2
    value_clip: float = 0.2
    value_coefficient: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    beta: float = 0.02
    temperature: float = 1.0
    max_grad_norm: float = 1.0
    scale: float = 1.0
    unbiased_returns: bool = (
        False  # what the critic learns: the sums of what follows (gamma 1) in place of advantage + value
    )


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


class PlainPpo:
    """PPO on ``policy`` (a causal language model) and ``head`` (linear, to one value), against the fixed
    ``reference``."""

    def __init__(self, policy, reference, head, optimizer, schedule, settings: Settings):
        self.policy, self.reference, self.head, self.settings = policy, reference, head, settings
        self.optimizer, self.schedule = optimizer, schedule

    @property
    def trained(self) -> list[Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def look(self, model, one: Sampled) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, values and entropies ``[R]`` of a response's tokens."""
        sequence = torch.cat([one.prompt, one.response])
        output = model(input_ids=sequence[None], output_hidden_states=True)
        before = (
            torch.arange(len(one.response)) + len(one.prompt) - 1
        )  # a token is predicted at the position before it
        distribution = (output.logits[0, before] / self.settings.temperature).log_softmax(-1)
        logprobs = distribution[torch.arange(len(before)), one.response]
        entropies = -(distribution.exp() * distribution).sum(-1)
        return logprobs, self.head(output.hidden_states[-1][0, before])[:, 0], entropies

    def advantages(self, rewards: Tensor, values: Tensor) -> Tensor:
        """The sum over k of (gamma lambda)^k delta_{t+k}, by that definition."""
        gamma, lam, size = self.settings.gamma, self.settings.lam, len(rewards)
        following = torch.cat([values[1:], values.new_zeros(1)])
        deltas = rewards + gamma * following - values
        sums = [sum((gamma * lam) ** k * deltas[t + k] for k in range(size - t)) for t in range(size)]
        return torch.stack(sums) if size else rewards

    def update(self, batch: list[Sampled], minibatches: list[list[int]]) -> Update:
        """One update on a batch; each list of row numbers is an optimizer step."""
        how, found = self.settings, Update()
        with torch.no_grad():
            looked = [self.look(self.policy, one) for one in batch]
            base = [self.look(self.reference, one)[0] for one in batch]
        old, old_values, entropies = zip(*looked, strict=True)
        kls = [logprobs - other for logprobs, other in zip(old, base, strict=True)]
        rewards = [one.reward.to(kl) * how.scale - how.beta * kl for one, kl in zip(batch, kls, strict=True)]
        advantages = [self.advantages(*pair) for pair in zip(rewards, old_values, strict=True)]
        returns = [one + value for one, value in zip(advantages, old_values, strict=True)]
        if how.unbiased_returns:
            returns = [row.flip(0).cumsum(0).flip(0) for row in rewards]
        found.columns = {"values": list(old_values), "kl": kls, "advantages": advantages}
        every = torch.cat(advantages)
        if len(every) > 1:
            advantages = [
                (one - every.mean()) / (every.var(correction=0) + 1e-8).sqrt() for one in advantages
            ]
        seen = {
            "policy_loss": 0.0,
            "value_loss": 0.0,
            "clip_fraction": 0.0,
            "value_clip_fraction": 0.0,
            "batch_kl": 0.0,
        }
        norms, tokens = [], 0
        for rows in minibatches:
            size = sum(len(batch[row].response) for row in rows)
            policy_loss = value_loss = 0.0
            for row in rows:
                logprobs, values, _ = self.look(self.policy, batch[row])
                change = logprobs - old[row]
                ratio = change.exp()
                gain, held = (
                    advantages[row] * ratio,
                    advantages[row] * ratio.clamp(1 - how.clip, 1 + how.clip),
                )
                moved = values - old_values[row]
                near = old_values[row] + moved.clamp(-how.value_clip, how.value_clip)
                error, held_error = (values - returns[row]) ** 2, (near - returns[row]) ** 2
                policy_loss = policy_loss - torch.minimum(gain, held).sum()
                value_loss = value_loss + 0.5 * torch.maximum(error, held_error).sum()
                seen["batch_kl"] += (ratio - 1 - change).sum().item()
                seen["clip_fraction"] += (held < gain).sum().item()
                seen["value_clip_fraction"] += (
                    ((moved.abs() > how.value_clip) & (held_error > error)).sum().item()
                )
            self.optimizer.zero_grad()
            ((policy_loss + how.value_coefficient * value_loss) / size).backward()
            norms.append(torch.nn.utils.clip_grad_norm_(self.trained, how.max_grad_norm).item())
            found.gradients.append([parameter.grad.clone() for parameter in self.trained])
            self.optimizer.step()
            self.schedule.step()
            seen["policy_loss"] += policy_loss.item()
            seen["value_loss"] += value_loss.item()
            tokens += size
        count, total = len(batch), sum(len(one.response) for one in batch)
        found.means = {name: value / tokens for name, value in seen.items()} | {
            "advantage_mean": every.mean().item(),
            "advantage_std": every.var(correction=0).sqrt().item(),
            "grad_norm": sum(norms) / len(norms),
            "length": total / count,
            "ended": sum(one.ended for one in batch) / count,
            "raw_reward": sum(one.reward.sum().item() for one in batch) / count,
            "reward": sum(one.reward.sum().item() for one in batch) / count * how.scale,
            "kl": torch.cat(kls).sum().item() / count,
            "entropy": torch.cat(entropies).sum().item() / total,
            "explained_variance": 1
            - (
                (torch.cat(returns) - torch.cat(old_values)).var(correction=0)
                / torch.cat(returns).var(correction=0)
            ).item()
            if total > 1
            else float("nan"),
        }
        return found
