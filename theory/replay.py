"""What replay does for a target of few, noisy data, in linear regression (Kotha, Liang 2026).

They measured it (arXiv:2603.04964) and have no theory; this model is ours.

n target samples have y = θ_t·x + noise of variance σ². Generic data are without end, and θ_g fits them. Stage
2 starts from θ_g and trains on both, a share ρ of it generic. Risk is the loss on the target above the noise,
E|(θ − θ_t)·x|². There are d directions, with inputs of variance 1 where nothing else is said, and

    b = |θ_t − θ_g|²,    n₀ = σ²d/b,    ratio = n₀/n:

fitted to n₀ samples, the target is as wrong as before Stage 2. Risks are in units of b.
"""

import textwrap
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import ndarray

from .drawing import BLUE, GUIDE, MIXED, ORANGE, RED, STAR, TRIANGLE, UNMIXED, in_a_row, panels
from .dynamics import Moments, blend, rotation

D = 20


# ---- Stage 2 until it converges: ridge regression towards θ_g

def replayed(target: Moments, theta_g: ndarray, rho: float) -> Moments:
    """Mix generic data of covariance I into the target's moments, (…, d, d) and (…, outputs, d)."""
    return blend(target, Moments(np.eye(theta_g.shape[-1]), theta_g), rho)


def ridge(moments: Moments) -> ndarray:
    """Compute where Stage 2 converges, θ = Σ_yx Σ_x⁻¹ (…, outputs, d)."""
    return moments.cross @ np.linalg.inv(moments.covariance)


def risk(rho: ndarray, ratio: float | ndarray) -> ndarray:
    """Compute the risk for orthogonal inputs, XᵀX = n: (1 − ρ)²n₀/n + ρ², in units of b; they broadcast.

    As θ = (1 − ρ)θ̂ + ρθ_g, where θ̂ fits the target, with a variance of σ²d/n = b·n₀/n.
    """
    return (1 - rho) ** 2 * ratio + rho ** 2


def best_replay(ratio: float | ndarray) -> float | ndarray:
    """Compute ρ* = n₀/(n + n₀), where the risk is least."""
    return ratio / (1 + ratio)


def helps_to(ratio: float | ndarray) -> float | ndarray:
    """Compute up to which ρ replay helps, 2ρ* as a parabola is symmetric; all of them if n ≤ n₀."""
    return np.minimum(2 * best_replay(ratio), 1)


def multiplier(ratio: float | ndarray) -> float | ndarray:
    """Compute M = 1 + n₀/n = 1/(1 − ρ*), how many times more samples do as much as the best replay.

    The risk at ρ* is b·n₀/(n + n₀), without replay b·n₀/n: replay is worth n₀ samples. Inputs are orthogonal
    only if n ≥ d.
    """
    return 1 + ratio


def samples_without_replay(risks: ndarray, noise: float) -> ndarray:
    """Compute N, the Gaussian samples whose fit has this risk, σ²d/(N − d − 1) (inverse Wishart): (…).

    `noise` is σ², in whatever units `risks` (…) are.
    """
    return D + 1 + noise * D / risks


def gaussian_multiplier(n: ndarray, n_0: float) -> ndarray:
    """Compute M for Gaussian inputs and θ_t − θ_g in a random direction, to leading order in d.

    Ridge is Bayes' posterior mean then, at the same ρ*, with the risk σ²·E tr(XᵀX + n₀)⁻¹ = σ²·y·m, y = d/n.
    For many directions 1/m = n₀/n + 1/(1 + ym) (Marchenko, Pastur).
    """
    ratio, y = n_0 / n, D / n
    half = (1 - y + ratio) / 2
    m = (np.sqrt(half ** 2 + y * ratio) - half) / (y * ratio)
    return samples_without_replay(y * m, noise=1) / n


# ---- the whole schedule, direction by direction

class Spectrum(NamedTuple):
    """Hold input variances a under the target and g under generic data, and δ² = (θ_t − θ_g)²: (d,) all."""
    a: ndarray
    g: ndarray
    delta_2: ndarray


def spectrum(a, g, delta_2) -> Spectrum:
    """Make a spectrum with b = Σ aδ² = 1."""
    a, g, delta_2 = np.broadcast_arrays(a, g, delta_2)
    return Spectrum(a.astype(float), g.astype(float), delta_2 / (a * delta_2).sum())


TIME = 8.0                               # learning rate × steps on target data, both stages together
TARGET = 1 / 16                          # share of all steps that are on target data


def fitted(s: Spectrum, late, rho, withheld=False, eta: float | None = None) -> ndarray:
    """Compute f (…, d), how much of the way from θ_g to the target's fit a schedule goes.

    As in Kotha & Liang, all schedules have the same steps, and the same on target data. A share `late` (…) of
    the latter is left for Stage 2, which has replay ρ (…); the rest is mixed into Stage 1, or `withheld` (…).
    By flow, or descent at up to eta. Without generic data in a direction, and nothing withheld, f = 1 −
    e^(−2a·TIME) whatever late and ρ are.
    """
    late, rho, withheld = (np.asarray(value)[..., None] for value in (late, rho, withheld))
    last = TARGET * late / (1 - rho)
    early = np.where(withheld, 0, TARGET * (1 - late) / (1 - last))
    f = train(np.zeros_like(s.a), s, early, (1 - last) * TIME / TARGET, eta)
    return train(f, s, 1 - rho, last * TIME / TARGET, eta)


def train(f: ndarray, s: Spectrum, share, time, eta: float | None) -> ndarray:
    """Train f (…, d) for `time` (…, 1) on data of which a share w (…, 1) is the target's.

    A direction has the loss w·a(θ − θ̂)² + (1 − w)·g(θ − θ_g)². With θ = θ_g + f(θ̂ − θ_g), that gives
    ḟ = 2wa − 2(wa + (1 − w)g)f.
    """
    # Flow is exponential; without inputs f stays.
    pull = share * s.a
    rate = pull + (1 - share) * s.g
    if eta is None:
        limit = np.divide(pull, rate, out=np.zeros_like(rate), where=rate > 0)
        return limit + (f - limit) * np.exp(-2 * rate * time)

    # Stages are of different length: each has whole steps of its own, and those that are done stay.
    steps = np.maximum(np.ceil(time / eta), 1)
    size = 2 * time / steps
    for step in range(int(steps.max())):
        f = f - np.where(step < steps, size * (rate * f - pull), 0)
    return f


def risk_of(f: ndarray, s: Spectrum, ratio) -> ndarray:
    """Compute Σ aδ²(1 − f)² + (σ²/n)f² (…) from f (…, d)."""
    return (s.a * s.delta_2 * (1 - f) ** 2 + ratio / len(s.a) * f ** 2).sum(-1)


def oracle(s: Spectrum, ratio) -> ndarray:
    """Compute the f (d,) of the least risk, aδ²/(aδ² + σ²/n).

    Long replay has f = (1 − ρ)a/((1 − ρ)a + ρg). With some ρ that is it in all directions if δ² ∝ 1/g.
    """
    return s.a * s.delta_2 / (s.a * s.delta_2 + ratio / len(s.a))


# ---- what is seen: the formulas against samples and descent

RATIOS = (0, 0.25, 1, 2)                 # n₀/n
RHOS = np.linspace(0, 1, 21)
DRAWS = 1_000
N_0 = 2 * D
POOLS = D * np.array([0.5, 1, 1.5, 2, 3, 5, 10])
ETA = 0.02
LATES = np.geomspace(1 / 1024, 1, 101)   # shares of target data that are left for Stage 2, 10 to a halving
FINE_RHOS = np.linspace(0, 0.93, 94)     # from 1 − TARGET on all steps would be Stage 2's
ALIKE = spectrum(np.ones(1), 1, 1)
FALLING = np.geomspace(1, 0.1, D)
OWN = np.arange(D) % 4 == 0              # directions of the target alone
SPECTRA = {                              # by where θ_t departs from θ_g
    "alike everywhere": spectrum(np.ones(D), 1, 1),
    "where generic inputs are rare": spectrum(1, FALLING, 1 / FALLING),
    "where generic inputs are missing": spectrum(1, ~OWN, np.where(OWN, 4, 0.1)),
    "alike, target inputs as the generic": spectrum(FALLING, FALLING, 1),
    "where generic inputs are common": spectrum(1, FALLING, FALLING),
}
ARMS = {                                 # kinds of schedule
    "neither": dict(late=1, rho=0),
    "replay": dict(late=1, rho=FINE_RHOS[:, None]),
    "stopped early": dict(late=LATES, rho=0, withheld=True),
    "early exposure": dict(late=LATES, rho=0),
    "both": dict(late=LATES, rho=FINE_RHOS[:, None]),
}


class Pools(NamedTuple):
    """Hold what Gaussian samples show at each of POOLS: the best of RHOS, and M at ρ*."""
    rho: ndarray
    multiplier: ndarray


class Arm(NamedTuple):
    """Hold the least risk of a kind of schedule, by flow, and what descent has at the same late and ρ."""
    predicted: float
    measured: float


class Exposure(NamedTuple):
    """Hold the best ρ at each of LATES: by flow, by descent, and by flow with data withheld from Stage 1."""
    predicted: ndarray
    measured: ndarray
    withheld: ndarray


class Found(NamedTuple):
    """Hold all that is drawn."""
    risks: dict[float, ndarray]          # by n₀/n, at RHOS
    pools: Pools
    arms: dict[str, dict[str, Arm]]      # by spectrum
    exposure: dict[float, Exposure]      # by n₀/n


def compute(rng: np.random.Generator) -> Found:
    """Compute the figure; chance is in samples, noise and θ_t."""
    # Orthogonal inputs are the first d rows of a rotation, and the noise is the same for all ratios.
    n = 2 * D
    x = np.sqrt(n) * rotation(n, rng)[:D]
    theta_t = rotation(D, rng)[:1]
    noise = rng.standard_normal((DRAWS, 1, n))
    scales = {ratio: np.sqrt(ratio * n / D) for ratio in RATIOS}
    return Found(
        risks={ratio: ridge_risks(x, theta_t, scale * noise, RHOS) for ratio, scale in scales.items()},
        pools=gaussian_pools(rng),
        arms={name: best_arms(s) for name, s in SPECTRA.items()},
        exposure=after_exposure(),
    )


def ridge_risks(x: ndarray, theta_t: ndarray, noise: ndarray, rhos: ndarray) -> ndarray:
    """Average |θ − θ_t|² over draws at each ρ, θ_g = 0; x (…, d, n), θ_t (…, 1, d), noise (draws, 1, n)."""
    n = x.shape[-1]
    transposed = x.swapaxes(-1, -2)
    target = Moments(x @ transposed / n, (theta_t @ x + noise) @ transposed / n)
    thetas = [ridge(replayed(target, np.zeros((1, D)), rho)) for rho in rhos]
    return np.array([((theta - theta_t) ** 2).sum(-1).mean() for theta in thetas])


def gaussian_pools(rng: np.random.Generator) -> Pools:
    """Measure the best ρ and M at ρ* on Gaussian inputs, with θ_t in a random direction."""
    # Without replay a pool below d has no single fit, so ρ begins above 0.
    best, multipliers = [], []
    for n in POOLS.astype(int):
        theta_t = rng.standard_normal((DRAWS, 1, D)) / np.sqrt(D)
        x = rng.standard_normal((DRAWS, D, n))
        noise = np.sqrt(N_0 / D) * rng.standard_normal((DRAWS, 1, n))
        *risks, at_best = ridge_risks(x, theta_t, noise, np.append(RHOS[1:], best_replay(N_0 / n)))
        best.append(RHOS[1:][np.argmin(risks)])
        multipliers.append(samples_without_replay(at_best, noise=N_0 / D) / n)
    return Pools(rho=np.array(best), multiplier=np.array(multipliers))


def best_arms(s: Spectrum) -> dict[str, Arm]:
    """Find the least risk of every kind of schedule at n = n₀, and train it by descent."""
    found = {}
    for name, arm in ARMS.items():
        risks = risk_of(fitted(s, **arm), s, ratio=1)
        late, rho = (grid.flat[risks.argmin()] for grid in np.broadcast_arrays(arm["late"], arm["rho"]))
        by_descent = fitted(s, **arm | {"late": late, "rho": rho}, eta=ETA)
        found[name] = Arm(predicted=risks.min(), measured=risk_of(by_descent, s, ratio=1))
    return found


def after_exposure() -> dict[float, Exposure]:
    """Find the best ρ at each of LATES, where all directions are alike."""
    # f does not depend on the noise, so all ratios share it.
    rhos = FINE_RHOS[:, None]
    by_flow = fitted(ALIKE, LATES, rhos)
    by_descent = fitted(ALIKE, LATES, rhos, eta=ETA)
    withheld = fitted(ALIKE, LATES, rhos, withheld=True)
    found = {}
    for ratio in RATIOS[1:]:
        best = [FINE_RHOS[risk_of(f, ALIKE, ratio).argmin(0)] for f in (by_flow, by_descent, withheld)]
        found[ratio] = Exposure(*best)
    return found


# ---- what is printed and drawn

COLOURS = dict(zip(RATIOS, (UNMIXED, BLUE, ORANGE, RED)))
SHOWN = slice(None, -61, -10)            # of LATES: 1, 1/2, …, 1/32
ARM_MARKS = {
    "neither": dict(color=UNMIXED, marker="o"),
    "replay": dict(color=MIXED, marker="o", ms=9),
    "stopped early": dict(color=ORANGE, marker="s"),
    "early exposure": dict(color=BLUE, marker="^"),
    "both": dict(color=MIXED, marker="o", mfc="none", ms=13),
}


def tell(found: Found) -> None:
    """Print what is predicted beside what is measured, and the risk that each kind of schedule comes to."""
    # Beyond its least the measured risk rises, and may pass what it was without replay.
    for ratio, measured in found.risks.items():
        least = measured.argmin()
        apart = np.abs(measured - risk(RHOS, ratio)).max()
        helps = np.interp(measured[0], measured[least:], RHOS[least:])
        print(f"replay, n₀/n = {ratio:g}: risk within {apart:.3f} of the formula; "
              f"ρ* {best_replay(ratio):.2f}, measured {RHOS[least]:.2f}; "
              f"helps to {helps_to(ratio):.2f}, measured {helps:.2f}")

    # M is 1 + n₀/n only for many samples; fewer than d cannot have orthogonal inputs.
    for n, rho, measured in zip(POOLS, *found.pools):
        ratio = N_0 / n
        orthogonal = f"{multiplier(ratio):.2f}" if n >= D else "–"
        print(f"Gaussian inputs, n = {n / D:g}d: ρ* {best_replay(ratio):.2f}, measured {rho:.2f}; "
              f"1 + n₀/n {orthogonal}, M {gaussian_multiplier(n, N_0):.2f}, measured {measured:.2f}")

    # A row a spectrum, a column a kind of schedule.
    print(f"{'least risk at n = n₀':<36}" + "".join(f"{arm:>15}" for arm in ARMS) + f"{'lower bound':>15}")
    for name, arms in found.arms.items():
        s = SPECTRA[name]
        values = [*(arm.predicted for arm in arms.values()), risk_of(oracle(s, 1), s, 1)]
        print(f"{name:<36}" + "".join(f"{value:15.3f}" for value in values))
    off = [abs(arm.measured - arm.predicted) for arms in found.arms.values() for arm in arms.values()]
    print(f"by descent within {max(off):.3f}")

    # The share of target data that is left for Stage 2 falls along a row.
    print(f"best ρ, the share of target data left for Stage 2 being {in_a_row(LATES[SHOWN])}:")
    for ratio, exposure in found.exposure.items():
        by_flow, by_descent, withheld = (in_a_row(rho[SHOWN], ".2f") for rho in exposure)
        print(f"  n₀/n = {ratio:g}: {by_flow}; by descent {by_descent}; the rest withheld {withheld}")


def draw(found: Found) -> Figure:
    """Draw risk against ρ, M against n, the kinds of schedule, and the best ρ after early exposure."""
    figure, ((upper_left, upper_right), (lower_left, lower_right)) = panels(2, 2, 6.8)
    draw_risks(found.risks, upper_left)
    draw_pools(found.pools, upper_right)
    draw_arms(found.arms, lower_left)
    draw_exposure(found.exposure, lower_right)
    words = "lines: formula; dots: measured, above on samples, below by gradient descent"
    figure.supxlabel(words, fontsize=9)
    return figure


def draw_risks(risks: dict[float, ndarray], axis: Axes) -> None:
    """Draw risk against ρ for orthogonal inputs: a star at ρ*, a triangle at 2ρ*."""
    rho = np.linspace(0, 1, 101)
    for ratio, measured in risks.items():
        colour, best = COLOURS[ratio], best_replay(ratio)
        axis.plot(rho, risk(rho, ratio), color=colour, label=f"n₀/n = {ratio:g}")
        axis.plot(RHOS, measured, ".", color=colour)

        # Beyond 2ρ* replay does harm; where that is above 1 it never does.
        axis.plot(best, risk(best, ratio), color=colour, **STAR)
        if 2 * best <= 1:
            axis.plot(2 * best, risk(2 * best, ratio), color=colour, **TRIANGLE)
    axis.set(title="orthogonal inputs; stars: ρ*, triangles: 2ρ*", xlabel="ρ, share of replay",
             ylabel="risk / b")
    axis.legend(fontsize=8)


def draw_pools(pools: Pools, axis: Axes) -> None:
    """Draw M against n: of orthogonal inputs, which are at least d, and of Gaussian ones."""
    n = D * np.geomspace(0.4, 12, 100)
    many = n[n >= D]
    axis.plot(many / D, multiplier(N_0 / many), color=UNMIXED, label="orthogonal inputs, n ≥ d: 1 + n₀/n")
    axis.plot(n / D, gaussian_multiplier(n, N_0), color=MIXED, label="Gaussian inputs")
    axis.plot(POOLS / D, pools.multiplier, "o", color=MIXED)
    axis.axhline(1, **GUIDE)
    axis.set_xscale("log", base=2)
    axis.set(title=f"replay is worth M times the samples, n₀ = {N_0 / D:g}d", xlabel="n/d", ylabel="M")
    axis.legend(fontsize=8)


def draw_arms(arms: dict[str, dict[str, Arm]], axis: Axes) -> None:
    """Draw the best of each kind of schedule, a row a spectrum; a grey bar is what none can be below."""
    rows = range(len(SPECTRA))
    floor = [risk_of(oracle(s, 1), s, 1) for s in SPECTRA.values()]
    axis.plot(floor, rows, "|", color="grey", ms=22, label="lower bound")
    for arm, marks in ARM_MARKS.items():
        risks = [of_spectrum[arm].measured for of_spectrum in arms.values()]
        axis.plot(risks, rows, ls="none", label=arm, **marks)
    axis.set_yticks(rows, [textwrap.fill(name, 20) for name in SPECTRA])
    axis.set(title="the best of each kind of schedule, n = n₀", xlabel="risk / b", ylim=(4.5, -0.5),
             ylabel="where θ_t departs from θ_g")

    # The legend stands where nothing is drawn.
    axis.legend(fontsize=8, loc="center", bbox_to_anchor=(0.65, 0.55), borderpad=1.1, labelspacing=0.9)


def draw_exposure(exposures: dict[float, Exposure], axis: Axes) -> None:
    """Draw the best ρ by what early exposure left for Stage 2, the rest mixed into Stage 1 or withheld."""
    for ratio, exposure in exposures.items():
        colour = COLOURS[ratio]
        axis.plot(LATES, exposure.predicted, color=colour, label=f"n₀/n = {ratio:g}")
        axis.plot(LATES, exposure.withheld, color=colour, ls="dotted")
        axis.plot(LATES[::5], exposure.measured[::5], ".", color=colour)

    # Two lines without points name both kinds in the legend.
    axis.plot([], color=UNMIXED, label="the rest is mixed into Stage 1")
    axis.plot([], color=UNMIXED, ls="dotted", label="the rest is withheld")
    axis.set_xscale("log", base=2)
    axis.set(title="best share of replay after early exposure", ylabel="best ρ",
             xlabel="share of target data that is left for Stage 2", xlim=(1 / 72, 1.1), ylim=(-0.03, 1))
    axis.legend(fontsize=8, loc="upper center", ncol=2)
