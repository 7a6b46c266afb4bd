"""The linear network: three ways to one trajectory, its window, values by hand, and the command."""

import math
import os
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest

from theory import __main__ as command
from theory import figures
from theory.dynamics import (INCONSISTENT, SPECIALIZED, Moments, Setting, Task, aligned_factors, anchor,
                             descend, descend_matrices, elapsed, exact_rank, flow, in_bases, loss,
                             matrix_loss, matrix_moments, mix, random_factors, rotation, sample_moments,
                             stage_1, targets, tasks, three_stages, three_stages_by_matrices, unmixed)
from theory.window import (alpha_threshold, clock, clock_edges, compute_matched, default_T, edges,
                           half_crossing, half_times, latest_post, measured_edges, start_of)

STANDARD = Setting()
DEPTHS = {2: 10.0, 3: math.log(10), 4: math.log(20) / 2}     # depth → T, with the same clock of 5


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def bases(n, rng):
    return rotation(n, rng), rotation(n, rng)


# ---- three ways to one trajectory

@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("s", [STANDARD, unmixed(STANDARD), replace(STANDARD, reg=0.5, replay=0.2)])
def test_matrices_follow_the_scalar_recursion_through_all_stages(s, depth, rng):
    s = replace(s, depth=depth, T=DEPTHS[depth])
    U, V = bases(s.n, rng)
    factors = aligned_factors(U, V, np.full(s.n, np.exp(-s.T)), depth, rng)
    theta = three_stages_by_matrices(s, factors, U, V, eta=0.005)        # 2,100 steps
    run = three_stages(s, eta=0.005)
    for matrix, sigma in zip(theta, run.thetas):
        assert np.diag(matrix) == pytest.approx(np.repeat(sigma, s.counts), rel=1e-10, abs=0)
        assert np.abs(matrix - np.diag(np.diag(matrix))).max() < 1e-10
    _, L_im, L_ret = matrix_loss(theta, tasks(s).post, s.counts)
    assert (L_im, L_ret) == pytest.approx((run.L_im, run.L_ret), rel=1e-9)


def test_matrix_gradient_is_that_of_the_loss(rng):
    """A step from any factors against central differences of E‖θx − Ax‖² + reg·‖θ − θ₀‖²."""
    # One direction has no input, and none has the variance of its neighbours.
    U, V = bases(4, rng)
    factors, theta_0, reg = rng.normal(size=(3, 4, 4)), rng.normal(size=(4, 4)), 0.7
    task = Task(v=np.array([1, 0.5, 0]), c=np.array([3, 0.4, 0]))
    covariance, cross = matrix_moments(task, U, V, np.array([1, 2, 1]))
    A = U * [3, 0.8, 0.8, 0] @ V.T

    # The loss as it is defined knows nothing of the gradient's formula.
    def value(factors):
        theta = factors[0] @ factors[1] @ factors[2]
        return np.trace((theta - A) @ covariance @ (theta - A).T) + reg * ((theta - theta_0) ** 2).sum()

    # A step of length 0.001 is that much of the gradient.
    gradient = np.zeros_like(factors)
    for index in np.ndindex(factors.shape):
        step = np.zeros_like(factors)
        step[index] = 1e-6
        gradient[index] = (value(factors + step) - value(factors - step)) / 2e-6
    penalized = Moments(covariance + reg * np.eye(4), cross + reg * theta_0)
    after = descend_matrices(factors, penalized, 1e-3, 1e-3)
    assert factors - after == pytest.approx(1e-3 * gradient, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("depth", DEPTHS)
def test_distance_of_descent_from_flow_is_linear_in_the_step(depth):
    s = replace(STANDARD, depth=depth, T=DEPTHS[depth], alpha=np.array([0, 0.4, 0.85]))
    exact = three_stages(s).thetas
    apart = [np.abs(three_stages(s, eta).thetas - exact).max() for eta in (0.004, 0.002, 0.001)]
    assert 0 < apart[0] < 0.05
    assert apart[0] / apart[1] == pytest.approx(2, rel=0.1)
    assert apart[1] / apart[2] == pytest.approx(2, rel=0.1)


def runge_kutta(sigma, task, time, depth, steps=20_000):
    def slope(sigma):
        return 2 * depth * sigma ** (2 - 2 / depth) * (task.c - task.v * sigma)
    h = time / steps
    for _ in range(steps):
        k1 = slope(sigma)
        k2 = slope(sigma + h / 2 * k1)
        k3 = slope(sigma + h / 2 * k2)
        k4 = slope(sigma + h * k3)
        sigma = sigma + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return sigma


@pytest.mark.parametrize("depth", [2, 3, 4, 7])
def test_flow_against_an_integrator(depth):
    """Growing, shrinking, half the variance and no input at all."""
    start = np.array([0.02, 3.0, 0.1, 0.3])
    task = Task(v=np.array([1, 1, 0.5, 0]), c=np.array([0.8, 0.8, 1, 0]))
    reached = flow(start, task, 1.3, depth)
    assert reached == pytest.approx(runge_kutta(start, task, 1.3, depth), rel=1e-9)
    moving = Task(v=task.v[:3], c=task.c[:3])
    assert elapsed(start[:3], reached[:3], moving, depth) == pytest.approx(1.3, rel=1e-9)
    assert start_of(reached[:3], lambda start: moving, 1.3, depth) == pytest.approx(start[:3], rel=1e-7)


def test_flow_to_a_target_of_nothing():
    """σ̇ = −4vσ² from 0.5 ends at 0.5 / (1 + 4·v·0.5·t); descent by small steps comes there too."""
    task = Task(v=np.array([1, 0.25]), c=np.zeros(2))
    assert flow(0.5, task, 1.5) == pytest.approx([0.5 / 4, 0.5 / 1.75])
    assert descend(0.5, task, 1.5, 0.0005) == pytest.approx([0.5 / 4, 0.5 / 1.75], rel=2e-3)
    below = Task(v=np.ones(1), c=np.full(1, -0.5))
    assert flow(0.5, below, 1.5) == pytest.approx(descend(0.5, below, 1.5, 0.0005), rel=2e-3)


def test_flow_does_not_go_where_it_does_not_lead():
    towards_1 = Task(v=1, c=1)
    assert elapsed([0.5, 0.5, 2], [0.4, 1, 1], towards_1).tolist() == [np.inf] * 3
    assert elapsed(0.5, 0.5, towards_1) == 0


# ---- by hand

def test_a_step_and_a_half_time_by_hand():
    # w = 0.5, c = 2: w − 2·0.1·0.5·(0.25 − 2) = 0.675; three factors: w − 2·0.1·0.25·(0.125 − 2) = 0.59375
    assert descend(0.25, Task(np.ones(1), np.full(1, 2)), 0.1, 0.1) == pytest.approx(0.675 ** 2)
    assert descend(0.125, Task(np.ones(1), np.full(1, 2)), 0.1, 0.1, depth=3) == pytest.approx(0.59375 ** 3)
    # s = 1, σ₀ = e^(−20): ln(e²⁰ − 1) / 4 = 5 to nine digits; an eighth of the covariance takes 8 times that
    assert half_times(Task(np.ones(2), np.array([1, 1])), 10) == pytest.approx(5, abs=1e-8)
    assert half_times(Task(np.array([0.125]), np.array([0.125])), 10) == pytest.approx(40, abs=1e-7)
    late = math.log(0.3 * math.e ** 2 - 1) / 1.2       # from σ₀ = e^(−2), which is past half of 0.1
    assert half_times(Task(np.ones(2), np.array([0.1, 0.3])), 1) == pytest.approx([0, late])
    assert [clock(T, depth) for depth, T in DEPTHS.items()] == pytest.approx([5, 5, 5])
    assert [default_T(depth) for depth in DEPTHS] == pytest.approx(list(DEPTHS.values()))


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_block_is_learned_when_its_clock_strikes(depth):
    """Time × covariance tends to clock(T, L) for small starts, whatever the covariance."""
    T, c = 4 * DEPTHS[depth], np.array([0.5, 1, 2])
    assert half_times(Task(np.ones(3), c), T, depth) * c == pytest.approx(clock(T, depth), rel=0.05)


def test_mixture_and_penalty_by_hand():
    pre, post, ft = tasks(Setting(pre=2, post=1, beta=0.5))
    assert pre.v.tolist() == [1, 1, 0] and post.v.tolist() == [1, 1, 1] and ft.v.tolist() == [1, 1, 0]
    mixture = mix(pre, post, 0.25)
    assert mixture.v.tolist() == [1, 1, 0.25] and mixture.c.tolist() == [3, 1.75, 0.125]
    assert targets(mixture).tolist() == [3, 1.75, 0.5]                     # β, where the paper prints αβ
    held = anchor(post, np.array([3, 2, 0]), 0.5)                          # (v·s + λσ₀) / (v + λ)
    assert targets(held) == pytest.approx([3, (1 + 0.5 * 2) / 1.5, 0.5 / 1.5])
    assert np.isnan(targets(pre)[SPECIALIZED])


def test_long_training_reaches_the_fixed_points():
    s = Setting(reg=0.5, t_pre=40, t_post=60, pre=2, post=1, beta=0.5, invariant=3, T=2)
    run = three_stages(s, 0.01)
    s_mix = 0.15 * 2 + 0.85 * 1
    assert run.theta_pre == pytest.approx([3, s_mix, 0.5], rel=1e-6)
    assert run.theta_post == pytest.approx([3, (1 + 0.5 * s_mix) / 1.5, 0.5], rel=1e-6)


def test_losses_at_exact_rank_by_hand():
    """Long stages: unmixed L_im = kβ², L_ret = kβ² + k(σ_ft − σ_post)²; mixed both are kσ_post²."""
    s = Setting(k=3, n=9, beta=0.9, post=0.2, ft=2.5, t_post=60, t_ft=10)
    alone, mixed = three_stages(unmixed(s), ideal=True), three_stages(s, ideal=True)
    assert (float(alone.L_im), float(alone.L_ret)) == pytest.approx((3 * 0.81, 3 * 0.81 + 3 * 2.3 ** 2))
    assert (float(mixed.L_im), float(mixed.L_ret)) == pytest.approx((3 * 0.04, 3 * 0.04))
    assert float(alone.L_ft) == pytest.approx(0, abs=1e-12)
    assert float(alone.L_pre) == pytest.approx(3 * 0.3 ** 2)
    post = tasks(STANDARD).post
    assert exact_rank(np.array([2, 1, 0.4]), post).tolist() == [3, 0.1, 0]
    assert loss(np.array([3, 0.1, 0]), post, np.array([1, 1, 2])) == pytest.approx(2)


@pytest.mark.filterwarnings("error")
def test_zero_stays_zero_but_almost_zero_does_not():
    post = tasks(STANDARD).post
    assert [flow(0.0, post, 20, depth).tolist() for depth in DEPTHS] == [[0, 0, 0]] * 3
    assert descend(0.0, post, 20, 0.01).tolist() == [0, 0, 0]
    assert descend(STANDARD.sigma_0, post, 20, 0.01)[SPECIALIZED] == pytest.approx(1)


# ---- the window

def test_threshold_in_alpha():
    assert alpha_threshold(Setting(pre=2, post=0, beta=1)) == pytest.approx(2 / 3)
    assert alpha_threshold(Setting(post=1.5, beta=1)) == np.inf
    at = replace(STANDARD, alpha=alpha_threshold(STANDARD))
    times = half_times(stage_1(at), at.T)
    assert times[SPECIALIZED] == pytest.approx(times[INCONSISTENT], rel=0.05)


@pytest.mark.parametrize("depth", DEPTHS)
def test_predicted_edges_lie_on_the_measured_ones(depth):
    # Edges within half a unit of the map's ends may be measured on either side of them.
    s = replace(STANDARD, depth=depth, T=DEPTHS[depth], alpha=np.linspace(0.05, 1, 20))
    stop = np.linspace(0, 16, 129)[1:, None]
    predicted = np.stack(np.broadcast_arrays(*edges(s)))
    inside = (predicted > 0.5) & (predicted < 15.5)
    assert inside.sum() > 60

    # Most of the error is that of the step.
    worst = []
    for eta in (0.01, 0.005):
        measured = np.stack(measured_edges(s, stop, eta))
        assert np.isinf(measured[predicted > 16.5]).all()
        worst.append(np.abs(measured[inside] / predicted[inside] - 1).max())
    assert worst[0] < 0.04
    assert worst[1] < 0.8 * worst[0]


@pytest.mark.parametrize("depth", DEPTHS)
def test_edges_at_random_settings(depth, rng):
    """What is learned just before and just after each edge."""
    # Some are without λ_reg or replay, some T are small, and some edges are at 0 or nowhere.
    n = 400
    alpha, replay = rng.random((2, n))
    T = DEPTHS[depth] * (0.3 + rng.random(n))
    s = Setting(
        alpha,
        beta=0.3 + rng.random(n),
        pre=2 + rng.random(n),
        post=0.5 * rng.random(n),
        ft=2 + rng.random(n),
        T=T,
        t_post=8 * rng.random(n),
        t_ft=rng.random(n),
        reg=rng.exponential(size=n) * (rng.random(n) > 0.3),
        replay=replay * (rng.random(n) > 0.5),
        depth=depth,
    )
    at = edges(s)
    half_mix = targets(stage_1(s)) / 2

    # Whether a block is learned changes at its edge; before an edge at 0 it is, and without an edge never.
    def is_learned_from(edge, run, stage, block, half):
        for factor in (0.999, 1.001):
            t_pre = np.where(np.isfinite(edge), edge * factor, 1e4)
            sigma = getattr(three_stages(replace(run, t_pre=t_pre)), stage)[:, block]
            expected = (edge == 0) | (np.isfinite(edge) & (factor > 1))
            assert ((sigma > half) == expected).all(), (stage, block, factor)

    # Each edge is of one block at the end of one stage.
    is_learned_from(at.specialized, s, "theta_pre", SPECIALIZED, half_mix[:, SPECIALIZED])
    is_learned_from(at.acquired, s, "theta_post", SPECIALIZED, s.beta / 2)
    is_learned_from(at.inconsistent, s, "theta_pre", INCONSISTENT, half_mix[:, INCONSISTENT])
    is_learned_from(at.overwritten, s, "theta_ft", INCONSISTENT, s.ft / 2)
    is_learned_from(at.unmixed, unmixed(s), "theta_pre", INCONSISTENT, s.pre / 2)


def test_edges_by_the_clock_by_hand():
    at = clock_edges(STANDARD)                     # T/2 = 5; c = 0.15·2.2 + 0.85·0.1 = 0.415
    assert at == pytest.approx([5 / 0.85, (5 - 3) / 0.85, 5 / 0.415, (5 - 0.3 - 1.25) / 0.415, 5 / 2.2])
    at = clock_edges(replace(STANDARD, replay=0.5, t_post=4))
    assert at.acquired == pytest.approx((5 - 2) / 0.85)
    assert at.overwritten == 0                     # 4·1.15 + 1.25 is more than 5
    assert clock_edges(unmixed(STANDARD)).specialized == np.inf
    large = replace(STANDARD, T=100.0, t_pre=70, t_post=30, t_ft=5)
    assert np.array(edges(large)) == pytest.approx(np.array(clock_edges(large)), rel=0.01)


def test_edges_are_where_flow_crosses():
    at = edges(STANDARD)
    ends = {name: three_stages(replace(STANDARD, t_pre=float(t))) for name, t in at._asdict().items()}
    assert ends["specialized"].theta_pre[SPECIALIZED] == pytest.approx(0.5)
    assert ends["acquired"].theta_post[SPECIALIZED] == pytest.approx(0.5)
    assert ends["inconsistent"].theta_pre[INCONSISTENT] == pytest.approx((0.15 * 2.2 + 0.85 * 0.1) / 2)
    assert ends["overwritten"].theta_ft[INCONSISTENT] == pytest.approx(1.25)
    alone = three_stages(unmixed(replace(STANDARD, t_pre=float(at.unmixed))))
    assert alone.theta_pre[INCONSISTENT] == pytest.approx(1.1)
    late = three_stages(unmixed(replace(STANDARD, t_post=float(latest_post(STANDARD)))))
    assert late.theta_post[SPECIALIZED] == pytest.approx(0.5)
    assert latest_post(replace(STANDARD, reg=2)) == np.inf                # held to almost 0, it tends to 1/3


def test_crossing_between_times():
    times = np.array([0, 1, 2, 3.0])
    path = flow(np.full(1, 0.1), Task(np.ones(1), np.ones(1)), times)
    assert half_crossing(path, np.ones(1), times) == pytest.approx(math.log(9) / 4)
    assert half_crossing(path, np.full(1, 5.0), times) == np.inf
    assert half_crossing(path[2:], np.ones(1), times[2:]) == 2            # past it from the start


# ---- beyond the theorems

def test_compute_matched_has_an_inner_optimum_only_with_a_penalty():
    lam = np.linspace(0, 1, 101)
    free, held = (compute_matched(replace(STANDARD, t_pre=3.0, reg=reg), lam, 12.0) for reg in (0, 0.1))
    assert np.ptp(free.theta_post[:, SPECIALIZED]) < 1e-9
    assert free.L_ret.argmin() == 0 and (np.diff(free.L_im) > 0).all()
    assert 20 < held.L_ret.argmin() < 90 and held.L_ret.min() < min(held.L_ret[0], held.L_ret[-1]) - 0.5


def test_samples_come_near_the_population_as_their_number_grows(rng):
    # The same start, so that samples are all that differs.
    U, V = bases(STANDARD.n, rng)
    aligned = aligned_factors(U, V, np.full(STANDARD.n, np.exp(-STANDARD.T)), 2, rng)
    reference = three_stages_by_matrices(STANDARD, aligned, U, V, 0.01)

    def distance(samples):
        sampled = three_stages_by_matrices(STANDARD, aligned, U, V, 0.01, samples, rng)
        return np.linalg.norm(sampled - reference)

    few = np.median([distance(1_000) for _ in range(8)])
    many = np.median([distance(100_000) for _ in range(8)])
    assert 5 < few / many < 20                                           # √100, and scatter


def test_sample_moments_are_unbiased(rng):
    U, V = bases(STANDARD.n, rng)
    pre = tasks(STANDARD).pre
    exact = matrix_moments(pre, U, V, STANDARD.counts)
    many = sample_moments(pre, U, V, STANDARD.counts, 200_000, rng)
    assert many.covariance == pytest.approx(exact.covariance, abs=0.015)
    assert many.cross == pytest.approx(exact.cross, abs=0.045)
    few = [sample_moments(pre, U, V, STANDARD.counts, 10, rng) for _ in range(1_000)]
    traces = [np.trace(moments.covariance) for moments in few]
    assert np.mean(traces) == pytest.approx(4, abs=0.15)                 # four directions of variance 1


def test_random_small_weights_come_near_the_aligned_theory(rng):
    assert (random_factors(50, 3, 4, rng) ** 2).sum((1, 2)) == pytest.approx(50 * np.exp(-6), rel=0.1)
    U, V = bases(STANDARD.n, rng)
    task = Task(np.ones(6), np.geomspace(0.5, 3, 6))
    late = []
    for T in (3, 12):
        expected = half_times(task, T)
        factors, moments = random_factors(6, T, 2, rng), matrix_moments(task, U, V, 1)
        path = descend_matrices(factors, moments, 2 * expected.max(), 0.01, record=True)
        sigma = np.diagonal(in_bases(path, U, V), axis1=1, axis2=2)
        late.append(half_crossing(sigma, task.c, 0.01 * np.arange(len(path))) / expected)
    assert np.abs(late[1] - 1).max() < min(0.25, np.abs(late[0] - 1).max())


# ---- the command

@pytest.fixture
def rough(monkeypatch):
    """Panels of figures stay where they fall: to lay them out takes long."""
    monkeypatch.setattr("matplotlib.layout_engine.ConstrainedLayoutEngine.execute", lambda engine, figure: None)


def test_command_prints_the_verdicts_and_draws(tmp_path, capsys, monkeypatch, rough):
    monkeypatch.setattr(figures, "MAP", 8)
    monkeypatch.setattr(sys, "argv", ["theory", "theorems", "--out", str(tmp_path), "--eta", "0.02"])
    (tmp_path / "another.png").touch()
    command.main()
    printed = capsys.readouterr().out
    assert printed.startswith("---- theorems\nassumptions: all hold") and "\n25 checks, 25 hold\n" in printed
    assert " NO" not in printed and printed.count("yes") == 45
    names = ["alpha.png", "departures.png", "frontier.png", "matched.png", "stages.png", "times.png",
             "window.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "another.png"])
    assert printed.endswith(f"figures: {tmp_path}/ {' '.join(names)}\n")


def test_topics_are_told_one_by_one(tmp_path, capsys, monkeypatch, rough):
    monkeypatch.setattr(sys, "argv", ["theory", "substitutes", "overtraining", "--out", str(tmp_path)])
    command.main()
    printed = capsys.readouterr().out
    assert printed.index("---- substitutes") < printed.index("---- overtraining")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["overtraining.png", "substitutes.png"]


def test_what_replay_and_the_penalty_do_to_L_ret_is_printed(capsys):
    found = figures.runs_over_alpha(STANDARD, 0.02)
    command.print_over_alpha(found)
    as_set, replayed, held = capsys.readouterr().out.splitlines()
    assert as_set.startswith("over α, Stage 2 as set: L_im 2.0")
    assert "L_ret nowhere" not in as_set + replayed + held and "lowers" not in as_set
    above = found["with λ_reg = 0.3"].L_ret - found["as set"].L_ret
    assert f"lowers L_ret by up to {-above.min():.2f} (α = 0.7" in held
    assert f"raises L_ret by up to {above.max():.2f} (α = 0.00)" in held
    assert above[0] == above.max() > 1.5

    # A variant that never lowers it says so, and no sign stands before a 0.
    command.print_over_alpha({"as set": found["as set"], "the same": found["as set"]})
    assert "it lowers L_ret nowhere and raises L_ret nowhere" in capsys.readouterr().out


def test_departures_are_printed_for_both_runs(capsys):
    rates, many = np.array([0.2, 0.1, 0.05, 0.025]), np.ones((6, 4))
    unmixed_run = figures.Departures(rates, 3 * rates, many * np.array([9, 7, 5, 4, 3, 2])[:, None], many)
    command.print_departures({"unmixed": unmixed_run, "mixed": unmixed_run._replace(by_rate=rates)}, STANDARD)
    printed = capsys.readouterr().out
    assert "unmixed: descent − flow 0.6 at --eta 0.2, 0.3 at half" in printed
    assert "mixed: descent − flow 0.2 at --eta 0.2, 0.1 at half" in printed
    assert printed.count("samples − population 9 at N = 300, 2 at 100,000") == 2
    assert printed.count("random − aligned start 1 at T = 5, 1 at 12") == 2


@pytest.fixture
def error_of(capsys, monkeypatch):
    """Run the command with these flags, which it must refuse with one line and nothing else: that line."""
    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["theory", *flags])
        with pytest.raises(SystemExit) as exit:
            command.main()
        printed = capsys.readouterr()
        assert exit.value.code == 2 and printed.out == ""
        assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
        return printed.err
    return run


@pytest.mark.parametrize("flags", [
    ["--alpha", "1.5"], ["--alpha", "0"], ["--depth", "1"], ["--eta", "1"], ["--beta", "x"], ["--bogus"], ["--steps", "0"],
    ["--T", "0"], ["--T", "nan"], ["--k", "4"], ["--post", "0"], ["--depth", "4", "--invariant", "1e300"],
    ["--reg", "-1"], ["--replay", "1"], ["--seed", "-1"], ["lemmas"], ["--steps", "9", "--t-pre", "3"],
    ["--n", "64"], ["--depth", "11"], ["--t-pre", "700"], ["--depth", "3", "--T", "90"], ["--eta", "1e-5"]])
def test_bad_values_give_one_line(flags, error_of, monkeypatch):
    monkeypatch.setattr(command, "tell", lambda s, args: None)           # what is not refused may take hours
    error_of(*flags)


def test_a_flag_that_is_none_is_named_with_where_they_are_told(error_of):
    assert error_of("--aplha", "0.5") == (
        "error: unrecognized arguments: --aplha, see python -m theory --help\n")


@pytest.mark.parametrize("flags", [["--alpha", "0.85"], ["--eta", "0.005"], ["--steps", "10"], ["--t-pre", "7"]])
def test_what_a_topic_would_ignore_is_refused(flags, error_of, monkeypatch):
    monkeypatch.setattr(command, "tell", lambda s, args: None)
    assert flags[0] + " " in error_of("replay", *flags)
    command.parse(["replay", "theorems", *flags])
    command.parse(["replay", "--seed", "2"])


def test_a_file_in_place_of_the_folder_is_refused_and_kept(error_of, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    assert str(file) in error_of("--out", str(file))
    assert str(file / "below") in error_of("--out", str(file / "below"))
    assert file.read_text() == "mine" and list(tmp_path.iterdir()) == [file]


def test_a_folder_that_takes_no_figure_is_refused_and_left_as_it_was(error_of, tmp_path):
    (tmp_path / "stages.png").mkdir()
    assert "stages.png" in error_of("--out", str(tmp_path))
    assert [path.name for path in tmp_path.rglob("*")] == ["stages.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_without_permission_is_refused(error_of, tmp_path):
    tmp_path.chmod(0o500)
    assert "Permission denied" in error_of("--out", str(tmp_path))


def test_help_has_a_sentence_for_every_topic_and_for_every_number(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        command.parse(["--help"])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 110
    printed = " ".join(printed.split())
    for name in ("theorems", *command.NETWORKS):
        assert f"{name} {command.TOPICS[name]}" in printed and command.TOPICS[name].endswith(".")
    for field in fields(Setting):
        assert f"{command.HELP[field.name]} ({field.default})" in printed


def test_flags_make_the_setting():
    assert command.parse([])[0] == STANDARD
    s, args = command.parse(["--depth", "3", "--steps", "100", "--eta", "0.02", "--c-mis", "1"])
    assert (s.depth, s.t_pre, s.c_mis, args.eta) == (3, 2, 1, 0.02)
    assert clock(s.T, 3) == pytest.approx(clock(STANDARD.T))


def test_theory_needs_nothing_of_the_rest():
    house = "{'torch', 'matplotlib', 'model', 'data', 'run', 'experiments'}"
    code = f"import sys, theory.theorems, theory.window; print({house} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
