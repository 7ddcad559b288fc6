"""Advantages and trainings without a critic."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from redline.data.records import Prompt
from redline.engine.settings import Adapt
from redline.policy.baselines import Groups, baseline_advantages
from redline.policy.settings import Policy
from redline.policy.train import build_ppo, train_policy
from tiny_trainings import REWARDS, TEXTS, policy_recipe

PROMPTS = [Prompt(id=text, prompt=text) for text in TEXTS]
LENGTHS = [3, 1, 2, 3, 0, 2]
MASK = torch.arange(3) < torch.tensor(LENGTHS)[:, None]
GROUP = {"baseline": "group", "samples": 2}


def random_rewards(seed: int = 0) -> torch.Tensor:
    """Rewards of six responses, with garbage in the padding."""
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(seed)).where(MASK, torch.nan)


def last_token_rewards(totals: list[float], width: int) -> torch.Tensor:
    rewards = torch.zeros(len(totals), width)
    rewards[:, -1] = torch.tensor(totals)
    return rewards


def to_go(rewards: torch.Tensor, gamma: float, row: int, place: int) -> float:
    return sum(gamma ** (k - place) * rewards[row, k].item() for k in range(place, LENGTHS[row]))


def test_token_credit_by_hand():
    """Two responses to one prompt, the second of which ends early."""
    rewards = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    groups = Groups.of_places(range(2), 2, 2)
    advantages = baseline_advantages(rewards, mask, groups, 1.0, "token")
    # to go: 6 5 3, and 4; behind its end the second has nothing to come
    assert advantages.tolist() == [[2, 5, 3], [-2, 0, 0]]
    advantages = baseline_advantages(rewards, mask, groups, 0.5, "token")
    # 1 + 2/2 + 3/4 = 2.75, 2 + 3/2 = 3.5, 3; and 4
    assert advantages.tolist() == [[-1.25, 3.5, 3], [1.25, 0, 0]]


@pytest.mark.parametrize("credit", ["token", "response"])
@pytest.mark.parametrize("size", [2, 3, 6])
def test_advantages_are_the_formulas(credit, size):
    rewards, gamma = random_rewards(), 0.9
    found = baseline_advantages(rewards, MASK, Groups.of_places(range(6), 6, size), gamma, credit)
    for row in range(6):
        first = row - row % size
        others = [other for other in range(first, first + size) if other != row]
        for place in range(3):
            start = place if credit == "token" else 0
            mean = sum(to_go(rewards, gamma, other, start) for other in others) / (size - 1)
            expected = to_go(rewards, gamma, row, start) - mean if place < LENGTHS[row] else 0
            assert found[row, place].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("by_group", [False, True])
def test_a_reward_on_the_last_token_of_equal_lengths_is_the_responses(by_group):
    """Then a token's rewards to go are the whole return: RLOO's advantage, and GRPO's."""
    rewards = last_token_rewards([3.0, 1.0, -1.0, 2.0, 0.0, 0.5], 4)
    mask, groups = torch.ones_like(rewards, dtype=torch.bool), Groups.of_places(range(6), 6, 3)
    token, response = (
        baseline_advantages(rewards, mask, groups, 1.0, credit, by_group) for credit in ("token", "response")
    )
    torch.testing.assert_close(token, response)


def test_equal_returns_at_other_places_are_not_blown_up():
    """The deviation of the whole returns is 0, but tokens differ."""
    rewards = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    mask, groups = torch.ones(2, 2, dtype=torch.bool), Groups.of_places(range(2), 2, 2)
    advantages = baseline_advantages(rewards, mask, groups, 1.0, "token", by_group=True)
    assert advantages.abs().max() < 2


@pytest.mark.parametrize("by_group", [False, True])
@pytest.mark.parametrize("credit", ["token", "response"])
def test_a_group_may_lie_on_several_processes(credit, by_group):
    """Two processes, as threads that add up what both give."""
    rewards, meeting = random_rewards(1), threading.Barrier(2)
    given: list[torch.Tensor] = [torch.zeros(0)] * 2

    def process(rank: int) -> torch.Tensor:
        def total(part: torch.Tensor) -> torch.Tensor:
            given[rank] = part
            meeting.wait(10)
            summed = given[0] + given[1]
            meeting.wait(10)
            return summed

        own = range(rank, 6, 2)
        rows, groups = list(own), Groups.of_places(own, 6, 3)
        return baseline_advantages(rewards[rows], MASK[rows], groups, 1.0, credit, by_group, total)

    whole = baseline_advantages(rewards, MASK, Groups.of_places(range(6), 6, 3), 1.0, credit, by_group)
    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(process, range(2)))
    for rank, part in enumerate(parts):
        torch.testing.assert_close(part, whole[rank::2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "group"}, r"baseline: group.*set `policy.samples` to 2 or more"),
        ({"baseline": "group", "samples": 3}, r"batch_size` \(32 responses\) does not divide by .*\(3 a"),
        ({"baseline": "batch", "batch_size": 1}, r"set `policy.batch_size` to 2 or more"),
        ({**GROUP, "critic": "own"}, r"`policy.critic` is the critic's, and `policy.baseline: group`"),
        ({**GROUP, "gae_lambda": 0.9}, r"`policy.gae_lambda` is the critic's"),
        ({**GROUP, "value_lambda": 1.0}, r"`policy.value_lambda` is the critic's"),
        ({"credit": "response"}, r"`policy.credit: response` needs `policy.baseline: group` or `batch`"),
        ({"standardise": "group"}, r"`policy.standardise: group` needs `policy.baseline: group`"),
        ({"baseline": "batch", "standardise": "group"}, r"needs `policy.baseline: group`, which is batch"),
    ],
)
def test_what_does_not_belong_is_refused_in_one_line(changes, message):
    with pytest.raises(ValidationError, match=message) as caught:
        Policy(**changes)
    assert len(caught.value.errors()) == 1


@pytest.fixture(scope="module")
def rewards(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rewards") / "rewards.py"
    path.write_text(REWARDS)
    return path


def trained_log(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "changes",
    [
        GROUP,
        {**GROUP, "credit": "response", "standardise": "group", "loss_mean": "sequence"},
        {"baseline": "batch", "standardise": "none", "clip_high": 0.3, "loss_mean": "constant"},
        {"baseline": "batch", "adapt": Adapt(lora_rank=0, train_layers=1)},
    ],
)
def test_training_without_a_critic_resumes_bit_for_bit_and_logs_no_values(tmp_path, model, rewards, changes):
    how = policy_recipe(rewards, **changes)
    train_policy(how, model, PROMPTS, tmp_path / "whole", seed=3)
    for line in trained_log(tmp_path / "whole"):
        assert line["value_loss"] is line["value_clip_fraction"] is line["explained_variance"] is None
        assert line["policy_loss"] is not None
    sample = json.loads((tmp_path / "whole/samples.jsonl").read_text().splitlines()[0])
    assert "advantages" in sample
    assert "values" not in sample

    newest = max((tmp_path / "whole/checkpoints").iterdir())
    before = (newest / "model.safetensors").read_bytes()
    assert b"value_head" not in before
    (newest / "model.safetensors").write_bytes(before[:100])  # so that its update is done again
    train_policy(how, model, PROMPTS, tmp_path / "whole", seed=3)
    assert (newest / "model.safetensors").read_bytes() == before


def test_samples_lie_side_by_side_and_are_drawn_apart(model, rewards):
    from accelerate import Accelerator

    how = policy_recipe(rewards, batch_size=8, samples=4, reward_scale=1.0, length_normalise=False)
    ppo = build_ppo(how, model, PROMPTS, Accelerator(cpu=True))
    rollout = ppo.sample(0)
    prompts = [tuple(ids.tolist()) for ids in rollout.prompt_ids]
    assert len(set(prompts[:4])) == len(set(prompts[4:])) == 1
    assert prompts[0] != prompts[4]
    assert len({tuple(ids.tolist()) for ids in rollout.response_ids[:4]}) == 4


def test_no_critic_is_built(model, rewards):
    from accelerate import Accelerator

    ppo = build_ppo(policy_recipe(rewards, **GROUP), model, PROMPTS, Accelerator(cpu=True))
    assert ppo.actor.value_head is None
    assert ppo.actor.critic is None
    assert not [name for name, _ in ppo.actor.named_parameters() if "value_head" in name]
