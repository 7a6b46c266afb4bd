"""The deep linear network of Section 5 and Appendix C, trained through the three stages, in two independent ways.

θ = W₁W₂⋯W_L maps an input x ∈ ℝⁿ to θx. Stage t minimizes L_t(θ) = E‖θx − A_t x‖², where A_t = U diag(s) Vᵀ and x
has covariance V diag(v) Vᵀ. U and V are the same in every stage, so with aligned, balanced weights the directions
(columns of V) never meet: each has a singular value σ of θ, an input variance v and a covariance c = v·s of its own.

* `descend_matrices`: gradient descent on the full matrices, from any start, on population or sample moments.
* `descend`: the same for aligned weights, one scalar a direction, vectorized over settings.
* `flow`, `elapsed`: the limit of small steps of the latter in closed form. Time is learning rate × steps throughout.

Mixtures, replay and the penalty λ_reg‖θ − θ₀‖² are all quadratic in θ, so each is a sum of moments (v, c):
mixture (1−α)·pre + α·post, replay (1−ρ)·post + ρ·pre, penalty (v + λ_reg, c + λ_reg·σ(θ₀)).
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy import ndarray

BLOCKS = ("invariant", "inconsistent", "specialized")      # the last axis of every array of singular values
INVARIANT, INCONSISTENT, SPECIALIZED = range(3)


@dataclass(frozen=True)
class Setting:
    """Section 5's numbers and ours. All but c_mis, n, k and depth may be arrays, broadcast against each other."""
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
        """Directions in each block: (3,)."""
        return np.array([self.n - 2 * self.k, self.k, self.k])

    @property
    def sigma_0(self) -> ndarray:
        """Every singular value of θ before training: e^(−LT)."""
        return np.exp(-self.depth * np.asarray(self.T))


class Task(NamedTuple):
    """Input variances v and covariances c = v·s along each block: (…, 3) both."""
    v: ndarray
    c: ndarray


def tasks(setting: Setting) -> tuple[Task, Task, Task]:
    """D_pre, D_post and D_ft. Only D_post has inputs along the specialized block."""
    def task(inconsistent, v):
        blocks = np.broadcast_arrays(setting.invariant, inconsistent, setting.beta)
        return Task(np.array(v, float), v * np.stack(blocks, axis=-1))

    return task(setting.pre, (1, 1, 0)), task(setting.post, (1, 1, 1)), task(setting.ft, (1, 1, 0))


def mix(major: Task, minor: Task, share) -> Task:
    """The mixture (1 − share)·major + share·minor of losses; share has the settings' shape (…)."""
    share = np.asarray(share)[..., None]
    return Task(*((1 - share) * a + share * b for a, b in zip(major, minor)))


def anchor(task: Task, sigma: ndarray, reg) -> Task:
    """A task with reg·‖θ − θ₀‖² added to its loss, σ (…, 3) being the singular values of θ₀; reg (…)."""
    reg = np.asarray(reg)[..., None]
    return Task(task.v + reg, task.c + reg * sigma)


def targets(task: Task) -> ndarray:
    """Where σ converges, c/v: (…, 3); nan without input variance. For a mixture's specialized block it is β, not αβ."""
    v, c = task
    v, c = np.broadcast_arrays(v, c)
    return np.divide(c, v, out=np.full(v.shape, np.nan), where=v > 0)


def loss(sigma: ndarray, task: Task, counts: ndarray) -> ndarray:
    """E‖θx − Ax‖² = Σ counts·v·(σ − s)²: (…) from (…, 3)."""
    v, _ = task
    return (counts * v * (sigma - np.nan_to_num(targets(task))) ** 2).sum(-1)


def violations(s: Setting) -> list[str]:
    """Which of the paper's assumptions (C.5, C.6 and the text) scalar numbers violate, in words; [] if none.

    "Apart" is by absolute value. Read with a sign, σ_post − σ_pre > c_mis, the assumptions exclude each other: early
    exposure implies β > σ_post, the other two σ_post > c_mis > 2β. Without a sign they imply α > 2/3 (README.md).
    """
    conditions = {
        "the invariant block has the largest singular value": s.invariant > max(s.pre, s.post, s.ft, s.beta),
        "|σ_post − σ_pre| > c_mis": abs(s.post - s.pre) > s.c_mis,
        "|σ_post − σ_ft| > c_mis": abs(s.post - s.ft) > s.c_mis,
        "β < c_mis / 2": s.beta < s.c_mis / 2,
        "early exposure, αβ > (1−α)σ_pre + ασ_post": s.alpha * s.beta > (1 - s.alpha) * s.pre + s.alpha * s.post,
    }
    return [condition for condition, holds in conditions.items() if not holds]


# ---- one scalar a direction

def descend(sigma, task: Task, time, eta: float, depth: int = 2, record: bool = False) -> ndarray:
    """σ after gradient descent for `time` from aligned, balanced weights: (…, 3); with record, after every step.

    Each factor has singular value w with σ = w^L, and ∂L/∂W_l leaves it aligned:
    w ← w − 2η·w^(L−1)·(v·w^L − c). Equation (2) prints the penalty's part, here in (v, c), with the wrong sign.
    """
    steps = np.rint(np.asarray(time) / eta).astype(int)[..., None]
    v, c = task
    w = np.asarray(sigma, float) ** (1 / depth)
    w = np.broadcast_to(w, np.broadcast_shapes(w.shape, c.shape, steps.shape))
    path = [w]
    for step in range(steps.max()):
        below = w ** (depth - 1)
        w = w - np.where(step < steps, 2 * eta * below * (v * below * w - c), 0)
        if record:
            path.append(w)
    return (np.stack(path) if record else w) ** depth


def elapsed(start, end, v, c, depth: int = 2) -> ndarray:
    """The time in which gradient flow takes σ from start to end; inf where it does not lead there.

    σ̇ = 2L·v·σ^(2−2/L)·(s − σ), s = c/v. In z = (σ/s)^(1/L) it is ż = 2v·s^(2−2/L)·z^(L−1)·(1 − z^L), and as
    1/(z^(L−1)(1 − z^L)) = z^(1−L) + z/(1 − z^L) it integrates by partial fractions over the L-th roots of unity ω:
    F(z) = −z^(2−L)/(L−2) − (1/L) Σ_ω ω² ln(z − ω), where for L = 2 the first term is ln z (then e^F is √odds).
    """
    start, end, v, c = np.broadcast_arrays(*(np.asarray(x, float) for x in (start, end, v, c)))
    with np.errstate(divide="ignore", invalid="ignore"):
        s = c / v

        def antiderivative(sigma):
            z = (sigma / s) ** (1 / depth)
            total = np.log(z) if depth == 2 else -z ** (2 - depth) / (depth - 2)
            total = total - np.log(np.abs(z - 1)) / depth
            for omega in np.exp(2j * np.pi * np.arange(1, depth) / depth):
                total = total - (omega ** 2 * np.log(z - omega)).real / depth
            return total

        time = (antiderivative(end) - antiderivative(start)) / (2 * v * s ** (2 - 2 / depth))
    towards = ((start <= end) & (end < s)) | ((start >= end) & (end > s))
    return np.where(towards, np.where(start == end, 0, time), np.inf)


def flow(sigma, task: Task, time, depth: int = 2) -> ndarray:
    """σ after gradient flow for `time`: (…, 3).

    Two factors: logistic, σ(t) = sσ₀ / (σ₀ + (s − σ₀)·e^(−4ct)) (Saxe et al. 2014, with the factor 4 of this loss).
    More: the inverse of `elapsed`, by bisection.
    """
    v, c = task
    sigma, v, c, time = np.broadcast_arrays(np.asarray(sigma, float), v, c, np.asarray(time)[..., None])
    s = np.where(v > 0, targets(Task(v, c)), sigma)
    if depth == 2:
        below = sigma + (s - sigma) * np.exp(-4 * c * time)
        return s * sigma / np.where(sigma > 0, below, 1)
    with np.errstate(divide="ignore"):
        near, far = np.log(sigma), np.log(s)
    for _ in range(60):
        middle = (near + far) / 2
        early = elapsed(sigma, np.exp(middle), v, c, depth) <= time
        near, far = np.where(early, middle, near), np.where(early, far, middle)
    return np.exp(near)


# ---- full matrices

def matrix_moments(task: Task, U: ndarray, V: ndarray, counts: ndarray) -> tuple[ndarray, ndarray]:
    """Σ_x = V diag(v) Vᵀ and Σ_yx = U diag(c) Vᵀ, both (n, n), of a task of one setting (2, 3)."""
    v, c = np.repeat(task, counts, axis=-1)
    return V * v @ V.T, U * c @ V.T


def sample_moments(task: Task, U: ndarray, V: ndarray, counts: ndarray, samples: int,
                   rng: np.random.Generator) -> tuple[ndarray, ndarray]:
    """The same from `samples` Gaussian inputs, (1/N) Σ xxᵀ and (1/N) Σ (Ax)xᵀ; labels have no noise."""
    v, _ = np.repeat(task, counts, axis=-1)
    x = V * np.sqrt(v) @ rng.standard_normal((len(V), samples))
    covariance = x @ x.T / samples
    return covariance, U * np.repeat(np.nan_to_num(targets(task)), counts) @ V.T @ covariance


def aligned_factors(U: ndarray, V: ndarray, w: ndarray, depth: int, rng) -> ndarray:
    """W₁ = U diag(w) Q₁ᵀ, W₂ = Q₁ diag(w) Q₂ᵀ, …, W_L = Q_(L−1) diag(w) Vᵀ with random rotations: (L, n, n)."""
    bases = [U, *(rotation(len(U), rng) for _ in range(depth - 1)), V]
    return np.stack([left * w @ right.T for left, right in zip(bases, bases[1:])])


def random_factors(n: int, T: float, depth: int, rng) -> ndarray:
    """L factors with independent entries N(0, e^(−2T)/n), neither aligned nor balanced: (L, n, n)."""
    return np.exp(-T) * rng.standard_normal((depth, n, n)) / np.sqrt(n)


def rotation(n: int, rng) -> ndarray:
    """A random orthogonal matrix (n, n), uniform over rotations and reflections."""
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    return q * np.sign(np.diag(r))


def in_bases(factors: ndarray, U: ndarray, V: ndarray) -> ndarray:
    """UᵀθV = (UᵀW₁)W₂⋯(W_LV): (…, n, n) from (…, L, n, n). Its diagonal is σ where the weights are aligned."""
    total = U.T @ factors[..., 0, :, :]
    for l in range(1, factors.shape[-3] - 1):
        total = total @ factors[..., l, :, :]
    return total @ (factors[..., -1, :, :] @ V)


def descend_matrices(factors: ndarray, task: tuple[ndarray, ndarray], time: float, eta: float,
                     record: bool = False) -> ndarray:
    """Gradient descent on L(θ) = tr(θΣ_xθᵀ) − 2 tr(θΣ_yxᵀ): factors (L, n, n); with record, after every step.

    W_l ← W_l − 2η·(W₁⋯W_(l−1))ᵀ (θΣ_x − Σ_yx) (W_(l+1)⋯W_L)ᵀ, for two factors W₂ ← W₂ − 2η·W₁ᵀ(W₁W₂ − A)Σ_x.
    A penalty reg·‖θ − θ₀‖² is in the moments (Σ_x + reg·I, Σ_yx + reg·θ₀), a mixture the sum of its parts' moments.
    """
    covariance, cross = task
    path = [factors]
    for _ in range(round(time / eta)):
        before, after = [np.eye(len(cross))], [np.eye(len(cross))]
        for left, right in zip(factors[:-1], factors[:0:-1]):
            before.append(before[-1] @ left)
            after.append(right @ after[-1])
        residual = before[-1] @ factors[-1] @ covariance - cross
        factors = factors - 2 * eta * np.stack([b.T @ residual @ a.T for b, a in zip(before, reversed(after))])
        if record:
            path.append(factors)
    return np.stack(path) if record else factors


# ---- the three stages

class Run(NamedTuple):
    """Singular values (…, 3) at the end of each stage, and the four losses (…) of the paper; Δ = L_ret − L_im."""
    theta_pre: ndarray
    theta_post: ndarray
    theta_ft: ndarray
    L_im: ndarray
    L_ret: ndarray
    L_ft: ndarray
    L_pre: ndarray

    @property
    def delta(self) -> ndarray:
        return self.L_ret - self.L_im


def stage_2(setting: Setting, theta_pre: ndarray) -> Task:
    """Stage 2: D_post with a share of replayed D_pre, held to θ_pre by λ_reg."""
    pre, post, _ = tasks(setting)
    return anchor(mix(post, pre, setting.replay), theta_pre, setting.reg)


def exact_rank(theta: ndarray, task: Task) -> ndarray:
    """The idealized start of the theorems: what is past half of its target is at it, all else at exactly 0."""
    s = targets(task)
    return np.where(theta >= s / 2, np.nan_to_num(s), 0)


def three_stages(setting: Setting, eta: float | None = None, ideal: bool = False) -> Run:
    """All three stages by gradient descent with learning rate eta, or by gradient flow if None; `unmixed` has α = 0.

    With `ideal`, Stages 2 and 3 start from `exact_rank` of what Stage 1 learned.
    """
    def train(sigma, task, time):
        return flow(sigma, task, time, setting.depth) if eta is None else descend(sigma, task, time, eta, setting.depth)

    pre, post, ft = tasks(setting)
    mixture = mix(pre, post, setting.alpha)
    theta_pre = train(np.asarray(setting.sigma_0)[..., None], mixture, setting.t_pre)
    if ideal:
        theta_pre = exact_rank(theta_pre, mixture)
    theta_post = train(theta_pre, stage_2(setting, theta_pre), setting.t_post)
    theta_ft = train(theta_post, ft, setting.t_ft)
    counts = setting.counts
    return Run(theta_pre, theta_post, theta_ft, loss(theta_post, post, counts), loss(theta_ft, post, counts),
               loss(theta_ft, ft, counts), loss(theta_ft, pre, counts))


def matrix_loss(theta: ndarray, task: Task, counts: ndarray) -> ndarray:
    """E‖θx − Ax‖² = Σ_j v_j‖θ_j − s_j e_j‖², θ_j the columns of UᵀθV: (…) from (…, n, n), the task of one setting."""
    v, s = np.repeat(task.v, counts), np.repeat(np.nan_to_num(targets(task)), counts)
    return (v * ((theta - np.diag(s)) ** 2).sum(-2)).sum(-1)


def three_stages_by_matrices(s: Setting, factors: ndarray, U: ndarray, V: ndarray, eta: float,
                             samples: int | None = None, rng=None) -> ndarray:
    """UᵀθV (3, n, n) at the end of each stage from any factors (L, n, n), for scalar settings.

    With `samples`, a stage sees that many Gaussian inputs, of each corpus its share, and no population.
    """
    def blend(*parts: tuple[float, Task]) -> tuple[ndarray, ndarray]:
        means = [(share, sample_moments(task, U, V, s.counts, max(1, round(share * samples)), rng) if samples
                  else matrix_moments(task, U, V, s.counts)) for share, task in parts if share]
        return sum(share * x for share, (x, _) in means), sum(share * yx for share, (_, yx) in means)

    def descend_to(task, time):
        nonlocal factors
        factors = descend_matrices(factors, task, time, eta)
        return in_bases(factors, U, V)

    pre, post, ft = tasks(s)
    theta_pre = descend_to(blend((1 - s.alpha, pre), (s.alpha, post)), s.t_pre)
    covariance, cross = blend((1 - s.replay, post), (s.replay, pre))
    penalized = covariance + s.reg * np.eye(s.n), cross + s.reg * U @ theta_pre @ V.T
    return np.stack([theta_pre, descend_to(penalized, s.t_post), descend_to(blend((1, ft)), s.t_ft)])


def unmixed(setting: Setting) -> Setting:
    """The same setting with α = 0."""
    return replace(setting, alpha=np.zeros_like(np.asarray(setting.alpha, float)))
