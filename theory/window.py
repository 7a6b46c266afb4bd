"""When each block is learned, and so where the theorems hold: the window of stopping times.

One idea carries all of it. A small singular value grows by its covariance alone, σ̇ ≈ 2L·c·σ^(2−2/L), in any
stage. So each block has a *clock* that advances by c·time through the stages; it is learned when the clock
strikes, at `clock(T, L)`, which is T/2 for two factors. That is where the window of the theorems ends.
"""

import math
from dataclasses import replace
from typing import Callable, NamedTuple

import numpy as np
from numpy import ndarray

from .dynamics import (INCONSISTENT, SPECIALIZED, Run, Setting, Task, elapsed, mix, per_block, stage_1,
                       stage_2, targets, tasks, three_stages, unmixed)


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


# ---- what the paper does not show

def compute_matched(s: Setting, lam, tau) -> Run:
    """Train Figure 3b here, by flow: D_post for a time τ in all, λτ of it in Stage 1 and the rest in Stage 2.

    D_post is added to D_pre's time t_pre, so Stage 1 lasts t_pre + λτ with α = λτ / (t_pre + λτ).
    """
    t_pre = s.t_pre + lam * tau
    return three_stages(replace(s, alpha=lam * tau / t_pre, t_pre=t_pre, t_post=(1 - lam) * tau))
