"""What Section 5 and Appendix C claim, as two sides of an inequality each, and where the claims stop holding.

One idea carries all of it. A small singular value grows by its covariance alone, σ̇ ≈ 2L·c·σ^(2−2/L), in every stage.
So each block has a *clock* that advances by c·time through the stages; it is learned when that reaches `clock(T, L)`,
T/2 for two factors. The window in which the theorems hold ends where a clock strikes; `edges` is exact for flow.
"""

from dataclasses import replace
from typing import Callable, NamedTuple

import numpy as np
from numpy import ndarray

from .dynamics import (INCONSISTENT, SPECIALIZED, Run, Setting, Task, descend, elapsed, exact_rank, loss, mix, stage_2,
                       targets, tasks, three_stages, unmixed)

LONGEST = 20_000                         # steps of a stage


# ---- when a block is learned (Theorem 5.1, C.10)

def clock(T, depth: int = 2) -> ndarray:
    """Covariance × time after which a block is learned, to leading order in large T.

    ∫ dw / (2w^(L−1)) from w = e^(−T): T/2 for two factors, e^((L−2)T) / (2(L−2)) for more.
    """
    T = np.asarray(T, float)
    return T / 2 if depth == 2 else np.exp((depth - 2) * T) / (2 * (depth - 2))


def half_times(task: Task, T, depth: int = 2) -> ndarray:
    """When gradient flow from e^(−LT) reaches half of each target: (…, 3), 0 if it starts there, inf if it never does.

    Two factors: ln(s/σ₀ − 1) / (4c), which is T/(2c) for large T.
    """
    start, half = np.exp(-depth * np.asarray(T))[..., None], targets(task) / 2
    return np.where(start >= half, 0, elapsed(start, half, *task, depth))


def half_crossing(path: ndarray, target: ndarray, times: ndarray) -> ndarray:
    """When a path (m, …) at `times` (m,) reaches half of its target (…): times[0] if it starts there, inf if never.

    Between times ln(σ/(s − σ)) is taken as a straight line, which for two factors it is.
    """
    past = path >= target / 2
    after = np.maximum(past.argmax(0), 1)
    share = np.clip(np.take_along_axis(path, np.stack([after - 1, after]), 0) / target, 1e-300, 1 - 1e-12)
    before, at = np.log(share / (1 - share))
    back = at / np.where(at > before, at - before, np.inf) * (times[after] - times[after - 1])
    return np.where(past[0], times[0], np.where(past.any(0), times[after] - back, np.inf))


def alpha_threshold(s: Setting) -> ndarray:
    """α above which the mixture learns the specialized block before the inconsistent one; inf where β ≤ σ_post.

    αβ > (1−α)σ_pre + ασ_post  ⟺  α > σ_pre / (σ_pre + β − σ_post).
    """
    pre, post, beta = np.asarray(s.pre), np.asarray(s.post), np.asarray(s.beta)
    return np.where(beta > post, pre / np.where(beta > post, pre + beta - post, 1), np.inf)


def start_of(end: ndarray, task_from: Callable[[ndarray], Task], time, depth: int = 2, least=1e-200) -> ndarray:
    """The σ, at least `least`, from which flow on task_from(σ) takes `time` to `end`: (…, 3), by bisection of ln σ.

    What starts higher ends higher. `least` where even that ends above `end`.
    """
    time = np.asarray(time)[..., None]
    low, high = np.log(np.broadcast_arrays(least, 1e100 * np.nan_to_num(end, nan=1.0)))
    for _ in range(70):
        middle = (low + high) / 2
        start = np.exp(middle)
        needed = elapsed(start, end, *task_from(start), depth)
        ends_above = np.where(start < end, needed <= time, needed > time)
        low, high = np.where(ends_above, low, middle), np.where(ends_above, middle, high)
    return np.where(low == np.log(least), least, np.exp(low))


# ---- the window of stopping times

class Edges(NamedTuple):
    """Stopping times of Stage 1 (…) at which something changes; inf where it never does."""
    specialized: ndarray      # from here on the mixed run has learned the specialized block in Stage 1,
    acquired: ndarray         # has it after Stage 2,
    inconsistent: ndarray     # has learned the inconsistent block in Stage 1,
    overwritten: ndarray      # and past half of σ_ft after Stage 3
    unmixed: ndarray          # from here on the unmixed run has learned the inconsistent block in Stage 1


def edges(s: Setting) -> Edges:
    """The window by gradient flow: 5.1 holds between `specialized` and `inconsistent`, 5.3 up to `overwritten`.

    Three of them are `half_times`. `overwritten` goes back from σ_ft/2 through Stages 3 and 2, `acquired` from β/2
    through Stage 2, each by `start_of`, and both then ask when Stage 1 has reached that.
    """
    pre, post, ft = tasks(s)
    mixture, sigma_0 = mix(pre, post, s.alpha), np.asarray(s.sigma_0)[..., None]

    def stopping_time(theta_post):
        """When Stage 1 leaves what Stage 2 turns into θ_post; λ_reg pulls to what it started from."""
        theta_pre = start_of(theta_post, lambda theta: stage_2(s, theta), s.t_post, s.depth, sigma_0)
        return elapsed(sigma_0, theta_pre, *mixture, s.depth)

    in_stage_1 = half_times(mixture, s.T, s.depth)
    before_ft = start_of(targets(ft) / 2, lambda theta: ft, s.t_ft, s.depth)
    return Edges(in_stage_1[..., SPECIALIZED], stopping_time(targets(post) / 2)[..., SPECIALIZED],
                 in_stage_1[..., INCONSISTENT], stopping_time(before_ft)[..., INCONSISTENT],
                 half_times(pre, s.T, s.depth)[..., INCONSISTENT])


def clock_edges(s: Setting) -> Edges:
    """`edges` to leading order in large T: where the sum over stages of covariance × time reaches `clock`.

    T/(2αβ), then with less left to do, as Stage 2 adds (1−ρ)β·t_post to the specialized block's clock and Stages 2 and
    3 ((1−ρ)σ_post + ρσ_pre)·t_post and σ_ft·t_ft to the inconsistent block's; λ_reg adds next to nothing.
    """
    pre, post, ft = tasks(s)
    mixture, strikes = mix(pre, post, s.alpha), clock(s.T, s.depth)[..., None]
    left_2 = strikes - mix(post, pre, s.replay).c * np.asarray(s.t_post)[..., None]
    left_3 = left_2 - ft.c * np.asarray(s.t_ft)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second, third = (np.maximum(left, 0) / mixture.c for left in (strikes, left_2, left_3))
        return Edges(first[..., SPECIALIZED], second[..., SPECIALIZED], first[..., INCONSISTENT],
                     third[..., INCONSISTENT], (strikes / pre.c)[..., INCONSISTENT])


def measured_edges(s: Setting, stop: ndarray, eta: float) -> Edges:
    """`edges` measured by gradient descent with t_pre = stop (m, 1), settings of shape (…) along the second axis."""
    pre, post, ft = tasks(s)
    runs = replace(s, t_pre=stop)
    mixed, alone = three_stages(runs, eta), three_stages(unmixed(runs), eta)
    s_mix = np.broadcast_to(targets(mix(pre, post, s.alpha)), mixed.theta_pre.shape[1:])
    times = stop.reshape(-1)
    return Edges(half_crossing(mixed.theta_pre[..., SPECIALIZED], s_mix[..., SPECIALIZED], times),
                 half_crossing(mixed.theta_post[..., SPECIALIZED], np.asarray(s.beta), times),
                 half_crossing(mixed.theta_pre[..., INCONSISTENT], s_mix[..., INCONSISTENT], times),
                 half_crossing(mixed.theta_ft[..., INCONSISTENT], np.asarray(s.ft), times),
                 half_crossing(alone.theta_pre[..., INCONSISTENT], np.asarray(s.pre), times))


def latest_post(s: Setting) -> ndarray:
    """Stage-2 time from which the unmixed run has learned the specialized block after all, ∝ T/β: 5.2 needs less."""
    start, half = np.asarray(s.sigma_0)[..., None], targets(tasks(s)[1]) / 2
    return elapsed(start, half, *stage_2(unmixed(s), start), s.depth)[..., SPECIALIZED]


# ---- the theorems

class Check(NamedTuple):
    """A claim as an inequality between numbers, ≥ but for rounding; ≈ is: within a tenth of the right one."""
    theorem: str
    claim: str
    left: float
    relation: str
    right: float

    @property
    def holds(self) -> bool:
        left, right = self.left, self.right
        return bool({"<": left < right, ">": left > right, "≥": left >= right - 1e-12 * (1 + abs(right)),
                     "≈": left == right or abs(left - right) <= right / 10}[self.relation])


def free_growth(sigma: ndarray, advance: ndarray, depth: int = 2) -> ndarray:
    """σ after its clock has advanced by c·time, if nothing slowed it: an upper bound. σ·e^(4ct) for two factors."""
    if depth == 2:
        return sigma * np.exp(4 * advance)
    left = sigma ** ((2 - depth) / depth) - 2 * (depth - 2) * advance
    return np.where(left > 0, np.abs(left), np.nan) ** (-depth / (depth - 2))


@np.errstate(all="ignore")
def retention_bound(s: Setting, eta: float | None = None, ideal: bool = False) -> tuple[ndarray, ndarray]:
    """(bound, ε) such that Δ_unmixed − Δ_mixed ≥ bound (Theorem 5.3, C.17), of shape (…).

    ε bounds the mixed run's inconsistent block, by `free_growth` through all three stages, so
    Δ_mixed ≤ kε(ε + 2σ_post) there. The specialized block adds nothing to Δ, as D_ft has no inputs along it, and the
    invariant block moves alike in both runs. Unmixed, Δ is k(d_ret² − d_im²) of the inconsistent block's distances from
    σ_post after Stages 3 and 2. For long stages d_ret → |σ_ft − σ_post| > c_mis and
    d_im → λ_reg/(1 + λ_reg)·|σ_pre − σ_post|. eta and ideal as in `three_stages`: descent grows no faster than flow.
    """
    pre, post, ft = tasks(s)
    mixture = mix(pre, post, s.alpha)
    grown = np.asarray(s.sigma_0)[..., None]
    grown = free_growth(grown, mixture.c * np.asarray(s.t_pre)[..., None], s.depth)
    if ideal:
        grown = exact_rank(three_stages(s, eta).theta_pre, mixture)
    grown = free_growth(grown, stage_2(s, grown).c * np.asarray(s.t_post)[..., None], s.depth)
    epsilon = free_growth(grown, ft.c * np.asarray(s.t_ft)[..., None], s.depth)[..., INCONSISTENT]
    epsilon = np.where(np.isnan(epsilon), np.inf, epsilon)
    run = three_stages(unmixed(s), eta, ideal)
    d_im, d_ret = (np.abs(theta - targets(post)) for theta in (run.theta_post, run.theta_ft))
    alone = s.k * (d_ret ** 2 - d_im ** 2)[..., INCONSISTENT]
    return alone - s.k * epsilon * (epsilon + 2 * np.asarray(s.post)), epsilon


def theorems(s: Setting, eta: float = 0.01, ideal: bool = False) -> list[Check]:
    """Every theorem at one setting, the left sides measured by gradient descent, the right ones predicted.

    `ideal` takes Stage 1's result to exact rank, as the theorems do; else it is what training to t_pre left.
    """
    pre, post, _ = tasks(s)
    mixture = mix(pre, post, s.alpha)
    mixed, alone = three_stages(s, eta, ideal), three_stages(unmixed(s), eta, ideal)
    longest = 2 * max(time for time in (*half_times(mixture, s.T, s.depth), s.t_pre) if np.isfinite(time))
    longest = min(longest, LONGEST * eta)
    path = descend(s.sigma_0, mixture, longest, eta, s.depth, record=True)
    first = half_crossing(path, targets(mixture), eta * np.arange(len(path)))
    stage = stage_2(unmixed(s), alone.theta_pre)
    fixed_point = targets(stage)[INCONSISTENT]
    bound, _ = retention_bound(s, eta, ideal)
    with np.errstate(divide="ignore"):
        strikes = clock(s.T, s.depth) / mixture.c
    half = s.beta / 2
    return [
        Check("5.1", "α above its threshold", s.alpha, ">", float(alpha_threshold(s))),
        Check("5.1", "mixture: specialized block learned before inconsistent",
              first[SPECIALIZED], "<", first[INCONSISTENT]),
        Check("5.1", "mixed: specialized learned by t_pre, σ > β/2", mixed.theta_pre[SPECIALIZED], ">", half),
        Check("5.1", "mixed: inconsistent not learned, σ < half its target",
              mixed.theta_pre[INCONSISTENT], "<", targets(mixture)[INCONSISTENT] / 2),
        Check("5.1", "unmixed: inconsistent learned, σ > σ_pre/2", alone.theta_pre[INCONSISTENT], ">", s.pre / 2),
        Check("5.1", "unmixed: specialized not learned, σ < β/2", alone.theta_pre[SPECIALIZED], "<", half),
        Check("C.10", "mixture: specialized learned at T/(2αβ)", first[SPECIALIZED], "≈", strikes[SPECIALIZED]),
        Check("C.10", "mixture: specialized ends at β (printed: αβ)", path[-1, SPECIALIZED], "≈", s.beta),
        Check("5.2, C.15", "unmixed: specialized still not learned after Stage 2",
              alone.theta_post[SPECIALIZED], "<", half),
        Check("5.2, C.15", "unmixed: inconsistent within a tenth of its fixed point",
              abs(alone.theta_post[INCONSISTENT] - fixed_point), "<", abs(s.pre - fixed_point) / 10),
        Check("5.2, C.16", "mixed: specialized still learned after Stage 2", mixed.theta_post[SPECIALIZED], ">", half),
        Check("5.2, C.16", "mixed: inconsistent not learned after Stage 2, σ < σ_post/2",
              mixed.theta_post[INCONSISTENT], "<", s.post / 2),
        Check("5.3", "Δ_unmixed at least Δ_mixed", float(alone.delta), "≥", float(mixed.delta)),
        Check("5.3, C.17", "Δ_unmixed − Δ_mixed at least its lower bound",
              float(alone.delta - mixed.delta), "≥", float(bound)),
        Check("5.3, C.17", "the lower bound is above 0", float(bound), ">", 0.0),
    ]


# ---- what the paper does not show

def compute_matched(s: Setting, lam, tau, eta: float | None = None) -> Run:
    """Figure 3b in this model: D_post for a time τ in all, λτ of it mixed into Stage 1, (1−λ)τ in Stage 2.

    D_post is added to D_pre's time t_pre, so Stage 1 lasts t_pre + λτ with α = λτ / (t_pre + λτ). Without λ_reg or
    replay the specialized block ends the same for every λ: its variance × time, α(t_pre + λτ) + (1−λ)τ, is τ.
    """
    stage_1 = s.t_pre + lam * tau
    return three_stages(replace(s, alpha=lam * tau / stage_1, t_pre=stage_1, t_post=(1 - lam) * tau), eta)


def perturbed_loss(sigma: ndarray, task: Task, counts: ndarray, gamma: float, depth: int = 2) -> ndarray:
    """Expected loss after independent noise N(0, γ²) on every weight: (…) from σ (…, 3). Springer et al.'s probe.

    Their γ is in units of a layer's scale at initialization, which is next to nothing here; ours is absolute. Noise has
    no mean, so it only adds to E tr(θΣ_xθᵀ), which goes through the factors by X ← W_l X W_lᵀ + γ²·tr(X)·I from Σ_x on
    and stays diagonal. For two factors it adds γ²(n·Σ vσ + Σ v·Σ σ) + γ⁴n²·Σ v, sums over all n directions.
    """
    squares, x = np.asarray(sigma) ** (2 / depth), task.v
    for _ in range(depth):
        x = squares * x + gamma ** 2 * (counts * x).sum(-1, keepdims=True)
    return loss(sigma, task, counts) + (counts * (x - task.v * sigma ** 2)).sum(-1)
