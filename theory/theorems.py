"""What Theorems 5.1 to 5.3 claim, as two sides of a relation each.

The left side is what gradient descent does. The right side is arithmetic on the setting's numbers, written
out here: nothing that describes a task or trains on it has a part in it, so that an error there shows. Only
where a claim compares two blocks or two runs, both sides are trained.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from .dynamics import (INCONSISTENT, INVARIANT, SPECIALIZED, Moments, Run, Setting, Task, descend,
                       descend_matrices, factors_of, in_bases, loss, matrix_moments, stage_1, stage_2, tasks,
                       three_stages, unmixed)
from .window import clock, half_crossing

LONGEST = 20_000                         # steps of a stage; what takes more is not measured
UNMOVED = 1e-6                           # more than rounding moves, less than training does


class Check(NamedTuple):
    """State a claim as a relation between two numbers; ≈ is within a share of the right one."""
    theorem: str
    claim: str
    left: float
    relation: str
    right: float
    within: float = 0.05
    void: str = ""                       # why it says nothing at this setting, if it does not

    @property
    def holds(self) -> bool:
        """Judge the relation, ≥ and ≤ but for rounding. What is nan was not measured, and does not hold."""
        left, right = self.left, self.right
        rounding = 1e-12 * (1 + abs(right))
        if self.relation == "<":
            return bool(left < right)
        if self.relation == ">":
            return bool(left > right)
        if self.relation == "≤":
            return bool(left <= right + rounding)
        if self.relation == "≥":
            return bool(left >= right - rounding)
        return bool(np.isfinite(right) and abs(left - right) <= self.within * abs(right))


# ---- arithmetic on the setting's numbers

def mixture_target(s: Setting) -> ndarray:
    """Compute m = (1−α)σ_pre + ασ_post, target and covariance of the inconsistent block in Stage 1: (…)."""
    return (1 - np.asarray(s.alpha)) * s.pre + s.alpha * s.post


def replayed_target(s: Setting) -> ndarray:
    """Compute (1−ρ)σ_post + ρσ_pre, the same in Stage 2 without λ_reg: (…)."""
    return (1 - np.asarray(s.replay)) * s.post + s.replay * s.pre


def fixed_point(s: Setting, start: float) -> float:
    """Compute where Stage 2 takes the inconsistent block from `start`, (s + λ_reg·start)/(1 + λ_reg)."""
    return float((replayed_target(s) + s.reg * start) / (1 + s.reg))


def logistic(start: float, target: float, rate: float, time: float) -> float:
    """Solve σ̇ = 4·rate·σ·(1 − σ/target), which is two factors' flow with the covariance as its rate."""
    return float(target * start / (start + (target - start) * np.exp(-4 * rate * time)))


def safe_epsilon(s: Setting) -> float:
    """Compute a tenth of the most that C.13's ε may be: below c and β, and so that c² − 2cε − 4βε > 0."""
    c, beta = s.c_mis, s.beta
    return min(c ** 2 / (2 * c + 4 * beta), c, beta) / 10


def enough_time(start: float, end: float, epsilon: float, reg: float = 0) -> float:
    """Compute Kη, C.13's steps × η after which σ is within ε of its fixed point `end`; two factors.

    K = ln(max(s*, s₀)² / (ε·min(s*, s₀))) / (2η(1 + λ_reg)s*) is twice what flow needs, or more.
    """
    ratio = max(start, end) ** 2 / (epsilon * min(start, end))
    return float(max(np.log(ratio), 0) / (2 * (1 + reg) * end))


# ---- the theorems

def theorems(s: Setting, eta: float = 0.01, ideal: bool = False) -> list[Check]:
    """Check Theorems 5.1 to 5.3 at a scalar setting with α > 0, by gradient descent with learning rate eta.

    `ideal` takes Stage 1's result to exact rank, as the theorems do; else it is what training to t_pre left.
    """
    mixed = three_stages(s, eta, ideal)
    alone = three_stages(unmixed(s), eta, ideal)
    return [
        *theorem_5_1(s, mixed, alone, eta),
        *theorem_5_2(s, mixed, alone, eta),
        *theorem_5_3(s, mixed, alone, eta, ideal),
        *by_logistic_curve(s, alone, ideal),
    ]


def theorem_5_1(s: Setting, mixed: Run, alone: Run, eta: float) -> list[Check]:
    """Check that early exposure makes Stage 1 learn the specialized, not the inconsistent block (C.10)."""
    # Stage 1 may end before both blocks are learned, so their order is seen in a longer one.
    m = float(mixture_target(s))
    specialized_at, inconsistent_at = clock(s.T, s.depth) / np.array([s.alpha * s.beta, m])
    longest = min(2 * max(specialized_at, inconsistent_at, s.t_pre), LONGEST * eta)
    path = descend(s.sigma_0, stage_1(s), longest, eta, s.depth, record=True)
    ends = np.array([s.invariant, m, s.beta])
    learned_at = half_crossing(path, ends, eta * np.arange(len(path)))

    return [
        # When the specialized block is learned, and where it ends.
        Check("5.1", "mixture: specialized block learned before inconsistent",
              learned_at[SPECIALIZED], "<", learned_at[INCONSISTENT]),
        Check("C.10", "mixture: specialized learned at T/(2αβ)",
              learned_at[SPECIALIZED], "≈", specialized_at, within=0.1),
        Check("C.10", "mixture: specialized ends at β (printed: αβ)",
              path[-1, SPECIALIZED], "≈", s.beta, within=1e-3),

        # What each run has learned by t_pre.
        Check("5.1", "mixed: specialized learned by t_pre, σ > β/2",
              mixed.theta_pre[SPECIALIZED], ">", s.beta / 2),
        Check("5.1", "mixed: inconsistent not learned, σ < half its target",
              mixed.theta_pre[INCONSISTENT], "<", m / 2),
        Check("5.1", "unmixed: inconsistent learned, σ > σ_pre/2",
              alone.theta_pre[INCONSISTENT], ">", s.pre / 2),
        Check("5.1", "unmixed: specialized not learned, σ < β/2",
              alone.theta_pre[SPECIALIZED], "<", s.beta / 2),
    ]


class Held(NamedTuple):
    """Hold a Stage 2 with λ_reg > 0, which starts at exact rank, unmixed, and ends near its fixed point."""
    reg: float                           # the setting's λ_reg, or 1
    eta: float
    path: ndarray                        # (steps + 1,) σ of the inconsistent block
    end: float                           # its fixed point


def held_stage_2(s: Setting, eta: float) -> Held:
    """Train Stage 2 with a penalty, until it is within 1e-4 of its fixed point or for LONGEST steps."""
    # λ_reg makes the loss steeper, so steps are the shorter.
    held = replace(s, reg=s.reg or 1.0)
    eta = eta / (1 + held.reg)
    end = fixed_point(held, s.pre)

    # C.13's time is of two factors. L of them close in at 2L(1 + λ_reg)·σ^(2−2/L).
    speed = s.depth / 2 * end ** (1 - 2 / s.depth)
    time = enough_time(s.pre, end, 1e-4 * end, held.reg) / speed
    theta_pre = np.array([s.invariant, s.pre, 0])
    task = stage_2(held, theta_pre)
    path = descend(theta_pre, task, min(time, LONGEST * eta), eta, s.depth, record=True)
    return Held(held.reg, eta, path[:, INCONSISTENT], end)


def theorem_5_2(s: Setting, mixed: Run, alone: Run, eta: float) -> list[Check]:
    """Check that Stage 2 leaves each run with the one block that its Stage 1 learned (C.14, C.15)."""
    # C.14 is about λ_reg, which the setting may not have: a Stage 2 of its own has one.
    end = fixed_point(s, s.pre)
    held = held_stage_2(s, eta)
    return [
        # Which block each run has, as after Stage 1.
        Check("5.2, C.15", "unmixed: specialized still not learned after Stage 2",
              alone.theta_post[SPECIALIZED], "<", s.beta / 2),
        Check("5.2, C.15", "unmixed: inconsistent has a tenth or less of its way left",
              abs(alone.theta_post[INCONSISTENT] - end), "<", abs(s.pre - end) / 10),
        Check("5.2, C.15", "mixed: specialized still learned after Stage 2",
              mixed.theta_post[SPECIALIZED], ">", s.beta / 2),
        Check("5.2, C.15", "mixed: inconsistent not learned after Stage 2, σ < σ_post/2",
              mixed.theta_post[INCONSISTENT], "<", s.post / 2),

        # Where a penalty ends, and what Stage 2 costs.
        Check("C.14", f"λ_reg = {held.reg:g}: Stage 2 ends at (s + λ_reg·σ_pre)/(1 + λ_reg)",
              held.path[-1], "≈", held.end, within=1e-3),
        Check("5.2", "Stage 2 raises D_pre's loss less in the mixed run",
              rise_on_pre(s, mixed), "<", rise_on_pre(s, alone)),
    ]


def rise_on_pre(s: Setting, run: Run) -> float:
    """Measure what Stage 2 costs on D_pre, L(θ_post; D_pre) − L(θ_pre; D_pre)."""
    before, after = loss(run.thetas[:2], tasks(s).pre, s.counts)
    return float(after - before)


def theorem_5_3(s: Setting, mixed: Run, alone: Run, eta: float, ideal: bool) -> list[Check]:
    """Check that the mixed run forgets less of D_post in Stage 3, and what of θ moves there (C.16, C.17)."""
    # The invariant block is at its target in every stage.
    invariant = np.array([alone.theta_ft[INVARIANT], mixed.theta_ft[INVARIANT]])

    # Above what it costs to overwrite a block that is at σ_post, a bound bounds nothing.
    bound = float(forgetting_bound(s, ideal).forgetting)
    void = "no bound" if bound > s.k * (s.ft - s.post) ** 2 else ""
    return [
        Check("5.3, C.16", "mixed: Stage 3 does not move the specialized block of θ",
              moved_by_stage_3(s, mixed.theta_post, eta), "<", UNMOVED),
        Check("5.3, C.16", "mixed: inconsistent not learned after Stage 3, σ < σ_ft/2",
              mixed.theta_ft[INCONSISTENT], "<", s.ft / 2),
        Check("5.3", "both runs: distance of the invariant block from its target",
              np.abs(invariant - s.invariant).max(), "<", s.invariant / 1000),
        Check("5.3", "Δ_unmixed at least Δ_mixed", float(alone.forgetting), "≥", float(mixed.forgetting)),
        Check("5.3, C.17", "Δ_mixed at most kε·max(ε, 2σ_post), ε by free growth",
              float(mixed.forgetting), "≤", bound, void=void),
    ]


def by_logistic_curve(s: Setting, alone: Run, ideal: bool) -> list[Check]:
    """Check the unmixed run's losses against the logistic curve of two factors; [] at other depths."""
    if s.depth != 2:
        return []

    # Its inconsistent block goes from σ_pre, or nearly that, to Stage 2's fixed point and on to σ_ft.
    pre = s.pre
    if not ideal:
        pre = logistic(np.exp(-2 * s.T), s.pre, s.pre, s.t_pre)
    end = fixed_point(s, pre)
    post = logistic(pre, end, (1 + s.reg) * end, s.t_post)
    ft = logistic(post, s.ft, s.ft, s.t_ft)

    # All else of it is at rest, so a loss changes by its squares.
    return [
        Check("5.2", "unmixed: D_pre's loss rises by k(σ_pre − σ)², σ logistic",
              rise_on_pre(s, alone), "≈", s.k * ((s.pre - post) ** 2 - (s.pre - pre) ** 2)),
        Check("5.3", "unmixed: Δ is the difference of k(σ − σ_post)², σ logistic",
              float(alone.forgetting), "≈", s.k * ((ft - s.post) ** 2 - (post - s.post) ** 2)),
    ]


def moved_by_stage_3(s: Setting, theta_post: ndarray, eta: float) -> float:
    """Measure how far Stage 3 moves θ on the specialized inputs (operator norm), from aligned factors."""
    bases = fixed_bases(s.n, s.depth)
    factors = factors_of(np.repeat(theta_post, s.counts) ** (1 / s.depth), bases)
    after = descend_matrices(factors, moments_in(bases, tasks(s).ft, s), s.t_ft, eta)
    change = in_bases(after, bases[0], bases[-1]) - in_bases(factors, bases[0], bases[-1])
    return float(np.linalg.norm(change[:, -s.k:], 2))


def free_growth(sigma: ndarray, advance: ndarray, depth: int = 2) -> ndarray:
    """Bound σ from above after its clock advanced by c·time, as if nothing slowed it; nan where it diverges.

    σ·e^(4·advance) for two factors.
    """
    if depth == 2:
        return sigma * np.exp(4 * advance)
    left = sigma ** ((2 - depth) / depth) - 2 * (depth - 2) * advance
    return np.where(left > 0, np.abs(left), np.nan) ** (-depth / (depth - 2))


class Bound(NamedTuple):
    """Hold the most that Δ_mixed may be, and the most that the inconsistent block may be after it: (…)."""
    forgetting: ndarray
    epsilon: ndarray


@np.errstate(all="ignore")
def forgetting_bound(s: Setting, ideal: bool = False) -> Bound:
    """Bound Δ_mixed from above by the setting's numbers (Theorem 5.3, C.17); inf where nothing bounds it.

    An inconsistent block that stays below ε adds at most kε·max(ε, 2σ_post) to Δ: (σ − σ_post)² rises by ε²
    at most where σ grows, by 2εσ_post where it shrinks. The specialized block adds nothing, as D_ft has no
    inputs along it, and the invariant one nears its target. At exact rank what is not learned stays at 0.
    """
    epsilon = np.zeros(())
    if not ideal:
        grown = np.exp(-s.depth * np.asarray(s.T, float))
        grown = free_growth(grown, mixture_target(s) * s.t_pre, s.depth)
        grown = free_growth(grown, (replayed_target(s) + s.reg * grown) * s.t_post, s.depth)
        grown = free_growth(grown, np.asarray(s.ft) * s.t_ft, s.depth)
        epsilon = np.where(np.isnan(grown), np.inf, grown)
    return Bound(forgetting=s.k * epsilon * np.maximum(epsilon, 2 * np.asarray(s.post)), epsilon=epsilon)


# ---- full matrices

def fixed_bases(n: int, depth: int = 2) -> list[ndarray]:
    """Give U, the bases between the factors, and V: orthogonal (n, n), all different, none of them random."""
    # Hartley's matrix of cosines + sines is orthogonal, and remains so when reflected.
    angle = 2 * np.pi * np.outer(np.arange(n), np.arange(n)) / n
    bases = [(np.cos(angle) + np.sin(angle)) / np.sqrt(n)]
    for number in range(1, depth + 1):
        normal = np.cos(number * np.arange(n))
        bases.append(bases[-1] - 2 * np.outer(bases[-1] @ normal, normal) / (normal @ normal))
    return bases


def moments_in(bases: list[ndarray], task: Task, s: Setting) -> Moments:
    """Compute a task's moments where the outer bases are U and V."""
    return matrix_moments(task, bases[0], bases[-1], s.counts)
