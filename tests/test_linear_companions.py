"""Overtraining and replay in the linear network: formulas against descent and samples, and their limits."""

import numpy as np
import pytest

from theory import overtraining as ot
from theory import replay as rp
from theory.dynamics import (Moments, aligned_factors, descend_matrices, flow, in_bases, loss, matrix_loss,
                             rotation)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def overtrained():
    return ot.compute(np.random.default_rng(1))


@pytest.fixture(scope="module")
def replayed():
    return rp.compute(np.random.default_rng(1))


def exactly_learned(s):
    """σ of networks that have learned n = 0, …, d features."""
    return np.tril(np.ones((len(s) + 1, len(s))), -1) * s


# ---- overtraining: noise

def test_noise_costs_what_the_formula_says(rng):
    sigma, gamma = np.array([2.5, 1.2, 0.7, 0.1, 0.02, 0]), 0.3
    U, V = rotation(ot.D, rng), rotation(ot.D, rng)
    factors = aligned_factors(U, V, sigma ** 0.5, 2, rng)
    noisy = factors + gamma * rng.standard_normal((20_000, *factors.shape))
    losses = matrix_loss(in_bases(noisy, U, V), ot.PRE, 1)
    standard_error = losses.std() / len(losses) ** 0.5
    rise = losses.mean() - loss(sigma, ot.PRE, 1)
    assert ot.noisy_loss(sigma, gamma) - loss(sigma, ot.PRE, 1) == pytest.approx(rise, abs=4 * standard_error)
    assert rise > 50 * standard_error


def test_features_pay_until_noise_costs_more_than_they_give():
    """The best number of exactly learned features is T*, at 40 γ."""
    for gamma in np.linspace(0, 0.6, 40):
        assert ot.noisy_loss(exactly_learned(ot.S), gamma).argmin() == ot.paying_features(gamma)


def test_noisy_loss_ripples_inside_a_rise():
    """Least at σ = s − γ²d, from where it rises by (γ²d)²."""
    gamma = 0.3
    sigma = np.tile(ot.S, (1_001, 1))
    sigma[:, 1] = np.linspace(0, ot.S[1], 1_001)
    losses = ot.noisy_loss(sigma, gamma)
    assert sigma[losses.argmin(), 1] == pytest.approx(ot.S[1] - gamma ** 2 * ot.D, abs=0.002)
    assert losses[-1] - losses.min() == pytest.approx((gamma ** 2 * ot.D) ** 2, rel=1e-3)


def test_trained_matrices_with_noise_have_the_predicted_loss_and_best_rank(overtrained):
    for gamma, noise in overtrained.noise.items():
        assert noise.measured == pytest.approx(noise.predicted[ot.DOTS], rel=0.06)
        assert noise.learned == ot.paying_features(gamma)
    assert {ot.paying_features(gamma) for gamma in ot.GAMMAS} == {2, 4, 6}


# ---- overtraining: fine-tuning

def test_fine_tuning_is_increasing_in_what_was_pretrained(rng):
    sigma = np.sort(rng.random((200, ot.D)) * 3, axis=0)
    for reg in (0, 0.5, 3):
        after = ot.fine_tuned(sigma, 4 * rng.random(ot.D), tau=0.4, reg=reg)
        assert (np.diff(after, axis=0) > 0).all()


def test_long_fine_tuning_ends_between_both_tasks():
    """At (s_ft + λs)/(1 + λ), which loses ((s_ft − s)/(1 + λ))² on D_pre and λ² times that on D_ft."""
    after = ot.fine_tuned(ot.S, ot.RAISED, tau=40, reg=2)
    assert (after - ot.S) ** 2 == pytest.approx(((ot.RAISED - ot.S) / 3) ** 2)
    assert (after - ot.RAISED) ** 2 == pytest.approx((2 / 3 * (ot.RAISED - ot.S)) ** 2)


@pytest.mark.parametrize("reg", [0, 0.7])
def test_at_its_inflection_a_feature_is_right_after_fine_tuning(reg):
    s_ft = ot.S * [2, 0.5, 1, 3, 1.2, 4]
    times = ot.inflections(s_ft, 0.6, reg, T=8)
    assert np.isinf(times).tolist() == [False, True, True, False, False, False]
    for i in np.flatnonzero(np.isfinite(times)):
        before = flow(np.exp(-16), ot.PRE, times[i])
        assert ot.fine_tuned(before, s_ft, 0.6, reg)[i] == pytest.approx(ot.S[i])


def test_inflections_come_earlier_by_the_pace_of_fine_tuning_and_later_with_a_penalty():
    s_ft = ot.S * 2.5
    short, longer = ot.inflections(s_ft, 3, 0, T=60), ot.inflections(s_ft, 4, 0, T=60)
    assert short - longer == pytest.approx(np.full(ot.D, 2.5), rel=1e-2)
    expected = 60 / (2 * ot.S) - 2.5 * 4 + np.log(ot.S * 2.5 / 1.5) / (4 * ot.S)
    assert longer == pytest.approx(expected, abs=1e-3)
    assert (ot.inflections(s_ft, 4, 0.3, T=60) > longer).all()


def test_l_pre_turns_up_in_the_end_if_and_only_if_the_weakest_feature_is_raised(rng):
    times = np.array([40, 60])
    before = flow(np.exp(-2 * ot.T), ot.PRE, times)
    seen = set()
    for _ in range(40):
        s_ft = ot.S * rng.choice([0.3, 0.7, 1.5, 3], ot.D)
        reg = rng.choice([0, 1])
        earlier, later = loss(ot.fine_tuned(before, s_ft, 0.3, reg), ot.PRE, 1)
        weakest_is_raised = s_ft[-1] > ot.S[-1]
        assert (later > earlier) == weakest_is_raised
        seen.add(weakest_is_raised)
    assert seen == {True, False}


def test_more_features_forget_more_whatever_the_task_is(rng):
    turned = []
    for _ in range(50):
        ranks = ot.exact_ranks(ot.S * rng.exponential(2, ot.D), rng.random(), rng.choice([0, 1]))
        assert (np.diff(ranks.forgotten) >= 0).all()
        turned.append(ranks.L_pre[-1] > ranks.L_pre.min())
    assert any(turned) and not all(turned)


def test_forms_at_exact_rank_are_those_of_networks_of_that_rank():
    after = ot.fine_tuned(exactly_learned(ot.S), ot.RAISED, 0.5, 1)
    assert ot.exact_ranks(ot.RAISED, 0.5, 1).L_pre == pytest.approx(loss(after, ot.PRE, 1))
    slowly = ot.exact_ranks(ot.RAISED, 40, 1)
    r = ot.RAISED / ot.S - 1
    assert slowly.L_pre.argmin() == (r < 2).sum()
    assert slowly.forgotten[-1] == pytest.approx(((ot.RAISED - ot.S) ** 2).sum() / 4)


def test_descent_has_the_predicted_loss_and_inflections(overtrained):
    for ft in overtrained.fine_tuning.values():
        turns = np.isfinite(ft.inflections)
        assert turns.tolist() == [False] + [True] * (ot.D - 1)
        assert ft.measured == pytest.approx(ft.predicted, rel=0.06)
        assert ft.measured_inflections[turns] == pytest.approx(ft.inflections[turns], rel=0.02)
        assert np.isinf(ft.measured_inflections[~turns]).all()


def test_exact_rank_predicts_descent_only_from_separated_learning_times(overtrained):
    separated = ot.STARTS > ot.separated_from(ot.RAISED, ot.RANKS_TAU)
    for reg, best in overtrained.best.items():
        predicted = ot.exact_ranks(ot.RAISED, ot.RANKS_TAU, reg).L_pre.argmin()
        assert (best[separated] == predicted).all() and (best[~separated][:3] < predicted).all()
    assert 0 < separated.sum() < len(separated)


def test_descent_from_separated_stages_forgets_what_exact_rank_says(overtrained):
    for name, by_descent in overtrained.ranks.items():
        exact = ot.exact_ranks(ot.FTS[name], ot.RANKS_TAU, 0)
        assert by_descent.forgotten == pytest.approx(exact.forgotten, abs=0.02)
        assert by_descent.L_pre == pytest.approx(exact.L_pre, abs=0.02)
    assert overtrained.ranks["raised"].L_pre.argmin() == 2
    assert overtrained.ranks["lowered"].L_pre.argmin() == ot.D


# ---- replay: Stage 2 until it converges

def test_descent_in_two_layers_from_the_generic_solution_ends_at_ridge_regression(rng):
    """No singular value passes 0 with no more hidden units than inputs, so both solutions are near."""
    left, right = rotation(4, rng), rotation(4, rng)
    theta_g = left @ right
    x = rng.standard_normal((4, 8))
    y = (theta_g + 0.2 * rng.standard_normal((4, 4))) @ x + 0.2 * rng.standard_normal((4, 8))
    moments = rp.replayed(Moments(x @ x.T / 8, y @ x.T / 8), theta_g, 0.3)
    first, second = descend_matrices(np.stack([left, right]), moments, time=20, eta=0.02)
    assert first @ second == pytest.approx(rp.ridge(moments), abs=1e-9)

    # Ridge regression as it is known: a penalty ρ/(1 − ρ) on the distance from θ_g.
    known = (y @ x.T / 8 + 3 / 7 * theta_g) @ np.linalg.inv(x @ x.T / 8 + 3 / 7 * np.eye(4))
    assert rp.ridge(moments) == pytest.approx(known)
    assert np.abs(known - theta_g).max() > 0.05


def test_replay_is_worth_a_fixed_number_of_samples():
    """20 samples with the best replay are 20 + n₀ without: at n₀ = 30, M = 2.5 and ρ* = 0.6."""
    assert rp.best_replay(30 / 20) == pytest.approx(0.6)
    assert rp.risk(0.6, 30 / 20) == pytest.approx(rp.risk(0, 30 / 50))
    assert rp.multiplier(30 / 20) == pytest.approx(50 / 20) == pytest.approx(1 / (1 - 0.6))
    rho = np.linspace(0, 1, 1_001)
    assert rho[rp.risk(rho, 1.5).argmin()] == pytest.approx(0.6)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_replay_helps_up_to_twice_its_best_share(ratio):
    limit = rp.helps_to(ratio)
    assert rp.risk(limit - 0.01, ratio) < rp.risk(0, ratio) < rp.risk(limit + 0.01, ratio)


def test_any_replay_helps_where_samples_are_few():
    assert rp.helps_to(1) == rp.helps_to(3) == 1
    assert (rp.risk(rp.RHOS[1:], 1.01) < rp.risk(0, 1.01)).all()


def test_samples_have_the_predicted_risk(replayed):
    for ratio, measured in replayed.risks.items():
        assert measured == pytest.approx(rp.risk(rp.RHOS, ratio), rel=0.05, abs=1e-12)
        assert rp.RHOS[measured.argmin()] == pytest.approx(rp.best_replay(ratio), abs=0.03)


@pytest.mark.parametrize("n", [8, 30])
def test_replay_never_helps_without_noise(n, rng):
    x = rng.standard_normal((40, rp.D, n))
    theta_t = rng.standard_normal((40, 1, rp.D)) / rp.D ** 0.5
    risks = rp.ridge_risks(x, theta_t, np.zeros((40, 1, n)), np.append(1e-6, rp.RHOS[1:]))
    assert (np.diff(risks) > 0).all()
    assert risks[0] == pytest.approx(max(1 - n / rp.D, 0), abs=0.15)


def test_gaussian_inputs_have_the_same_best_share_and_a_larger_multiplier(replayed):
    ratios = rp.N_0 / rp.POOLS
    assert replayed.pools.rho == pytest.approx(rp.best_replay(ratios), abs=0.051)
    predicted = rp.gaussian_multiplier(rp.POOLS, rp.N_0)
    assert replayed.pools.multiplier == pytest.approx(predicted, rel=0.03)
    assert (replayed.pools.multiplier[:4] > 1.1 * rp.multiplier(ratios[:4])).all()
    assert rp.gaussian_multiplier(1e4, rp.N_0) == pytest.approx(rp.multiplier(rp.N_0 / 1e4), rel=1e-3)


# ---- replay: schedules

def test_flow_is_the_limit_of_descent_in_every_kind_of_schedule(replayed):
    for arms in replayed.arms.values():
        for arm in arms.values():
            assert arm.measured == pytest.approx(arm.predicted, abs=0.005)


def test_descent_on_samples_through_both_stages_has_the_predicted_risk(rng):
    """Four directions with inputs of their own under either data, 2,000 draws of the noise."""
    # Orthogonal inputs of variance a, and generic ones of variance g.
    s = rp.spectrum(np.array([1, 0.5, 0.3, 1]), np.array([1, 0.2, 1, 0]), np.array([1, 3, 0.5, 2]))
    late, rho, n, ratio = 0.3, 0.4, 16, 1.5
    x = np.sqrt(n * s.a)[:, None] * rotation(n, rng)[:4]
    theta_t = s.delta_2 ** 0.5
    y = theta_t @ x + np.sqrt(ratio * n / 4) * rng.standard_normal((2_000, n))

    # θ_g = 0, so generic data add to the covariance only.
    last = rp.TARGET * late / (1 - rho)
    early = rp.TARGET * (1 - late) / (1 - last)
    theta = np.zeros((2_000, 4))
    for share, time in ((early, (1 - last) * rp.TIME / rp.TARGET), (1 - rho, last * rp.TIME / rp.TARGET)):
        covariance = share * x @ x.T / n + (1 - share) * np.diag(s.g)
        for _ in range(round(time / 0.02)):
            theta = theta - 0.04 * (theta @ covariance - share * y @ x.T / n)
    measured = (s.a * (theta - theta_t) ** 2).sum(-1).mean()
    assert measured == pytest.approx(rp.risk_of(rp.fitted(s, late, rho), s, ratio), rel=0.03)


def test_schedules_spend_the_same_time_on_target_data(monkeypatch):
    """Whatever is left for Stage 2 and ρ is, and in the same number of steps."""
    stages = []
    monkeypatch.setattr(rp, "train", lambda f, s, share, time, eta: stages.append((share, time)) or f)
    late, rho = np.array([1, 0.5, 0.1, 0.3]), np.array([0, 0.5, 0.9, 0.2])
    rp.fitted(rp.ALIKE, late, rho)
    (share_1, time_1), (share_2, time_2) = stages
    assert share_1 * time_1 + share_2 * time_2 == pytest.approx(np.full((4, 1), rp.TIME))
    assert time_1 + time_2 == pytest.approx(np.full((4, 1), rp.TIME / rp.TARGET))
    assert share_2 * time_2 == pytest.approx(rp.TIME * late[:, None])


def test_directions_of_the_target_alone_are_learned_alike_by_all_schedules():
    s = rp.spectrum(np.array([0.3, 0.3]), np.array([0, 1]), 1)
    f = rp.fitted(s, rp.LATES, rp.FINE_RHOS[:, None])
    assert f[..., 0] == pytest.approx(np.full(f.shape[:2], 1 - np.exp(-0.6 * rp.TIME)))
    assert np.ptp(f[..., 1]) > 0.8


def test_replay_is_the_best_there_is_where_the_target_departs_as_generic_inputs_thin_out(replayed):
    for name, arms in replayed.arms.items():
        s = rp.SPECTRA[name]
        floor = rp.risk_of(rp.oracle(s, 1), s, 1)
        assert min(arm.predicted for arm in arms.values()) > floor - 1e-9
        if name in ("alike everywhere", "where generic inputs are rare"):
            assert arms["replay"].predicted == pytest.approx(floor, abs=1e-3)


def test_a_tuned_stop_beats_replay_where_generic_inputs_are_alike_or_rich(replayed):
    margins = {name: arms["replay"].predicted - arms["stopped early"].predicted
               for name, arms in replayed.arms.items()}
    assert margins["alike everywhere"] == pytest.approx(0, abs=1e-3)
    assert margins["alike, target inputs as the generic"] > 0.03 and margins["where generic inputs are common"] > 0.1
    assert margins["where generic inputs are rare"] < -0.03 and margins["where generic inputs are missing"] < -0.1


def test_replay_and_early_exposure_stand_in_for_each_other(replayed):
    """Both together are hardly better than the better of them."""
    for arms in replayed.arms.values():
        either = min(arms["replay"].predicted, arms["early exposure"].predicted)
        assert either < 0.85 * arms["neither"].predicted
        assert 0.99 * either < arms["both"].predicted <= either + 1e-12


def test_replay_helps_at_0_if_and_only_if_the_fit_goes_too_far():
    """Beyond f* = b/(b + v), v the variance of the fit."""
    share = 0.002
    without, with_some = (rp.fitted(rp.ALIKE, rp.LATES, rho) for rho in (0, share))
    for ratio in rp.RATIOS[1:]:
        helps = rp.risk_of(with_some, rp.ALIKE, ratio) < rp.risk_of(without, rp.ALIKE, ratio)
        clear = np.abs(without[:, 0] - 1 / (1 + ratio)) > share
        assert (helps == (without[:, 0] > 1 / (1 + ratio)))[clear].all()
        assert 0 < helps.sum() < len(helps)


def test_the_best_share_of_replay_falls_to_0_as_target_data_move_to_stage_1(replayed):
    for ratio, exposure in replayed.exposure.items():
        assert exposure.predicted[-1] == pytest.approx(rp.best_replay(ratio), abs=0.006)
        assert exposure.predicted[0] == 0
        assert (np.diff(exposure.predicted) >= 0).all()
        assert exposure.measured == pytest.approx(exposure.predicted, abs=0.06)


def test_it_falls_because_stage_2_gets_short_and_early_exposure_holds_it_up(replayed):
    for exposure in replayed.exposure.values():
        assert (exposure.withheld <= exposure.predicted).all()
        assert (exposure.withheld < exposure.predicted).any()


# ---- printed and drawn

def line_of(printed, start):
    """The only line that starts so."""
    found, = (line for line in printed.splitlines() if line.strip().startswith(start))
    return found


def drawn(axis, values):
    """Whether some line of an axis goes through these heights."""
    heights = [np.asarray(line.get_ydata()) for line in axis.lines]
    return any(height.shape == np.shape(values) and np.allclose(height, values) for height in heights)


def test_overtraining_prints_what_was_found(overtrained, capsys):
    ot.tell(overtrained)
    printed = capsys.readouterr().out
    assert "nan" not in printed
    for gamma, noise in overtrained.noise.items():
        apart = np.abs(noise.measured / noise.predicted[ot.DOTS] - 1).max()
        line = line_of(printed, f"noise γ = {gamma:g}:")
        assert f"within {apart:.1%} of" in line and f"with {noise.learned} of 6" in line
    for (tau, reg), ft in overtrained.fine_tuning.items():
        line = line_of(printed, f"fine-tuning τ = {tau:g}, λ_reg = {reg:g}:")
        assert f"least at {ot.TIMES[ft.measured.argmin()]:.1f}" in line
        assert all(f" {time:.1f}," in line for time in ft.inflections[1:])
    for reg, best in overtrained.best.items():
        assert line_of(printed, f"λ_reg = {reg:g}:").endswith("measured " + ", ".join(map(str, best)))
    for name, ranks in overtrained.ranks.items():
        assert f"{ranks.forgotten[-1]:.2f}, L_pre {ranks.L_pre[0]:.2f}" in line_of(printed, f"s_ft {name}")


def test_overtraining_draws_what_was_found(overtrained):
    noise, fine_tuning, best, ranks = ot.draw(overtrained).axes
    for found in overtrained.noise.values():
        assert drawn(noise, found.predicted) and drawn(noise, found.measured)
    for found in overtrained.fine_tuning.values():
        assert drawn(fine_tuning, found.predicted) and drawn(fine_tuning, found.measured[ot.DOTS])
    for found in overtrained.best.values():
        assert drawn(best, found)
    for found in overtrained.ranks.values():
        assert drawn(ranks, found.forgotten) and drawn(ranks, found.L_pre)
    assert drawn(noise, overtrained.before) and drawn(fine_tuning, overtrained.before)


def test_replay_prints_what_was_found(replayed, capsys):
    rp.tell(replayed)
    printed = capsys.readouterr().out
    assert "nan" not in printed
    for ratio, risks in replayed.risks.items():
        line = line_of(printed, f"replay, n₀/n = {ratio:g}:")
        assert f"ρ* {rp.best_replay(ratio):.2f}, measured {rp.RHOS[risks.argmin()]:.2f};" in line
        to, measured = (float(word.strip(",")) for word in line.split("helps to ")[1].split(", measured "))
        assert to == pytest.approx(rp.helps_to(ratio), abs=0.01) and measured == pytest.approx(to, abs=0.03)
    for n, rho, multiplier in zip(rp.POOLS / rp.D, *replayed.pools):
        line = line_of(printed, f"Gaussian inputs, n = {n:g}d:")
        assert ("1 + n₀/n –," in line) == (n < 1)                           # no orthogonal inputs are so few
        assert f"measured {rho:.2f};" in line and line.endswith(f"measured {multiplier:.2f}")
    for name, arms in replayed.arms.items():
        numbers = line_of(printed, f"{name}  ").removeprefix(name).split()
        assert numbers[:-1] == [f"{arms[arm].predicted:.3f}" for arm in rp.ARMS]
    for ratio, exposure in replayed.exposure.items():
        line = line_of(printed, f"n₀/n = {ratio:g}:")
        for rhos, words in zip(exposure, (": ", "by descent ", "withheld ")):
            assert f"{words}{rhos[-1]:.2f}, {rhos[-11]:.2f}, {rhos[-21]:.2f}" in line


def test_replay_draws_what_was_found(replayed):
    risks, pools, arms, exposure = rp.draw(replayed).axes
    for found in replayed.risks.values():
        assert drawn(risks, found)
    assert drawn(pools, replayed.pools.multiplier)
    for line in arms.lines:
        if line.get_label() in rp.ARMS:
            measured = [found[line.get_label()].measured for found in replayed.arms.values()]
            assert list(line.get_xdata()) == measured
    assert {line.get_label() for line in arms.lines} == {"lower bound", *rp.ARMS}
    for found in replayed.exposure.values():
        assert drawn(exposure, found.predicted) and drawn(exposure, found.withheld)
