"""What θ_post alone says of the forgetting to come, in three linear models.

For each of many tasks, all drawn alike, recipes of Stages 1 and 2 give as many θ_post. Numbers that need no
D_ft are read off each; their rank correlation with Δ = L_ret − L_im over the recipes of a task says what they
are worth. x says where D_ft lies on the way from D_pre (0) to D_post (1). Arrays are (tasks, recipes).
"""

from itertools import product
from typing import Callable, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import ndarray

from . import substitutes
from .drawing import BLUE, GUIDE, MIXED, ORANGE, UNMIXED, panels
from .dynamics import Moments, Task, Tasks, descend_matrices, flow, loss, mix, targets
from .substitutes import Pair

RECIPES = np.array(list(product((0, 0.02, 0.05, 0.1, 0.2, 0.4), (0, 0.05, 0.2), (1.0, 3.0))))
ALPHA, REPLAY, T_POST = RECIPES.T        # α, ρ and the time of Stage 2: (36,) each
T_PRE, T_FT = 8.0, 0.5                   # times of Stages 1 and 3
SHORT = 0.1                              # of Stage 3's time, for the short probe
PLACES = (0, 0.25, 0.5, 0.75, 1)         # x


class Trained(NamedTuple):
    """Hold what the recipes of a model lead to: (tasks, recipes) all."""
    known: dict[str, ndarray]            # by name, what θ_post alone says
    L_im: ndarray
    L_ret: ndarray

    @property
    def delta(self) -> ndarray:
        """Compute what Stage 3 forgets."""
        return self.L_ret - self.L_im


def scalars(L_im, L_pre, noise, short_probe, probe) -> dict[str, ndarray]:
    """Name what θ_post says. A probe goes on from it on D_pre; it counts by how much D_post's loss rises."""
    return {
        "L_im": L_im,
        "L_pre of θ_post": L_pre,
        "noise in the weights": noise,
        f"D_pre for {SHORT:g} of Stage 3": short_probe - L_im,
        "D_pre for all of Stage 3": probe - L_im,
    }


def noise_rise(v: ndarray, squares: ndarray, others) -> ndarray:
    """Compute how many times γ² noise N(0, γ²) on all weights raises the loss of inputs of variance v (…, n).

    It is n·Σ_j v_j‖W₂e_j‖² + Σ_j v_j·‖W₁‖², `squares` being the ‖W₂e_j‖² (…, n) and `others` ‖W₁‖² (…), but
    for γ⁴n²·Σ_j v_j, which is the same for all. Aligned weights have squares σ_j and others Σ_j σ_j.
    """
    return v.shape[-1] * (v * squares).sum(-1) + v.sum(-1) * others


# ---- the three models

def draw_tasks(count: int, n: int, x: float, rng) -> Tasks:
    """Draw tasks as Section 5 has them, but each of n directions with numbers of its own: (count, 1, n)."""
    # Thirds: invariant, inconsistent and specialized. What D_ft wants scatters around its place.
    third = (count, 1, n // 3)
    invariant, nothing = rng.uniform(2, 3.5, third), np.zeros(third)
    pre, post, beta = rng.uniform(0.5, 3, third), rng.uniform(0.2, 3, third), rng.uniform(0.5, 3, third)
    ft = np.abs(pre + x * (post - pre) + rng.normal(0, 0.2, third))

    def task(inconsistent, specialized):
        s = np.concatenate([invariant, inconsistent, specialized], axis=-1)
        has_input = np.concatenate([1 + nothing, 1 + nothing, specialized > 0], axis=-1)
        return Task(v=has_input, c=has_input * s)

    return Tasks(task(pre, nothing), task(post, beta), task(ft, nothing))


def aligned(x: float, rng, count: int = 60, n: int = 24, T: float = 8.0) -> Trained:
    """Train Section 5's aligned network on tasks of 24 directions, by flow."""
    corpora = draw_tasks(count, n, x, rng)
    start = np.full((count, len(RECIPES), n), np.exp(-2 * T))
    theta_pre = flow(start, mix(corpora.pre, corpora.post, ALPHA), T_PRE)
    theta_post = flow(theta_pre, mix(corpora.post, corpora.pre, REPLAY), T_POST)

    def on_post(theta):
        return loss(theta, corpora.post, counts=1)

    return Trained(
        scalars(
            L_im=on_post(theta_post),
            L_pre=loss(theta_post, corpora.pre, counts=1),
            noise=noise_rise(corpora.post.v, theta_post, theta_post.sum(-1)),
            short_probe=on_post(flow(theta_post, corpora.pre, SHORT * T_FT)),
            probe=on_post(flow(theta_post, corpora.pre, T_FT)),
        ),
        L_im=on_post(theta_post),
        L_ret=on_post(flow(theta_post, corpora.ft, T_FT)),
    )


def from_random(x: float, rng, count: int = 32, n: int = 9, T: float = 5.0, eta: float = 0.02) -> Trained:
    """Train the same network from random weights, on tasks of 9 directions, by descent on full matrices."""
    # The rotation of a random start is random, so that tasks may be diagonal.
    corpora = draw_tasks(count, n, x, rng)
    W = np.exp(-T) * rng.standard_normal((2, count, 1, n, n)) / np.sqrt(n)
    W = np.repeat(W, len(RECIPES), axis=2)

    def train(W, task, time):
        moments = Moments(covariance=task.v[..., None] * np.eye(n), cross=task.c[..., None] * np.eye(n))
        return descend_matrices(W, moments, time, eta)

    # All recipes go on from those of the shorter Stage 2, whose time the longer ones pass too.
    W = train(W, mix(corpora.pre, corpora.post, ALPHA), T_PRE)
    replayed = mix(corpora.post, corpora.pre, REPLAY)
    shorter = train(W, replayed, T_POST.min())
    longer = train(shorter, replayed, T_POST.max() - T_POST.min())
    W = np.where((T_POST == T_POST.max())[:, None, None], longer, shorter)

    def on(task, W):
        away = W[0] @ W[1] - np.nan_to_num(targets(task))[..., None] * np.eye(n)
        return (task.v * (away ** 2).sum(-2)).sum(-1)

    return Trained(
        scalars(
            L_im=on(corpora.post, W),
            L_pre=on(corpora.pre, W),
            noise=noise_rise(corpora.post.v, (W[1] ** 2).sum(-2), (W[0] ** 2).sum((-1, -2))),
            short_probe=on(corpora.post, train(W, corpora.pre, SHORT * T_FT)),
            probe=on(corpora.post, train(W, corpora.pre, T_FT)),
        ),
        L_im=on(corpora.post, W),
        L_ret=on(corpora.post, train(W, corpora.ft, T_FT)),
    )


def substitutable(x: float, rng, count: int = 20, pairs: int = 6) -> Trained:
    """Train 6 pairs of substitutable features a task."""
    # What D_ft wants scatters around its place here too.
    shape = (count, 1, pairs)
    pre = rng.uniform(0.5, 2, shape)
    pair = Pair(
        alpha=ALPHA[:, None],
        pre=pre,
        post=pre * (1 + rng.uniform(-0.8, 2, shape)),
        x=x + rng.normal(0, 0.1, shape),
        replay=REPLAY[:, None],
        t_pre=T_PRE,
        t_post=T_POST[:, None],
        t_ft=T_FT,
    )
    run = substitutes.three_stages(pair)
    unit = run.post.end

    # A task's losses are sums over its pairs; noise adds 2γ²((p + q)² + 2u²) a pair.
    def on_post(unit):
        return substitutes.loss(unit, pair).sum(-1)

    on_pre = substitutes.tasks(pair).pre
    return Trained(
        scalars(
            L_im=on_post(unit),
            L_pre=((unit.a - pair.pre) ** 2).sum(-1),
            noise=((unit.p + unit.q) ** 2 + 2 * unit.u ** 2).sum(-1),
            short_probe=on_post(substitutes.descend(unit, on_pre, SHORT * T_FT).end),
            probe=on_post(substitutes.descend(unit, on_pre, T_FT).end),
        ),
        L_im=on_post(unit),
        L_ret=on_post(run.ft.end),
    )


# ---- forecast.png

MODELS: dict[str, Callable] = {
    "aligned": aligned,
    "random start": from_random,
    "substitutable": substitutable,
}
COLOURS = {"aligned": BLUE, "random start": ORANGE, "substitutable": MIXED}
PROBE = "D_pre for all of Stage 3"
SHOWN = {0: MIXED, 0.75: UNMIXED}        # x of the runs that are shown one by one

Seen = dict[str, dict[float, Trained]]   # by model and x


def compute(rng) -> Seen:
    """Train all models with D_ft at each of PLACES."""
    return {name: {x: model(x, rng) for x in PLACES} for name, model in MODELS.items()}


def spearman(one: ndarray, other: ndarray) -> ndarray:
    """Compute the rank correlation along the last axis, of numbers that do not tie."""
    ranks = np.stack([one, other]).argsort(-1).argsort(-1)
    one, other = ranks - (ranks.shape[-1] - 1) / 2
    return (one * other).sum(-1) / (one ** 2).sum(-1)


def with_delta(trained: Trained, name: str) -> ndarray:
    """Compute the 10th, 50th and 90th percentile, over tasks, of a scalar's rank correlation with Δ: (3,)."""
    return np.percentile(spearman(trained.known[name], trained.delta), (10, 50, 90))


def tell(seen: Seen) -> None:
    """Print the median rank correlations with Δ: of all scalars at x = 0, of the probe at every x."""
    print("what θ_post says of Δ, median rank correlation over tasks: " + ", ".join(seen))
    for name in seen["aligned"][0].known:
        medians = "  ".join(f"{with_delta(by_place[0], name)[1]:5.2f}" for by_place in seen.values())
        print(f"x = 0     {name:<26}{medians}")
    for x in PLACES[1:]:
        medians = "  ".join(f"{with_delta(by_place[x], PROBE)[1]:5.2f}" for by_place in seen.values())
        print(f"x = {x:<6g}{PROBE:<26}{medians}")


def draw(seen: Seen) -> Figure:
    """Draw what each scalar is worth at D_pre, what the probe is elsewhere, and forecasts one by one."""
    figure, (left, middle, right) = panels(1, 3, 3.6)
    draw_scalars(seen, left)
    draw_places(seen, middle)
    draw_one_task(seen["substitutable"], right)
    return figure


def draw_scalars(seen: Seen, axis: Axes) -> None:
    """Draw the rank correlations of all scalars at x = 0, a colour a model."""
    names = list(seen["aligned"][0].known)
    for shift, (model, by_place) in zip((-0.2, 0, 0.2), seen.items()):
        low, median, high = np.transpose([with_delta(by_place[0], name) for name in names])
        height = shift + np.arange(len(names))[::-1]
        axis.hlines(height, low, high, color=COLOURS[model])
        axis.plot(median, height, "o", color=COLOURS[model], label=model)
    axis.axvline(0, **GUIDE)
    axis.set_yticks(np.arange(len(names))[::-1], names)
    axis.set(xlim=(-1.05, 1.05), xlabel="rank correlation with Δ, D_ft at D_pre")
    axis.set_title("median, and 80% of the tasks", fontsize=10)


def draw_places(seen: Seen, axis: Axes) -> None:
    """Draw the probe's rank correlation against where D_ft lies."""
    for model, by_place in seen.items():
        low, median, high = np.transpose([with_delta(by_place[x], PROBE) for x in PLACES])
        axis.plot(PLACES, median, "o-", color=COLOURS[model], label=model)
        axis.fill_between(PLACES, low, high, color=COLOURS[model], alpha=0.15, lw=0)
    axis.axhline(0, **GUIDE)
    axis.set(ylim=(-1.05, 1.05), xlabel="x, where D_ft lies (0: D_pre, 1: D_post)")
    axis.set_title("the probe: " + PROBE, fontsize=10)
    axis.legend(fontsize=8, loc="lower left")


def draw_one_task(by_place: dict[float, Trained], axis: Axes) -> None:
    """Draw forecast and measured L_ret of every recipe of the first task, at two places of D_ft."""
    for x, colour in SHOWN.items():
        trained = by_place[x]
        forecast = trained.known[PROBE][0] + trained.L_im[0]
        axis.plot(forecast, trained.L_ret[0], "o", color=colour, mfc="none", label=f"x = {x:g}")
        axis.axline((1, 1), slope=1, **GUIDE)
    axis.set(xlabel="D_post loss after the probe", ylabel="L_ret")
    axis.set_title("recipes of one substitutable task", fontsize=10)
    axis.legend(fontsize=8)
