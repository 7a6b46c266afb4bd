"""What Section 5 and Appendix C claim, as two sides of a relation each."""

from typing import NamedTuple

import numpy as np
from numpy import ndarray

from .dynamics import (INCONSISTENT, SPECIALIZED, Run, Setting, descend, exact_rank, per_block, stage_1,
                       stage_2, targets, tasks, three_stages, unmixed)
from .window import alpha_threshold, clock, half_crossing, half_times

LONGEST = 20_000                         # steps of a stage


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
