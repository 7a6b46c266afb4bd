"""A linear network in which early exposure shifts the frontier: two features that can replace each other.

D_post marks its inputs: beside the shared feature x₁ they have a specialized one, x₂, that nearly copies it
(correlation c) and is 0 elsewhere. What D_post wants beyond D_pre, δ = s_post − s_pre, can be had by moving
the weight of x₁, which D_pre and D_ft use too, or by learning that of x₂, which nobody else touches:

    D_pre     y = s_pre x₁             x₂ = 0
    D_post    y = s_pre x₁ + δ x₂      E x₁x₂ = c
    D_ft      y = (s_pre + xδ) x₁      x₂ = 0            so x says how far it is from D_pre to D_post

The network has the weights a = u·p for x₁ and b = u·q for x₂: one hidden unit, with u to the output.
Variances are 1, losses squared errors. Time is learning rate × steps. Fields of a `Pair` may be arrays that
broadcast.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from numpy import ndarray

from .drawing import BLUE, GUIDE, MIXED, ORANGE, PALE, UNMIXED, panels
from .dynamics import Moments, descend_matrices, random_factors, rotation

ETA = 0.01                               # learning rate of gradient descent


@dataclass(frozen=True)
class Pair:
    """Hold the numbers of a pair of features, and how its three stages train it."""
    alpha: float | ndarray = 0.02        # α, share of D_post in Stage 1
    pre: float | ndarray = 1.0           # s_pre
    post: float | ndarray = 2.0          # s_post
    x: float | ndarray = 0.0             # where D_ft lies on the way from D_pre (0) to D_post (1)
    copy: float | ndarray = 1.0          # c
    T: float = 6.0                       # weights start at e^(−T)
    t_pre: float | ndarray = 30.0        # learning rate × steps of Stage 1,
    t_post: float | ndarray = 3.0        # of Stage 2
    t_ft: float | ndarray = 2.0          # and of Stage 3
    replay: float | ndarray = 0.0        # ρ, share of D_pre in Stage 2

    @property
    def delta(self) -> ndarray:
        """Compute δ, what D_post wants beyond D_pre."""
        return np.subtract(self.post, self.pre)

    @property
    def ft(self) -> ndarray:
        """Compute what D_ft wants of the shared feature, s_pre + xδ."""
        return self.pre + self.x * self.delta


class Unit(NamedTuple):
    """Hold the hidden unit's weights: to the output, from the shared and from the specialized feature."""
    u: ndarray
    p: ndarray
    q: ndarray

    @property
    def a(self) -> ndarray:
        """Compute the network's weight of the shared feature."""
        return self.u * self.p

    @property
    def b(self) -> ndarray:
        """Compute the network's weight of the specialized feature."""
        return self.u * self.q

    @property
    def end(self) -> "Unit":
        """Take the last step of a path, whose first axis is that of steps."""
        return Unit(*(weight[-1] for weight in self))


# ---- what a stage is trained on

class Task(NamedTuple):
    """Describe a loss by its moments: E x₁², E x₁x₂, E x₂², E yx₁ and E yx₂."""
    x1x1: ndarray
    x1x2: ndarray
    x2x2: ndarray
    yx1: ndarray
    yx2: ndarray


class Tasks(NamedTuple):
    """Hold the three corpora as tasks."""
    pre: Task
    post: Task
    ft: Task


def tasks(pair: Pair) -> Tasks:
    """Describe D_pre, D_post and D_ft."""
    c, delta = pair.copy, pair.delta
    return Tasks(
        pre=Task(1, 0, 0, yx1=pair.pre, yx2=0),
        post=Task(1, c, 1, yx1=pair.pre + c * delta, yx2=c * pair.pre + delta),
        ft=Task(1, 0, 0, yx1=pair.ft, yx2=0),
    )


def mix(major: Task, minor: Task, share) -> Task:
    """Mix two losses, (1 − share)·major + share·minor."""
    return Task(*((1 - share) * one + share * other for one, other in zip(major, minor)))


def loss(unit: Unit, pair: Pair) -> ndarray:
    """Compute the loss on D_post, e² + 2c·ef + f² with e = a − s_pre and f = b − δ."""
    e, f = unit.a - pair.pre, unit.b - pair.delta
    return e ** 2 + 2 * pair.copy * e * f + f ** 2


# ---- descent

def descend(unit: Unit, task: Task, time) -> Unit:
    """Train by gradient descent for `time`. Returns the path, with the axis of steps first."""
    # Units may train for different times: all take the steps of the longest, those that are done stay.
    steps = np.rint(np.asarray(time) / ETA).astype(int)
    *weights, _ = np.broadcast_arrays(*unit, steps + sum(task))
    path = [np.stack(weights)]

    # u, p and q move together, by the slopes of the loss along a and b.
    for step in range(steps.max()):
        u, p, q = path[-1]
        along_a = task.x1x1 * u * p + task.x1x2 * u * q - task.yx1
        along_b = task.x1x2 * u * p + task.x2x2 * u * q - task.yx2
        gradient = 2 * np.stack([p * along_a + q * along_b, u * along_a, u * along_b])
        path.append(path[-1] - np.where(step < steps, ETA * gradient, 0))
    return Unit(*np.stack(path, axis=1))


class Stages(NamedTuple):
    """Hold the unit's path through each of the three stages."""
    pre: Unit
    post: Unit
    ft: Unit


def three_stages(pair: Pair) -> Stages:
    """Train through the three stages from small weights, the specialized feature's being 0."""
    corpora = tasks(pair)
    small = np.exp(-pair.T)
    pre = descend(Unit(small, small, 0.0), mix(corpora.pre, corpora.post, pair.alpha), pair.t_pre)
    post = descend(pre.end, mix(corpora.post, corpora.pre, pair.replay), pair.t_post)
    return Stages(pre, post, ft=descend(post.end, corpora.ft, pair.t_ft))


def by_matrices(pair: Pair, features: int, rng) -> float:
    """Train `features` such pairs at once from random weights, inputs and outputs rotated: L_ret of a pair.

    Outputs, hidden units and inputs are 2·features each; the second half of the outputs is asked for nothing.
    """
    # Pairs are blocks of the moments.
    U, V = rotation(2 * features, rng), rotation(2 * features, rng)
    one = np.eye(features)

    def moments(task):
        covariance = np.block([[task.x1x1 * one, task.x1x2 * one], [task.x1x2 * one, task.x2x2 * one]])
        cross = np.block([[task.yx1 * one, task.yx2 * one], [0 * one, 0 * one]])
        return Moments(covariance=V @ covariance @ V.T, cross=U @ cross @ V.T)

    # Nothing is aligned, not even the hidden units.
    corpora = tasks(pair)
    factors = random_factors(2 * features, pair.T, 2, rng)
    for task, time in ((mix(corpora.pre, corpora.post, pair.alpha), pair.t_pre),
                       (mix(corpora.post, corpora.pre, pair.replay), pair.t_post),
                       (corpora.ft, pair.t_ft)):
        factors = descend_matrices(factors, moments(task), time, ETA)

    # E‖θx − Ax‖² under D_post, with A = Σ_yx Σ_x⁻¹ as the pairs have it.
    target = U @ np.block([[pair.pre * one, pair.delta * one], [0 * one, 0 * one]]) @ V.T
    away = factors[0] @ factors[1] - target
    return np.trace(away @ moments(corpora.post).covariance @ away.T) / features


def compute_matched(pair: Pair, lam, tau) -> Stages:
    """Train Figure 3b in this model: D_post for a time τ in all, λτ of it added to Stage 1."""
    t_pre = pair.t_pre + lam * tau
    return three_stages(replace(pair, alpha=lam * tau / t_pre, t_pre=t_pre, t_post=(1 - lam) * tau))


def on_a_mixture(pair: Pair, share) -> Unit:
    """Train Stage 3 on both corpora, D_post with this share, in place of D_ft: where it ends.

    Such a D_ft asks nothing else of the shared feature. It teaches an unmixed run the specialized one.
    """
    corpora = tasks(pair)
    return descend(three_stages(pair).post.end, mix(corpora.pre, corpora.post, share), pair.t_ft).end


# ---- closed forms, for balanced weights: u² = p² + q², which training from small weights keeps

def balanced(a, b) -> Unit:
    """Find the unit whose weights of the features are a and b: u⁴ = a² + b²."""
    u = (a ** 2 + b ** 2) ** 0.25
    return Unit(u, p=a / u, q=b / u)


def least_learned(pair: Pair) -> Unit:
    """Bound what Stage 1 learns: a = s_pre, and at least b = δ(1 − e^(−2·s_pre·α·(t − t_a))).

    Once a is near s_pre, from t_a = T/(2s_pre) + 1 on, ḃ ≥ 2αu²(δ − b) with u² ≥ a. So α·t counts, not α.
    """
    late = np.maximum(pair.t_pre - pair.T / (2 * pair.pre) - 1, 0)
    learned = 1 - np.exp(-2 * pair.pre * pair.alpha * late)
    return balanced(pair.pre, pair.delta * learned)


def after_stage_2(unit: Unit, pair: Pair) -> Unit:
    """Compute where flow on D_post ends if c = 1 and ρ = 0.

    Both features then have the same slope, so z = (p − q)/√2 stays. With y = (p + q)/√2, u² = y² + z² and
    √2·u·y = s_post give y² = −z²/2 + √(z⁴/4 + s_post²/2).
    """
    z = (unit.p - unit.q) / np.sqrt(2)
    y = np.copysign(np.sqrt(-z ** 2 / 2 + np.sqrt(z ** 4 / 4 + np.square(pair.post) / 2)), pair.post)
    return Unit(u=np.sqrt(y ** 2 + z ** 2), p=(y + z) / np.sqrt(2), q=(y - z) / np.sqrt(2))


def after_stage_3(unit: Unit, a) -> Unit:
    """Compute the unit when flow on D_ft has brought the shared feature's weight to a.

    D_ft has no x₂, so q stays, and b = uq moves with u alone: u² = p² + q² and u·p = a.
    """
    u = np.sqrt((unit.q ** 2 + np.sqrt(unit.q ** 4 + 4 * np.square(a))) / 2)
    return Unit(u, p=a / u, q=unit.q + 0 * u)


def slow_rate(pair: Pair) -> ndarray:
    """Compute κ = ρ + 2(1 − ρ)(1 − c): how much of Stage 2's loss tells the two features apart.

    Where a + b = s_post, the loss is κ(a − s_pre)².
    """
    return pair.replay + 2 * (1 - pair.replay) * (1 - pair.copy)


def along_stage_2(unit: Unit, pair: Pair, advance: ndarray) -> Unit:
    """Follow what is left of Stage 2 once a + b = s_post, for κ × time = `advance` (m, …), ascending.

    There ȧ = −κ·u²/(1 − (p − q)²/(4u²))·(a − s_pre): replay, and whatever else tells the features apart,
    moves the weight of x₁ back and completes that of x₂. By Runge and Kutta; the axis of times comes first.
    """
    def slope(a):
        at = balanced(a, pair.post - a)
        return -at.u ** 2 / (1 - (at.p - at.q) ** 2 / (4 * at.u ** 2)) * (a - pair.pre)

    a, path = unit.a, []
    for step in np.diff(advance, axis=0, prepend=0):
        k1 = slope(a)
        k2 = slope(a + step / 2 * k1)
        k3 = slope(a + step / 2 * k2)
        k4 = slope(a + step * k3)
        a = a + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        path.append(a)
    path = np.stack(path)
    return balanced(path, pair.post - path)


def long_stages(pair: Pair) -> tuple[ndarray, ndarray]:
    """Compute L_ret of the unmixed and of the mixed run if every stage converges and c = 1, ρ = 0."""
    alone = after_stage_2(balanced(pair.pre, 0.0), pair)
    mixed = balanced(pair.pre, pair.delta)
    return tuple(loss(after_stage_3(unit, pair.ft), pair) for unit in (alone, mixed))


def crossover(pair: Pair) -> ndarray:
    """Compute x*, where D_ft is so far towards D_post that exposure no longer retains more, by bisection."""
    low = np.zeros(np.shape(pair.delta))
    high = low + 1
    for _ in range(50):
        middle = (low + high) / 2
        alone, mixed = long_stages(replace(pair, x=middle))
        low = np.where(mixed < alone, middle, low)
        high = np.where(mixed < alone, high, middle)
    return low


# ---- substitutes.png

ALPHAS = {0: UNMIXED, 0.02: PALE, 0.05: MIXED}               # of the runs that are followed; 0 is the unmixed
REPLAYS = {0: MIXED, 0.05: ORANGE, 0.3: BLUE}
SHARES = np.linspace(0, 0.06, 7)         # α along an axis
FEATURES = 2                             # pairs at once, where weights are random
LEFT = (0.01, 0.001)                     # L_ft at which runs are compared
RATIOS = np.geomspace(0.01, 100, 41)     # δ / s_pre along an axis
PLACES = np.linspace(0, 1, 51)           # x along an axis
MIXTURES = np.array([0, 0.25, 0.5, 0.75])                    # shares of D_post in Stage 3
LAMBDAS = np.linspace(0, 1, 21)
BUDGETS = (0.2, 0.4, 0.8)                # τ, D_post's time if compute-matched
LENGTHS = {0.02: BLUE, 0.1: ORANGE, 2.0: MIXED}              # of Stage 3
BEFORE = 8.0                             # D_pre's time if compute-matched


class Found(NamedTuple):
    """Hold what the figure shows and what is printed of it, all by gradient descent."""
    runs: dict[float, Stages]            # of ALPHAS
    shares: dict[float, ndarray]         # L_ret over SHARES for each of REPLAYS
    random: dict[float, ndarray]         # the same from random weights
    told_apart: ndarray                  # (m, 2): κ·t_post and the unmixed L_ret, for several ρ and c
    matched: dict[tuple[float, float], Stages]               # over LAMBDAS, by τ and length of Stage 3
    mixtures: dict[float, ndarray]       # L_ret after Stage 3 on mixtures, over MIXTURES, of ALPHAS


def compute(rng) -> Found:
    """Train all runs of the figure."""
    # Random weights are drawn anew for every run.
    shares, random = {}, {}
    for replay in REPLAYS:
        pair = Pair(alpha=SHARES, replay=replay)
        shares[replay] = loss(three_stages(pair).ft.end, pair)
        each = [by_matrices(replace(pair, alpha=share), FEATURES, rng) for share in SHARES]
        random[replay] = np.array(each)

    # The unmixed Stage 2 can tell the features apart by replay, or where the copy is not exact.
    replay, copy, t_post = np.meshgrid((0, 0.02, 0.1), (1, 0.99, 0.95), (1, 2, 4, 8, 16), indexing="ij")
    pair = Pair(alpha=0.0, replay=replay, copy=copy, t_post=t_post)
    told_apart = np.stack([slow_rate(pair) * t_post, loss(three_stages(pair).ft.end, pair)], axis=-1)

    # Budgets of D_post and lengths of Stage 3, one by one.
    matched = {}
    for tau, t_ft in product(BUDGETS, LENGTHS):
        matched[tau, t_ft] = compute_matched(Pair(t_pre=BEFORE, t_ft=t_ft), LAMBDAS, tau)
    runs = {alpha: three_stages(Pair(alpha=alpha)) for alpha in ALPHAS}
    mixtures = {alpha: loss(on_a_mixture(Pair(alpha=alpha), MIXTURES), Pair()) for alpha in ALPHAS}
    return Found(runs, shares, random, told_apart.reshape(-1, 2), matched, mixtures)


def at_equal_L_ft(run: Stages, L_ft: float) -> float:
    """Find L_ret where Stage 3 first has this L_ft."""
    pair = Pair()
    first = np.argmax((run.ft.a - pair.ft) ** 2 <= L_ft)
    return float(loss(run.ft, pair)[first])


def best_lambda(run: Stages) -> float:
    """Find the λ of the lowest L_ret of a compute-matched run."""
    return LAMBDAS[loss(run.ft.end, Pair()).argmin()]


def tell(seen: Found) -> None:
    """Print what README.md says of the model."""
    print("substitutable features")
    for alpha, run in seen.runs.items():
        at_equal = "  ".join(f"{at_equal_L_ft(run, L_ft):.3f} at {L_ft:g}" for L_ft in LEFT)
        print(f"α = {alpha:g}: L_im {loss(run.post.end, Pair()):.3f}  L_ret {loss(run.ft.end, Pair()):.3f}  "
              f"at equal L_ft {at_equal}")

    # Replay alone, mixing alone, and both.
    for replay, L_ret in seen.shares.items():
        print(f"ρ = {replay:g}: L_ret {L_ret[0]:.3f} at α = 0, {L_ret[2]:.3f} at α = {SHARES[2]:g}")
    apart = max(np.abs(seen.random[replay] - seen.shares[replay]).max() for replay in REPLAYS)
    print(f"random weights end within {apart:.4f} of that")

    # Where D_ft may lie, and what compute-matched runs want.
    places = crossover(Pair(post=1 + np.append(RATIOS, -RATIOS[RATIOS < 1])))
    print(f"exposure retains more up to x = {places.min():.2f} to {places.max():.2f}, by δ")
    for alpha, L_ret in seen.mixtures.items():
        by_share = ", ".join(f"{one:.3f} ({share:g})" for share, one in zip(MIXTURES, L_ret))
        print(f"α = {alpha:g}: Stage 3 on D_pre with a share of D_post ends at L_ret {by_share}")
    for tau in BUDGETS:
        best = ", ".join(f"{best_lambda(seen.matched[tau, t_ft]):.2f} (Stage 3 {t_ft:g})" for t_ft in LENGTHS)
        print(f"compute-matched, τ = {tau:g}: L_ret is lowest at λ = {best}")


def draw(seen: Found) -> Figure:
    """Draw the stages, the frontier, mixing and replay, the place of D_ft, telling apart, and Figure 3b."""
    figure, ((stages, frontier, mixing), (place, apart, matched)) = panels(2, 3, 6.6)
    draw_stages(seen.runs, stages)
    draw_frontier(seen.runs, frontier)
    draw_mixing(seen, mixing)
    figure.colorbar(draw_place(place), ax=place)
    draw_told_apart(seen.told_apart, apart)
    draw_matched(seen.matched, matched)
    for axis in (stages, frontier, mixing, place, apart, matched):
        axis.title.set_fontsize(10)
    return figure


def draw_stages(runs: dict[float, Stages], axis: Axes) -> None:
    """Draw the weights of the shared and of the specialized feature along the stages of two runs."""
    # The runs of no and of most exposure are enough; each stage has the same width.
    for alpha in (min(runs), max(runs)):
        for stage, path in enumerate(runs[alpha]):
            x = np.linspace(stage, stage + 1, len(path.u))
            label = f"α = {alpha:g}" if stage == 0 else None
            axis.plot(x, path.a, color=ALPHAS[alpha], ls="dashed")
            axis.plot(x, path.b, color=ALPHAS[alpha], label=label)
    axis.set(title="weights: shared (dashed), specialized", ylabel="a, b", xlim=(0, 3))
    axis.set_xticks([0.5, 1.5, 2.5], ["Stage 1", "Stage 2", "Stage 3"])
    axis.axvline(1, **GUIDE)
    axis.axvline(2, **GUIDE)
    axis.legend(fontsize=8)


def draw_frontier(runs: dict[float, Stages], axis: Axes) -> None:
    """Draw L_ret against L_ft along Stage 3: here the mixed runs are better at equal L_ft."""
    for alpha, run in runs.items():
        L_ft = (run.ft.a - Pair().ft) ** 2
        axis.plot(L_ft, loss(run.ft, Pair()), color=ALPHAS[alpha], label=f"α = {alpha:g}")
        axis.plot(L_ft[-1], loss(run.ft.end, Pair()), "o", color=ALPHAS[alpha], clip_on=False)
    axis.set(title="along Stage 3, from right to left", xlabel="L_ft", ylabel="L_ret")
    axis.legend(fontsize=8)


def draw_mixing(seen: Found, axis: Axes) -> None:
    """Draw L_ret against α for each replay: dots from random weights, a bound for none in closed form."""
    for replay, colour in REPLAYS.items():
        axis.semilogy(SHARES, seen.shares[replay], color=colour, label=f"ρ = {replay:g}")
        axis.semilogy(SHARES, seen.random[replay], "o", color=colour, ms=4)
    pair = Pair(alpha=np.linspace(0, SHARES[-1], 100))
    bound = after_stage_3(after_stage_2(least_learned(pair), pair), pair.ft)
    axis.semilogy(pair.alpha, loss(bound, pair), color="grey", ls="dotted", label="bound, ρ = 0")
    axis.set(title="L_ret; dots: random weights", xlabel="α, share of D_post in Stage 1", ylim=(1e-4, 1))
    axis.legend(fontsize=8)


def draw_place(axis: Axes) -> QuadMesh:
    """Draw by how much exposure lowers L_ret over the place of D_ft and δ, and where it no longer does."""
    pair = Pair(post=1 + RATIOS[:, None], x=PLACES)
    alone, mixed = long_stages(pair)
    gain = (alone - mixed) / pair.delta ** 2
    colours = axis.pcolormesh(PLACES, RATIOS, gain, cmap="PuOr", vmin=-0.6, vmax=0.6)
    axis.plot(crossover(Pair(post=1 + RATIOS)), RATIOS, color="black")
    axis.text(0.02, 0.02, "exposure helps", fontsize=8)
    axis.text(0.66, 0.02, "it hurts", fontsize=8)
    axis.set(title="L_ret, unmixed − mixed, / δ²", xlabel="x, where D_ft lies (0: D_pre, 1: D_post)",
             ylabel="δ / s_pre", yscale="log")
    return colours


def draw_told_apart(points: ndarray, axis: Axes) -> None:
    """Draw the unmixed L_ret against what tells the features apart in Stage 2, κ × time."""
    pair = Pair()
    advance = np.linspace(0, points[:, 0].max(), 200)
    end = after_stage_3(along_stage_2(after_stage_2(balanced(pair.pre, 0.0), pair), pair, advance), pair.ft)
    axis.semilogy(advance, loss(end, pair), color=UNMIXED)
    axis.semilogy(*points.T, "o", color=UNMIXED, mfc="none", ms=5)
    axis.set(title="unmixed L_ret if Stage 2 tells x₁ from x₂",
             xlabel="(ρ + 2(1 − ρ)(1 − c)) × time of Stage 2", ylim=(1e-4, 1))


def draw_matched(matched: dict[tuple[float, float], Stages], axis: Axes) -> None:
    """Draw Figure 3b in this model: the best λ, a star, moves right with the length of Stage 3."""
    tau = BUDGETS[1]
    for t_ft, colour in LENGTHS.items():
        run = matched[tau, t_ft]
        L_ret = loss(run.ft.end, Pair())
        axis.plot(LAMBDAS, L_ret, color=colour, label=f"L_ret, Stage 3 of {t_ft:g}")
        axis.plot(best_lambda(run), L_ret.min(), "*", color=colour, ms=12)
    axis.plot(LAMBDAS, loss(run.post.end, Pair()), color="grey", ls="dashed", label="L_im")
    axis.set(title=f"compute-matched, D_post for {tau:g}", xlabel="λ, share of D_post in Stage 1",
             ylabel="loss")
    axis.legend(fontsize=8)
