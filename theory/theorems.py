"""What Section 5 and Appendix C claim, as two sides of an inequality each, and where the claims stop holding.

One idea carries all of it. A small singular value grows by its covariance alone, σ̇ ≈ 2L·c·σ^(2−2/L), in every stage.
So each block has a *clock* that advances by c·time through the stages; it is learned when that reaches `clock(T, L)`,
T/2 for two factors. The window in which the theorems hold ends where a clock strikes; `edges` is exact.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from .dynamics import (INCONSISTENT, SPECIALIZED, Run, Setting, Task, descend, elapsed, flow, mix, stage_2, targets,
                       tasks, three_stages, unmixed)


# ---- when a block is learned (Theorem 5.1, C.10)

def clock(T, depth: int = 2) -> ndarray:
    """Covariance × time after which a block is learned, to leading order in large T.

    ∫ dw / (2w^(L−1)) from w = e^(−T): T/2 for two factors, e^((L−2)T) / (2(L−2)) for more.
    """
    T = np.asarray(T, float)
    return T / 2 if depth == 2 else np.exp((depth - 2) * T) / (2 * (depth - 2))


def half_times(task: Task, T, depth: int = 2) -> ndarray:
    """When gradient flow from e^(−LT) reaches half of each target: (…, 3), inf without covariance.

    Two factors: ln(s/σ₀ − 1) / (4c), which is T/(2c) for large T.
    """
    return elapsed(np.exp(-depth * np.asarray(T))[..., None], targets(task) / 2, *task, depth)


def half_crossing(path: ndarray, target: ndarray, times: ndarray) -> ndarray:
    """The first of `times` (m,) at which a path (m, …) reaches half of its target (…); inf if it does not.

    Between times ln(σ/(s − σ)) is taken as a straight line, which for two factors it is.
    """
    past = path >= target / 2
    after = np.maximum(past.argmax(0), 1)
    share = np.clip(np.take_along_axis(path, np.stack([after - 1, after]), 0) / target, 1e-300, 1 - 1e-12)
    before, at = np.log(share / (1 - share))
    back = at / np.where(at > before, at - before, np.inf) * (times[after] - times[after - 1])
    return np.where(past.any(0), times[after] - back, np.inf)


def alpha_threshold(s: Setting) -> ndarray:
    """α above which the mixture learns the specialized block before the inconsistent one; inf where β ≤ σ_post.

    αβ > (1−α)σ_pre + ασ_post  ⟺  α > σ_pre / (σ_pre + β − σ_post).
    """
    pre, post, beta = np.asarray(s.pre), np.asarray(s.post), np.asarray(s.beta)
    return np.where(beta > post, pre / np.where(beta > post, pre + beta - post, 1), np.inf)


# ---- the window of stopping times

class Edges(NamedTuple):
    """Stopping times of Stage 1 (…) at which something changes; inf where it never does."""
    specialized: ndarray      # from here on the mixed run has learned the specialized block in Stage 1,
    acquired: ndarray         # has it after Stage 2,
    inconsistent: ndarray     # has learned the inconsistent block in Stage 1,
    overwritten: ndarray      # and past half of σ_ft after Stage 3
    unmixed: ndarray          # from here on the unmixed run has learned the inconsistent block in Stage 1


def edges(s: Setting) -> Edges:
    """The window in closed form: 5.1 holds between `specialized` and `inconsistent`, 5.3 up to `overwritten`.

    `overwritten` goes back from σ_ft/2 through Stages 3 and 2, `acquired` from β/2 through Stage 2, and both then ask
    when Stage 1 gets there. Stage 2 is taken without λ_reg, which does not change a clock.
    """
    pre, post, ft = tasks(s)
    mixture = mix(pre, post, s.alpha)

    def when(wanted):
        """The stopping time at which Stage 1 leaves what Stage 2 turns into `wanted`."""
        before = flow(wanted, stage_2(replace(s, reg=0), wanted), -np.asarray(s.t_post), s.depth)
        time = elapsed(np.asarray(s.sigma_0)[..., None], before, *mixture, s.depth)
        return np.where(before < np.asarray(s.sigma_0)[..., None], 0, np.where(np.isnan(before), np.inf, time))

    in_stage_1 = half_times(mixture, s.T, s.depth)
    before_ft = flow(targets(ft) / 2, ft, -np.asarray(s.t_ft), s.depth)
    return Edges(in_stage_1[..., SPECIALIZED], when(targets(post) / 2)[..., SPECIALIZED], in_stage_1[..., INCONSISTENT],
                 when(before_ft)[..., INCONSISTENT], half_times(pre, s.T, s.depth)[..., INCONSISTENT])


def measured_edges(s: Setting, stop: ndarray, eta: float) -> Edges:
    """The same, measured by gradient descent with t_pre = stop (m, 1), settings of shape (…) along the second axis."""
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
    start = np.asarray(s.sigma_0)[..., None]
    return half_times(stage_2(unmixed(s), start), s.T, s.depth)[..., SPECIALIZED]


# ---- the theorems

class Check(NamedTuple):
    """A claim as an inequality between numbers."""
    theorem: str
    claim: str
    left: float
    relation: str
    right: float

    @property
    def holds(self) -> bool:
        return bool(self.left > self.right if self.relation == ">" else self.left < self.right)


def free_growth(sigma: ndarray, advance: ndarray, depth: int = 2) -> ndarray:
    """σ after its clock has advanced by c·time, if nothing slowed it: an upper bound. σ·e^(4ct) for two factors."""
    if depth == 2:
        return sigma * np.exp(4 * advance)
    left = sigma ** ((2 - depth) / depth) - 2 * (depth - 2) * advance
    return np.where(left > 0, np.abs(left), np.nan) ** (-depth / (depth - 2))


@np.errstate(over="ignore", invalid="ignore")
def retention_bound(s: Setting) -> tuple[ndarray, ndarray]:
    """(bound, ε) such that Δ_unmixed − Δ_mixed ≥ bound (Theorem 5.3, C.17), of shape (…).

    ε bounds the mixed run's inconsistent block, by `free_growth` through all three stages, so
    Δ_mixed ≤ kε(ε + 2σ_post) there. The specialized block adds nothing to Δ, as D_ft has no inputs along it, and the
    invariant block moves alike in both runs. Unmixed, Δ is k(d_ret² − d_im²) of the inconsistent block's distances from
    σ_post after Stages 3 and 2, here of gradient flow. For long stages d_ret → |σ_ft − σ_post| > c_mis and
    d_im → λ_reg/(1 + λ_reg)·|σ_pre − σ_post|.
    """
    pre, post, ft = tasks(s)
    mixture = mix(pre, post, s.alpha)
    grown = np.asarray(s.sigma_0)[..., None]
    grown = free_growth(grown, mixture.c * np.asarray(s.t_pre)[..., None], s.depth)
    grown = free_growth(grown, stage_2(s, grown).c * np.asarray(s.t_post)[..., None], s.depth)
    epsilon = free_growth(grown, ft.c * np.asarray(s.t_ft)[..., None], s.depth)[..., INCONSISTENT]
    epsilon = np.where(np.isnan(epsilon), np.inf, epsilon)
    run = three_stages(unmixed(s))
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
    path = descend(s.sigma_0, mixture, longest, eta, s.depth, record=True)
    first = half_crossing(path, targets(mixture), eta * np.arange(len(path)))
    stage = stage_2(unmixed(s), alone.theta_pre)
    fixed_point = targets(stage)[INCONSISTENT]
    bound, _ = retention_bound(s)
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
        Check("C.10", "mixed: |σ − β| below |σ − αβ|, the printed limit", abs(mixed.theta_pre[SPECIALIZED] - s.beta),
              "<", abs(mixed.theta_pre[SPECIALIZED] - s.alpha * s.beta)),
        Check("5.2, C.15", "unmixed: specialized still not learned after Stage 2",
              alone.theta_post[SPECIALIZED], "<", half),
        Check("5.2, C.15", "unmixed: inconsistent within a tenth of its fixed point",
              abs(alone.theta_post[INCONSISTENT] - fixed_point), "<", abs(s.pre - fixed_point) / 10),
        Check("5.2, C.16", "mixed: specialized still learned after Stage 2", mixed.theta_post[SPECIALIZED], ">", half),
        Check("5.2, C.16", "mixed: inconsistent not learned after Stage 2, σ < σ_post/2",
              mixed.theta_post[INCONSISTENT], "<", s.post / 2),
        Check("5.3", "Δ_unmixed above Δ_mixed", float(alone.delta), ">", float(mixed.delta)),
        Check("5.3, C.17", "Δ_unmixed − Δ_mixed above its lower bound",
              float(alone.delta - mixed.delta), ">", float(bound)),
        Check("5.3, C.17", "the lower bound is above 0", float(bound), ">", 0.0),
    ]


# ---- what the paper does not show

def compute_matched(s: Setting, lam, tau, eta: float | None = None) -> Run:
    """Figure 3b in this model: D_post for a time τ in all, λτ of it mixed into Stage 1, (1−λ)τ in Stage 2.

    D_post is added to D_pre's time t_pre, so Stage 1 lasts t_pre + λτ with α = λτ / (t_pre + λτ). Without λ_reg the
    specialized block ends the same for every λ: its variance × time, α(t_pre + λτ) + (1−λ)τ = τ, does not contain it.
    """
    stage_1 = s.t_pre + lam * tau
    return three_stages(replace(s, alpha=lam * tau / stage_1, t_pre=stage_1, t_post=(1 - lam) * tau), eta)


def sensitivity(sigma: ndarray, task: Task, counts: ndarray, depth: int = 2) -> ndarray:
    """Expected rise of the loss per γ² when every weight gets noise N(0, γ²), to leading order: (…) from σ (…, 3).

    Springer et al.'s probe. Noise E_l in factor l changes θ by γ·W₁⋯W_(l−1)·E_l·W_(l+1)⋯W_L, of zero mean, and
    E‖BEC‖² = ‖B‖²·‖C‖²: Σ_l (Σ_i w_i^(2(l−1)))·(Σ_i v_i·w_i^(2(L−l))), sums over all n directions. For two factors that
    is n·Σ vσ + Σ v·Σ σ, with γ⁴·n²·Σ v left out: every learned block adds to it.
    """
    squares = np.asarray(sigma) ** (2 / depth)
    return sum((counts * squares ** (l - 1)).sum(-1) * (counts * task.v * squares ** (depth - l)).sum(-1)
               for l in range(1, depth + 1))
