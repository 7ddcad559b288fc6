"""Fine-grained PPO in one file: plain PyTorch and Transformers, none of Redline.

    python examples/plain_ppo.py --model FOLDER_OR_NAME

One response at a time, whole passes, nothing padded, nothing cached: written to be read. A test holds
Redline's trainer equal to it, in its losses, its gradients and its weights.
"""

import argparse
import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = ["The weather today is", "My favourite book is", "On Sunday we went to", "The best food is"]


@dataclass
class Settings:
    clip: float = 0.2  # range of the probability ratio
    value_clip: float = 0.2  # range of the value's change
    value_coefficient: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    beta: float = 0.02  # of the KL penalty
    temperature: float = 1.0
    max_grad_norm: float = 1.0
    scale: float = 1.0  # of the reward


@dataclass
class Sample:
    """A prompt and a response (token ids ``[P]``, ``[R]``), and a reward for each response token ``[R]``."""

    prompt: Tensor
    response: Tensor
    reward: Tensor


@dataclass
class Known:
    """What is known of a response's tokens before the update, ``[R]`` each."""

    logprobs: Tensor
    values: Tensor
    kl: Tensor
    advantages: Tensor
    returns: Tensor


class PlainPpo:
    """PPO on ``policy`` (a causal language model) and ``head`` (to one value), against ``reference``."""

    def __init__(self, policy, reference, head, optimizer, schedule, settings: Settings):
        self.policy, self.reference, self.head, self.settings = policy, reference, head, settings
        self.optimizer, self.schedule = optimizer, schedule
        self.trained = [weight for group in optimizer.param_groups for weight in group["params"]]

    def score(self, model, sample: Sample) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values ``[R]`` of a response's tokens."""
        sequence = torch.cat([sample.prompt, sample.response])
        output = model(input_ids=sequence[None], output_hidden_states=True)
        # a token is predicted at the position before it
        before = torch.arange(len(sample.response)) + len(sample.prompt) - 1
        distribution = (output.logits[0, before] / self.settings.temperature).log_softmax(-1)
        logprobs = distribution[torch.arange(len(before)), sample.response]
        return logprobs, self.head(output.hidden_states[-1][0, before])[:, 0]

    def advantages(self, rewards: Tensor, values: Tensor) -> Tensor:
        """Of each token the sum over k of (gamma lambda)^k delta_{t+k} (Schulman et al. 2016)."""
        gamma, lam, size = self.settings.gamma, self.settings.lam, len(rewards)
        deltas = rewards + gamma * torch.cat([values[1:], values.new_zeros(1)]) - values
        sums = [sum((gamma * lam) ** k * deltas[t + k] for k in range(size - t)) for t in range(size)]
        return torch.stack(sums) if size else rewards

    @torch.no_grad()
    def prepare(self, sample: Sample) -> Known:
        """Re-score a response, shape its rewards, and compute its advantages."""
        logprobs, values = self.score(self.policy, sample)
        kl = logprobs - self.score(self.reference, sample)[0]
        rewards = sample.reward.to(kl) * self.settings.scale - self.settings.beta * kl
        advantages = self.advantages(rewards, values)
        return Known(logprobs, values, kl, advantages, advantages + values)

    def loss(self, sample: Sample, known: Known, advantages: Tensor) -> dict[str, Tensor]:
        """The clipped losses of a response, summed over its tokens, and what a log shows beside them."""
        how = self.settings
        logprobs, values = self.score(self.policy, sample)
        change, moved = logprobs - known.logprobs, values - known.values
        ratio = change.exp()
        gain, held = advantages * ratio, advantages * ratio.clamp(1 - how.clip, 1 + how.clip)
        near = known.values + moved.clamp(-how.value_clip, how.value_clip)
        error, held_error = (values - known.returns) ** 2, (near - known.returns) ** 2
        return {
            "policy_loss": -torch.minimum(gain, held).sum(),
            "value_loss": 0.5 * torch.maximum(error, held_error).sum(),
            "clip_fraction": (held < gain).sum(),
            "value_clip_fraction": ((moved.abs() > how.value_clip) & (held_error > error)).sum(),
            "batch_kl": (ratio - 1 - change).detach().sum(),
        }

    def update(self, batch: list[Sample], minibatches: list[list[int]]) -> dict[str, float]:
        """One update on a batch; each list of row numbers is an optimizer step. Returns means over tokens."""
        known = [self.prepare(sample) for sample in batch]
        white = [one.advantages for one in known]
        every = torch.cat(white)
        if len(every) > 1:
            white = [(row - every.mean()) / (every.var(correction=0) + 1e-8).sqrt() for row in white]
        sums, tokens = {}, sum(len(batch[row].response) for rows in minibatches for row in rows)
        for rows in minibatches:
            size = sum(len(batch[row].response) for row in rows)
            self.optimizer.zero_grad()
            for row in rows:
                parts = self.loss(batch[row], known[row], white[row])
                loss = parts["policy_loss"] + self.settings.value_coefficient * parts["value_loss"]
                (loss / size).backward()
                sums = {name: sums.get(name, 0.0) + part.item() for name, part in parts.items()}
            nn.utils.clip_grad_norm_(self.trained, self.settings.max_grad_norm)
            self.optimizer.step()
            self.schedule.step()
        return {name: total / tokens for name, total in sums.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--updates", type=int, default=10)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    policy = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    head = nn.Linear(policy.config.hidden_size, 1)
    optimizer = torch.optim.AdamW([*policy.parameters(), *head.parameters()], lr=1e-5, eps=1e-5)
    constant = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    ppo = PlainPpo(policy, copy.deepcopy(policy), head, optimizer, constant, Settings())
    for update in range(arguments.updates):
        batch = []
        for text in PROMPTS:
            prompt = tokenizer(text, return_tensors="pt")["input_ids"]
            made = policy.generate(prompt, do_sample=True, top_k=0, max_new_tokens=24)[0, prompt.shape[1] :]
            reward = torch.tensor([float("!" in tokenizer.decode(token)) for token in made])
            batch.append(Sample(prompt[0], made, reward))
        loss = ppo.update(batch, [[0, 1, 2, 3]] * 2)["policy_loss"]
        print(f"update {update + 1}: reward {sum(float(one.reward.sum()) for one in batch)}, loss {loss:.4f}")


if __name__ == "__main__":
    main()
