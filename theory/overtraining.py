"""What noise and fine-tuning cost after ever longer pretraining (Springer et al. 2025).

Their Section 4 (arXiv:2503.19206) has the two layers; the closed forms here are ours.

Two layers learn singular values s, largest first, of D_pre, and s_ft of D_ft, in d directions of variance 1.
From e^(−T) pretraining learns one direction, or feature, after the other, feature i at T/(2s_i). Does a
network that was pretrained for longer end worse once it is changed?

* Noise of standard deviation γ on every weight: feature i pays if s_i > 2γ²d.
* Fine-tuning for a time τ takes σ to φ(σ): feature i pays until φ(σ) passes s_i, if it ever does.

Arrays (…, d) have the axis of features last. λ_reg is `reg`. n* is the number of features that is best.
"""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import ndarray

from .drawing import BLUE, GUIDE, MIXED, ORANGE, RED, STAR, TRIANGLE, UNMIXED, in_a_row, panels
from .dynamics import (Task, aligned_factors, anchor, descend, descend_matrices, elapsed, flow, in_bases,
                       loss, matrix_loss, matrix_moments, rotation)
from .window import half_crossing, half_times, start_of

D = 6                                    # features
RATIO = 0.6                              # of each to the one before it
S = 3 * RATIO ** np.arange(D)
RAISED = S * np.linspace(1, 4, D)        # s_ft above s, the more so the weaker the feature
LOWERED = S * np.linspace(1, 0.2, D)     # and below it
PRE = Task(v=np.ones(D), c=S)


# ---- noise

def noisy_loss(sigma: ndarray, gamma: float) -> ndarray:
    """Compute the expected loss on D_pre (…) of σ (…, d) with noise N(0, γ²) on every weight.

    (W₁ + E₁)(W₂ + E₂) = θ + E₁W₂ + W₁E₂ + E₁E₂. The terms of noise have mean 0 and are uncorrelated; their
    squared norms are γ²d‖W₂‖², γ²d‖W₁‖² and γ⁴d²h, with h = d hidden units, and ‖W₁‖² = ‖W₂‖² = Σσ as the
    factors are balanced.
    """
    return loss(sigma, PRE, 1) + 2 * gamma ** 2 * D * sigma.sum(-1) + gamma ** 4 * D ** 3


def paying_features(gamma: float) -> int:
    """Count the features that pay under noise, n* = #{s_i > 2γ²d}.

    Feature i takes s_i² from the loss and adds 2γ²d·s_i. On the way (σ − s)² + 2γ²dσ is least at σ = s − γ²d
    and then rises by (γ²d)²: the loss ripples.
    """
    return int((S > 2 * gamma ** 2 * D).sum())


# ---- fine-tuning

def fine_tuning_task(sigma: ndarray, s_ft: ndarray, reg: float) -> Task:
    """Describe D_ft's loss with the penalty λ_reg‖θ − θ_pre‖², σ (…, d) being that of θ_pre."""
    return anchor(Task(v=np.ones(D), c=s_ft), sigma, reg)


def fine_tuned(sigma: ndarray, s_ft: ndarray, tau: float, reg: float, eta: float | None = None) -> ndarray:
    """Fine-tune σ (…, d) for a time τ: φ(σ) by gradient flow, or by descent at rate eta.

    σ̇ = 4σ(s_ft + λ_reg·σ₀ − (1 + λ_reg)σ) from σ₀ is logistic and tends to (s_ft + λ_reg·σ₀)/(1 + λ_reg).
    The right side does not fall with σ₀, and paths of one equation do not cross: φ is increasing.
    """
    task = fine_tuning_task(sigma, s_ft, reg)
    return flow(sigma, task, tau) if eta is None else descend(sigma, task, tau, eta)


def inflections(s_ft: ndarray, tau: float, reg: float, T: float) -> ndarray:
    """Compute the pretraining times t_i* (d,) from which on feature i makes the fine-tuned network worse.

    Its L_pre is Σ(φ_i(σ_i) − s_i)². As σ_i grows to s_i and φ_i is increasing, term i falls until φ_i(σ_i) is
    s_i, then rises; if s_ft ≤ s_i, φ_i(s_i) ≤ s_i and it falls for ever: inf. Without λ_reg, by the flow,

        t* = T/(2s) − (s_ft/s)τ + ln(s·s_ft/(s_ft − s))/(4s)

    up to e^(−2T) and e^(−4·s_ft·τ): a long fine-tuning is pretraining at s_ft/s times the speed.
    """
    turning = start_of(S, lambda sigma: fine_tuning_task(sigma, s_ft, reg), tau)
    return np.where(s_ft > S, elapsed(np.exp(-2 * T), turning, PRE), np.inf)


class Ranks(NamedTuple):
    """Hold what fine-tuning does to a network that has learned n = 0, …, d features: (d + 1,) both."""
    forgotten: ndarray                   # what it adds to L_pre
    L_pre: ndarray                       # after it


def exact_ranks(s_ft: ndarray, tau: float, reg: float) -> Ranks:
    """Compute Σ_{i≤n}(φ_i(s_i) − s_i)², and L_pre, which adds Σ_{i>n} s_i²: σ_i is s_i up to n, beyond it 0.

    What is learned is at its best and can only lose: more features forget more, whatever D_ft is. Feature i
    pays all the same if |φ_i(s_i) − s_i| < s_i.
    """
    lost = (fine_tuned(S, s_ft, tau, reg) - S) ** 2
    forgotten = np.append(0, lost.cumsum())
    not_learned = np.append(0, (S[::-1] ** 2).cumsum())[::-1]
    return Ranks(forgotten=forgotten, L_pre=forgotten + not_learned)


def rank_times(T) -> ndarray:
    """Compute when n = 0, …, d features are learned and no other begins: T/(2·√(s_n·s_(n+1))), (…, d + 1)."""
    between = S[0] * RATIO ** (np.arange(D + 1) - 0.5)
    return np.asarray(T)[..., None] / (2 * between)


def separated_from(s_ft: ndarray, tau: float) -> float:
    """Compute the T from which on fine-tuning for τ learns no feature that pretraining has not.

    At the n-th of `rank_times` ln σ_(n+1) is −2T(1 − √q), q = s_(n+1)/s_n; fine-tuning adds up to 4·s_ft·τ.
    """
    return 2 * s_ft.max() * tau / (1 - RATIO ** 0.5)


# ---- what is seen: the formulas against descent

T = 10.0
ETA = 0.002
TIMES = ETA * np.rint(np.geomspace(1.2, 32, 150) / ETA)      # of pretraining, in whole steps
DOTS = slice(None, None, 3)                                  # of TIMES
GAMMAS = (0.1, 0.2, 0.32)
DRAWS = 2_000                                                # of noise, the same for all γ and times
CHANGES = ((0.25, 0), (0.5, 0), (1, 0), (1, 1))              # τ and λ_reg of fine-tuning on RAISED
STARTS = np.array([4, 5, 7, 10, 14, 20, 28, 40])             # other T, for ranks
RANKS_TAU = 0.5
RANKS_REGS = (0, 1)
FTS = {"raised": RAISED, "lowered": LOWERED}


class Noise(NamedTuple):
    """Hold L_pre after noise: by the formula at TIMES, by Monte Carlo on trained matrices at DOTS."""
    predicted: ndarray
    measured: ndarray
    learned: int                         # features past s/2 where the measured loss is least


class FineTuning(NamedTuple):
    """Hold L_pre after fine-tuning at TIMES (m,), and its inflections (d,), by flow and by descent."""
    predicted: ndarray
    measured: ndarray
    inflections: ndarray
    measured_inflections: ndarray


class Found(NamedTuple):
    """Hold all that is drawn."""
    before: ndarray                      # L_pre at TIMES, by flow
    noise: dict[float, Noise]            # by γ
    fine_tuning: dict[tuple, FineTuning]  # by τ and λ_reg
    best: dict[float, ndarray]           # by λ_reg: the best number of features by descent, at STARTS
    ranks: dict[str, Ranks]              # by D_ft: by descent, at the last of STARTS


def compute(rng: np.random.Generator) -> Found:
    """Compute the figure; chance is in the bases and the noise."""
    # Descent to exact ranks takes long, so its steps are larger.
    eta = 4 * ETA
    learned = descend(np.exp(-2.0 * STARTS)[:, None, None], PRE, rank_times(STARTS), eta)
    best = {}
    for reg in RANKS_REGS:
        best[reg] = loss(fine_tuned(learned, RAISED, RANKS_TAU, reg, eta), PRE, 1).argmin(-1)

    # What is forgotten is measured as what fine-tuning adds to the loss.
    ranks = {}
    for name, s_ft in FTS.items():
        after = loss(fine_tuned(learned[-1], s_ft, RANKS_TAU, 0, eta), PRE, 1)
        ranks[name] = Ranks(forgotten=after - loss(learned[-1], PRE, 1), L_pre=after)
    return Found(
        before=loss(flow(np.exp(-2 * T), PRE, TIMES), PRE, 1),
        noise=after_noise(rng),
        fine_tuning=after_fine_tuning(),
        best=best,
        ranks=ranks,
    )


def after_noise(rng: np.random.Generator) -> dict[float, Noise]:
    """Pretrain full matrices, and put noise on their weights."""
    # The network is trained once: all γ look at the same weights, with the same draws.
    U, V = rotation(D, rng), rotation(D, rng)
    start = aligned_factors(U, V, np.full(D, np.exp(-T)), 2, rng)
    path = descend_matrices(start, matrix_moments(PRE, U, V, counts=1), TIMES[-1], ETA, record=True)
    checkpoints = path[np.rint(TIMES[DOTS] / ETA).astype(int)]
    sigma = np.diagonal(in_bases(checkpoints, U, V), axis1=1, axis2=2)
    draws = rng.standard_normal((DRAWS, *start.shape))

    # A checkpoint at a time, as all noisy copies of all of them would be large.
    found = {}
    for gamma in GAMMAS:
        noisy = (in_bases(factors + gamma * draws, U, V) for factors in checkpoints)
        measured = np.array([matrix_loss(theta, PRE, 1).mean() for theta in noisy])
        found[gamma] = Noise(
            predicted=noisy_loss(flow(np.exp(-2 * T), PRE, TIMES), gamma),
            measured=measured,
            learned=int((sigma[measured.argmin()] > S / 2).sum()),
        )
    return found


def after_fine_tuning() -> dict[tuple, FineTuning]:
    """Pretrain for each of TIMES and fine-tune on RAISED, by flow and by descent on aligned weights."""
    # φ passes s where it passes half of 2s.
    by_flow = flow(np.exp(-2 * T), PRE, TIMES)
    by_descent = descend(np.exp(-2 * T), PRE, TIMES, ETA)
    found = {}
    for tau, reg in CHANGES:
        descended = fine_tuned(by_descent, RAISED, tau, reg, ETA)
        found[tau, reg] = FineTuning(
            predicted=loss(fine_tuned(by_flow, RAISED, tau, reg), PRE, 1),
            measured=loss(descended, PRE, 1),
            inflections=inflections(RAISED, tau, reg, T),
            measured_inflections=half_crossing(descended, 2 * S, TIMES),
        )
    return found


# ---- what is printed and drawn

COLOURS = (BLUE, ORANGE, RED, MIXED)


def tell(found: Found) -> None:
    """Print how well each form predicts, and where exact rank does not."""
    # Noise: the loss, and the number of features at its least.
    for gamma, noise in found.noise.items():
        apart = np.abs(noise.measured / noise.predicted[DOTS] - 1).max()
        print(f"noise γ = {gamma:g}: L_pre within {apart:.1%} of the formula, "
              f"least with {noise.learned} of {D} features, n* = {paying_features(gamma)}")

    # Fine-tuning: the loss, the inflections, and the best time to stop pretraining.
    for (tau, reg), ft in found.fine_tuning.items():
        turns = np.isfinite(ft.inflections)
        late = np.abs(ft.measured_inflections[turns] / ft.inflections[turns] - 1).max()
        apart = np.abs(ft.measured / ft.predicted - 1).max()
        print(f"fine-tuning τ = {tau:g}, λ_reg = {reg:g}: L_pre within {apart:.1%} of flow, "
              f"least at {TIMES[ft.measured.argmin()]:.1f}; "
              f"inflections {in_a_row(ft.inflections[turns], '.1f')}, within {late:.1%}")

    # Exact rank.
    print(f"exact rank, τ = {RANKS_TAU:g}: best number of features at T = {in_a_row(STARTS)}, "
          f"separated from {separated_from(RAISED, RANKS_TAU):.1f} on")
    for reg, best in found.best.items():
        predicted = exact_ranks(RAISED, RANKS_TAU, reg).L_pre.argmin()
        print(f"  λ_reg = {reg:g}: n* = {predicted}, measured {in_a_row(best)}")
    for name, ranks in found.ranks.items():
        print(f"  s_ft {name}: forgotten {in_a_row(ranks.forgotten.round(2) + 0.0, '.2f')}, "
              f"L_pre {in_a_row(ranks.L_pre, '.2f')}")


def draw(found: Found) -> Figure:
    """Draw L_pre after noise and after fine-tuning against pretraining time, and two limits of the theory."""
    # Both upper panels are over pretraining time.
    figure, axes = panels(2, 2, 6.8)
    draw_noise(found.noise, axes[0, 0])
    draw_fine_tuning(found.fine_tuning, axes[0, 1])
    for axis in axes[0]:
        axis.plot(TIMES, found.before, color=UNMIXED, label="unchanged")
        for time in half_times(PRE, T):
            axis.axvline(time, color="#dddddd", lw=0.8, zorder=0)
        axis.set_xscale("log", base=2)
        axis.set(xlabel="pretraining time; grey: a feature is half learned", ylabel="L_pre")

    # The lower ones are of exact ranks.
    draw_best(found.best, axes[1, 0])
    draw_ranks(found.ranks, axes[1, 1])
    for axis in axes.flat:
        axis.legend(fontsize=8)
    figure.supxlabel("lines: formula; dots and squares: measured; star: the least of a line", fontsize=9)
    return figure


def draw_noise(noises: dict[float, Noise], axis: Axes) -> None:
    """Draw L_pre after noise: lines by the formula, dots by Monte Carlo, a star where a line is least."""
    for (gamma, noise), colour in zip(noises.items(), COLOURS):
        least = noise.predicted.argmin()
        paying = paying_features(gamma)
        axis.plot(TIMES, noise.predicted, color=colour, label=f"γ = {gamma:g}, n* = {paying} features")
        axis.plot(TIMES[DOTS], noise.measured, ".", color=colour, ms=5)
        axis.plot(TIMES[least], noise.predicted[least], color=colour, **STAR)
    axis.set(title="after noise γ on every weight")


def draw_fine_tuning(changes: dict[tuple, FineTuning], axis: Axes) -> None:
    """Draw L_pre after fine-tuning: lines by flow, dots by descent, a triangle at each inflection."""
    for ((tau, reg), ft), colour in zip(changes.items(), COLOURS):
        heights = np.interp(ft.inflections, TIMES, ft.predicted)
        axis.plot(TIMES, ft.predicted, color=colour, label=f"τ = {tau:g}, λ_reg = {reg:g}")
        axis.plot(TIMES[DOTS], ft.measured[DOTS], ".", color=colour, ms=5)
        axis.plot(ft.inflections, heights, color=colour, **TRIANGLE)
    axis.set(title="after fine-tuning for τ; triangles: inflections t_i*", ylim=(0, 8))


def draw_best(best: dict[float, ndarray], axis: Axes) -> None:
    """Draw the best number of features against T: lines at exact rank, dots by descent."""
    # Dots of one λ_reg may lie on the line of the other, so they are joined.
    for (reg, measured), colour, marks in zip(best.items(), (ORANGE, MIXED), ("o:", "s:")):
        predicted = exact_ranks(RAISED, RANKS_TAU, reg).L_pre.argmin()
        axis.axhline(predicted, color=colour, label=f"λ_reg = {reg:g}: n* = {predicted}")
        axis.plot(STARTS, measured, marks, color=colour)
    axis.axvline(separated_from(RAISED, RANKS_TAU), **GUIDE, label="learning times are separated from here")
    axis.set_xscale("log", base=2)
    axis.set(title=f"number of features with the least L_pre, τ = {RANKS_TAU:g}", xlabel="T, start at e^(−T)",
             ylabel="features learned", ylim=(-0.3, D))


def draw_ranks(measured: dict[str, Ranks], axis: Axes) -> None:
    """Draw what is forgotten, and L_pre after fine-tuning: lines at exact rank, dots by descent."""
    for (name, by_descent), colour in zip(measured.items(), (RED, BLUE)):
        exact = exact_ranks(FTS[name], RANKS_TAU, 0)
        axis.plot(exact.L_pre, color=colour, label=f"L_pre, s_ft {name}")
        axis.plot(exact.forgotten, color=colour, ls="dashed", label=f"forgotten, s_ft {name}")
        axis.plot(by_descent.L_pre, ".", color=colour)
        axis.plot(by_descent.forgotten, ".", color=colour)
    axis.set(title=f"forgetting always grows, L_pre need not, τ = {RANKS_TAU:g}", xlabel="features learned",
             ylabel="loss", ylim=(-0.2, 6))
