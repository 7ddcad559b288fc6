"""Advantages, whitening and KL against independent float64 versions."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from redline.policy.advantages import AdaptiveKl, explained_variance, gae, token_kl, whiten


def gae_by_definition(rewards, values, gamma, lam):
    """Sum over k of (gamma lam)^k delta_{t+k}: O(T^2), one row, no masks."""
    size = len(rewards)
    deltas = [rewards[t] + gamma * (values[t + 1] if t + 1 < size else 0.0) - values[t] for t in range(size)]
    return [sum((gamma * lam) ** k * deltas[t + k] for k in range(size - t)) for t in range(size)]


@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 12), st.floats(0.5, 1), st.floats(0, 1))
def test_gae_skips_masked_steps_wherever_they_are(seed, rows, width, gamma, lam):
    rng = np.random.default_rng(seed)
    mask = rng.random((rows, width)) < 0.6
    rewards, values = rng.normal(size=(rows, width)), rng.normal(size=(rows, width))
    garbage = np.where(mask, 0, np.nan)  # whatever lies in masked positions must not matter
    advantages, returns = gae(
        torch.tensor(rewards + garbage), torch.tensor(values + garbage), torch.tensor(mask), gamma, lam
    )
    for row in range(rows):
        kept = mask[row]
        expected = gae_by_definition(rewards[row, kept], values[row, kept], gamma, lam)
        np.testing.assert_allclose(advantages[row, torch.tensor(kept)], expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(
            returns[row, torch.tensor(kept)], np.array(expected) + values[row, kept], atol=1e-9
        )
        assert not advantages[row, torch.tensor(~kept)].any()


@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 9))
def test_whitening_is_numpys_on_the_valid_entries(seed, rows, width):
    rng = np.random.default_rng(seed)
    mask, values = rng.random((rows, width)) < 0.7, rng.normal(3, 5, size=(rows, width))
    found = whiten(torch.tensor(np.where(mask, values, np.inf)), torch.tensor(mask))
    kept = values[mask]
    expected = (kept - kept.mean()) / np.sqrt(kept.var() + 1e-8) if len(kept) > 1 else kept
    np.testing.assert_allclose(found[torch.tensor(mask)], expected, rtol=1e-6, atol=1e-9)
    assert not found[torch.tensor(~mask)].any()


def test_whitening_one_valid_token_changes_nothing_and_equal_ones_say_nothing():
    one = torch.tensor([[2.0, 9.0]])
    assert whiten(one, torch.tensor([[True, False]])).tolist() == [[2.0, 0.0]]
    assert whiten(torch.full((2, 2), 3.0), torch.ones(2, 2, dtype=torch.bool)).tolist() == [
        [0.0, 0.0],
        [0.0, 0.0],
    ]


def kl_estimator(estimator: str, distance: float) -> dict[str, torch.Tensor]:
    """Exact expectations over 4 tokens of a policy at some distance from its reference, and gradients by
    autograd: of the estimator as a loss on sampled tokens, and as a penalty in their reward (the policy
    gradient's), beside those of the KL both ways."""
    base = torch.tensor([0.2, -0.4, 0.9, 0.1]).double()
    logits = (base + distance * torch.tensor([1.0, -0.5, 0.2, -0.8])).requires_grad_(True)
    policy, reference = logits.log_softmax(-1), base.log_softmax(-1)
    samples, chance = token_kl(policy, reference, estimator), policy.exp()
    found = {"value": (chance * samples).sum(), "kl": (chance * (policy - reference)).sum()}
    wanted = {
        "loss": (chance.detach() * samples).sum(),
        "penalty": (chance * samples.detach()).sum(),
        "forward": found["kl"],
        "reverse": (reference.exp() * (reference - policy)).sum(),
    }
    found |= {
        name: torch.autograd.grad(value, logits, retain_graph=True)[0] for name, value in wanted.items()
    }
    return found | {"samples": samples}


def test_k1_has_the_kls_value_and_as_a_penalty_its_gradient():
    k1 = kl_estimator("k1", 1.0)
    torch.testing.assert_close(k1["value"], k1["kl"])
    torch.testing.assert_close(k1["penalty"], k1["forward"])
    torch.testing.assert_close(k1["loss"], torch.zeros(4).double())  # in a loss it would do nothing
    assert bool((k1["samples"] < 0).any())


def test_k2_has_the_kls_value_to_second_order_and_as_a_loss_its_gradient():
    near, far = kl_estimator("k2", 0.01), kl_estimator("k2", 4.0)
    torch.testing.assert_close(near["value"], near["kl"], rtol=0.02, atol=0)
    assert abs(far["value"] / far["kl"] - 1) > 0.05  # biased
    torch.testing.assert_close(far["loss"], far["forward"])
    assert near["penalty"].norm() < 0.05 * near["forward"].norm()
    assert bool((far["samples"] >= 0).all())


def test_k3_has_the_kls_value_and_neither_way_its_gradient():
    near, far = kl_estimator("k3", 0.01), kl_estimator("k3", 1.0)
    torch.testing.assert_close(far["value"], far["kl"])
    torch.testing.assert_close(far["loss"], far["reverse"])  # the other KL's
    assert not torch.allclose(far["reverse"], far["forward"], rtol=0.1)
    assert near["penalty"].norm() < 0.05 * near["forward"].norm()  # why it is no penalty
    assert bool((far["samples"] >= 0).all())


def test_adaptive_kl_by_hand():
    controller = AdaptiveKl(0.1, target=6.0, horizon=100)
    assert abs(controller.coefficient - 0.01) < 1e-12  # a policy begins as its reference
    controller.update(
        kl=12.0, responses=50
    )  # error clipped to 0.2: the level follows Ziegler, the factor is 2
    assert abs(controller.coefficient - 0.1 * (1 + 0.2 * 0.5) * 2) < 1e-12
    controller.update(kl=5.7, responses=50)  # error -0.05
    assert abs(controller.coefficient - 0.11 * (1 - 0.05 * 0.5) * 0.95) < 1e-12
    level = controller.level
    controller.update(kl=-0.3, responses=50)  # far below: the level rests, the factor is at its least
    assert (controller.level, controller.factor) == (level, 0.1)
    again = AdaptiveKl(1.0, target=6.0, horizon=100)
    again.load_state_dict(controller.state_dict())
    assert again.coefficient == controller.coefficient


def test_the_controller_holds_a_policy_that_answers_late():
    """A crude policy: its KL drifts towards 2 / coefficient with a lag of ten updates; short runs end near
    the target."""
    controller, kl = AdaptiveKl(0.25, target=6.0, horizon=256), 0.0
    for _ in range(60):
        kl += 0.1 * (2 / max(controller.coefficient, 0.02) - kl)
        controller.update(kl, responses=32)
    assert abs(kl - 6) < 1


def test_a_fixed_coefficient_stays():
    fixed = AdaptiveKl(0.1, target=None, horizon=100)
    fixed.update(kl=50, responses=50)
    assert fixed.coefficient == 0.1


def test_explained_variance():
    returns = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == 1
    assert abs(explained_variance(torch.full((3,), 2.0), returns)) < 1e-12
    assert np.isnan(explained_variance(returns, torch.ones(3)))
