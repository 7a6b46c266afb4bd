"""Intervals, tests and verdicts over seeds against values worked out by hand."""

import math

import numpy as np
import pytest

from experiments.statistics import (Estimate, at_best_of_others, best_inside, estimate, partial_slope, sign_flip_p, slope,
                                    student_t, verdict, vertex)


def test_sign_flips_by_hand():
    assert sign_flip_p(np.array([1.0, 2.0, 3.0])) == 1 / 8                           # the largest of 8 means
    assert sign_flip_p(np.array([-1.0, 2.0, 3.0])) == 2 / 8                          # 6 and 4
    assert sign_flip_p(np.array([-1.0, -2.0])) == 1
    assert sign_flip_p(np.arange(1.0, 21)) == pytest.approx(1 / 10_001)    # of 10,000 random ones and this


def test_student_t_against_a_table():
    table = {1: 12.706, 2: 4.303, 4: 2.776, 9: 2.262, 30: 2.042, 1000: 1.962}
    for freedom, t in table.items():
        assert student_t(freedom) == pytest.approx(t, abs=6e-4)
    assert student_t(3, coverage=0.5) == pytest.approx(0.765, abs=6e-4)


@pytest.mark.parametrize("seeds", [3, 5])
def test_an_interval_covers_as_often_as_it_says(seeds):
    random = np.random.default_rng(1)
    of_noise = [estimate(random.normal(size=seeds)) for _ in range(400)]
    assert 0.93 < np.mean([one.low <= 0 <= one.high for one in of_noise]) < 0.97


def test_a_parabola_of_three_points_is_least_at_its_vertex_or_at_an_end():
    x = np.arange(4.0)
    # Wherever the least lies between the first two, whichever of them is less; what only falls is at the end.
    for place, within in ((0.45, 0.45), (0.55, 0.55), (2.6, 2.6), (-1, 0)):
        assert vertex(x, (x - place) ** 2 + 1) == pytest.approx((within, (within - place) ** 2 + 1))
    assert vertex(x, np.array([9.0, 2, 3, 8])) == pytest.approx((1.375, 1.4375))      # 4x² − 11x + 9, by three
    assert vertex(x[:2], np.array([2.0, 1])) == pytest.approx((1, 1))                 # two lie on a line
    assert vertex(x, -(x - 1) ** 2) == pytest.approx((3, -4))                         # bent the other way


def test_interval_of_three_seeds_by_hand_and_one_seed_has_none():
    three = estimate([1.0, 2.0, 6.0])                       # 3 ± 4.303 · √7 / √3
    assert three == pytest.approx((3, -3.572, 9.572, 1 / 8, 3), abs=1e-3)
    assert f"{three:.1f}" == "3.0 [-3.6, 9.6]"
    one = estimate([1.0])
    assert one.value == 1 and np.isnan(one.low) and f"{one:.2f}" == "1.00"


def test_what_is_not_known_of_a_seed_is_not_known_of_their_mean():
    unknown = estimate([np.nan, 1.0])
    assert np.isnan(unknown[:4]).all() and unknown.seeds == 2 and f"{unknown:.3f}" == unknown.shown_p() == "–"


def test_e_to_an_estimate_keeps_its_p_and_its_seeds():
    ratio = Estimate(math.log(2), math.log(0.5), math.log(8), 0.125, 3).exponential()
    assert ratio == pytest.approx((2, 0.5, 8, 0.125, 3)) and f"{ratio:.1f}" == "2.0 [0.5, 8.0]"
    assert np.isnan(estimate([0.0]).exponential().low)


def test_p_is_shown_to_three_decimals_or_as_a_dash():
    assert estimate([1.0, 2.0]).shown_p() == "0.250"
    assert estimate(np.arange(1.0, 21)).shown_p() == "0.000"
    assert estimate([1.0]).shown_p() == "–"


def test_a_verdict_needs_the_whole_interval_above_zero():
    above, across, below = (estimate(values) for values in ([1.0, 1.1], [-1.0, 2], [-1.0, -1.1]))
    unknown = estimate([np.nan, 1.0])
    assert verdict(above) == verdict(above, unknown) == "seen (2 seeds)"
    assert verdict(across) == verdict(below) == verdict(above, across) == "not seen (2 seeds)"
    assert verdict(unknown) == "not judged" and verdict(above, also=False) == "not seen (2 seeds)"
    assert verdict(estimate([0.1])) == "seen (1 seed)"
    assert verdict(estimate([-0.1])) == "not seen (1 seed)"


def test_slope_is_least_squares():
    x, y = np.array([0, 0.25, 0.5, 1]), np.random.default_rng(0).normal(size=(3, 4))
    assert slope(x, y) == pytest.approx(np.polyfit(x, y.T, 1)[0])


def test_the_best_inside_is_chosen_by_the_other_seeds():
    curves = np.array([[5, 4, 3, 2, 5], [5, 4, 1, 4, 6], [6, 4, 2, 3, 4.0]])
    # without the first: 4, 1.5, 3.5 → index 2 → 5 − 3; without the second: 4, 2.5, 2.5 → 2 → 5 − 1;
    # without the third: 4, 2, 3 → 2 → 4 − 2
    assert best_inside(curves).tolist() == [2, 4, 2]
    # the same places chosen by one loss and looked up in another
    assert at_best_of_others(10 * curves[:, 1:-1], by=curves[:, 1:-1]).tolist() == [30, 10, 20]
    assert at_best_of_others(-curves[:, 1:-1], by=curves[:, 1:-1]).tolist() == [-3, -1, -2]
    assert best_inside(curves[:1]).tolist() == [3]                               # one seed chooses for itself
    flat = np.random.default_rng(0).normal(size=(2_000, 3, 5))
    assert np.mean([best_inside(one).mean() > 0 for one in flat]) < 0.35   # mere noise does not look like one


def test_a_best_chosen_by_other_seeds_is_seen_more_often_by_chance():
    """More often than the 1 of 40 of a number that was not chosen: the choices tie the seeds together."""
    for seeds, at_most in ((3, 0.05), (8, 0.08)):
        noise = np.random.default_rng(1).normal(size=(800, seeds, 8))
        seen = [estimate(one[:, 0] - at_best_of_others(one[:, 1:])).low > 0 for one in noise]
        assert 0.02 < np.mean(seen) < at_most

    # Most often where both that are compared are such bests.
    one, other = np.random.default_rng(0).normal(size=(2, 800, 7, 12))
    seen = [estimate(at_best_of_others(a) - at_best_of_others(b)).low > 0 for a, b in zip(one, other)]
    assert 0.07 < np.mean(seen) < 0.13


def test_a_partial_slope_is_at_equal_values_of_the_other():
    x, held = np.random.default_rng(0).normal(size=(2, 3, 6))
    by_hand = np.array([[2.0], [-1.0], [0.5]])
    assert partial_slope(x, 7 + by_hand * x - 3 * held, held) == pytest.approx(by_hand[:, 0])
    assert partial_slope(x, 3 * held, held) == pytest.approx(np.zeros(3), abs=1e-12)
