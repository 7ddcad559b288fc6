"""Win rates, intervals, tests: against published figures and independent small implementations."""

import csv
import itertools
import json
import math
import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redline.judge import agreement, statistics
from redline.judge.length import ANCHOR, NEUTRAL, fit_logistic, length_controlled_win_rate

CODES = {0: 0.5, 1.5: 0.5, 1: 0.0, 2: 1.0}


@pytest.fixture(params=["alpaca-farm-ppo-human", "alpaca-7b"])
def published(request: pytest.FixtureRequest, data_dir: Path) -> tuple[list[dict], dict[str, str]]:
    folder = data_dir / "alpaca_eval"
    with (folder / "alpaca_eval_gpt4_leaderboard.csv").open() as table:
        row = next(row for row in csv.DictReader(table) if row[""] == request.param)
    return json.loads((folder / request.param / "annotations.json").read_text()), row


def test_published_win_rate_and_error(published):
    verdicts, row = published
    preferences = [CODES[verdict["preference"]] for verdict in verdicts]
    assert statistics.win_rate(preferences) * 100 == pytest.approx(float(row["win_rate"]), abs=1e-9)
    assert statistics.standard_error(preferences) * 100 == pytest.approx(
        float(row["standard_error"]), abs=1e-9
    )
    wins, ties, losses = statistics.outcome_counts(preferences)
    assert [wins, losses, ties] == [int(row[key]) for key in ("n_wins", "n_wins_base", "n_draws")]


def test_published_length_controlled_win_rate(published):
    verdicts, row = published
    preferences = [CODES[verdict["preference"]] for verdict in verdicts]
    lengths = [[len(verdict[side]) for verdict in verdicts] for side in ("output_2", "output_1")]
    controlled = length_controlled_win_rate(preferences, *lengths)
    assert controlled.win_rate * 100 == pytest.approx(float(row["length_controlled_winrate"]), abs=0.5)
    assert controlled.length_effect > 1  # GPT-4 likes length


def test_sign_test_is_exact():
    for wins, losses in [(0, 0), (1, 0), (3, 1), (5, 5), (12, 30), (100, 61)]:
        total = wins + losses
        tail = sum(Fraction(math.comb(total, k), 2**total) for k in range(min(wins, losses) + 1))
        assert statistics.sign_test(wins, losses) == pytest.approx(
            float(min(Fraction(1), 2 * tail)), rel=1e-9
        )
    assert statistics.sign_test(51_000, 50_000) == pytest.approx(0.001658, rel=0.02)  # normal, corrected


def test_bootstrap_against_all_resamples():
    values = [0.0, 0.5, 1.0, 1.0]
    means = sorted(
        sum(draw) / 4 for draw in itertools.product(values, repeat=4)
    )  # the bootstrap distribution itself
    low, high = statistics.bootstrap_interval(values, seed=3, resamples=40_000)
    assert low == pytest.approx(np.quantile(means, 0.025), abs=0.126)
    assert high == pytest.approx(np.quantile(means, 0.975), abs=0.126)
    assert statistics.bootstrap_interval(values, seed=3, resamples=40_000) == (low, high)


def test_bootstrap_approaches_the_normal_interval():
    values = np.random.default_rng(0).random(2_000)
    low, high = statistics.bootstrap_interval(values, seed=1)
    error = statistics.standard_error(values)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_interval_of_a_clean_sweep_still_has_width():
    low, high = statistics.win_rate_interval([1.0] * 10)
    assert (low, high) == (pytest.approx(0.6915, abs=1e-4), 1.0)  # Clopper-Pearson, tabled
    assert statistics.win_rate_interval([0.0] * 10) == (0.0, pytest.approx(0.3085, abs=1e-4))
    assert statistics.win_rate_interval([0.5] * 10) == pytest.approx((0.3457, 0.6543), abs=1e-4)
    assert statistics.win_rate_interval([0.5]) == pytest.approx(
        (0.0125, 0.9875)
    )  # one tie says next to nothing


def test_paired_difference_uses_the_pairing():
    shared = np.tile([0.0, 1.0], 50)
    better = shared.copy()
    better[:20:2] = 1.0  # ten prompts more won, none lost
    found = statistics.paired_difference(better, shared, seed=1)
    assert found.difference == pytest.approx(0.1)
    assert found.ci95[0] > 0.04
    assert found.sign_test_p == pytest.approx(2 / 2**10)
    assert (
        found.standard_error
        < math.hypot(statistics.standard_error(better), statistics.standard_error(shared)) / 2
    )


def test_paired_difference_of_equals_and_of_one_prompt():
    equal = statistics.paired_difference([1, 0.5, 0] * 30, [1, 0.5, 0] * 30)
    assert (equal.difference, equal.sign_test_p) == (0, 1)
    assert -0.05 < equal.ci95[0] == -equal.ci95[1] < 0
    one = statistics.paired_difference([1], [0.5])
    assert one.standard_error is None
    assert -1 <= one.ci95[0] < one.difference < one.ci95[1] <= 1


def test_bradley_terry_two_systems_closed_form():
    strengths = statistics.bradley_terry([[0, 30], [10, 0]], prior=0)
    assert strengths[0] - strengths[1] == pytest.approx(math.log(3))


def test_bradley_terry_against_gradient_ascent():
    wins = np.array([[0, 7, 12], [5, 0, 8.5], [2, 6.5, 0]])
    strengths = np.zeros(3)
    for _ in range(20_000):  # the log-likelihood's gradient: observed less expected wins
        expected = (wins + wins.T) / (1 + np.exp(strengths[None, :] - strengths[:, None]))
        strengths += 0.02 * (wins.sum(1) - expected.sum(1))
    assert statistics.bradley_terry(wins, prior=0) == pytest.approx(strengths - strengths.mean(), abs=1e-6)


def test_bradley_terry_stays_finite_for_an_undefeated_system():
    strengths = statistics.bradley_terry([[0, 20, 20], [0, 0, 11], [0, 9, 0]])
    assert np.isfinite(strengths).all()
    assert strengths[0] > strengths[1] > strengths[2]
    with pytest.raises(ValueError, match="never won"):
        statistics.bradley_terry([[0, 20], [0, 0]], prior=0)


@pytest.mark.parametrize("bad", [[], [0.2, 1.5], [float("nan")], [[0.5]]])
def test_preferences_outside_their_range_are_refused(bad):
    with pytest.raises(ValueError, match="expected"):
        statistics.win_rate(bad)


def test_length_control_recovers_a_known_model():
    random_ = np.random.default_rng(5)
    length_a, length_b = random_.integers(50, 900, 20_000), random_.integers(50, 500, 20_000)
    delta = length_a - length_b
    chance = 1 / (1 + np.exp(-(-0.7 + 2.0 * np.tanh(delta / delta.std(ddof=1)))))
    preferences = (random_.random(20_000) < chance).astype(float)
    controlled = length_controlled_win_rate(preferences, length_a, length_b, anchor=None)
    assert controlled.advantage == pytest.approx(-0.7, abs=0.08)
    assert controlled.length_effect == pytest.approx(2.0, abs=0.12)
    assert controlled.win_rate == pytest.approx(1 / (1 + math.exp(0.7)), abs=0.02)
    assert controlled.win_rate < preferences.mean() - 0.05


def test_a_judge_who_ignores_length_is_not_taken_for_one_who_likes_it():
    preferences = [1.0, 0.0] * 100  # won and lost alike, long and longer
    longer, shorter = [100, 100, 160, 160] * 50, [20] * 200
    neutral = length_controlled_win_rate(preferences, longer, shorter, anchor=NEUTRAL).win_rate
    assert neutral == pytest.approx(0.5, abs=1e-6)
    assert length_controlled_win_rate(preferences, longer, shorter, anchor=ANCHOR).win_rate < neutral - 0.01


def test_length_control_with_difficulty_averages_over_prompts():
    random_ = np.random.default_rng(6)
    difficulty = random_.normal(size=20_000) * 2
    length_a, length_b = random_.integers(50, 900, 20_000), random_.integers(50, 900, 20_000)
    preferences = (random_.random(20_000) < 1 / (1 + np.exp(-(0.5 + difficulty)))).astype(float)
    controlled = length_controlled_win_rate(preferences, length_a, length_b, difficulty, anchor=None)
    assert controlled.difficulty_effect == pytest.approx(1.0, abs=0.06)
    assert controlled.win_rate == pytest.approx(preferences.mean(), abs=0.005)


JUDGED = st.lists(
    st.tuples(st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(0, 400), st.integers(0, 400)),
    min_size=1,
    max_size=40,
)


@given(JUDGED)
def test_swapping_the_systems_mirrors_every_figure(rows):
    preferences, length_a, length_b = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    assert statistics.win_rate(1 - preferences) == pytest.approx(1 - statistics.win_rate(preferences))
    low, high = statistics.win_rate_interval(preferences, seed=2)
    assert statistics.win_rate_interval(1 - preferences, seed=2) == pytest.approx((1 - high, 1 - low))
    assert 0 <= low <= high <= 1
    there = length_controlled_win_rate(preferences, length_a, length_b)
    back = length_controlled_win_rate(1 - preferences, length_b, length_a)
    assert there.win_rate + back.win_rate == pytest.approx(1, abs=1e-6)
    wins, ties, losses = statistics.outcome_counts(preferences)
    assert statistics.outcome_counts(1 - preferences) == (losses, ties, wins)
    assert statistics.sign_test(wins, losses) == statistics.sign_test(losses, wins)


def test_length_control_of_clean_sweeps_and_equal_lengths():
    assert 0.95 < length_controlled_win_rate([1.0] * 50, range(50, 100), [60] * 50).win_rate <= 1
    assert length_controlled_win_rate([1, 0, 0.5, 1], [7] * 4, [5] * 4).win_rate == pytest.approx(0.625)


def test_logistic_fit_is_a_stationary_point():
    random_ = np.random.default_rng(2)
    features, targets = random_.normal(size=(300, 3)), random_.random(300)
    mean, precision = np.array([0.0, ANCHOR[0], -1.0]), np.array([0.01, 5.0, 2.0])
    weights = fit_logistic(features, targets, mean, precision)

    def objective(at: np.ndarray) -> float:
        chance = 1 / (1 + np.exp(-features @ at))
        return (
            -(targets * np.log(chance) + (1 - targets) * np.log(1 - chance)).sum()
            + (precision * (at - mean) ** 2).sum() / 2
        )

    for axis in range(3):
        for step in (-1e-3, 1e-3):
            assert objective(weights + step * np.eye(3)[axis]) > objective(weights)


def test_kappas_on_worked_examples():
    first = [1.0] * 20 + [0.0] * 15 + [1.0] * 5 + [0.0] * 10
    second = [1.0] * 20 + [0.0] * 15 + [0.0] * 5 + [1.0] * 10
    assert agreement.agreement(first, second) == pytest.approx(0.7)
    assert agreement.cohen_kappa(first, second) == pytest.approx(
        0.4
    )  # the textbook 2 x 2 table 20, 5, 10, 15
    counts = [
        (0, 0, 0, 0, 14),
        (0, 2, 6, 4, 2),
        (0, 0, 3, 5, 6),
        (0, 3, 9, 2, 0),
        (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0),
        (3, 2, 6, 3, 0),
        (2, 5, 3, 2, 2),
        (6, 5, 2, 1, 0),
        (0, 2, 2, 3, 7),
    ]  # 14 raters, 5 categories
    rows = [[category for category, count in enumerate(row) for _ in range(count)] for row in counts]
    random.Random(1).shuffle(rows)
    assert agreement.fleiss_kappa(rows) == pytest.approx(0.210, abs=5e-4)
    assert agreement.cohen_kappa([1, 1], [1, 1]) == agreement.fleiss_kappa([[1, 1], [1, 1]]) == 1.0


def test_majority():
    assert agreement.majority([1, 1, 0]) == 1
    assert agreement.majority([1, 0, 0.5]) is None
    assert agreement.majority([0]) == 0


def test_pandalm_people_as_published(data_dir):
    rows = json.loads((data_dir / "pandalm" / "testset-v1.json").read_text())
    people = [[CODES[row[f"annotator{person}"]] for row in rows] for person in (1, 2, 3)]
    kappas = [agreement.cohen_kappa(people[i], people[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert [round(kappa, 2) for kappa in kappas] == [0.85, 0.88, 0.86]  # the data set's card
    assert min(kappas) < agreement.fleiss_kappa(np.array(people).T) < max(kappas)
    votes = [agreement.majority(verdicts) for verdicts in zip(*people, strict=True)]
    assert [votes.count(verdict) for verdict in (0.5, 0.0, 1.0)] == [
        105,
        422,
        472,
    ]  # the data set's card: 0, 1, 2
