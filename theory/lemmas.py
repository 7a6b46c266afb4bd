"""How long and how exactly: the lemmas of Appendix C as corrected, and where print is wrong in numbers.

As in `theorems.py`, what is trained stands left and arithmetic on the setting's numbers right.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from .dynamics import (INCONSISTENT, SPECIALIZED, Setting, Task, descend, descend_matrices, in_bases, loss,
                       matrix_loss, stage_1, stage_2, tasks, unmixed)
from .theorems import (LONGEST, UNMOVED, Check, enough_time, factors_of, fixed_bases, fixed_point,
                       held_stage_2, mixture_target, moments_in, safe_epsilon)
from .window import clock, half_crossing


# ---- the lemmas

def lemmas(s: Setting, eta: float = 0.01) -> list[Check]:
    """Check C.9 to C.17, as corrected, at a scalar setting; [] at other depths, as they speak of two factors.

    They start from small or from exactly learned weights and take the time that they ask for, so T, t_pre,
    t_post and t_ft are nothing to them. What would take more than LONGEST steps is nan.
    """
    if s.depth != 2:
        return []
    return [rank_exponent(s, eta), *isolation(s, eta), takeover_rate(s, eta)]


def shuffles(n: int) -> list[ndarray]:
    """Give U, Q and V as permutations (n, n), in which directions take no rounding from each other."""
    return [np.roll(np.eye(n), number, axis=0) for number in range(3)]


def rank_exponent(s: Setting, eta: float) -> Check:
    """Check C in ‖W − its value at exact rank‖ = O(e^(−CT)), for both runs at one stopping time (C.9, C.10).

    c is the least covariance of what is learned and c' the largest of what is not, in either run. A factor of
    the latter is e^(−T + 2c't), one of the former falls short of its target by O(e^(2T − 4ct)); both are
    e^(−CT) at t = 3T/(4c + 2c'). Unless c is the larger there is no such time.
    """
    # The mixed run is to learn αβ but not m; the unmixed run σ_pre, and has no inputs for the rest.
    learned, unlearned = min(s.alpha * s.beta, s.pre, s.invariant), float(mixture_target(s))
    predicted = 2 * (learned - unlearned) / (2 * learned + unlearned)
    void = "" if predicted > 0 else "not applicable"

    # C is of large T and small steps: e^(−6) and ηc of C/20 are small enough. Whole steps say which T it is.
    least_T = s.T
    if predicted > 0:
        least_T = 6 / predicted
        eta = min(eta, predicted / learned / 20)
    per_T = 3 / (4 * learned + 2 * unlearned)
    steps = np.ceil(np.array([1, 1.25]) * least_T * per_T / eta)
    starts = steps * eta / per_T

    # The larger of the errors counts, of two factors in two runs.
    measured = np.nan
    if steps.max() <= LONGEST:
        errors = []
        for T, time in zip(starts, steps * eta):
            small = replace(s, T=T, t_pre=time)
            of_mixed = factor_error(small, np.array([s.invariant, 0, s.beta]), eta)
            of_alone = factor_error(unmixed(small), np.array([s.invariant, s.pre, 0]), eta)
            errors.append(max(of_mixed, of_alone))
        measured = -np.log(errors[1] / errors[0]) / (starts[1] - starts[0])
    return Check("C.9, C.10", "both runs: factors' errors are e^(−CT), C = 2(c − c')/(2c + c')",
                 float(measured), "≈", predicted, within=0.1, void=void)


def factor_error(s: Setting, end: ndarray, eta: float) -> float:
    """Measure how far Stage 1 leaves either factor from that of singular values √end (operator norm).

    e^(−T) may be less than the rounding of what is learned.
    """
    bases = shuffles(s.n)
    factors = factors_of(np.full(s.n, np.exp(-s.T)), bases)
    after = descend_matrices(factors, moments_in(bases, stage_1(s), s), s.t_pre, eta)
    apart = after - factors_of(np.repeat(np.sqrt(end), s.counts), bases)
    return float(np.linalg.norm(apart, 2, axis=(1, 2)).max())


def isolation(s: Setting, eta: float) -> list[Check]:
    """Check that from exact rank Stages 2 and 3 move what they find, and nothing else (C.13 to C.17).

    After K steps each, σ is within ε of its fixed point. So Δ_unmixed is at least
    k((c_mis − ε)² − (d + ε)² − 4βε), where d is the distance that λ_reg and replay leave between Stage 2's
    fixed point and σ_post. Without them it is the paper's k(c_mis² − 2c_mis·ε − 4βε).
    """
    # Stage 3 starts between Stage 2's start and its fixed point; from the lower of them it takes longest.
    epsilon = safe_epsilon(s)
    end = fixed_point(s, s.pre)
    in_2 = enough_time(s.pre, end, epsilon, s.reg)
    in_3 = enough_time(min(s.pre, end), s.ft, epsilon)
    bound = (s.c_mis - epsilon) ** 2 - (abs(end - s.post) + epsilon) ** 2 - 4 * s.beta * epsilon

    # What would take longer is not trained.
    found = Moved()
    if max(in_2, in_3) <= LONGEST * eta:
        found = moved(s, end, in_2, in_3, eta)
    return [
        Check("C.13–C.15", "unmixed: θ is within ε after K steps of Stage 2", found.error, "≤", epsilon),
        Check("C.15", "mixed: θ does not move in as many", found.change, "<", UNMOVED),
        Check("C.17", "unmixed, K steps: Δ at least k((c_mis − ε)² − (d + ε)² − 4βε)",
              found.forgetting, "≥", s.k * bound),
    ]


class Moved(NamedTuple):
    """What Stages 2 and 3 did from exact rank; norms are operator norms over all blocks."""
    error: float = np.nan            # unmixed: between where Stage 2 ends and its fixed point
    change: float = np.nan           # mixed: of θ in Stage 2
    forgetting: float = np.nan       # unmixed: Δ = L_ret − L_im


def moved(s: Setting, end: float, in_2: float, in_3: float, eta: float) -> Moved:
    """Train Stages 2 and 3 for these times from exact rank, unmixed and mixed; `end` is σ's fixed point."""
    expected = np.diag(np.repeat([s.invariant, end, 0], s.counts))
    alone = stages_2_and_3(s, np.array([s.invariant, s.pre, 0]), in_2, in_3, eta)
    mixed = stages_2_and_3(s, np.array([s.invariant, 0, s.beta]), in_2, in_3, eta)
    L_im, L_ret = matrix_loss(alone[1:], tasks(s).post, s.counts)
    return Moved(
        error=float(np.linalg.norm(alone[1] - expected, 2)),
        change=float(np.linalg.norm(mixed[1] - mixed[0], 2)),
        forgetting=float(L_ret - L_im),
    )


def stages_2_and_3(s: Setting, theta_pre: ndarray, in_2: float, in_3: float, eta: float) -> ndarray:
    """Train aligned factors of singular values theta_pre (3,): UᵀθV (3, n, n) before, between and after.

    K steps are many: 1e-16 in place of 0 would be learned in them.
    """
    bases = shuffles(s.n)
    before = factors_of(np.repeat(np.sqrt(theta_pre), s.counts), bases)
    between = descend_matrices(before, moments_in(bases, stage_2(s, theta_pre), s), in_2, eta)
    after = descend_matrices(between, moments_in(bases, tasks(s).ft, s), in_3, eta)
    return np.stack([in_bases(factors, bases[0], bases[-1]) for factors in (before, between, after)])


def takeover_rate(s: Setting, eta: float) -> Check:
    """Check how fast an inconsistent feature takes over a specialized hidden unit that is not aligned (C.16).

    Let the unit write x to the feature's output and read y of its input. On D_ft, which has none of the
    inputs that hold the unit, ẋ = 2σ_ft·y and ẏ = 2σ_ft·x − 2βy to first order: they grow at
    √(β² + 4σ_ft²) − β. So C.16 holds for a time of ln(1/misalignment) over that rate.
    """
    # Growth by e⁸, of which the second half is measured: the shrinking solution is gone by then.
    predicted = np.sqrt(s.beta ** 2 + 4 * s.ft ** 2) - s.beta
    measured = np.nan
    steps = max(round(4 / predicted / eta), 1)

    # The last hidden unit is a specialized one; it writes a little to the first inconsistent output.
    if 2 * steps <= LONGEST:
        U, hidden, V = bases = fixed_bases(s.n)
        output, unit = U[:, s.n - 2 * s.k], hidden[:, -1]
        factors = factors_of(np.repeat(np.sqrt([s.invariant, 0, s.beta]), s.counts), bases)
        factors[0] += 1e-6 * np.outer(output, unit)
        moments = moments_in(bases, tasks(s).ft, s)
        half = descend_matrices(factors, moments, steps * eta, eta)
        whole = descend_matrices(half, moments, steps * eta, eta)
        growth = (output @ whole[0] @ unit) / (output @ half[0] @ unit)
        measured = (growth ** (1 / steps) - 1) / eta
    return Check("C.16", "mixed, misaligned: taken over at the rate √(β² + 4σ_ft²) − β",
                 float(measured), "≈", float(predicted))


# ---- where print is wrong in numbers

class Erratum(NamedTuple):
    """Hold one number as it is printed (a word where it is none), as it is derived, and as it is measured."""
    place: str
    quantity: str
    printed: float | str
    derived: float
    measured: float


def errata(s: Setting, eta: float = 0.01) -> list[Erratum]:
    """Compare print with derivation and training at a scalar setting, α > 0; nan is what takes too long."""
    found = [*errata_of_targets(s, eta), *errata_of_assumptions(s, eta)]
    if s.depth == 2:
        found += errata_of_times(s, eta)
    return found


def errata_of_targets(s: Setting, eta: float) -> list[Erratum]:
    """Tell where singular values end: Equation (2)'s square, C.10's limit, C.14's fixed point."""
    # From a quarter of their targets they are there after 8 times the inverse covariance.
    def end_of(block, task, covariance):
        if covariance * LONGEST * eta < 8:
            return np.nan
        start = np.array([s.invariant, s.pre, s.beta]) / 4
        return float(descend(start, task, 8 / covariance, eta, s.depth)[block])

    # Each row: as printed, as derived, as descent measures it.
    held = held_stage_2(s, eta)
    return [
        Erratum("Eq. (2)", "square of s = σ_pre: where the inconsistent block ends on D_pre",
                s.pre ** 2, s.pre, end_of(INCONSISTENT, tasks(s).pre, s.pre)),
        Erratum("C.10", "where the specialized block ends on the mixture",
                s.alpha * s.beta, s.beta, end_of(SPECIALIZED, stage_1(s), s.alpha * s.beta)),
        Erratum("C.14", f"λ_reg = {held.reg:g}: where the inconsistent block ends in Stage 2",
                s.post, held.end, float(held.path[-1])),
    ]


def errata_of_assumptions(s: Setting, eta: float) -> list[Erratum]:
    """Tell what the assumptions ask for: C.6's range, 5.1's "α need not be large", Section 5's sign."""
    # C.6 from d_inv on asks αβ > σ of an invariant direction, while C.5 has none larger than that.
    threshold = np.inf
    if s.beta > s.post:
        threshold = s.pre / (s.pre + s.beta - s.post)

    # Without signs, c_mis > 2β makes σ_pre > 2β + σ_post, so the threshold is least at σ_post = 0.
    limit = replace(s, beta=s.pre / 2.002, post=s.pre / 2000)

    # With the sign σ_post is the larger. A common stopping time is after T/(2σ_pre) and before T/(2m).
    signed = replace(s, pre=min(s.pre, s.post), post=max(s.pre, s.post))
    return [
        Erratum("C.6", "its range from d_inv on: least α, a share",
                s.invariant / s.beta, threshold, least_alpha(s, eta)),
        Erratum("5.1", "least α of any setting that the assumptions allow",
                "any", 2 / 3, least_alpha(limit, eta)),
        Erratum("Section 5", "its sign, σ_post > σ_pre: T/(2m) over T/(2σ_pre)",
                "over 1", float(signed.pre / mixture_target(signed)), stopping_times_ratio(signed, eta)),
    ]


def least_alpha(s: Setting, eta: float) -> float:
    """Measure the α from which Stage 1 learns the specialized before the inconsistent block, to 0.005."""
    # At every α one of the two is learned by then, but for what the clock leaves out.
    alphas = np.linspace(0, 1, 201)
    grid = replace(s, alpha=alphas)
    ends = np.stack([mixture_target(grid), np.full(201, s.beta)], axis=-1)
    time = 1.3 * clock(s.T, s.depth) / np.maximum(alphas * s.beta, mixture_target(grid)).min()
    if time > LONGEST * eta:
        return np.nan

    # What is never learned is learned at inf, and so not before anything.
    path = descend(np.broadcast_to(s.sigma_0, (201, 3)), stage_1(grid), time, eta, s.depth, record=True)
    at = half_crossing(path[..., [INCONSISTENT, SPECIALIZED]], ends, eta * np.arange(len(path)))
    first = at[:, 1] < at[:, 0]
    return float(alphas[first].min(initial=np.inf))


@np.errstate(all="ignore")
def stopping_times_ratio(s: Setting, eta: float) -> float:
    """Measure when the mixed run learns the inconsistent block, over when the unmixed run does."""
    both = replace(s, alpha=np.array([s.alpha, 0]))
    m = mixture_target(both)
    time = 1.3 * clock(s.T, s.depth) / m.min()
    if time > LONGEST * eta:
        return np.nan
    path = descend(np.broadcast_to(s.sigma_0, (2, 3)), stage_1(both), time, eta, s.depth, record=True)
    mixed, alone = half_crossing(path[..., INCONSISTENT], m, eta * np.arange(len(path)))
    return float(mixed / alone)


@np.errstate(divide="ignore")
def errata_of_times(s: Setting, eta: float) -> list[Erratum]:
    """Tell how exact and how long: C.13's ε and K, C.15's 0, and C.16's unit that is not aligned."""
    # K is printed with λ_reg for η, so a Stage 2 with λ_reg it is.
    held = held_stage_2(s, eta)
    time = enough_time(s.pre, held.end, safe_epsilon(s), held.reg)
    needed = np.count_nonzero(np.abs(held.path - held.end) > safe_epsilon(s))

    # D_post learns from e^(−T) what C.15 has at 0, and C.13 gives it more than the time for it.
    given = enough_time(s.pre, fixed_point(s, s.pre), safe_epsilon(s), s.reg)
    strikes = clock(s.T) / s.beta
    learned_at = np.nan
    if 2 * strikes <= LONGEST * eta:
        path = descend(s.sigma_0, tasks(s).post, 2 * strikes, eta, record=True)
        learned_at = half_crossing(path[:, SPECIALIZED], np.float64(s.beta), eta * np.arange(len(path)))

    # In print a unit that is not aligned stays where it is.
    takeover = takeover_rate(s, eta)
    c, beta = np.float64(s.c_mis), s.beta
    return [
        Erratum("C.13", "ε that leaves Δ_unmixed > 0; measured: the largest that does",
                float(c / (2 * c - 4 * beta)), float(c ** 2 / (2 * c + 4 * beta)), largest_epsilon(s, eta)),
        Erratum("C.13", f"λ_reg = {held.reg:g}: K that suffices; measured: steps needed",
                time / held.reg, time / held.eta, float(needed)),
        Erratum("C.15", f"Stage-2 time that learns a 0 of e^(−T); C.13 takes {given:.3g}",
                "never", float(strikes), float(learned_at)),
        Erratum("C.16", "rate at which a misaligned unit is taken over", 0.0, takeover.right, takeover.left),
    ]


def largest_epsilon(s: Setting, eta: float) -> float:
    """Measure the ε from which on Stages 2 and 3 that end when σ is within ε of its target forget nothing.

    The unmixed run starts at exact rank, and has no λ_reg or replay (C.13, C.17).
    """
    # A run that takes its time passes every ε: the losses that it would end with stand along its path.
    near = safe_epsilon(s)
    in_2, in_3 = enough_time(s.pre, s.post, near), enough_time(min(s.pre, s.post), s.ft, near)
    if max(in_2, in_3) > LONGEST * eta:
        return np.nan
    post, ft = tasks(s).post, tasks(s).ft
    to_post = descend(np.array([s.invariant, s.pre, 0]), post, in_2, eta, record=True)
    to_ft = descend(to_post[-1], ft, in_3, eta, record=True)

    # L_im grows with ε and L_ret falls. Where a stage starts within ε it takes no step.
    epsilons = np.linspace(near, max(abs(s.pre - s.post), abs(s.ft - s.post)), 10_001)
    L_im = loss_at(epsilons, to_post, s.post, post, s)
    L_ret = loss_at(epsilons, to_ft, s.ft, post, s)
    return float(epsilons[L_ret > L_im].max(initial=0))


def loss_at(epsilons: ndarray, path: ndarray, target: float, task: Task, s: Setting) -> ndarray:
    """Read off a task's loss (m,) where a path's inconsistent block comes within each of `epsilons` (m,)."""
    distance = np.abs(path[::-1, INCONSISTENT] - target)
    return np.interp(epsilons, distance, loss(path[::-1], task, s.counts))
