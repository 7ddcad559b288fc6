"""The losses against numbers worked out apart, in double precision, and what must hold for all of them."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from redline.direct import losses

BETA = 0.1
POLICY = torch.tensor([[-40.0, -41.0, -35.0], [-62.5, -58.0, -30.0]], dtype=torch.float64)
ANCHOR = torch.tensor([[-44.0, -39.5, -34.0], [-60.0, -61.0, -31.5]], dtype=torch.float64)
EXTRA = torch.tensor([[-50.0, -39.0], [-59.0, -70.0]], dtype=torch.float64)
REWARDS = BETA * (POLICY - ANCHOR)  # liked, disliked, the anchor's own answer
MARGINS = REWARDS[:, 0] - REWARDS[:, 1]
SIDES = torch.tensor([1.0, -1.0], dtype=torch.float64).expand(2, 2)


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def same(found: torch.Tensor, wanted: torch.Tensor, places: float = 1e-9) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=places)


def randoms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_margins():
    same(REWARDS[:, :2], torch.stack([doubles(0.4, -0.15), doubles(-0.25, 0.3)]))
    same(MARGINS, doubles(0.55, -0.55))


def test_dpo():
    same(losses.dpo(MARGINS), doubles(0.4554924814633376, 1.0054924814633377), 1e-15)


@pytest.mark.parametrize(
    ("shift", "wanted"),
    [
        (0.0, (1.1339723001894848, 1.6802946643473708)),
        (0.075, (1.1307546060278817, 1.680754606027882)),
        ("middle", (1.1301413353792003, 1.6801413353792003)),
    ],
)
def test_bco_of_both_sides_of_a_pair(shift, wanted):
    if shift == "middle":
        shift = REWARDS[:, :2].mean(1, keepdim=True)
    found = losses.bco(REWARDS[:, :2], SIDES, shift, torch.ones(2, 2)).sum(1)
    same(found, doubles(*wanted), 1e-14)


def test_bco_with_the_shift_in_the_middle_is_dpo_at_half_the_margin_twice():
    rewards = randoms(50, 2).requires_grad_()
    sides = torch.tensor([1.0, -1.0], dtype=torch.float64).expand(50, 2)
    middle = rewards.detach().mean(1, keepdim=True)
    value = losses.bco(rewards, sides, middle, torch.ones(50, 2)).sum()
    half = 2 * losses.dpo((rewards[:, 0] - rewards[:, 1]) / 2).sum()
    same(value, half, 1e-12)
    [one], [other] = (torch.autograd.grad(loss, rewards, retain_graph=True) for loss in (value, half))
    same(one, other, 1e-14)


def test_bco_is_above_dpo_whatever_the_shift():
    liked, disliked, shift = 3 * randoms(3, 10_000)
    pair = torch.stack([liked, disliked], 1)
    sides = torch.tensor([1.0, -1.0], dtype=torch.float64).expand(10_000, 2)
    found = losses.bco(pair, sides, shift[:, None], torch.ones(10_000, 2)).sum(1)
    assert bool((found >= losses.dpo(liked - disliked)).all())


def test_bco_does_not_notice_a_constant_nor_which_class_is_called_which():
    rewards, shift = randoms(20), doubles(0.3)
    sides = randoms(20, seed=1).sign()
    one = losses.bco(rewards, sides, shift, torch.ones(20))
    same(losses.bco(rewards + 5, sides, shift + 5, torch.ones(20)), one, 1e-12)
    same(losses.bco(-rewards, -sides, -shift, torch.ones(20)), one, 1e-12)


def test_selm():
    for alpha, wanted in (
        (0.001, (0.4553924814633376, 1.0056424814633378)),
        (0.5, (0.4054924814633376, 1.0804924814633377)),
    ):
        same(losses.dpo(MARGINS) + losses.optimism(REWARDS[:, 2], alpha), doubles(*wanted), 1e-14)


def test_selms_bonus_is_a_forward_kl_in_expectation_over_the_anchor():
    """Over three answers: sum of pi_a times the bonus is -alpha beta KL(pi_a, pi)."""
    anchor, policy = randoms(3).log_softmax(0), randoms(3, seed=1).log_softmax(0)
    bonus = (anchor.exp() * losses.optimism(BETA * (policy - anchor), 0.5)).sum()
    same(bonus, -0.5 * BETA * (anchor.exp() * (anchor - policy)).sum(), 1e-15)


def test_spa():
    flags = doubles(0, 1)  # margins of at most 0
    found = losses.smoothed(MARGINS, flags, 0.1)
    same(found, doubles(0.4554924814633376, 0.9504924814633378), 1e-14)
    same(found.mean(), doubles(0.702992481463)[0], 1e-12)
    margins, flags = 4 * randoms(1000), (randoms(1000, seed=1) > 0).double()
    two_terms = -(1 - 0.1 * flags) * torch.nn.functional.logsigmoid(
        margins
    ) - 0.1 * flags * torch.nn.functional.logsigmoid(-margins)
    same(losses.smoothed(margins, flags, 0.1), two_terms, 1e-14)
    assert torch.equal(losses.smoothed(margins, torch.zeros(1000), 0.1), losses.dpo(margins))


def test_spas_flagged_pairs_have_their_minimum_at_a_small_margin():
    margin = doubles(math.log(0.9 / 0.1)).requires_grad_()
    losses.smoothed(margin, doubles(1), 0.1).sum().backward()
    assert abs(margin.grad.item()) < 1e-15


@pytest.mark.parametrize(
    ("weights", "pairs", "references"),
    [
        (
            "released",
            (0.403752786, 1.079088939),
            ((-45.361628278, -39.378698598), (-59.945885085, -62.083058434)),
        ),
        (
            "stated",
            (0.373628152, 1.275462531),
            ((-46.091259243, -39.172556082), (-59.133822848, -64.113100664)),
        ),
    ],
)
def test_mrpo(weights, pairs, references):
    found = losses.combined_reference(ANCHOR[:, :2], EXTRA, 0.1, weights=weights)
    same(found, torch.tensor(references, dtype=torch.float64), 1e-8)
    margins = BETA * ((POLICY[:, 0] - found[:, 0]) - (POLICY[:, 1] - found[:, 1]))
    same(losses.dpo(margins), doubles(*pairs), 1e-9)


def test_mrpos_reference_lies_between_the_smaller_and_each_over_its_weight():
    base, extra = -50 - 20 * randoms(2, 10_000, 2).abs()
    for weights in ("stated", "released"):
        found = losses.combined_reference(base, extra, 10.0, adaptive=False, weights=weights)  # never clips
        assert bool((found >= torch.minimum(base, extra) - 1e-9).all())
        assert bool((found <= torch.maximum(base, extra) + 1e-9).all())


def test_mrpo_with_the_same_reference_twice_or_no_band_is_the_base_one():
    base, extra = -100 + randoms(2, 30, 2)
    same(losses.combined_reference(base, base, 0.1), base, 1e-11)
    same(losses.combined_reference(base, extra, 0.0), base, 1e-11)


def test_mrpo_holds_at_thousands_of_nats_in_single_precision():
    base, extra = -3000 + 3 * randoms(2, 20, 2)
    found = losses.combined_reference(base.float(), extra.float(), 0.1)
    torch.testing.assert_close(
        found.double(), losses.combined_reference(base, extra, 0.1), rtol=1e-6, atol=1e-2
    )


def test_the_degree_of_what_is_gone():
    found = losses.degree(doubles(0.2, -0.1, 0.4, 0.0)[None], torch.tensor([2]))
    same(found, doubles(1.129975758871), 1e-12)


def test_the_weighted_tokens_by_hand():
    """A token wanted, one unwanted within the window, one unwanted but unlikely already, one that the
    language needs."""
    middle = (losses.SURE + losses.UNSURE) / 2
    tokens, weights = doubles(0.3, middle, 2.5, 0.1), doubles(1.0, -0.5, -0.5, -0.5)
    total, count = losses.weighted_tokens(-tokens, weights)
    assert total.item() == pytest.approx(0.3 - 0.5 * middle)
    assert count.item() == 2


def test_the_liked_sides_likelihood_is_a_mean_over_its_tokens():
    same(losses.liked_likelihood(doubles(-40, -6), doubles(20, 0), 0.1), doubles(0.2, 0.6))


@pytest.mark.parametrize(
    "loss",
    [
        losses.dpo,
        lambda x: losses.smoothed(x, doubles(0, 1, 1, 0), 0.1),
        lambda x: losses.bco(x, doubles(1, -1, 1, -1), 0.2, doubles(1, 2, 1, 0.5)),
        lambda x: losses.optimism(x, 0.3),
        lambda x: losses.liked_likelihood(x, doubles(3, 4, 5, 6), 0.2),
        lambda x: losses.weighted_tokens(-x.abs() - 1.1, doubles(1, -0.5, 1, 1))[0],
        lambda x: losses.degree(x.view(2, 2), torch.tensor([0, 1])),
    ],
)
def test_gradients(loss):
    assert gradcheck(loss, randoms(4, seed=3).requires_grad_())
