"""What θ_post says of Δ: models and scalars against their definitions, and what the README says of them."""

import numpy as np
import pytest

from theory.dynamics import Setting, three_stages
from theory.forecast import (ALPHA, PROBE, REPLAY, SHORT_PROBE, T_FT, T_POST, T_PRE, Trained, aligned,
                             against_alpha, best_alpha, compute, draw, draw_tasks, from_random,
                             lower_with_exposure, lowered, noise_of_factors, noise_of_unit, quartiles, rank_quartiles,
                             ranks_at_equal_stage_2, spearman, substitutable, tell)
from theory.pair import Unit

MODELS = (aligned, from_random, substitutable)
RECIPES = (6, 3, 2)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def seen():
    return compute(np.random.default_rng(1))


# ---- models and scalars

def test_rank_correlation_by_hand():
    one = np.array([[1, 2, 3, 4.0], [1, 2, 3, 4], [0, 10, 20, 21]])
    other = np.array([[1, 4, 9, 16.0], [4, 3, 2, 1], [0, 2, 1, 3]])
    by_hand = pytest.approx([1, -1, 1 - 6 * 2 / (4 * 15)])
    assert spearman(one, other) == by_hand
    assert spearman(one.reshape(3, 2, 2), other.reshape(3, 2, 2)) == by_hand


def test_tasks_share_what_section_5_says(rng):
    pre, post, ft, _ = draw_tasks(rng, 50, 9, scatter=0.2)
    assert (post.v == 1).all() and (pre.v[..., 6:] == 0).all()
    for x, task in ft.items():
        assert (pre.c[..., :3] == post.c[..., :3]).all() and (pre.c[..., :3] == task.c[..., :3]).all()
        assert (task.c[..., 6:] == 0).all()
        away = (task.c - (1 - x) * pre.c - x * post.c)[..., 3:6]
        assert 0.15 < away.std() < 0.25


def test_recipes_stand_where_the_axes_say(rng):
    """Three directions are a setting of Section 5, which has a trainer of its own."""
    trained = aligned(rng, count=2, n=3)
    pre, post, ft, _ = draw_tasks(np.random.default_rng(0), 2, 3, scatter=0.2)
    for task, a, r, t in ((0, 0, 0, 1), (1, 2, 1, 0), (1, 5, 2, 1)):
        invariant, s_pre, _ = pre.c[task].flat
        _, s_post, beta = post.c[task].flat
        run = three_stages(Setting(ALPHA.flat[a], beta, invariant, s_pre, s_post, ft[0.25].c[task].flat[1],
                                   T=8.0, t_pre=T_PRE, t_post=T_POST[t], t_ft=T_FT, replay=REPLAY.flat[r],
                                   n=3, k=1))
        assert trained.L_im[task, a, r, t] == pytest.approx(run.L_im)
        assert trained.forgetting[0.25][task, a, r, t] == pytest.approx(run.L_ret - run.L_im)


@pytest.mark.parametrize("model", MODELS)
def test_the_probe_is_stage_3_itself_if_D_ft_is_D_pre(model, rng):
    """So all that keeps x = 0 from being trivial is how D_ft scatters."""
    trained = model(rng, count=2, scatter=0.0)
    assert trained.L_im.shape == (2, *RECIPES)
    assert trained.forgetting[0] == pytest.approx(trained.known[PROBE])
    assert trained.known[SHORT_PROBE] != pytest.approx(trained.known[PROBE], rel=0.3)
    assert trained.forgetting[0.25] != pytest.approx(trained.known[PROBE], rel=0.3)
    scattered = model(np.random.default_rng(0), count=2)
    assert scattered.L_im == pytest.approx(trained.L_im)
    assert scattered.forgetting[0] != pytest.approx(trained.forgetting[0], rel=0.01)


def test_a_random_start_orders_recipes_as_the_aligned_one_does():
    """On the same tasks, as the generator draws those first."""
    one, other = (model(np.random.default_rng(5), count=6, n=9, T=8.0) for model in (aligned, from_random))
    assert spearman(one.L_im, other.L_im).min() > 0.9
    assert np.median(spearman(one.forgetting[0], other.forgetting[0])) > 0.8
    assert np.median(spearman(one.known[PROBE], other.known[PROBE])) > 0.8


def rise_by_noise(value, weights, gamma, rng):
    """Measure by how many times γ² noise on weights (m, …) raises a loss, of both signs of each draw."""
    noise = gamma * rng.standard_normal((200_000, *weights.shape))
    return ((value(weights + noise) + value(weights - noise)) / 2 - value(weights)).mean() / gamma ** 2


def test_noise_is_what_noise_in_the_weights_adds(rng):
    W = rng.normal(size=(2, 4, 4))
    v, target = np.array([1, 1, 1, 0.5]), np.diag([2, 1, 0.5, 0.6])

    def value(W):
        away = W[..., 0, :, :] @ W[..., 1, :, :] - target
        return (v * (away ** 2).sum(-2)).sum(-1)

    predicted = noise_of_factors(v, (W[1] ** 2).sum(-2), (W[0] ** 2).sum())
    assert rise_by_noise(value, W, 0.01, rng) == pytest.approx(predicted, rel=0.02)


def test_noise_is_what_noise_in_a_pair_adds(rng):
    """γ²((p + q)² + 2u²), wherever the loss stands."""
    def value(weights):
        u, p, q = np.moveaxis(weights, -1, 0)
        return (u * (p + q) - 1.7) ** 2

    for weights in np.array([[1.1, 0.9, 0.5], [1.3, -0.4, 1.2]]):
        predicted = noise_of_unit(Unit(*weights))
        assert rise_by_noise(value, weights, 0.01, rng) == pytest.approx(predicted, rel=0.02)


def test_what_exposure_does_by_hand():
    """Two tasks: in one L_ret falls with α, in the other it is lowest at α = 0.05 and α = 0 is not bad."""
    L_ret = np.array([[6, 5, 4, 3, 2, 1.0], [3, 4, 2, 4, 4, 4]])[..., None, None]
    trained = Trained({}, np.ones((2, *RECIPES)), {0: L_ret - 1 + np.zeros(RECIPES)})
    assert against_alpha(trained.L_ret(0)) == pytest.approx(L_ret[..., 0, 0])
    assert lower_with_exposure(trained.L_ret(0)) == 0.5
    assert lowered(trained.L_ret(0)) == pytest.approx((6 + 3) / 2 - (3 + 3.6) / 2)
    assert best_alpha(trained, 0).tolist() == [0.4, 0.05]


# ---- what the README says

def median(trained, name, x=0, **among):
    return rank_quartiles(trained, name, x, **among)[1]


def helps(trained, x):
    return lower_with_exposure(trained.L_ret(x))


def test_at_d_pre_the_probe_ranks_and_the_rest_does_not(seen):
    for trained in seen.values():
        assert median(trained, PROBE) > 0.95
        assert median(trained, "noise in the weights") < 0.2
        assert median(trained, "L_im") < 0.5


def test_a_short_probe_is_right_without_replay_only(seen):
    for name in ("aligned", "random start"):
        assert median(seen[name], SHORT_PROBE) < -0.2
        assert median(seen[name], SHORT_PROBE, among=0) > 0.9
        assert median(seen[name], SHORT_PROBE, among=2) < -0.7
    assert all(median(seen["substitutable"], SHORT_PROBE, among=index) > 0.9 for index in range(3))


def test_noise_has_the_wrong_sign_where_D_post_wants_less_of_a_feature(rng):
    """There an exposed run has two weights that cancel, and another a small one."""
    assert median(substitutable(rng, more=(-0.8, -0.1)), "noise in the weights") < -0.9
    assert median(substitutable(rng, more=(0.1, 2)), "noise in the weights") > -0.2


def test_towards_d_post_the_probe_fades_and_with_substitutes_it_turns(seen):
    for name in ("aligned", "random start"):
        assert median(seen[name], PROBE, x=0.25) > 0.9
        assert median(seen[name], PROBE, x=1) < 0.7
        assert all(helps(seen[name], x) == 1 for x in (0, 0.25, 1))
        assert lower_with_exposure(seen[name].forgetting[1]) < 0.7               # not by what is forgotten

    # At a quarter of the way it has turned, though some exposure is still better than none.
    pairs = seen["substitutable"]
    assert median(pairs, PROBE, x=0.15) > 0 > median(pairs, PROBE, x=0.25) > -0.7
    assert helps(pairs, 0.2) > 0.85 and helps(pairs, 0.25) > 0.6
    assert 0 < np.median(best_alpha(pairs, 0.25)) < 0.1
    assert median(pairs, PROBE, x=0.5) < -0.9 and helps(pairs, 0.5) < 0.1


def test_where_D_ft_mixes_the_corpora_the_probe_does_not_turn(seen):
    pairs = seen["substitutable"]
    at = {w: quartiles(spearman(pairs.known[PROBE], forgetting))[1] for w, forgetting in pairs.on_mixtures.items()}
    assert at[0.25] > 0.9 and at[0.5] > 0.9 and at[0.75] > 0.5


def test_without_substitutes_what_is_forgotten_depends_on_replay_not_on_exposure(seen):
    for name in ("aligned", "random start"):
        over_alpha, over_replay = (np.ptp(seen[name].forgetting[0], axis).mean() for axis in (1, 2))
        assert over_alpha < over_replay / 20
    assert np.ptp(seen["substitutable"].forgetting[0], 1).mean() > 1
    assert all(ranks_at_equal_stage_2(trained, PROBE)[1] > 0.95 for trained in seen.values())


def test_a_rank_at_equal_stage_2_by_hand():
    """Over α the scalar has the order of Δ in one Stage 2 and the reverse in all others; over all it depends on ρ."""
    order = np.arange(6.0)[None, :, None, None] + 100 * np.arange(3)[:, None] + np.zeros(RECIPES)
    known = np.where(np.arange(6).reshape(3, 2) == 0, order, 200 - order)
    trained = Trained({"it": known}, 0 * order, {0: order})
    assert ranks_at_equal_stage_2(trained, "it") == pytest.approx([-4 / 6] * 3)


def test_the_figure_and_its_numbers_are_of_one_computation(seen, capsys):
    _, places, points, shares = draw(seen).axes
    for line, trained in zip(places.lines, seen.values()):
        assert line.get_ydata() == pytest.approx([median(trained, PROBE, x) for x in line.get_xdata()])
    trained = seen["substitutable"]
    dotted, = shares.lines
    assert dotted.get_ydata() == pytest.approx([helps(trained, x) for x in dotted.get_xdata()])
    assert points.lines[0].get_ydata() == pytest.approx((trained.L_im + trained.forgetting[0])[0].ravel())
    tell(seen)
    printed = capsys.readouterr().out
    assert "36 recipes" in printed and "60 tasks" in printed
    quarter = [line for line in printed.splitlines() if line.startswith("x = 0.25")]
    assert len(quarter) == 1 and f"{median(trained, PROBE, 0.25):.1f} (" in quarter[0]
    assert f"{helps(trained, 0.25):.0%}" in printed
