"""Statistics over seeds and prompts: against a plain loop, and curves worked by hand."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from redline.experiment.statistics import _draws, first_reach, interval, level_gap, level_weights
from redline.judge.statistics import paired_difference, win_rate_interval


def test_interval_is_that_of_a_plain_loop():
    values = np.random.default_rng(3).normal(0.1, 0.4, (4, 30)) + np.array([[0.2], [-0.1], [0.0], [0.1]])
    random = np.random.default_rng(7)
    means = [values[random.integers(4, size=4)][:, random.integers(30, size=30)].mean() for _ in range(8000)]
    assert interval(values) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.012)


def test_seeds_that_differ_widen_it_and_prompts_they_share_are_paired():
    prompts = np.random.default_rng(0).normal(0, 1, 200)
    same = np.tile(prompts, (5, 1))
    apart = same + np.array([[-0.5], [-0.25], [0.0], [0.25], [0.5]])
    width = [high - low for low, high in map(interval, (same, apart))]
    assert width[0] == pytest.approx(2 * 1.96 * prompts.std() / 200**0.5, rel=0.1)
    assert width[1] > 2 * width[0]
    assert interval(apart - same)[0] == pytest.approx(
        -interval(apart - same)[1], abs=0.02
    )  # what prompts share is gone


def test_a_thousand_prompts_take_ten_megabytes():
    assert sum(kept.nbytes for kept in _draws(5, 1000, 0, 10_000)) < 11e6


def test_equal_values_are_not_certain():
    assert (
        interval(np.ones((3, 10)), lowest=0.0)
        == win_rate_interval(np.ones(10))
        == pytest.approx((0.69, 1), abs=0.005)
    )
    assert interval(np.zeros((3, 10))) == paired_difference(np.ones(10), np.ones(10)).ci95


@pytest.mark.parametrize("values", [[], [[]], [1.0, 2.0], [[1.0, float("nan")]]])
def test_what_is_no_table_is_refused(values):
    with pytest.raises(ValueError, match="seeds by prompts"):
        interval(values)


def gao(kl, a, b):
    distance = np.sqrt(kl)
    return 0.5 + distance * (a - b * np.log(distance))


@given(
    st.lists(st.floats(0.1, 20), min_size=2, max_size=9, unique=True),
    st.floats(-0.3, 0.3),
    st.floats(-0.1, 0.1),
    st.floats(0.01, 0.99),
    st.floats(-1, 1),
)
def test_a_curve_of_that_form_is_read_exactly(kl, a, b, place, first):
    """Wherever its measurements are, in whatever order they came; a policy's curve begins where it is its
    reference."""
    gold = gao(np.array(kl), a, b) + first
    assume(max(kl) - min(kl) > 0.1)
    level = place * max(kl)
    weights = level_weights([0.0, *kl], level)
    assert weights.sum() == pytest.approx(1)
    assert weights @ [0.5 + first, *gold] == pytest.approx(gao(level, a, b) + first, abs=1e-6)


def test_noise_is_averaged_over_all_measurements():
    """The same fit as NumPy's least squares; a reading's error is smaller than that of a measurement."""
    kl, gold = (
        np.array([0.0, 0.8, 2.1, 3.9, 5.2, 5.8, 6.3]),
        np.array([0.5, 0.58, 0.6, 0.72, 0.7, 0.81, 0.75]),
    )
    distance = np.sqrt(kl[1:])
    (a, b), *_ = np.linalg.lstsq(np.stack([distance, -distance * np.log(distance)], 1), gold[1:] - 0.5)
    weights = level_weights(kl, 3.0)
    assert weights @ gold == pytest.approx(gao(3.0, a, b))
    assert np.sqrt((weights[1:] ** 2).sum()) < 0.6


def test_a_curve_has_no_more_to_say_than_its_points():
    assert level_weights([0, 2, 6], 6.1) is None
    assert level_weights([0, 2, 6], -0.1) is None
    assert level_weights([], 1) is None
    assert level_weights([2.0], 1) is None
    assert level_weights([0, 4], 1) == pytest.approx([0.5, 0.5])  # half as far: half the gain
    assert level_weights([0, -0.1, 4], 1) == pytest.approx([0.5, 0, 0.5])  # an estimate below 0 is of no use
    assert level_weights([0, 2, 6], 0) == pytest.approx([1, 0, 0])
    assert [level_gap([0, 2, 6, 4, 5], level) for level in (1, 4.5, 5, 6.1)] == [2, 1, 0, None]


def test_first_reach():
    assert first_reach([0.5, 0.6, 0.8, 0.7, 0.9], [0, 10, 20, 30, 40], 0.7) == pytest.approx(15)
    assert first_reach([0.5, 0.6], [0, 10], 0.7) is None
    assert first_reach([0.9, 0.6], [5, 10], 0.7) == 5
