"""What Section 5 and Appendix C claim, as two sides of an inequality each, and where the claims stop holding.

One idea carries all of it. A small singular value grows by its covariance alone, σ̇ ≈ 2L·c·σ^(2−2/L), in any
stage. So each block has a *clock* that advances by c·time through the stages; it is learned when the clock
strikes, at `clock(T, L)`, which is T/2 for two factors. That is where the window of the theorems ends.
"""

import math
from dataclasses import replace
from typing import Callable, NamedTuple

import numpy as np
from numpy import ndarray

from .dynamics import (INCONSISTENT, SPECIALIZED, Run, Setting, Task, descend, elapsed, exact_rank, loss, mix,
                       per_block, stage_1, stage_2, targets, tasks, three_stages, unmixed)

LONGEST = 20_000                         # steps of a stage


# ---- when a block is learned (Theorem 5.1, C.10)

def clock(T, depth: int = 2) -> ndarray:
    """Compute covariance × time after which a block is learned, to leading order in large T.

    ∫ dw / (2w^(L−1)) from w = e^(−T): T/2 for two factors, e^((L−2)T) / (2(L−2)) for more.
    """
    T = np.asarray(T, float)
    return T / 2 if depth == 2 else np.exp((depth - 2) * T) / (2 * (depth - 2))


def default_T(depth: int) -> float:
    """Compute the T at which `depth` factors have the clock of two factors at T = 10."""
    return 10.0 if depth == 2 else math.log(10 * (depth - 2)) / (depth - 2)


def half_times(task: Task, T, depth: int = 2) -> ndarray:
    """Compute when flow from e^(−LT) reaches half of each target: (…, 3), 0 if it starts there, inf if never.

    Two factors: ln(s/σ₀ − 1) / (4c), which is T/(2c) for large T.
    """
    start = per_block(np.exp(-depth * np.asarray(T)))
    half = targets(task) / 2
    return np.where(start >= half, 0, elapsed(start, half, task, depth))


def half_crossing(path: ndarray, target: ndarray, times: ndarray) -> ndarray:
    """Measure when a path (m, …) at `times` (m,) reaches half of its target (…).

    It is times[0] if the path starts past it, inf if it never gets there. Between two times ln(σ/(s − σ)) is
    taken as a straight line, which for two factors it is.
    """
    # The crossing is between the first time past half and the one before.
    past = path >= target / 2
    after = np.maximum(past.argmax(0), 1)
    around = np.take_along_axis(path, np.stack([after - 1, after]), 0)

    # The straight line is 0 at half the target; the clip keeps its ends finite.
    share = np.clip(around / target, 1e-300, 1 - 1e-12)
    log_odds = np.log(share / (1 - share))
    rise = log_odds[1] - log_odds[0]
    back = log_odds[1] / np.where(rise > 0, rise, np.inf) * (times[after] - times[after - 1])

    # A path that never gets there has no `after`, and one that starts past it none before.
    crossed = np.where(past.any(0), times[after] - back, np.inf)
    return np.where(past[0], times[0], crossed)


def alpha_threshold(s: Setting) -> ndarray:
    """Compute the α above which a mixture learns the specialized block first; inf where β ≤ σ_post (5.1).

    αβ > (1−α)σ_pre + ασ_post  ⟺  α > σ_pre / (σ_pre + β − σ_post).
    """
    pre, post, beta = np.broadcast_arrays(s.pre, s.post, s.beta)
    exists = beta > post
    return np.where(exists, pre / np.where(exists, pre + beta - post, 1), np.inf)


def start_of(end: ndarray, task_from: Callable[[ndarray], Task], time, depth: int = 2,
             least=1e-200) -> ndarray:
    """Compute the σ, at least `least`, from which flow on task_from(σ) takes `time` to `end`: (…, 3).

    It is `least` where even that ends above `end`.
    """
    # Bisect ln σ: what starts higher ends higher.
    time = per_block(time)
    low, high = np.log(np.broadcast_arrays(least, 1e100 * np.nan_to_num(end, nan=1.0)))

    # Growing towards `end`, to arrive early is to end above it; shrinking, to arrive late.
    for _ in range(70):
        middle = (low + high) / 2
        start = np.exp(middle)
        needed = elapsed(start, end, task_from(start), depth)
        ends_above = np.where(start < end, needed <= time, needed > time)
        low = np.where(ends_above, low, middle)
        high = np.where(ends_above, middle, high)
    return np.where(low == np.log(least), least, np.exp(low))


# ---- the window of stopping times

class Edges(NamedTuple):
    """Hold the stopping times of Stage 1 (…) at which something changes; inf where it never does."""
    specialized: ndarray      # from here on the mixed run has learned the specialized block in Stage 1,
    acquired: ndarray         # has it after Stage 2,
    inconsistent: ndarray     # has learned the inconsistent block in Stage 1,
    overwritten: ndarray      # and past half of σ_ft after Stage 3
    unmixed: ndarray          # from here on the unmixed run has learned the inconsistent block in Stage 1


def edges(s: Setting) -> Edges:
    """Predict the window by gradient flow.

    Theorem 5.1 holds from `specialized` to `inconsistent`, and 5.3 up to `overwritten`.
    """
    # What is learned in Stage 1 needs no later stage.
    corpora = tasks(s)
    in_stage_1 = half_times(stage_1(s), s.T, s.depth)
    unmixed_in_stage_1 = half_times(corpora.pre, s.T, s.depth)

    # What is learned later goes back through Stage 2, whose task with λ_reg depends on the start it had.
    def stopping_time(theta_post):
        theta_pre = start_of(theta_post, lambda theta: stage_2(s, theta), s.t_post, s.depth, least=s.sigma_0)
        return elapsed(s.sigma_0, theta_pre, stage_1(s), s.depth)

    # And what Stage 3 overwrites goes back through Stage 3 first.
    half_of_ft = targets(corpora.ft) / 2
    before_ft = start_of(half_of_ft, lambda theta: corpora.ft, s.t_ft, s.depth)
    return Edges(
        specialized=in_stage_1[..., SPECIALIZED],
        acquired=stopping_time(targets(corpora.post) / 2)[..., SPECIALIZED],
        inconsistent=in_stage_1[..., INCONSISTENT],
        overwritten=stopping_time(before_ft)[..., INCONSISTENT],
        unmixed=unmixed_in_stage_1[..., INCONSISTENT],
    )


def clock_edges(s: Setting) -> Edges:
    """Predict `edges` to leading order in large T: where the sum of covariance × time over stages is `clock`.

    λ_reg adds next to nothing to a clock.
    """
    # What the later stages add to a clock, Stage 1 need not.
    corpora = tasks(s)
    replayed = mix(corpora.post, corpora.pre, s.replay)
    strikes = per_block(clock(s.T, s.depth))
    left_by_2 = strikes - replayed.c * per_block(s.t_post)
    left_by_3 = left_by_2 - corpora.ft.c * per_block(s.t_ft)

    # Without covariance a clock stands still, so division by 0 is meant.
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = stage_1(s).c
        alone = strikes / rate
        with_2 = np.maximum(left_by_2, 0) / rate
        with_3 = np.maximum(left_by_3, 0) / rate
        unmixed_alone = strikes / corpora.pre.c
    return Edges(
        specialized=alone[..., SPECIALIZED],
        acquired=with_2[..., SPECIALIZED],
        inconsistent=alone[..., INCONSISTENT],
        overwritten=with_3[..., INCONSISTENT],
        unmixed=unmixed_alone[..., INCONSISTENT],
    )


def measured_edges(s: Setting, stop: ndarray, eta: float) -> Edges:
    """Measure `edges` by gradient descent with t_pre = stop (m, 1), the settings along the second axis."""
    # Along the first axis, t_pre, what any stage ends with is a path.
    runs = replace(s, t_pre=stop)
    mixed = three_stages(runs, eta)
    alone = three_stages(unmixed(runs), eta)
    mixture = np.broadcast_to(targets(stage_1(s)), mixed.theta_pre.shape[1:])

    # An edge is where a block passes half of what it tends to.
    def crossing(sigma, block, target):
        return half_crossing(sigma[..., block], np.asarray(target), stop[:, 0])

    # Each edge is of one block at the end of one stage.
    return Edges(
        specialized=crossing(mixed.theta_pre, SPECIALIZED, mixture[..., SPECIALIZED]),
        acquired=crossing(mixed.theta_post, SPECIALIZED, s.beta),
        inconsistent=crossing(mixed.theta_pre, INCONSISTENT, mixture[..., INCONSISTENT]),
        overwritten=crossing(mixed.theta_ft, INCONSISTENT, s.ft),
        unmixed=crossing(alone.theta_pre, INCONSISTENT, s.pre),
    )


def latest_post(s: Setting) -> ndarray:
    """Predict the Stage-2 time, ∝ T/β, from which even the unmixed run learns the specialized block (5.2)."""
    half = targets(tasks(s).post) / 2
    return elapsed(s.sigma_0, half, stage_2(unmixed(s), s.sigma_0), s.depth)[..., SPECIALIZED]


# ---- the theorems

class Check(NamedTuple):
    """State a claim as a relation between two numbers."""
    theorem: str
    claim: str
    left: float
    relation: str
    right: float

    @property
    def holds(self) -> bool:
        """Judge the relation: ≥ but for rounding; ≈ is within a tenth of the right side."""
        left, right = self.left, self.right
        if self.relation == "<":
            return bool(left < right)
        if self.relation == ">":
            return bool(left > right)
        if self.relation == "≥":
            return bool(left >= right - 1e-12 * (1 + abs(right)))
        return bool(left == right or abs(left - right) <= right / 10)


class Bound(NamedTuple):
    """Hold the least Δ_unmixed − Δ_mixed, and the mixed run's largest σ_ft of the inconsistent block: (…)."""
    gain: ndarray
    epsilon: ndarray


def theorems(s: Setting, eta: float = 0.01, ideal: bool = False) -> list[Check]:
    """Check every theorem at a scalar setting, left sides measured by gradient descent, right ones predicted.

    `ideal` takes Stage 1's result to exact rank, as the theorems do; else it is what training to t_pre left.
    """
    mixed = three_stages(s, eta, ideal)
    alone = three_stages(unmixed(s), eta, ideal)
    bound = retention_bound(s, eta, ideal)
    return [
        *theorem_5_1(s, mixed, alone, eta),
        *theorem_5_2(s, mixed, alone),
        *theorem_5_3(mixed, alone, bound),
    ]


def theorem_5_1(s: Setting, mixed: Run, alone: Run, eta: float) -> list[Check]:
    """Check that early exposure makes Stage 1 learn the specialized, not the inconsistent block (C.10)."""
    # Stage 1 may end before both blocks are learned, so their order is seen in a longer one.
    mixture = stage_1(s)
    awaited = [time for time in half_times(mixture, s.T, s.depth) if np.isfinite(time)]
    longest = min(2 * max(*awaited, s.t_pre), LONGEST * eta)
    path = descend(s.sigma_0, mixture, longest, eta, s.depth, record=True)
    learned_at = half_crossing(path, targets(mixture), eta * np.arange(len(path)))

    # αβ may be 0: then the clock never strikes.
    with np.errstate(divide="ignore"):
        strikes_at = clock(s.T, s.depth) / mixture.c

    # The condition, then what each run has learned, then when.
    return [
        Check("5.1", "α above its threshold", s.alpha, ">", float(alpha_threshold(s))),
        Check("5.1", "mixture: specialized block learned before inconsistent",
              learned_at[SPECIALIZED], "<", learned_at[INCONSISTENT]),
        Check("5.1", "mixed: specialized learned by t_pre, σ > β/2",
              mixed.theta_pre[SPECIALIZED], ">", s.beta / 2),
        Check("5.1", "mixed: inconsistent not learned, σ < half its target",
              mixed.theta_pre[INCONSISTENT], "<", targets(mixture)[INCONSISTENT] / 2),
        Check("5.1", "unmixed: inconsistent learned, σ > σ_pre/2",
              alone.theta_pre[INCONSISTENT], ">", s.pre / 2),
        Check("5.1", "unmixed: specialized not learned, σ < β/2",
              alone.theta_pre[SPECIALIZED], "<", s.beta / 2),
        Check("C.10", "mixture: specialized learned at T/(2αβ)",
              learned_at[SPECIALIZED], "≈", strikes_at[SPECIALIZED]),
        Check("C.10", "mixture: specialized ends at β (printed: αβ)", path[-1, SPECIALIZED], "≈", s.beta),
    ]


def theorem_5_2(s: Setting, mixed: Run, alone: Run) -> list[Check]:
    """Check that Stage 2 leaves each run with the one block that its Stage 1 learned (C.15, C.16)."""
    fixed_point = targets(stage_2(unmixed(s), alone.theta_pre))[INCONSISTENT]
    return [
        Check("5.2, C.15", "unmixed: specialized still not learned after Stage 2",
              alone.theta_post[SPECIALIZED], "<", s.beta / 2),
        Check("5.2, C.15", "unmixed: inconsistent within a tenth of its fixed point",
              abs(alone.theta_post[INCONSISTENT] - fixed_point), "<", abs(s.pre - fixed_point) / 10),
        Check("5.2, C.16", "mixed: specialized still learned after Stage 2",
              mixed.theta_post[SPECIALIZED], ">", s.beta / 2),
        Check("5.2, C.16", "mixed: inconsistent not learned after Stage 2, σ < σ_post/2",
              mixed.theta_post[INCONSISTENT], "<", s.post / 2),
    ]


def theorem_5_3(mixed: Run, alone: Run, bound: Bound) -> list[Check]:
    """Check that the mixed run forgets less of D_post in Stage 3, by `retention_bound` at least (C.17)."""
    gain = float(alone.delta - mixed.delta)
    return [
        Check("5.3", "Δ_unmixed at least Δ_mixed", float(alone.delta), "≥", float(mixed.delta)),
        Check("5.3, C.17", "Δ_unmixed − Δ_mixed at least its lower bound", gain, "≥", float(bound.gain)),
        Check("5.3, C.17", "the lower bound is above 0", float(bound.gain), ">", 0.0),
    ]


def free_growth(sigma: ndarray, advance: ndarray, depth: int = 2) -> ndarray:
    """Bound σ from above after its clock advanced by c·time, as if nothing slowed it; nan where it diverges.

    σ·e^(4·advance) for two factors.
    """
    if depth == 2:
        return sigma * np.exp(4 * advance)
    left = sigma ** ((2 - depth) / depth) - 2 * (depth - 2) * advance
    return np.where(left > 0, np.abs(left), np.nan) ** (-depth / (depth - 2))


@np.errstate(all="ignore")
def retention_bound(s: Setting, eta: float | None = None, ideal: bool = False) -> Bound:
    """Bound Δ_unmixed − Δ_mixed from below (Theorem 5.3, C.17); eta and ideal are those of `three_stages`.

    With the inconsistent block at most ε after Stage 3, Δ_mixed ≤ kε(ε + 2σ_post) there. The specialized one
    adds nothing to Δ, as D_ft has no inputs along it, and the invariant one moves alike in both runs.
    Unmixed, Δ is k(d_ret² − d_im²), d the inconsistent block's distance from σ_post after Stage 3 or 2.
    In long stages d_ret → |σ_ft − σ_post| > c_mis and d_im → λ_reg/(1 + λ_reg)·|σ_pre − σ_post|.

    Returns a gain of −inf where ε has no bound.
    """
    # Mixed: grown freely through all stages, as descent is no faster; at exact rank Stage 2 starts anew.
    grown = free_growth(s.sigma_0, stage_1(s).c * per_block(s.t_pre), s.depth)
    if ideal:
        grown = exact_rank(three_stages(s, eta).theta_pre, stage_1(s))
    grown = free_growth(grown, stage_2(s, grown).c * per_block(s.t_post), s.depth)
    grown = free_growth(grown, tasks(s).ft.c * per_block(s.t_ft), s.depth)
    epsilon = grown[..., INCONSISTENT]
    epsilon = np.where(np.isnan(epsilon), np.inf, epsilon)

    # Unmixed: trained rather than bounded, so that short stages are no exception.
    alone = three_stages(unmixed(s), eta, ideal)
    d_im = np.abs(alone.theta_post - targets(tasks(s).post))
    d_ret = np.abs(alone.theta_ft - targets(tasks(s).post))
    delta = s.k * (d_ret ** 2 - d_im ** 2)[..., INCONSISTENT]
    return Bound(gain=delta - s.k * epsilon * (epsilon + 2 * np.asarray(s.post)), epsilon=epsilon)


# ---- what the paper does not show

def compute_matched(s: Setting, lam, tau, eta: float | None = None) -> Run:
    """Train Figure 3b in this model: D_post for a time τ in all, λτ of it in Stage 1 and the rest in Stage 2.

    D_post is added to D_pre's time t_pre, so Stage 1 lasts t_pre + λτ with α = λτ / (t_pre + λτ).
    """
    t_pre = s.t_pre + lam * tau
    return three_stages(replace(s, alpha=lam * tau / t_pre, t_pre=t_pre, t_post=(1 - lam) * tau), eta)


def perturbed_loss(sigma: ndarray, task: Task, counts: ndarray, gamma: float, depth: int = 2) -> ndarray:
    """Compute the expected loss (…) after noise N(0, γ²) on every weight (Springer et al.'s probe); σ (…, 3).

    Their γ is in units of a layer's scale at initialization, which is next to nothing here; ours is absolute.
    Two factors: noise adds γ²(n·Σ vσ + Σ v·Σ σ) + γ⁴n²·Σ v, sums over all n directions.
    """
    # Noise has no mean, so it only adds to E tr(θΣ_xθᵀ), which goes through the factors from Σ_x on by
    # X ← W_l X W_lᵀ + γ²·tr(X)·I and stays diagonal.
    squares = np.asarray(sigma) ** (2 / depth)
    x = task.v
    for _ in range(depth):
        x = squares * x + gamma ** 2 * (counts * x).sum(-1, keepdims=True)
    added = (counts * (x - task.v * sigma ** 2)).sum(-1)
    return loss(sigma, task, counts) + added
