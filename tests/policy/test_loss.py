"""The PPO loss by hand, and log-probabilities and their gradients against the plain way."""

import pytest
import torch

from redline.engine import logprobs
from redline.engine.logprobs import token_logprobs
from redline.policy.loss import Minibatch, OldTokens, loss_weights, ppo_loss


def test_clipped_losses_by_hand():
    old = torch.log(torch.tensor([0.5, 0.5, 0.5, 0.5]))
    new = torch.log(torch.tensor([0.75, 0.75, 0.25, 0.25]))  # ratios 1.5, 1.5, 0.5, 0.5
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    values, old_values, returns = (
        torch.tensor([1.0, 0.1, 0.0, 0.5]),
        torch.zeros(4),
        torch.tensor([2.0, 0.0, 0.0, 0.2]),
    )
    parts = ppo_loss(new, values, OldTokens(old, advantages, old_values, returns), clip=0.2, value_clip=0.2)
    # -1.2 (clipped), +1.5, -0.5, +0.8 (clipped)
    assert parts.policy_loss.item() == pytest.approx(-1.2 + 1.5 - 0.5 + 0.8)
    assert parts.clip_fraction.item() == 2
    # value: (1-2)^2=1 against (0.2-2)^2=3.24; 0.01 = 0.01; 0; (0.5-0.2)^2=0.09 against (0.2-0.2)^2=0
    assert parts.value_loss.item() == pytest.approx(0.5 * (3.24 + 0.01 + 0 + 0.09))
    assert parts.value_clip_fraction.item() == 1


def test_the_upper_clip_range_may_be_another():
    old, new = torch.zeros(3), torch.log(torch.tensor([1.25, 1.5, 0.5]))
    parts = ppo_loss(
        new, None, OldTokens(old, torch.tensor([1.0, 1.0, -1.0])), clip=0.2, value_clip=0.2, clip_high=0.28
    )
    # 1.25 is within 1.28, 1.5 is not; below, the range stays 0.2
    assert parts.policy_loss.item() == pytest.approx(-1.25 - 1.28 + 0.8)
    assert parts.clip_fraction.item() == 2
    assert parts.value_loss.item() == parts.value_clip_fraction.item() == 0


@pytest.mark.parametrize(
    ("mean", "expected"),
    [
        ("token", (1 + 2 + 6) / 3),
        ("sequence", ((1 + 2) / 2 + 6 / 1) / 2),
        ("constant", (1 + 2 + 6) / (2 * 10)),
    ],
)
def test_means_of_the_loss_by_hand(mean, expected):
    """Two responses with losses 1, 2 and 6, of at most 10 tokens; computed together and one by one."""
    losses, whole = torch.tensor([1.0, 2.0, 6.0]), Minibatch(tokens=3, responses=2)

    def policy_loss(part: torch.Tensor, sizes: list[int]) -> float:
        zeros = torch.zeros(len(part))
        weights = loss_weights(sizes, mean, whole, longest=10)
        return ppo_loss(zeros, None, OldTokens(zeros, -part), 0.2, 0.2, weights=weights).policy_loss.item()

    assert policy_loss(losses, [2, 1]) / whole.tokens == pytest.approx(expected)
    parts = policy_loss(losses[:2], [2]) + policy_loss(losses[2:], [1])
    assert parts / whole.tokens == pytest.approx(expected)


@pytest.mark.parametrize("trained_head", [False, True])
@pytest.mark.parametrize("cap", [None, 4.0])
@pytest.mark.parametrize("bias", [False, True])
def test_logprobs_entropy_and_gradients_equal_log_softmax(trained_head, cap, bias, monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK", 3)
    monkeypatch.setattr(logprobs, "BLOCK", 2)
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 11, bias=bias).double().requires_grad_(trained_head)
    hidden = torch.randn(8, 6, dtype=torch.double, requires_grad=True)
    targets, upstream = torch.randint(0, 11, (8,)), torch.randn(8)

    def plain():
        logits = head(hidden)
        logits = torch.tanh(logits / cap) * cap if cap else logits
        full = (logits / 0.7).log_softmax(-1)
        return full.gather(1, targets[:, None])[:, 0], -(full.exp() * full).sum(1)

    expected, expected_entropy = plain()
    (expected * upstream).sum().backward()
    wanted = [
        hidden.grad.clone(),
        *(parameter.grad.clone() for parameter in head.parameters() if parameter.requires_grad),
    ]
    hidden.grad = None
    head.zero_grad()
    found, entropy = token_logprobs(hidden, head, targets, 0.7, cap, entropy=True)
    (found * upstream).sum().backward()
    got = [hidden.grad, *(parameter.grad for parameter in head.parameters() if parameter.requires_grad)]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy.double(), expected_entropy, rtol=1e-5, atol=1e-5)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        found, entropy = token_logprobs(hidden, head, targets, 0.7, cap, entropy=True)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy.double(), expected_entropy, rtol=1e-5, atol=1e-5)


def test_no_tokens_at_all():
    head = torch.nn.Linear(4, 5)
    found, entropy = token_logprobs(torch.zeros(0, 4), head, torch.zeros(0, dtype=torch.long), entropy=True)
    assert found.shape == entropy.shape == (0,)
