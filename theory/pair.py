"""A pair of features that can replace each other, one hidden unit that learns both, and its closed forms.

D_post marks its inputs: beside the shared feature x₁ they have a specialized one, x₂, that nearly copies it
(correlation r) and is 0 elsewhere. What D_post wants beyond D_pre, δ = s_post − s_pre, can be had by moving
the weight of x₁, which D_pre and D_ft use too, or by learning that of x₂, which nobody else touches:

    D_pre     y = s_pre x₁             x₂ = 0
    D_post    y = s_pre x₁ + δ x₂      E x₁x₂ = r
    D_ft      y = (s_pre + xδ) x₁      x₂ = 0            so x says how far it is from D_pre to D_post

The network is (x₁, x₂) ↦ a x₁ + b x₂ with a = u·p and b = u·q: one hidden unit, with u to the output.
Variances are 1, losses squared errors. Time is learning rate × steps. Fields of a `Pair` but T may be arrays
that broadcast; s_pre and δ must not be 0.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from .dynamics import Moments, blend, descend_matrices, random_factors

ETA = 0.01                               # learning rate of gradient descent


@dataclass(frozen=True)
class Pair:
    """Hold the numbers of a pair of features, and how its three stages train it."""
    alpha: float | ndarray = 0.02        # α, share of D_post in Stage 1
    pre: float | ndarray = 1.0           # s_pre
    post: float | ndarray = 2.0          # s_post
    x: float | ndarray = 0.0             # where D_ft lies on the way from D_pre (0) to D_post (1)
    copy: float | ndarray = 1.0          # r
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

    def at(self, index) -> "Unit":
        """Take some of the units of arrays."""
        return Unit(*(weight[index] for weight in self))


# ---- what a stage is trained on

class Quadratic(NamedTuple):
    """Describe a loss by its moments: E x₁², E x₁x₂, E x₂², E yx₁ and E yx₂."""
    x1x1: ndarray
    x1x2: ndarray
    x2x2: ndarray
    yx1: ndarray
    yx2: ndarray


class Corpora(NamedTuple):
    """Hold the losses on the three corpora."""
    pre: Quadratic
    post: Quadratic
    ft: Quadratic


def corpora(pair: Pair) -> Corpora:
    """Describe D_pre, D_post and D_ft."""
    r, delta = pair.copy, pair.delta
    return Corpora(
        pre=Quadratic(1, 0, 0, yx1=pair.pre, yx2=0),
        post=Quadratic(1, r, 1, yx1=pair.pre + r * delta, yx2=r * pair.pre + delta),
        ft=Quadratic(1, 0, 0, yx1=pair.ft, yx2=0),
    )


def loss_on_post(unit: Unit, pair: Pair) -> ndarray:
    """Compute the loss on D_post, e² + 2r·ef + f² with e = a − s_pre and f = b − δ: (…).

    As (e + rf)² + (1 − r²)f², which rounding cannot make negative where e = −f.
    """
    e, f = unit.a - pair.pre, unit.b - pair.delta
    return (e + pair.copy * f) ** 2 + (1 - np.square(pair.copy)) * f ** 2


# ---- descent

def descend_unit(unit: Unit, quadratic: Quadratic, time, eta: float = ETA, record: bool = False) -> Unit:
    """Train by gradient descent for `time`; with record, keep every step, the axis of steps first."""
    # Units may train for different times: all take the steps of the longest, those that are done stay.
    steps = np.rint(np.asarray(time) / eta).astype(int)
    shape = np.broadcast_shapes(*map(np.shape, [*unit, *quadratic, steps]))
    u, p, q = (np.broadcast_to(weight, shape) for weight in unit)
    path = [(u, p, q)]

    # u, p and q move together, by the slopes of the loss along a and b.
    for step in range(steps.max()):
        rate = np.where(step < steps, 2 * eta, 0)
        a, b = u * p, u * q
        along_a = quadratic.x1x1 * a + quadratic.x1x2 * b - quadratic.yx1
        along_b = quadratic.x1x2 * a + quadratic.x2x2 * b - quadratic.yx2
        by_u = rate * u
        u, p, q = u - rate * (p * along_a + q * along_b), p - by_u * along_a, q - by_u * along_b
        if record:
            path.append((u, p, q))
    return Unit(*np.stack(path, axis=1)) if record else Unit(u, p, q)


class Stages(NamedTuple):
    """Hold a pair and its unit after each of its stages, or along them, the axis of steps first."""
    pair: Pair
    pre: Unit
    post: Unit
    ft: Unit

    @property
    def L_im(self) -> ndarray:
        """Compute the loss on D_post at, or along, Stage 2."""
        return loss_on_post(self.post, self.pair)

    @property
    def L_ret(self) -> ndarray:
        """Compute the loss on D_post at, or along, Stage 3."""
        return loss_on_post(self.ft, self.pair)

    @property
    def L_ft(self) -> ndarray:
        """Compute the loss on D_ft, which has no x₂, at, or along, Stage 3."""
        return (self.ft.a - self.pair.ft) ** 2


def train_pair(pair: Pair, eta: float = ETA, record: bool = False) -> Stages:
    """Train through the three stages from small weights, the specialized feature's being 0."""
    # A stage takes up where the one before ended, which is the last step of its path if there is one.
    def train(unit, quadratic, time):
        return descend_unit(unit, quadratic, time, eta, record)

    def end(unit):
        return unit.at(-1) if record else unit

    # Stage 1 is on the mixture, Stage 2 on D_post with replay, Stage 3 on D_ft alone.
    on, small = corpora(pair), np.exp(-pair.T)
    pre = train(Unit(small, small, 0.0), blend(on.pre, on.post, pair.alpha), pair.t_pre)
    post = train(end(pre), blend(on.post, on.pre, pair.replay), pair.t_post)
    return Stages(pair, pre, post, ft=train(end(post), on.ft, pair.t_ft))


def by_matrices(pair: Pair, features: int, draws: int, rng) -> ndarray:
    """Train `features` such pairs at once by one network with random weights: L_ret a pair, (draws, …).

    Outputs, hidden units and inputs are 2·features each; the second half of the outputs is asked for nothing.
    All weights are independent and small, so nothing is aligned. The times must be scalars.
    """
    # Each run of each draw starts from weights of its own.
    numbers = (pair.alpha, pair.pre, pair.post, pair.x, pair.copy, pair.replay)
    shape = np.broadcast_shapes(*map(np.shape, numbers))
    factors = random_factors(2 * features, pair.T, 2, rng, (draws, *shape))

    # Pairs are alike, so every moment of one stands on a diagonal of the network's.
    def moments(quadratic):
        x1x1, x1x2, x2x2, yx1, yx2, nothing = np.broadcast_arrays(*quadratic, np.zeros(shape))
        covariance = np.stack([x1x1, x1x2, x1x2, x2x2], axis=-1).reshape(*shape, 2, 2)
        cross = np.stack([yx1, yx2, nothing, nothing], axis=-1).reshape(*shape, 2, 2)
        return Moments(np.kron(covariance, np.eye(features)), np.kron(cross, np.eye(features)))

    # The stages are those of `train_pair`.
    on = corpora(pair)
    for quadratic, time in ((blend(on.pre, on.post, pair.alpha), pair.t_pre),
                            (blend(on.post, on.pre, pair.replay), pair.t_post),
                            (on.ft, pair.t_ft)):
        factors = descend_matrices(factors, moments(quadratic), time, ETA)

    # E‖θx − y‖² is tr(θΣ_xθᵀ) − 2 tr(θΣ_yxᵀ) and E y², as y of the first outputs is s_pre x₁ + δ x₂.
    theta, post = factors[0] @ factors[1], moments(on.post)
    fits = (theta @ post.covariance * theta - 2 * theta * post.cross).sum((-2, -1)) / features
    return fits + np.square(pair.pre) + 2 * pair.copy * pair.pre * pair.delta + np.square(pair.delta)


# ---- closed forms, for balanced weights: u² = p² + q², which training from small weights keeps

def balanced(a, b) -> Unit:
    """Find the unit whose weights of the features are a and b: u⁴ = a² + b²."""
    u = (a ** 2 + b ** 2) ** 0.25
    return Unit(u, p=a / u, q=b / u)


def least_learned(pair: Pair) -> Unit:
    """Bound what Stage 1 learns if δ > 0: a = s_pre, and b at least δ(1 − e^(−2·s_pre·α(1 − αr²)(t − t_a))).

    From t_a = T/(2s_pre) + 1/s_pre on, a stands where ȧ = 0: with cos φ = p/u, above s_pre by about
    α(δ − b)(r + sin φ cos φ/(1 + cos²φ)). There ḃ = 2α(1 − αr²)(δ − b)·2u²/(1 + cos²φ + αr·sin φ·cos φ), and
    u² cos φ = a. So ḃ is at least 2·s_pre·α(1 − αr²)(δ − b) but for terms of α², for which t_a leaves room:
    α·t counts, not α. With δ < 0 b first goes the wrong way, while a is still below s_pre.
    """
    late = np.maximum(pair.t_pre - (pair.T / 2 + 1) / pair.pre, 0)
    rate = 2 * pair.pre * pair.alpha * (1 - pair.alpha * np.square(pair.copy))
    return balanced(pair.pre, pair.delta * (1 - np.exp(-rate * late)))


def after_stage_2(unit: Unit, pair: Pair) -> Unit:
    """Compute where flow on D_post ends if r = 1 and ρ = 0.

    Both features then have the same slope, so z = (p − q)/√2 stays. With y = (p + q)/√2, u² = y² + z² and
    √2·u·y = s_post give y = s_post/√(z² + √(z⁴ + 2s_post²)).
    """
    z = (unit.p - unit.q) / np.sqrt(2)
    y = pair.post / np.sqrt(z ** 2 + np.sqrt(z ** 4 + 2 * np.square(pair.post)))
    return Unit(u=np.sqrt(y ** 2 + z ** 2), p=(y + z) / np.sqrt(2), q=(y - z) / np.sqrt(2))


def after_stage_3(unit: Unit, a) -> Unit:
    """Compute the unit when flow on D_ft has brought the shared feature's weight to a.

    D_ft has no x₂, so q stays, and b = uq moves with u alone: u² = p² + q² and u·p = a.
    """
    u = np.sqrt((unit.q ** 2 + np.sqrt(unit.q ** 4 + 4 * np.square(a))) / 2)
    return Unit(u, p=a / u, q=unit.q + 0 * u)


def slow_rate(pair: Pair) -> ndarray:
    """Compute κ = ρ + 2(1 − ρ)(1 − r): how much of Stage 2's loss tells the two features apart.

    Where a + b = s_post, f = −e, and the loss (1 − ρ)(e² + 2r·ef + f²) + ρe² is κe².
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
    """Compute L_ret of the unmixed and of the fully exposed run if all stages converge and r = 1, ρ = 0."""
    alone = after_stage_2(balanced(pair.pre, 0.0), pair)
    mixed = balanced(pair.pre, pair.delta)
    return tuple(loss_on_post(after_stage_3(unit, pair.ft), pair) for unit in (alone, mixed))


def crossover(pair: Pair) -> ndarray:
    """Compute x*, from which on complete exposure retains less than none, as `long_stages` has it.

    By bisection. If |δ| ≪ s_pre it is 1/3: Stage 2 moves a twice as fast as b, as u moves with a, and so ends
    at b = δ/3. Stage 3 leaves that (2/3 − x)δ from what D_post wants, and the fully exposed run xδ.
    """
    low = np.zeros(np.shape(pair.delta))
    high = low + 1
    for _ in range(50):
        middle = (low + high) / 2
        alone, mixed = long_stages(replace(pair, x=middle))
        low = np.where(mixed < alone, middle, low)
        high = np.where(mixed < alone, high, middle)
    return low


def best_left(pair: Pair) -> ndarray:
    """Compute the b with the least L_ret, δ(1 − rx): Stage 3 brings a to s_pre + xδ, so L_ret's e is xδ."""
    return pair.delta * (1 - pair.copy * pair.x)
