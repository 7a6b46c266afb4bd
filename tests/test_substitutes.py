"""Substitutable features: descent against the definition, closed forms against descent, what is claimed."""

from dataclasses import replace

import numpy as np
import pytest

from theory import substitutes
from theory.substitutes import (LAMBDAS, Pair, Unit, after_stage_2, after_stage_3, along_stage_2, balanced,
                                best_lambda, by_matrices, compute_matched, crossover, descend, least_learned,
                                long_stages, loss, mix, on_a_mixture, slow_rate, tasks, three_stages)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_losses_are_those_of_samples(rng):
    """E(θx − y)² over Gaussian inputs, against e² + 2c·ef + f²."""
    pair = Pair(pre=1.5, post=2.2, copy=0.8)
    unit = Unit(u=0.9, p=0.7, q=0.4)
    shared, other = rng.standard_normal((2, 400_000))
    specialized = 0.8 * shared + 0.6 * other
    errors = unit.a * shared + unit.b * specialized - (1.5 * shared + 0.7 * specialized)
    assert loss(unit, pair) == pytest.approx((errors ** 2).mean(), rel=0.01)


def test_a_step_descends_the_gradient_of_the_mixed_loss():
    pair, start = Pair(pre=1.5, post=2.2, copy=0.8, x=0.3), np.array([0.9, 0.7, 0.4])
    corpora = tasks(pair)

    def value(weights):
        unit = Unit(*weights)
        return 0.75 * loss(unit, pair) + 0.25 * (unit.a - pair.ft) ** 2

    gradient = []
    for step in 1e-6 * np.eye(3):
        gradient.append((value(start + step) - value(start - step)) / 2e-6)
    after = descend(Unit(*start), mix(corpora.post, corpora.ft, 0.25), substitutes.ETA).end
    assert start - np.array(after) == pytest.approx(substitutes.ETA * np.array(gradient), rel=1e-6)


def test_units_that_train_shorter_stop():
    task = tasks(Pair()).post
    start = Unit(0.5, 0.5, 0.1)
    both = descend(start, task, np.array([0.1, 0.3])).end
    for index, time in enumerate((0.1, 0.3)):
        assert [weight[index] for weight in both] == pytest.approx(list(descend(start, task, time).end))


def test_what_converges_by_hand():
    """s_pre = 1, s_post = 2, by the formulas of the docstrings with numbers put in."""
    # Unmixed: d = (p − q)²/2 = 1/2, y² = −1/4 + √(1/16 + 2), b = √(y² + 1/2)·(y − √(1/2))/√2.
    y2 = -0.25 + (1 / 16 + 2) ** 0.5
    b = (y2 + 0.5) ** 0.5 * (y2 ** 0.5 - 0.5 ** 0.5) / 2 ** 0.5
    alone = after_stage_2(balanced(1.0, 0.0), Pair())
    assert (alone.a, alone.b) == pytest.approx((2 - b, b))
    assert b == pytest.approx(0.351, abs=0.001)

    # Mixed, it stays where D_pre and D_post agree.
    assert long_stages(Pair())[1] == pytest.approx(0)
    assert list(after_stage_3(balanced(1.0, 1.0), 1.0)) == pytest.approx([2 ** 0.25, 2 ** -0.25, 2 ** -0.25])


@pytest.mark.parametrize("pre, post", [(1, 2), (0.8, 3), (2, 1.2), (1, 0.3)])
def test_closed_forms_are_where_descent_ends(pre, post):
    pair = Pair(pre=pre, post=post, alpha=np.array([0, 0.3]), x=0.2, t_pre=40.0, t_post=8.0, t_ft=30.0)
    run = three_stages(pair)
    alone, mixed = long_stages(pair)
    assert loss(run.ft.end, pair) == pytest.approx([alone.item(), mixed.item()], abs=0.01)

    # Stage by stage, from what descent itself had.
    assert after_stage_2(run.pre.end, pair) == pytest.approx(np.array(run.post.end), abs=0.02)
    assert after_stage_3(run.post.end, run.ft.end.a) == pytest.approx(np.array(run.ft.end), abs=0.01)


def test_stage_1_learns_at_least_the_bound_and_what_counts_is_share_times_time():
    alpha, t_pre = np.meshgrid(np.geomspace(0.002, 0.3, 8), [5.0, 10, 40], indexing="ij")
    pair = Pair(alpha=alpha, t_pre=t_pre)
    learned, bound = three_stages(pair).pre.end.b, least_learned(pair).b
    assert (learned >= bound).all()
    assert (bound > 0.5 * learned)[learned > 0.05].mean() > 0.7
    long = three_stages(Pair(alpha=np.array([0.01, 0.02]), t_pre=np.array([83.0, 43.0]))).pre.end.b
    assert long[0] == pytest.approx(long[1], rel=0.05)


@pytest.mark.parametrize("replay, copy", [(0.01, 1), (0, 0.99), (0.01, 0.995)])
def test_replay_and_an_inexact_copy_complete_the_specialized_feature_at_one_rate(replay, copy):
    pair = Pair(alpha=0.0, replay=replay, copy=copy, t_post=np.array([20.0, 60.0]))
    ends = three_stages(pair).post.end
    advance = slow_rate(pair) * pair.t_post
    predicted = along_stage_2(after_stage_2(balanced(1.0, 0.0), Pair()), pair, np.linspace(0, advance, 50))
    assert ends.b == pytest.approx(predicted.b[-1], abs=0.02)
    assert ends.b[0] > 0.4 and ends.b[1] > ends.b[0] + 0.1


def test_the_crossover_is_where_descent_has_it():
    for post in (1.1, 2.0, 6.0, 0.5):
        x = np.linspace(0.2, 0.45, 26)
        alone = Pair(alpha=0.0, post=post, x=x, t_post=8.0, t_ft=12.0)
        mixed = replace(alone, alpha=0.3)
        gain = loss(three_stages(alone).ft.end, alone) - loss(three_stages(mixed).ft.end, mixed)
        assert x[np.argmax(gain < 0)] == pytest.approx(crossover(Pair(post=post)), abs=0.02)


def test_the_crossover_is_near_a_third_for_every_delta():
    ratios = np.geomspace(0.001, 1000, 30)
    places = crossover(Pair(post=1 + np.append(ratios, -np.linspace(0.01, 0.95, 20))))
    assert 0.27 < places.min() < places.max() < 0.37
    assert crossover(Pair(post=1.001)) == pytest.approx(1 / 3, abs=0.001)


def test_random_weights_do_as_one_unit_does(rng):
    for pair in (Pair(alpha=0.0), Pair(alpha=0.01), Pair(alpha=0.0, replay=0.1), Pair(alpha=0.02, copy=0.98)):
        L_ret = loss(three_stages(pair).ft.end, pair)
        assert by_matrices(pair, 2, rng) == pytest.approx(L_ret.item(), abs=0.01)


def test_mixing_and_replay_lower_what_is_lost_and_add_up():
    pair = Pair(alpha=np.array([0, 0.02]), replay=np.array([0, 0.05])[:, None])
    (neither, mixed), (replayed, both) = loss(three_stages(pair).ft.end, pair)
    assert neither > 0.5 and both < mixed < replayed < neither
    L_im = loss(three_stages(pair).post.end, pair)
    assert L_im[0].max() < 1e-3                                          # without replay both fit D_post


def test_where_d_ft_mixes_the_corpora_exposure_never_hurts():
    shares = np.array([0, 0.25, 0.5, 0.75, 1])
    alone, mixed = (loss(on_a_mixture(Pair(alpha=alpha), shares), Pair()) for alpha in (0.0, 0.05))
    assert alone[0] == pytest.approx(loss(three_stages(Pair(alpha=0.0)).ft.end, Pair()))
    assert (np.diff(alone) < 0).all() and (mixed <= alone + 1e-9).all() and alone[1] < 0.2 * alone[0]


def test_compute_matched_the_best_share_is_inside_and_moves_with_stage_3_and_the_budget():
    def best(tau, t_ft):
        run = compute_matched(Pair(t_pre=8.0, t_ft=t_ft), LAMBDAS, tau)
        L_im = loss(run.post.end, Pair())
        assert (np.diff(L_im) > -1e-9).all()                             # L_im worsens with λ
        return best_lambda(run)

    by_length = [best(0.4, t_ft) for t_ft in (0.02, 0.1, 2.0)]
    by_budget = [best(tau, 0.1) for tau in (0.4, 0.8)]
    assert 0 < by_length[0] < by_length[1] < by_length[2] < 1
    assert by_budget[0] < by_budget[1] < 1
