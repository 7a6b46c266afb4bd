"""What θ_post says of Δ: the scalars against their definitions, and what the README says of them."""

import numpy as np
import pytest

from theory import forecast
from theory.forecast import (PROBE, RECIPES, aligned, draw_tasks, from_random, noise_rise, spearman,
                             substitutable, with_delta)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_rank_correlation_by_hand():
    one = np.array([[1, 2, 3, 4.0], [1, 2, 3, 4], [0, 10, 20, 21]])
    other = np.array([[1, 4, 9, 16.0], [4, 3, 2, 1], [0, 2, 1, 3]])
    assert spearman(one, other) == pytest.approx([1, -1, 1 - 6 * 2 / (4 * 15)])


def test_tasks_share_what_section_5_says(rng):
    pre, post, ft = draw_tasks(50, 9, x=1, rng=rng)
    assert (pre.c[..., :3] == post.c[..., :3]).all() and (pre.c[..., :3] == ft.c[..., :3]).all()
    assert (post.v == 1).all() and (pre.v[..., 6:] == 0).all() and (ft.c[..., 6:] == 0).all()
    assert np.abs(ft.c - post.c)[..., 3:6].mean() < 0.25 < np.abs(ft.c - pre.c)[..., 3:6].mean()


@pytest.mark.parametrize("model", [aligned, from_random, substitutable])
def test_without_stage_2_and_3_there_is_nothing_to_forecast(model, rng, monkeypatch):
    monkeypatch.setattr(forecast, "T_FT", 0.0)
    trained = model(0, rng, count=2)
    assert trained.L_im.shape == (2, len(RECIPES))
    assert trained.delta == pytest.approx(0) and trained.known[PROBE] == pytest.approx(0)


def test_a_random_start_orders_recipes_as_the_aligned_one_does():
    """On the same tasks, as the generator draws those first."""
    one, other = (model(0, np.random.default_rng(5), count=6, n=9, T=8.0) for model in (aligned, from_random))
    assert spearman(one.L_im, other.L_im).min() > 0.9
    assert np.median(spearman(one.delta, other.delta)) > 0.8
    assert np.median(spearman(one.known[PROBE], other.known[PROBE])) > 0.8


def test_noise_is_what_noise_in_the_weights_adds(rng):
    n, gamma = 4, 0.01
    W = rng.normal(size=(2, n, n))
    v, target = np.array([1, 1, 1, 0.5]), np.diag([2, 1, 0.5, 0.6])

    def value(W):
        away = W[..., 0, :, :] @ W[..., 1, :, :] - target
        return (v * (away ** 2).sum(-2)).sum(-1)

    noise = gamma * rng.standard_normal((200_000, 2, n, n))
    rise = (value(W + noise) + value(W - noise)) / 2 - value(W)
    predicted = noise_rise(v, (W[1] ** 2).sum(-2), (W[0] ** 2).sum())
    assert rise.mean() / gamma ** 2 == pytest.approx(predicted, rel=0.02)


def test_at_d_pre_the_probe_ranks_and_the_rest_does_not(rng):
    at_pre = aligned(0, rng), from_random(0, rng, count=6), substitutable(0, rng)
    for trained in at_pre:
        assert with_delta(trained, PROBE)[1] > 0.9
        assert with_delta(trained, "noise in the weights")[1] < 0.2
        assert with_delta(trained, "L_im")[1] < 0.5

    # Where forgetting is growth from small values, a short probe sees none of it.
    for trained in at_pre[:2]:
        assert with_delta(trained, "D_pre for 0.1 of Stage 3")[1] < 0


def test_towards_d_post_the_probe_fades_and_with_substitutes_it_turns(rng):
    assert with_delta(aligned(1, rng), PROBE)[1] < 0.7
    assert with_delta(substitutable(0.75, rng), PROBE)[1] < -0.8
