"""The flow from disliked to liked points: by hand, at its limits, and on clouds."""

import pytest
import torch

from redline.direct.flow import NOISE, Projection, carried, fit, on_the_way, scores


def clouds(count=200, size=8, seed=0):
    """Pairs of points: liked ones are moved by a constant, and both scatter."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(count, size, generator=generator)
    disliked = base + 0.3 * torch.randn(count, size, generator=generator)
    liked = base + 1.0 + 0.3 * torch.randn(count, size, generator=generator)
    return disliked, liked


def test_a_point_on_the_way_by_hand():
    start, end = torch.tensor([[0.0, 2.0]]), torch.tensor([[4.0, 0.0]])
    point, wanted = on_the_way(start, end, torch.tensor([[0.25]]), torch.tensor([[1.0, -1.0]]))
    torch.testing.assert_close(point, torch.tensor([[1.0 + NOISE, 1.5 - NOISE]]))
    torch.testing.assert_close(wanted, torch.tensor([[4.0, -2.0]]))


def test_liked_points_alone_stay():
    _, liked = clouds()
    field = fit(liked, liked, epochs=60)
    assert float((carried(field, liked) - liked).norm(dim=1).mean()) < 0.1


def test_pairs_that_were_not_fitted_are_ranked_right_and_shuffled_sides_are_not():
    disliked, liked = clouds()
    field = fit(disliked[:150], liked[:150], epochs=100)
    right = float((scores(field, liked[150:]) > scores(field, disliked[150:])).float().mean())
    assert right > 0.85
    nearer = (carried(field, disliked[150:]) - liked[150:]).norm(dim=1).mean()
    assert nearer < (disliked[150:] - liked[150:]).norm(dim=1).mean()
    swap = torch.rand(200, 1, generator=torch.Generator().manual_seed(1)) < 0.5
    one, other = torch.where(swap, liked, disliked), torch.where(swap, disliked, liked)
    field = fit(one[:150], other[:150], epochs=100)
    chance = float((scores(field, other[150:]) > scores(field, one[150:])).float().mean())
    assert 0.25 < chance < 0.75


def test_twenty_steps_are_enough():
    disliked, liked = clouds()
    field = fit(disliked, liked, epochs=60)
    few, many = carried(field, disliked), carried(field, disliked, 200)
    assert float((few - many).norm(dim=1).mean()) < 0.05 * float((many - disliked).norm(dim=1).mean())


def test_the_same_seed_gives_the_same_field():
    disliked, liked = clouds(40)
    one, other = (fit(disliked, liked, epochs=3, seed=5) for _ in range(2))
    assert torch.equal(scores(one, liked), scores(other, liked))


def test_projected_points_have_deviation_1():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(300, 20, generator=generator) @ torch.randn(20, 20, generator=generator)
    projected = Projection.of(points, 5)(points)
    assert projected.shape == (300, 5)
    torch.testing.assert_close(projected.std(0), torch.ones(5), rtol=1e-4, atol=1e-4)
    assert float(projected.mean(0).abs().max()) == pytest.approx(0, abs=1e-4)
