"""Advantages without a critic and means of the loss, against what TRL's own trainers compute."""

from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from redline.policy.advantages import whiten
from redline.policy.baselines import Groups, baseline_advantages
from redline.policy.loss import Minibatch, OldTokens, loss_weights, ppo_loss
from tiny_models import CONFIGS, random_model
from tiny_tokenizers import byte_bpe

GROUP, ROWS, LONGEST = 4, 8, 6
SIZES = [6, 1, 3, 5]


def distinct_bytes(completions: list[str], **_: Any) -> list[float]:
    """A reward that differs from response to response."""
    return [float(len(set(text.encode()))) for text in completions]


def trainer(kind: type, config: type, out: Any, **settings: Any) -> Any:
    arguments = {
        "per_device_train_batch_size": ROWS,
        "num_generations": GROUP,
        "max_completion_length": LONGEST,
        "max_steps": 1,
        "beta": 0.0,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "seed": 3,
        **settings,
    }
    return kind(
        model=random_model(CONFIGS["llama"]).requires_grad_(True),
        reward_funcs=[distinct_bytes],
        args=config(output_dir=str(out), **arguments),
        train_dataset=Dataset.from_dict({"prompt": ["the film was", "I liked"] * 4}),
        processing_class=byte_bpe(),
    )


def returns_and_advantages(made: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What a trainer's first batch was rewarded with, and the advantages that it had: ``[N]``."""
    calculate, rewards = made._calculate_rewards, []

    def kept(*arguments: Any) -> torch.Tensor:
        rewards.append(calculate(*arguments))
        return rewards[-1]

    made._calculate_rewards = kept
    made.train()
    return rewards[0][:, 0].float(), torch.tensor(list(made._logs["advantages"]))


def ours(returns: torch.Tensor, sizes: list[int], credit: Any, by_group: bool) -> torch.Tensor:
    """Advantages ``[B, T]`` of a sequence reward: on the last token."""
    mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    rewards = torch.zeros(mask.shape)
    rewards[torch.arange(len(sizes)), torch.tensor(sizes) - 1] = returns
    groups = Groups.of_places(range(len(sizes)), len(sizes), GROUP)
    return baseline_advantages(rewards, mask, groups, 1.0, credit, by_group)


LENGTHS = {"response": [1, 2, 3, 4, 5, 6, 3, 2], "token": [5] * ROWS}  # token credit needs equal ones


@pytest.mark.parametrize("credit", ["response", "token"])
def test_rloo(tmp_path, credit):
    made = trainer(RLOOTrainer, RLOOConfig, tmp_path, normalize_advantages=False)
    returns, theirs = returns_and_advantages(made)
    assert returns.std() > 0
    found = ours(returns, LENGTHS[credit], credit, by_group=False)
    torch.testing.assert_close(found[:, 0], theirs, rtol=1e-4, atol=1e-4)


def test_standardised_rloo(tmp_path):
    """Theirs counts responses alike, and divides by a deviation with N - 1."""
    made = trainer(RLOOTrainer, RLOOConfig, tmp_path, normalize_advantages=True)
    returns, theirs = returns_and_advantages(made)
    found = ours(returns, [5] * ROWS, "response", by_group=False)
    found = whiten(found, torch.ones_like(found, dtype=torch.bool)) * ((ROWS - 1) / ROWS) ** 0.5
    torch.testing.assert_close(found[:, 0], theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("credit", ["response", "token"])
@pytest.mark.parametrize("scale", ["group", "none"])
def test_grpo(tmp_path, scale, credit):
    returns, theirs = returns_and_advantages(trainer(GRPOTrainer, GRPOConfig, tmp_path, scale_rewards=scale))
    by_group = scale == "group"
    if not by_group:  # theirs takes a response into its own baseline
        theirs = theirs * GROUP / (GROUP - 1)
    sizes = LENGTHS[credit]
    found = ours(returns, sizes, credit, by_group)
    torch.testing.assert_close(found[:, 0], theirs, rtol=1e-4, atol=1e-4)
    assert torch.equal(found[3, : sizes[3]], found[3, :1].expand(sizes[3]))


@pytest.mark.parametrize(
    ("loss_type", "mean"), [("bnpo", "token"), ("grpo", "sequence"), ("dr_grpo", "constant")]
)
@pytest.mark.parametrize("clip_high", [None, 0.28])
def test_the_losses_are_trls(tmp_path, loss_type, mean, clip_high):
    """On the same log-probabilities, with an advantage for each token."""
    made = trainer(GRPOTrainer, GRPOConfig, tmp_path, loss_type=loss_type, epsilon_high=clip_high)
    made.model.eval()  # so that nothing is divided by accumulated steps
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(LONGEST) < torch.tensor(SIZES)[:, None]
    old, new, advantages = (torch.randn(mask.shape, generator=generator) for _ in range(3))
    new = old + 0.3 * new
    made._get_per_token_logps_and_entropies = lambda *_, **__: (new, torch.zeros_like(new), None)
    ids = torch.ones(mask.shape, dtype=torch.long)
    theirs = made._compute_loss(
        made.model,
        {
            "prompt_ids": ids[:, :1],
            "prompt_mask": ids[:, :1],
            "completion_ids": ids,
            "completion_mask": mask.long(),
            "advantages": advantages,
            "old_per_token_logps": old,
            "num_items_in_batch": mask.sum(),
        },
    )
    whole = Minibatch(tokens=float(sum(SIZES)), responses=len(SIZES))
    parts = ppo_loss(
        new[mask],
        None,
        OldTokens(old[mask], advantages[mask]),
        clip=0.2,
        value_clip=0.2,
        clip_high=clip_high,
        weights=loss_weights(SIZES, mean, whole, LONGEST),
    )
    assert parts.policy_loss.item() / whole.tokens == pytest.approx(theirs.item(), rel=1e-5)
