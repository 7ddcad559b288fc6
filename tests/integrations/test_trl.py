"""Token rewards in TRL's own trainer, trained for real on a tiny model."""

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from redline import TokenReward, UserError
from redline.engine.settings import Adapt, Model
from redline.integrations.trl import TokenCreditTrainer, TokenRewardFunction, token_advantages
from redline.policy.baselines import Groups, baseline_advantages
from redline.reward.model import new_reward_model
from redline.reward.settings import Reward
from tiny_models import CONFIGS, random_model
from tiny_tokenizers import byte_bpe

PROMPTS = ["the film was", "I liked", "this is a", "not good"]


def vowels(prompts, responses, tokens):
    """One float a token: how many vowels it has."""
    return [[float(sum(letter in "aeiou" for letter in token)) for token in row] for row in tokens]


def trainer(kind, out, reward_funcs, tokenizer, **settings):
    arguments = {
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 8,
        "max_steps": 2,
        "learning_rate": 0.01,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "seed": 3,
        **settings,
    }
    return kind(
        model=random_model(CONFIGS["llama"]).requires_grad_(True),
        reward_funcs=reward_funcs,
        args=GRPOConfig(output_dir=str(out), **arguments),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS * 4}),
        processing_class=tokenizer,
    )


def rewards_of(history):
    return [line["reward"] for line in history if "reward" in line]


@pytest.fixture
def token_reward(tiny_model) -> TokenReward:
    how = Reward(adapt=Adapt(lora_rank=0, train_layers=1))
    model, _ = new_reward_model(how, Model(name=tiny_model, dtype="float32"))
    torch.manual_seed(5)
    torch.nn.init.normal_(model.head.weight, std=0.5)
    return TokenReward(model)


def test_a_token_reward_is_one_of_trls_reward_functions(tmp_path, token_reward):
    tokenizer = byte_bpe()
    function = TokenRewardFunction(token_reward, tokenizer)
    made = trainer(
        GRPOTrainer, tmp_path, [function, lambda completions, **_: [0.0] * len(completions)], tokenizer
    )
    made.train()
    assert [line for line in made.state.log_history if "rewards/token_reward/mean" in line]
    completions = [tokenizer(text)["input_ids"] for text in (" a good book", " bad")]
    scored = token_reward.score(PROMPTS[:2], [" a good book", " bad"])
    assert function(PROMPTS[:2], completions) == pytest.approx([result.total for result in scored], abs=1e-5)
    assert function.latest[0].tolist() == pytest.approx(scored[0].rewards, abs=1e-5)


def test_each_token_has_its_own_advantage_in_the_loss_that_trl_computes(tmp_path):
    """The trainer is run for real; the batches that reach TRL's loss are looked at."""
    tokenizer = byte_bpe()
    function = TokenRewardFunction(vowels, tokenizer)
    made = trainer(TokenCreditTrainer, tmp_path, [function], tokenizer, scale_rewards="none")
    batches = []
    loss = made._compute_loss
    made._compute_loss = lambda model, inputs: batches.append(inputs) or loss(model, inputs)
    made.train()
    assert len(batches) == 2
    for batch in batches:
        assert batch["advantages"].shape == batch["completion_ids"].shape
        assert batch["advantages"].isfinite().all()
        own = batch["advantages"] * batch["completion_mask"]
        assert (own.std(dim=1) > 0).any()


def everywhere(rewards: torch.Tensor) -> torch.Tensor:
    """A mask for completions that are all as long as the longest."""
    return torch.ones_like(rewards).bool()


def test_by_hand():
    rewards = torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]])
    found = token_advantages(rewards, torch.zeros(2), everywhere(rewards), 2, "none")
    # to go: 6 5 3 and 1 0 0; their means 3.5 2.5 1.5
    assert found.tolist() == [[2.5, 2.5, 1.5], [-2.5, -2.5, -1.5]]
    with_others = token_advantages(rewards, torch.tensor([4.0, 0.0]), everywhere(rewards), 2, "none")
    assert (with_others - found).tolist() == [[2.0, 2.0, 2.0], [-2.0, -2.0, -2.0]]
    # n / (n - 1) = 2, times the mean of 2.5^2, 2.5^2 and 1.5^2
    divided = token_advantages(rewards, torch.zeros(2), everywhere(rewards), 2, "group")
    assert torch.allclose(divided, found / (2 * (6.25 + 6.25 + 2.25) / 3) ** 0.5, atol=1e-4)


@pytest.mark.parametrize("scale", ["group", "batch"])
def test_a_reward_on_the_last_token_is_trls_own_advantage(scale):
    """Of completions of equal length: then there is no credit to share out."""
    totals = torch.tensor([3.0, 1.0, -1.0, 2.0, 0.0, 0.5])
    rewards = torch.zeros(6, 5)
    rewards[:, -1] = totals
    grouped = totals.view(2, 3)
    deviation = grouped.std(dim=1).repeat_interleave(3) if scale == "group" else totals.std()
    own = (totals - grouped.mean(dim=1).repeat_interleave(3)) / (deviation + 1e-4)
    found = token_advantages(rewards, torch.zeros(6), everywhere(rewards), 3, scale)
    assert torch.allclose(found, own[:, None].expand(6, 5), atol=1e-6)


@pytest.mark.parametrize("scale", ["group", "batch"])
def test_equal_returns_at_different_places_are_not_blown_up(scale):
    """TRL's deviation of whole returns is 0 here; its 1e-4 would make advantages of thousands."""
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    found = token_advantages(rewards, torch.zeros(3), everywhere(rewards), 3, scale)
    assert 0.5 < found.abs().max() < 3
    alike = torch.ones(3, 4)
    assert token_advantages(alike, torch.zeros(3), everywhere(alike), 3, scale).abs().max() == 0


def test_groups_are_divided_as_by_the_policys_own_baseline():
    draw = torch.Generator().manual_seed(1)
    sizes = torch.tensor([5, 3, 7, 1, 7, 2])
    mask = torch.arange(7)[None] < sizes[:, None]
    rewards = torch.randn(6, 7, generator=draw) * mask
    groups = Groups(torch.arange(6) // 3, 2, 3)
    own = baseline_advantages(rewards, mask, groups, 1.0, "token", by_group=True)
    found = token_advantages(rewards, torch.zeros(6), mask, 3, "group")
    torch.testing.assert_close(found * mask, own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_the_first_token_has_what_trl_divides(tmp_path, scale):
    """With another reward function beside it, and weights: the sum is TRL's, the credit and the divisor are
    ours."""
    tokenizer = byte_bpe()
    brief = lambda completions, **_: [-float(len(text)) for text in completions]  # noqa: E731
    functions = [TokenRewardFunction(vowels, tokenizer), brief]
    settings = {"scale_rewards": scale, "reward_weights": [0.5, 0.1], "max_steps": 1}
    made = trainer(TokenCreditTrainer, tmp_path, functions, tokenizer, **settings)
    batches = []
    made._compute_loss = lambda model, inputs: batches.append(inputs) or model.lm_head.weight.sum() * 0
    made.train()
    (batch,) = batches
    # TRL logs its own advantages before they are shuffled: the same numbers, in another order
    own = torch.tensor(list(made._logs["advantages"]))
    first = batch["advantages"][:, 0].cpu()
    if scale == "none":
        assert torch.allclose(first.sort().values, own.sort().values, atol=1e-4)
    else:
        assert (first > 1e-6).sum() == (own > 1e-6).sum()
        assert 0.1 < first.abs().max() < 10


def test_training_with_token_credit_learns(tmp_path):
    tokenizer = byte_bpe()
    made = trainer(
        TokenCreditTrainer, tmp_path, [TokenRewardFunction(vowels, tokenizer)], tokenizer, max_steps=20,
        per_device_train_batch_size=16,
    )  # fmt: skip
    made.train()
    rewards = rewards_of(made.state.log_history)
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 1


def test_what_gives_no_token_credit_is_refused(tmp_path):
    tokenizer = byte_bpe()
    with pytest.raises(UserError, match="no entry of reward_funcs"):
        trainer(TokenCreditTrainer, tmp_path, [lambda completions, **_: [0.0] * len(completions)], tokenizer)
    with pytest.raises(UserError, match="sum_then_normalize"):
        trainer(
            TokenCreditTrainer, tmp_path, [TokenRewardFunction(vowels, tokenizer)], tokenizer,
            multi_objective_aggregation="normalize_then_sum",
        )  # fmt: skip
