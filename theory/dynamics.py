"""The deep linear network of Section 5 and Appendix C, trained through the three stages in three ways.

θ = W₁W₂⋯W_L maps an input x ∈ ℝⁿ to θx. Stage t minimizes L_t(θ) = E‖θx − A_t x‖², where A_t = U diag(s) Vᵀ
and x has covariance V diag(v) Vᵀ. U and V are the same in every stage, so with aligned, balanced weights the
directions (columns of V) never meet: each has a singular value σ of θ, an input variance v and a covariance
c = v·s of its own.

* `descend_matrices`: gradient descent on the full matrices, from any start, on population or sample moments.
* `descend`: the same for aligned weights, one scalar a direction, vectorized over settings.
* `flow`, `elapsed`: the limit of small steps of the latter in closed form.

Time is learning rate × steps throughout. Arrays (…, 3) have the axes of settings first, that of blocks last.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy import ndarray

BLOCKS = ("invariant", "inconsistent", "specialized")
INVARIANT, INCONSISTENT, SPECIALIZED = range(3)


@dataclass(frozen=True)
class Setting:
    """Hold Section 5's numbers and ours. All but c_mis, n, k and depth may be arrays that broadcast."""
    alpha: float | ndarray = 0.85        # α, share of D_post in Stage 1
    beta: float | ndarray = 1.0          # β, singular value of the specialized block under D_post
    invariant: float | ndarray = 3.0     # singular value of the invariant block, the same in all stages
    pre: float | ndarray = 2.2           # of the inconsistent block under D_pre,
    post: float | ndarray = 0.1          # under D_post
    ft: float | ndarray = 2.5            # and under D_ft
    c_mis: float = 2.05                  # by how much the latter are at least apart
    T: float | ndarray = 10.0            # every factor starts with singular values e^(−T)
    t_pre: float | ndarray = 7.0         # learning rate × steps of Stage 1,
    t_post: float | ndarray = 3.0        # of Stage 2
    t_ft: float | ndarray = 0.5          # and of Stage 3
    reg: float | ndarray = 0.0           # λ_reg of Stage 2
    replay: float | ndarray = 0.0        # ρ, share of D_pre in Stage 2
    n: int = 6                           # directions: n − 2k invariant, k inconsistent, k specialized
    k: int = 2
    depth: int = 2                       # L, number of factors

    @property
    def counts(self) -> ndarray:
        """Count the directions of each block: (3,)."""
        return np.array([self.n - 2 * self.k, self.k, self.k])

    @property
    def sigma_0(self) -> ndarray:
        """Give the singular value of θ before training, e^(−LT): (…, 1), as all blocks have the same."""
        return per_block(np.exp(-self.depth * np.asarray(self.T)))


def unmixed(setting: Setting) -> Setting:
    """Give the same setting with α = 0."""
    return replace(setting, alpha=np.zeros_like(np.asarray(setting.alpha, float)))


def per_block(values) -> ndarray:
    """Append the axis of blocks to one number a setting: (…, 1) from (…)."""
    return np.asarray(values)[..., None]


# ---- what a stage is trained on: quadratic losses, each told by its moments

class Task(NamedTuple):
    """Describe a loss by input variances v and covariances c = v·s along each block: (…, 3) both."""
    v: ndarray
    c: ndarray


class Tasks(NamedTuple):
    """Hold the three corpora as tasks."""
    pre: Task
    post: Task
    ft: Task


def tasks(setting: Setting) -> Tasks:
    """Describe D_pre, D_post and D_ft (Section 5). Only D_post has inputs along the specialized block."""
    def task(inconsistent, v):
        blocks = np.broadcast_arrays(setting.invariant, inconsistent, setting.beta)
        return Task(v=np.array(v, float), c=v * np.stack(blocks, axis=-1))

    return Tasks(
        pre=task(setting.pre, v=(1, 1, 0)),
        post=task(setting.post, v=(1, 1, 1)),
        ft=task(setting.ft, v=(1, 1, 0)),
    )


def blend(major, minor, share):
    """Mix two losses told by their moments, field by field: (1 − share)·major + share·minor."""
    return type(major)(*((1 - share) * one + share * other for one, other in zip(major, minor)))


def mix(major: Task, minor: Task, share) -> Task:
    """Mix two losses of blocks; share has the settings' shape (…)."""
    return blend(major, minor, per_block(share))


def anchor(task: Task, sigma: ndarray, reg) -> Task:
    """Add reg·‖θ − θ₀‖² to a task's loss, σ (…, 3) being the singular values of θ₀; reg (…)."""
    reg = per_block(reg)
    return Task(v=task.v + reg, c=task.c + reg * sigma)


def stage_1(setting: Setting) -> Task:
    """Describe Stage 1's loss: D_pre with a share α of D_post."""
    corpora = tasks(setting)
    return mix(corpora.pre, corpora.post, setting.alpha)


def stage_2(setting: Setting, theta_pre: ndarray) -> Task:
    """Describe Stage 2's loss: D_post with a share ρ of replayed D_pre, held to θ_pre (…, 3) by λ_reg."""
    corpora = tasks(setting)
    replayed = mix(corpora.post, corpora.pre, setting.replay)
    return anchor(replayed, theta_pre, setting.reg)


def targets(task: Task) -> ndarray:
    """Give where σ converges, c/v: (…, 3), nan without inputs. For a mixture's specialized block it is β."""
    v, c = np.broadcast_arrays(task.v, task.c)
    return np.divide(c, v, out=np.full(v.shape, np.nan), where=v > 0)


def loss(sigma: ndarray, task: Task, counts: ndarray) -> ndarray:
    """Compute E‖θx − Ax‖² = Σ counts·v·(σ − s)²: (…) from σ (…, 3)."""
    return (counts * task.v * (sigma - np.nan_to_num(targets(task))) ** 2).sum(-1)


def violations(s: Setting) -> list[str]:
    """Name the paper's assumptions (C.5, C.6 and the text) that scalar numbers violate; [] if none.

    "Apart" is by absolute value, as with signs the assumptions exclude each other (README.md, condition 1).
    """
    conditions = {
        "the invariant block has the largest singular value":
            s.invariant > max(s.pre, s.post, s.ft, s.beta),
        "|σ_post − σ_pre| > c_mis": abs(s.post - s.pre) > s.c_mis,
        "|σ_post − σ_ft| > c_mis": abs(s.post - s.ft) > s.c_mis,
        "β < c_mis / 2": s.beta < s.c_mis / 2,
        "early exposure, αβ > (1−α)σ_pre + ασ_post":
            s.alpha * s.beta > (1 - s.alpha) * s.pre + s.alpha * s.post,
    }
    return [condition for condition, holds in conditions.items() if not holds]


# ---- one scalar a direction

def descend(sigma, task: Task, time, eta: float, depth: int = 2, record: bool = False) -> ndarray:
    """Train by gradient descent for `time` from aligned, balanced weights; with record, show every step.

    A factor's singular values w, σ = w^L, stay aligned: w ← w − 2η·w^(L−1)·(v·w^L − c), which is Equation (2)
    as README.md corrects it, with the penalty in (v, c). Returns σ (…, 3), or (steps + 1, …, 3).
    """
    # Settings may train for different times: all take the steps of the longest, those that are done stay.
    steps = per_block(np.rint(np.asarray(time) / eta).astype(int))
    w = np.asarray(sigma, float) ** (1 / depth)
    w = np.broadcast_to(w, np.broadcast_shapes(w.shape, task.c.shape, steps.shape))
    path = [w]

    # Balanced factors stay balanced, so that one number stands for all L of them.
    for step in range(steps.max()):
        others = w ** (depth - 1)
        change = 2 * eta * others * (task.v * others * w - task.c)
        w = w - np.where(step < steps, change, 0)
        if record:
            path.append(w)
    return (np.stack(path) if record else w) ** depth


def elapsed(start, end, task: Task, depth: int = 2) -> ndarray:
    """Compute the time in which gradient flow takes σ from start to end; inf where it does not lead there.

    README.md, "One direction", has ż of z = (σ/s)^(1/L). By partial fractions over the L-th roots of unity ω,
    1/(z^(L−1)(1 − z^L)) integrates to −z^(2−L)/(L−2) − (1/L) Σ_ω ω² ln(z − ω), for L = 2 with ln z in front.
    """
    # Of one shape, so that start and end can be compared one by one.
    start, end = np.asarray(start, float), np.asarray(end, float)
    start, end, v, c = np.broadcast_arrays(start, end, task.v, task.c)

    # The root ω = 1 is apart: ln|z − 1| is real on both sides of the target.
    def antiderivative(sigma):
        z = (sigma / s) ** (1 / depth)
        total = np.log(z) if depth == 2 else -z ** (2 - depth) / (depth - 2)
        total = total - np.log(np.abs(z - 1)) / depth
        for omega in np.exp(2j * np.pi * np.arange(1, depth) / depth):
            total = total - (omega ** 2 * np.log(z - omega)).real / depth
        return total

    # Divisions by 0 are of directions without input or at their target, where flow leads nowhere.
    with np.errstate(divide="ignore", invalid="ignore"):
        s = c / v
        time = (antiderivative(end) - antiderivative(start)) / (2 * v * s ** (2 - 2 / depth))
    towards = ((start <= end) & (end < s)) | ((start >= end) & (end > s))
    return np.where(towards, np.where(start == end, 0, time), np.inf)


def flow(sigma, task: Task, time, depth: int = 2) -> ndarray:
    """Train by gradient flow for `time`: σ (…, 3).

    Two factors: logistic, σ(t) = σ₀ / (e^(−x) + (1 − e^(−x))·σ₀/s) with x = 4ct (Saxe et al. 2014; 4 is
    this loss's). More: the inverse of `elapsed`, by bisection, for targets above 0.
    """
    sigma, v, c, time = np.broadcast_arrays(np.asarray(sigma, float), task.v, task.c, per_block(time))
    task = Task(v, c)

    # Two factors need no search. As 1/s = v/c, the last term is 4vtσ₀·(1 − e^(−x))/x, which a target of 0
    # has, too; without inputs it is 0, and σ stays.
    if depth == 2:
        x = 4 * c * time
        share = np.divide(-np.expm1(-x), x, out=np.ones(x.shape), where=x != 0)
        return sigma / np.where(sigma > 0, np.exp(-x) + 4 * v * time * share * sigma, 1)

    # Search ln σ rather than σ, as it starts at e^(−LT); 60 halvings are as fine as a double. Without inputs
    # a direction has no target of its own: σ stays.
    s = np.where(v > 0, targets(task), sigma)
    with np.errstate(divide="ignore"):
        near, far = np.log(sigma), np.log(s)
    for _ in range(60):
        middle = (near + far) / 2
        early = elapsed(sigma, np.exp(middle), task, depth) <= time
        near = np.where(early, middle, near)
        far = np.where(early, far, middle)
    return np.exp(near)


# ---- full matrices

class Moments(NamedTuple):
    """Hold what a quadratic loss knows of its data: Σ_x = E xxᵀ and Σ_yx = E(Ax)xᵀ, (n, n) both."""
    covariance: ndarray
    cross: ndarray


def matrix_moments(task: Task, U: ndarray, V: ndarray, counts: ndarray) -> Moments:
    """Compute Σ_x = V diag(v) Vᵀ and Σ_yx = U diag(c) Vᵀ of a task of one setting."""
    v = np.repeat(task.v, counts)
    c = np.repeat(task.c, counts)
    return Moments(covariance=V * v @ V.T, cross=U * c @ V.T)


def sample_moments(task: Task, U: ndarray, V: ndarray, counts: ndarray, samples: int,
                   rng: np.random.Generator, draws: tuple[int, ...] = ()) -> Moments:
    """Estimate the same by (1/N) Σ xxᵀ and (1/N) Σ (Ax)xᵀ over N = `samples` inputs, (*draws, n, n)."""
    v = np.repeat(task.v, counts)
    s = np.repeat(np.nan_to_num(targets(task)), counts)
    x = V * np.sqrt(v) @ rng.standard_normal((*draws, len(V), samples))
    covariance = x @ x.mT / samples
    return Moments(covariance=covariance, cross=U * s @ V.T @ covariance)


def rotation(n: int, rng) -> ndarray:
    """Draw an orthogonal matrix (n, n), uniform over rotations and reflections."""
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    return q * np.sign(np.diag(r))


def aligned_factors(U: ndarray, V: ndarray, w: ndarray, depth: int, rng) -> ndarray:
    """Build W₁ = U diag(w) Q₁ᵀ, W₂ = Q₁ diag(w) Q₂ᵀ, …, W_L = Q_(L−1) diag(w) Vᵀ, Q random: (L, n, n)."""
    return factors_of(w, [U, *(rotation(len(U), rng) for _ in range(depth - 1)), V])


def factors_of(w: ndarray, bases: list[ndarray]) -> ndarray:
    """Build aligned, balanced factors (L, n, n) of singular values w (n,)."""
    return np.stack([left * w @ right.T for left, right in zip(bases, bases[1:])])


def random_factors(n: int, T: float, depth: int, rng, shape: tuple[int, ...] = ()) -> ndarray:
    """Draw L factors of independent N(0, e^(−2T)/n), neither aligned nor balanced: (L, *shape, n, n)."""
    return np.exp(-T) * rng.standard_normal((depth, *shape, n, n)) / np.sqrt(n)


def in_bases(factors: ndarray, U: ndarray, V: ndarray) -> ndarray:
    """Compute UᵀθV = (UᵀW₁)W₂⋯(W_LV): (…, n, n) from (…, L, n, n). Aligned weights have σ on its diagonal."""
    total = U.T @ factors[..., 0, :, :]
    for l in range(1, factors.shape[-3] - 1):
        total = total @ factors[..., l, :, :]
    return total @ (factors[..., -1, :, :] @ V)


def matrix_loss(theta: ndarray, task: Task, counts: ndarray) -> ndarray:
    """Compute E‖θx − Ax‖² = Σ_j v_j‖θ_j − s_j e_j‖², θ_j the columns of UᵀθV: (…) from (…, n, n)."""
    v = np.repeat(task.v, counts, axis=-1)
    s = np.repeat(np.nan_to_num(targets(task)), counts, axis=-1)
    away = theta - s[..., None] * np.eye(theta.shape[-1])
    return (v * (away ** 2).sum(-2)).sum(-1)


def descend_matrices(factors: ndarray, moments: Moments, time: float, eta: float,
                     record: bool = False) -> ndarray:
    """Train factors (L, …, n, n) by descent on tr(θΣ_xθᵀ) − 2 tr(θΣ_yxᵀ); with record, keep every step.

    W_l ← W_l − 2η·(W₁⋯W_(l−1))ᵀ (θΣ_x − Σ_yx) (W_(l+1)⋯W_L)ᵀ (misprinted in C.16). A
    penalty reg·‖θ − θ₀‖² is in the moments, (Σ_x + reg·I, Σ_yx + reg·θ₀).
    """
    # A gradient needs the product of the factors before W_l and of those after it; both grow one by one.
    path = [factors]
    one = np.eye(factors.shape[-1])
    for _ in range(round(time / eta)):
        before, after = [one], [one]
        for left, right in zip(factors[:-1], factors[:0:-1]):
            before.append(before[-1] @ left)
            after.append(right @ after[-1])

        # All factors move together, from the same θ.
        residual = before[-1] @ factors[-1] @ moments.covariance - moments.cross
        gradient = np.array([b.mT @ residual @ a.mT for b, a in zip(before, reversed(after))])
        factors = factors - 2 * eta * gradient
        if record:
            path.append(factors)
    return np.stack(path) if record else factors


# ---- the three stages

class Run(NamedTuple):
    """Hold σ (…, 3) at the end of each stage, and the paper's four losses (…) of θ_post (L_im) and θ_ft."""
    theta_pre: ndarray
    theta_post: ndarray
    theta_ft: ndarray
    L_im: ndarray
    L_ret: ndarray
    L_ft: ndarray
    L_pre: ndarray

    @property
    def thetas(self) -> ndarray:
        """Stack the three ends of stages: (3, …, 3)."""
        return np.stack([self.theta_pre, self.theta_post, self.theta_ft])

    @property
    def forgetting(self) -> ndarray:
        """Compute what Stage 3 forgets of D_post, Δ = L_ret − L_im: (…)."""
        return self.L_ret - self.L_im


def exact_rank(theta: ndarray, task: Task) -> ndarray:
    """Idealize as the theorems do: what is past half of its target is at it, all else at exactly 0."""
    s = targets(task)
    return np.where(theta >= s / 2, np.nan_to_num(s), 0)


def three_stages(setting: Setting, eta: float | None = None, ideal: bool = False) -> Run:
    """Train through all three stages by gradient descent with learning rate eta, or by gradient flow if None.

    With `ideal`, Stage 2 starts from `exact_rank` of what Stage 1 learned.
    """
    # Both ways go from a σ to a σ, so the stages read the same.
    def train(sigma, task, time):
        if eta is None:
            return flow(sigma, task, time, setting.depth)
        return descend(sigma, task, time, eta, setting.depth)

    # Each stage takes up the weights that the one before left.
    corpora = tasks(setting)
    theta_pre = train(setting.sigma_0, stage_1(setting), setting.t_pre)
    if ideal:
        theta_pre = exact_rank(theta_pre, stage_1(setting))
    theta_post = train(theta_pre, stage_2(setting, theta_pre), setting.t_post)
    theta_ft = train(theta_post, corpora.ft, setting.t_ft)

    # The paper's four losses: L_im before Stage 3, all others after it.
    return Run(
        theta_pre=theta_pre,
        theta_post=theta_post,
        theta_ft=theta_ft,
        L_im=loss(theta_post, corpora.post, setting.counts),
        L_ret=loss(theta_ft, corpora.post, setting.counts),
        L_ft=loss(theta_ft, corpora.ft, setting.counts),
        L_pre=loss(theta_ft, corpora.pre, setting.counts),
    )


def three_stages_by_matrices(s: Setting, factors: ndarray, U: ndarray, V: ndarray, eta: float,
                             samples: int | None = None, rng=None) -> ndarray:
    """Train any factors (L, …, n, n) through all stages of a scalar setting: UᵀθV (3, …, n, n) after each.

    With `samples`, a stage sees that many Gaussian inputs, of each corpus its share, not the population;
    each of several networks draws its own.
    """
    draws = factors.shape[1:-2]

    def looked_at(factors):
        return in_bases(np.moveaxis(factors, 0, -3), U, V)

    # A stage draws its samples once, and descends on what it drew.
    def moments(task, share):
        if samples is None:
            return matrix_moments(task, U, V, s.counts)
        return sample_moments(task, U, V, s.counts, max(1, round(share * samples)), rng, draws)

    # Stage 1 and Stage 2 may have one corpus only: what has no share draws no sample.
    def mixture_of(major, minor, share):
        if share in (0, 1):
            return moments(minor if share else major, 1)
        return blend(moments(major, 1 - share), moments(minor, share), share)

    # Factors go from stage to stage as they are; what is returned of them is seen in the bases U and V.
    corpora = tasks(s)
    mixture = mixture_of(corpora.pre, corpora.post, s.alpha)
    factors = descend_matrices(factors, mixture, s.t_pre, eta)
    theta_pre = looked_at(factors)

    # λ_reg holds θ itself, so θ_pre goes back from the bases.
    replayed = mixture_of(corpora.post, corpora.pre, s.replay)
    penalized = Moments(
        covariance=replayed.covariance + s.reg * np.eye(s.n),
        cross=replayed.cross + s.reg * U @ theta_pre @ V.T,
    )
    factors = descend_matrices(factors, penalized, s.t_post, eta)
    theta_post = looked_at(factors)

    # Stage 3 is on D_ft alone, with nothing to hold it.
    factors = descend_matrices(factors, moments(corpora.ft, 1), s.t_ft, eta)
    theta_ft = looked_at(factors)
    return np.stack([theta_pre, theta_post, theta_ft])
