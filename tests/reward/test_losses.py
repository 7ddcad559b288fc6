"""Losses and metrics of reward models against independent versions and hand-worked numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from redline.reward.losses import classification_loss, pairwise_loss, token_rewards
from redline.reward.metrics import auc, calibration, f1, pairwise_accuracy
from redline.reward.quality import measure


def test_soft_targets_are_tlcrs():
    logits = torch.tensor([[2.0, -1.0], [0.5, 0.5], [0.0, 3.0]])
    total, weight = classification_loss(logits, torch.tensor([-1, 0, 1]), changed_weight=1.0)
    rows = [math.log(1 + math.exp(-3)), math.log(2), math.log(1 + math.exp(-3))]  # (1,0), (0.5,0.5), (0,1)
    assert total.item() == pytest.approx(sum(rows))
    assert weight.item() == 3
    weighted, weights = classification_loss(logits, torch.tensor([-1, 0, 1]), changed_weight=3.0)
    assert weighted.item() == pytest.approx(3 * rows[0] + rows[1] + 3 * rows[2])
    assert weights.item() == 7


def test_hard_targets_are_cross_entropy_of_three_classes():
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([-1, 0, 1] * 3)
    total, _ = classification_loss(logits, labels, changed_weight=1.0)
    assert total.item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits, labels + 1, reduction="sum").item(), rel=1e-6
    )


def test_pairwise_loss_by_hand():
    assert pairwise_loss(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])).item() == pytest.approx(
        math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))
    )


def test_rewards_of_each_form():
    assert token_rewards(torch.tensor([[1.5], [-2.0]])).tolist() == [1.5, -2.0]
    two = token_rewards(torch.tensor([[0.0, math.log(3)]]))
    assert two.item() == pytest.approx(0.5)  # 2 * 0.75 - 1
    three = token_rewards(torch.tensor([[0.0, math.log(2), 0.0]]))
    assert three.item() == pytest.approx(0)


@given(
    st.lists(st.integers(-4, 4), min_size=1, max_size=12),
    st.lists(st.integers(-4, 4), min_size=1, max_size=12),
)
def test_auc_is_the_share_of_ordered_pairs(positive, negative):
    expected = np.mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative])
    assert auc(torch.tensor(positive), torch.tensor(negative)) == pytest.approx(expected)


def test_metrics_on_nothing_are_nan_and_by_hand():
    assert math.isnan(auc(torch.zeros(0), torch.ones(2)))
    assert math.isnan(pairwise_accuracy(torch.zeros(0), torch.zeros(0)))
    assert pairwise_accuracy(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.0, 0.0, 3.0])) == pytest.approx(
        0.5
    )
    assert f1(torch.tensor([True, True, False]), torch.tensor([True, False, True])) == pytest.approx(0.5)
    error, table = calibration(torch.tensor([0.05, 0.05, 0.95, 0.95]), torch.tensor([0, 0, 1, 0]))
    assert error == pytest.approx(0.5 * 0.05 + 0.5 * 0.45)
    assert [row["count"] for row in table] == [2, 2]


def test_a_model_may_tell_the_sides_apart_and_not_find_the_faults():
    labels = [(torch.tensor([0, 1, 0]), torch.tensor([0, -1, 0, 0]))]
    rewards = [
        (torch.tensor([0.2, 0.9, 0.2]), torch.tensor([-0.5, -0.4, -0.6, 0.1]))
    ]  # the removed token is not the least
    found = measure(rewards, labels, [True], "token", probabilities=False)
    assert found.auc == 1
    assert found.fault_auc == pytest.approx(1 / 3)
    assert found.pairwise_accuracy == 1
