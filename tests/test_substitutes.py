"""Substitutable features: descent against the definition, closed forms against descent, what is claimed."""

import numpy as np
import pytest

from theory import pair as model, substitutes
from theory.pair import (Pair, Unit, after_stage_2, after_stage_3, along_stage_2, balanced, best_left, blend,
                         by_matrices, corpora, crossover, descend_unit, least_learned, long_stages,
                         loss_on_post, slow_rate, train_pair)
from theory.substitutes import LAMBDAS, at_equal_L_ft, best_lambda, on_a_mixture, train_matched


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# ---- descent

def test_losses_are_those_of_samples(rng):
    """E(θx − y)² over Gaussian inputs, against e² + 2c·ef + f²."""
    pair = Pair(pre=1.5, post=2.2, copy=0.8)
    unit = Unit(u=0.9, p=0.7, q=0.4)
    shared, other = rng.standard_normal((2, 400_000))
    specialized = 0.8 * shared + 0.6 * other
    errors = unit.a * shared + unit.b * specialized - (1.5 * shared + 0.7 * specialized)
    assert loss_on_post(unit, pair) == pytest.approx((errors ** 2).mean(), rel=0.01)


def test_a_step_descends_the_gradient_of_the_blended_loss():
    pair, start = Pair(pre=1.5, post=2.2, copy=0.8, x=0.3), np.array([0.9, 0.7, 0.4])
    on = corpora(pair)

    def value(weights):
        unit = Unit(*weights)
        return 0.75 * loss_on_post(unit, pair) + 0.25 * (unit.a - pair.ft) ** 2

    gradient = []
    for step in 1e-6 * np.eye(3):
        gradient.append((value(start + step) - value(start - step)) / 2e-6)
    after = descend_unit(Unit(*start), blend(on.post, on.ft, 0.25), model.ETA)
    assert start - np.array(after) == pytest.approx(model.ETA * np.array(gradient), rel=1e-6)


def test_units_that_train_shorter_stop():
    on_post = corpora(Pair()).post
    start = Unit(0.5, 0.5, 0.1)
    both = descend_unit(start, on_post, np.array([0.1, 0.3]))
    for index, time in enumerate((0.1, 0.3)):
        assert list(both.at(index)) == pytest.approx(list(descend_unit(start, on_post, time)))


def test_a_path_ends_where_descent_does():
    pair = Pair(alpha=np.array([0, 0.05]), t_pre=8.0, t_post=0.3)
    ends, paths = train_pair(pair), train_pair(pair, record=True)
    for end, path in zip(ends[1:], paths[1:]):
        assert np.array(path)[:, -1] == pytest.approx(np.array(end))
    assert paths.L_im[-1] == pytest.approx(paths.L_ret[0])               # Stage 3 goes on from Stage 2
    assert len(paths.post.u) == 31


def test_random_weights_do_as_one_unit_does(rng):
    pair = Pair(
        alpha=np.array([0, 0.01, 0, 0.02, 0.02]),
        replay=np.array([0, 0, 0.1, 0, 0]),
        copy=np.array([1, 1, 1, 0.98, 1]),
        x=np.array([0, 0, 0, 0, 0.5]),
    )
    assert by_matrices(pair, 2, 1, rng)[0] == pytest.approx(train_pair(pair).L_ret, abs=0.01)


# ---- closed forms

def test_what_converges_by_hand():
    """s_pre = 1, s_post = 2, by the formulas of the docstrings with numbers put in."""
    # Unmixed: z² = (p − q)²/2 = 1/2, y = 2/√(1/2 + √(1/4 + 8)), b = √(y² + 1/2)·(y − √(1/2))/√2.
    y = 2 / (0.5 + 8.25 ** 0.5) ** 0.5
    b = (y ** 2 + 0.5) ** 0.5 * (y - 0.5 ** 0.5) / 2 ** 0.5
    alone = after_stage_2(balanced(1.0, 0.0), Pair())
    assert (alone.a, alone.b) == pytest.approx((2 - b, b))
    assert b == pytest.approx(0.351, abs=0.001)

    # Mixed, it stays where D_pre and D_post agree.
    assert long_stages(Pair())[1] == pytest.approx(0)
    assert list(after_stage_3(balanced(1.0, 1.0), 1.0)) == pytest.approx([2 ** 0.25, 2 ** -0.25, 2 ** -0.25])


@pytest.mark.parametrize("pre, post", [(1, 2), (0.8, 3), (2, 1.2), (1, 0.3), (1, 0), (1, -1.5)])
def test_closed_forms_are_where_descent_ends(pre, post):
    pair = Pair(pre=pre, post=post, alpha=np.array([0, 0.3]), x=0.2, t_pre=40.0, t_post=8.0, t_ft=30.0)
    run = train_pair(pair)
    alone, mixed = long_stages(pair)
    assert run.L_ret == pytest.approx([alone.item(), mixed.item()], abs=0.01)

    # Stage by stage, from what descent itself had.
    assert np.array(after_stage_2(run.pre, pair)) == pytest.approx(np.array(run.post), abs=0.02)
    assert np.array(after_stage_3(run.post, run.ft.a)) == pytest.approx(np.array(run.ft), abs=0.02)


@pytest.mark.parametrize("pre, copy", [(0.4, 1), (1, 1), (2.5, 1), (1, 0.9)])
def test_stage_1_learns_at_least_the_bound_where_delta_is_positive(pre, copy):
    alpha, ratio, since = np.meshgrid([0.01, 0.1, 0.5], [0.1, 1, 5], [0, 0.6, 3, 10, 25], indexing="ij")
    pair = Pair(alpha=alpha, pre=pre, post=pre * (1 + ratio), copy=copy, t_pre=(3 + since) / pre,
                t_post=0.0, t_ft=0.0)                                    # T/(2s_pre) is 3/s_pre
    learned = train_pair(pair, eta=0.004 / pre).pre.b / pair.delta
    bound = least_learned(pair).b / pair.delta
    assert (learned >= bound - 1e-9).all()

    # It is of some use, from T/(2s_pre) + 1/s_pre on.
    assert (bound > 0.5 * learned)[(ratio <= 1) & (since >= 10)].all()
    assert (bound[..., 1] == 0).all() and (bound[..., 2] > 0).all()


def test_what_counts_in_stage_1_is_share_times_time():
    long = train_pair(Pair(alpha=np.array([0.01, 0.02]), t_pre=np.array([83.0, 43.0]))).pre.b
    assert long[0] == pytest.approx(long[1], rel=0.05)


@pytest.mark.parametrize("replay, copy", [(0.01, 1), (0, 0.99), (0.01, 0.995)])
def test_replay_and_an_inexact_copy_complete_the_specialized_feature_at_one_rate(replay, copy):
    pair = Pair(alpha=0.0, replay=replay, copy=copy, t_post=np.array([20.0, 60.0]))
    b = train_pair(pair).post.b
    advance = slow_rate(pair) * pair.t_post
    predicted = along_stage_2(after_stage_2(balanced(1.0, 0.0), Pair()), pair, np.linspace(0, advance, 50))
    assert b == pytest.approx(predicted.b[-1], abs=0.02)
    assert b[0] > 0.4 and b[1] > b[0] + 0.1


# ---- where D_ft lies

def test_the_crossover_is_where_descent_has_it():
    """Of places, in steps of 0.01, the first where the fully exposed run retains less."""
    x, post = np.linspace(0.2, 0.45, 26), np.array([1.1, 2, 6, 0.5, -0.2, -6])
    pair = Pair(alpha=np.array([0, 0.3])[:, None, None], post=post[:, None], x=x, t_post=8.0, t_ft=8.0)
    alone, exposed = train_pair(pair, eta=0.005).L_ret
    assert (alone > exposed)[:, 0].all() and (alone < exposed)[:, -1].all()
    assert x[np.argmax(exposed > alone, axis=-1)] == pytest.approx(crossover(Pair(post=post)), abs=0.02)


def test_the_crossover_is_near_a_third_for_every_delta():
    ratios = np.geomspace(0.001, 1000, 60)
    above, below = crossover(Pair(post=1 + ratios)), crossover(Pair(post=1 - ratios))
    assert 0.27 < above.min() < 0.29 and 0.33 < above.max() < 0.34
    assert 0.23 < below.min() < 0.25 and 0.355 < below.max() < 0.37
    assert above[0] == pytest.approx(1 / 3, abs=0.001) and below[0] == pytest.approx(1 / 3, abs=0.001)

    # As b ends at δ/3 there, and only D_pre and D_post's ratio counts.
    assert after_stage_2(balanced(1.0, 0.0), Pair(post=1.003)).b == pytest.approx(0.001, rel=0.01)
    assert crossover(Pair(pre=2.0, post=5.0)) == pytest.approx(crossover(Pair(pre=1.0, post=2.5)))


def test_partial_exposure_turns_later_and_replay_or_an_inexact_copy_sooner():
    complete, some, little, replayed, inexact = substitutes.turns()
    assert complete == pytest.approx(crossover(Pair()), abs=0.01)
    assert little > some + 0.1 > complete + 0.1
    assert inexact < replayed - 0.05 < complete - 0.05


@pytest.mark.parametrize("x, copy", [(0.25, 1), (0.5, 1), (0.2, 0.95)])
def test_the_best_exposure_is_partial_and_leaves_what_d_post_then_wants(x, copy):
    pair = Pair(alpha=np.linspace(0, 0.06, 121), x=x, copy=copy, t_ft=4.0)
    run = train_pair(pair)
    best = run.L_ret.argmin()
    assert 0 < best < 120 and run.L_ret[best] < 0.2 * min(run.L_ret[0], run.L_ret[-1])
    assert run.ft.b[best] == pytest.approx(best_left(pair), abs=0.03)

    # No other b is better, a being where D_ft wants it.
    others = np.linspace(-1, 3, 4001)
    losses = loss_on_post(Unit(1.0, pair.ft, others), pair)
    assert others[losses.argmin()] == pytest.approx(best_left(pair), abs=0.001)


def test_where_d_ft_mixes_the_corpora_exposure_never_hurts():
    shares = np.array([0, 0.25, 0.5, 0.75, 1])
    pair = Pair(alpha=np.array([[0], [0.05]]))
    alone, mixed = loss_on_post(on_a_mixture(pair, shares), pair)
    assert alone[0] == pytest.approx(train_pair(Pair(alpha=0.0)).L_ret)
    assert (np.diff(alone) < 0).all() and (mixed <= alone + 1e-9).all() and alone[1] < 0.2 * alone[0]

    # Where Stage 2 has not fitted D_post, it is L_ret that is lower, and not always Δ.
    pair = Pair(alpha=np.array([[0], [0.02]]), copy=0.95)
    L_ret = loss_on_post(on_a_mixture(pair, np.array([0, 0.5])), pair)
    saved, less_forgotten = -np.diff(L_ret, axis=0)[0], -np.diff(L_ret - train_pair(pair).L_im, axis=0)[0]
    assert (saved > 0).all() and less_forgotten[0] > 0.1 and less_forgotten[1] < -0.005


# ---- retention

def test_mixing_and_replay_lower_what_is_lost_and_add_up():
    run = train_pair(Pair(alpha=np.array([0, 0.02]), replay=np.array([0, 0.05])[:, None]))
    (neither, mixed), (replayed, both) = run.L_ret
    assert neither > 0.5 and both < mixed < replayed < neither
    assert run.L_im[0].max() < 1e-3                                      # without replay both fit D_post


def test_runs_are_compared_at_an_L_ft_that_they_pass():
    runs = train_pair(Pair(alpha=np.array([0, 0.02, 0.05])), record=True)
    alone, mixed, starts_below = at_equal_L_ft(runs, 0.01)
    assert alone > 20 * mixed and np.isnan(starts_below)

    # The step before is above that L_ft, this one is not.
    step = np.flatnonzero(runs.L_ret[:, 0] == alone)[0]
    assert runs.L_ft[step, 0] <= 0.01 < runs.L_ft[step - 1, 0]


@pytest.fixture(scope="module")
def matched():
    """Compute-matched runs by D_post's time, Stage 3's length and λ, each λτ a whole number of steps."""
    pair = Pair(t_pre=8.0, t_ft=np.array([0.05, 0.1, 2.0])[:, None])
    return train_matched(pair, LAMBDAS, np.array([0.2, 0.4, 0.8])[:, None, None], 0.002)


def test_compute_matched_all_lambdas_train_on_d_post_as_long(matched):
    lam = LAMBDAS[[0, 30, 100]]
    pair = train_matched(Pair(t_pre=8.0), lam, 0.4, 0.01).pair
    assert pair.alpha * pair.t_pre + pair.t_post == pytest.approx(0.4)
    assert pair.t_pre - pair.alpha * pair.t_pre == pytest.approx(8)      # and on D_pre


def test_compute_matched_l_im_worsens_with_lambda(matched):
    assert (np.diff(matched.L_im) > -1e-9).all() and (matched.L_im[..., -1] > 20 * matched.L_im[..., 50])[2].all()


def test_compute_matched_the_best_lambda_moves_with_stage_3_and_is_inside_with_enough_of_d_post(matched):
    best = best_lambda(matched)
    assert (best[0, :2] == 0).all() and (best[1:] > 0.2).all() and (best < 1).all()
    assert (np.diff(best[1:], axis=1) > 0.05).all() and (np.diff(best, axis=0) > 0.05).all()

    # It is no artefact of the steps, and λ = 0 and 1 are worse by more than rounding.
    assert (matched.L_ret.min(-1) < 0.98 * matched.L_ret[..., [0, -1]].min(-1))[1:].all()


def test_compute_matched_only_the_long_stage_3_wants_all_of_it_early_if_stage_1_is_long():
    pair = Pair(t_pre=np.array([8.0, 32.0])[:, None, None], t_ft=np.array([0.1, 2.0])[:, None])
    (short_8, long_8), (short_32, long_32) = best_lambda(train_matched(pair, LAMBDAS, 0.4, 0.004))
    assert long_8 < 0.9 and long_32 > 0.94 and short_32 < 0.55
