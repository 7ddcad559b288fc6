"""The reward's scale: a standard deviation of 1, not thrown off by one response, nor by rewards that hardly
differ; and the sampler's drift."""

import pytest
import torch

from redline.policy.drift import drift_warning
from redline.policy.scale import LARGEST, reward_scale


def returns(size: int = 256, deviation: float = 2.0) -> torch.Tensor:
    return 3 + deviation * torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_ordinary_returns_get_a_deviation_of_one():
    values = returns()
    scale, warning = reward_scale(values)
    assert (values * scale).std().item() == pytest.approx(1, abs=0.01)
    assert warning is None


def test_one_outlier_does_not_make_the_others_vanish():
    values = returns()
    plain, _ = reward_scale(values)
    values[7] = 1e6
    scale, warning = reward_scale(values)
    assert scale == pytest.approx(plain, rel=0.1)
    assert "1 of 256 responses of the reference are far from all others (from" in warning


def test_rewards_that_hardly_differ_are_not_blown_up():
    scale, warning = reward_scale(returns(deviation=1 / 13_000))
    assert scale == LARGEST
    assert "hardly differ" in warning
    assert "not by 12," in warning


def test_two_values_are_no_outliers():
    values = torch.tensor([0.0] * 50 + [1.0] * 14)
    scale, warning = reward_scale(values)
    assert scale == pytest.approx(1 / values.double().std(correction=0).item())
    assert warning is None


def test_equal_rewards_are_left_as_they_are():
    scale, warning = reward_scale(torch.full((16,), 0.7))
    assert scale == 1
    assert "is the same (0.7)" in warning


def test_drift_beyond_rounding_is_said():
    assert drift_warning(1e-4, torch.float32) is None
    assert drift_warning(0.02, torch.bfloat16) is None
    assert "0.4 nats a token" in drift_warning(0.4, torch.bfloat16)
