"""What θ_post alone says of the forgetting to come, in three linear models.

For each of many tasks, all drawn alike, recipes of Stages 1 and 2 give as many θ_post. Numbers that need no
D_ft are read off each; their rank correlation with Δ = L_ret − L_im over the recipes of a task says what they
are worth. x says where D_ft lies on the way from D_pre (0) to D_post (1). What it wants scatters around that
place: without, going on on D_pre would at x = 0 be Stage 3 itself. Tasks are the same at every x.

Arrays are (tasks, α, ρ, time of Stage 2), those of weights have directions or pairs besides.
"""

from dataclasses import replace
from typing import Callable, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy import ndarray

from .drawing import BLUE, GUIDE, MIXED, ORANGE, panels
from .dynamics import Moments, Task, descend_matrices, flow, loss, matrix_loss, mix, random_factors
from .pair import Pair, Unit, blend, corpora, descend_unit, loss_on_post, train_pair

ALPHA = np.array([0, 0.02, 0.05, 0.1, 0.2, 0.4])[:, None, None]
REPLAY = np.array([0, 0.05, 0.2])[:, None]                  # ρ
T_POST = np.array([1.0, 3.0])            # time of Stage 2
T_PRE, T_FT = 8.0, 0.5                   # times of Stages 1 and 3
ETA = 0.02                               # learning rate from random weights
SHORT = 0.1                              # of Stage 3's time, for the short probe
PLACES = (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1)                  # x
SHARES = (0.25, 0.5, 0.75)               # w, of D_post in a Stage 3 on a mixture of D_pre and D_post
TASKS = 60
SHORT_PROBE = f"short probe: D_pre for {SHORT:g} of Stage 3"
PROBE = "the probe: D_pre for all of Stage 3"


class Placed(NamedTuple):
    """Hold what the stages of many tasks are trained on, with D_ft at each of PLACES."""
    pre: Task
    post: Task
    ft: dict[float, Task]                # by x
    mixtures: dict[float, Task] = {}     # by w, in pairs


class Trained(NamedTuple):
    """Hold what the recipes of a model lead to: (tasks, α, ρ, time of Stage 2) all."""
    known: dict[str, ndarray]            # by name, what θ_post alone says
    L_im: ndarray
    forgetting: dict[float, ndarray]     # Δ by x
    on_mixtures: dict[float, ndarray] = {}         # Δ by w

    def L_ret(self, x: float) -> ndarray:
        """Compute the loss on D_post after a Stage 3 on D_ft at x: (tasks, α, ρ, time of Stage 2)."""
        return self.L_im + self.forgetting[x]


def read_off(theta_post, corpora: Placed, train: Callable, on_post: Callable, L_pre, noise) -> Trained:
    """Read off θ_post what it says, and let Stage 3 forget at every place of D_ft.

    train(θ, task, time) goes on from θ, on_post(θ) is the loss on D_post. A probe goes on from θ_post on
    D_pre, and counts by how much D_post's loss rises.
    """
    L_im = on_post(theta_post)

    def rise(task, time):
        return on_post(train(theta_post, task, time)) - L_im

    known = {
        "L_im": L_im,
        "L_pre of θ_post": L_pre,
        "noise in the weights": noise,
        SHORT_PROBE: rise(corpora.pre, SHORT * T_FT),
        PROBE: rise(corpora.pre, T_FT),
    }
    return Trained(
        known,
        L_im,
        forgetting={x: rise(task, T_FT) for x, task in corpora.ft.items()},
        on_mixtures={w: rise(task, T_FT) for w, task in corpora.mixtures.items()},
    )


# ---- noise in the weights: half the trace of the Hessian of D_post's loss, computed and not sampled

def noise_of_factors(v: ndarray, squares: ndarray, others) -> ndarray:
    """Compute how many times γ² noise N(0, γ²) on W₁ and W₂ adds to a loss, but for γ⁴: (…).

    On inputs of variance v (…, n) it is n·Σ_j v_j‖W₂e_j‖² + Σ_j v_j·‖W₁‖², `squares` being the ‖W₂e_j‖²
    (…, n) and `others` ‖W₁‖² (…). Aligned weights have squares σ_j and others Σ_j σ_j.
    """
    return v.shape[-1] * (v * squares).sum(-1) + v.sum(-1) * others


def noise_of_unit(unit: Unit) -> ndarray:
    """Compute the same for a unit with the loss (u(p + q) − s_post)², which a pair has on D_post if r = 1."""
    return (unit.p + unit.q) ** 2 + 2 * unit.u ** 2


# ---- the three models

def draw_tasks(rng, count: int, n: int, scatter: float) -> Placed:
    """Draw tasks as Section 5 has them, but n directions have numbers of their own: (count, 1, 1, 1, n)."""
    # Thirds: invariant, inconsistent and specialized.
    third = (count, 1, 1, 1, n // 3)
    invariant, nothing = rng.uniform(2, 3.5, third), np.zeros(third)
    pre, post, beta = rng.uniform(0.5, 3, third), rng.uniform(0.2, 3, third), rng.uniform(0.5, 3, third)
    away = rng.normal(0, scatter, third)

    def task(inconsistent, specialized):
        s = np.concatenate([invariant, inconsistent, specialized], axis=-1)
        has_input = np.concatenate([1 + nothing, 1 + nothing, specialized > 0], axis=-1)
        return Task(v=has_input, c=has_input * s)

    def ft(x):
        return task(np.abs(pre + x * (post - pre) + away), nothing)

    return Placed(task(pre, nothing), task(post, beta), {x: ft(x) for x in PLACES})


def aligned(rng, count: int = TASKS, scatter: float = 0.2, n: int = 24, T: float = 8.0) -> Trained:
    """Train Section 5's aligned network on tasks of 24 directions, by flow."""
    corpora = draw_tasks(rng, count, n, scatter)
    theta_pre = flow(np.exp(-2 * T), mix(corpora.pre, corpora.post, ALPHA), T_PRE)
    theta_post = flow(theta_pre, mix(corpora.post, corpora.pre, REPLAY), T_POST)
    return read_off(
        theta_post,
        corpora,
        train=flow,
        on_post=lambda theta: loss(theta, corpora.post, counts=1),
        L_pre=loss(theta_post, corpora.pre, counts=1),
        noise=noise_of_factors(corpora.post.v, theta_post, theta_post.sum(-1)),
    )


def from_random(rng, count: int = TASKS, scatter: float = 0.2, n: int = 9, T: float = 5.0) -> Trained:
    """Train the same network from random weights, on tasks of 9 directions, by descent on full matrices."""
    # The rotation of a random start is random, so that tasks may be diagonal.
    corpora = draw_tasks(rng, count, n, scatter)
    W = random_factors(n, T, 2, rng, (count, 1, 1, 1))

    def train(W, task, time):
        moments = Moments(covariance=task.v[..., None] * np.eye(n), cross=task.c[..., None] * np.eye(n))
        return descend_matrices(W, moments, time, ETA)

    # The longer Stage 2 goes on from the end of the shorter.
    W = train(W, mix(corpora.pre, corpora.post, ALPHA), T_PRE)
    replayed = mix(corpora.post, corpora.pre, REPLAY)
    shorter = train(W, replayed, T_POST[0])
    longer = train(shorter, replayed, T_POST[1] - T_POST[0])
    W = np.concatenate([shorter, longer], axis=-3)

    return read_off(
        W,
        corpora,
        train=train,
        on_post=lambda W: matrix_loss(W[0] @ W[1], corpora.post, counts=1),
        L_pre=matrix_loss(W[0] @ W[1], corpora.pre, counts=1),
        noise=noise_of_factors(corpora.post.v, (W[1] ** 2).sum(-2), (W[0] ** 2).sum((-1, -2))),
    )


def substitutable(rng, count: int = TASKS, scatter: float = 0.1, pairs: int = 6, more=(-0.8, 2)) -> Trained:
    """Train 6 pairs of substitutable features a task, losses added; `more` is the range of δ / s_pre."""
    # Stage 3 comes later, at each place.
    shape = (count, 1, 1, 1, pairs)
    pre = rng.uniform(0.5, 2, shape)
    pair = Pair(
        alpha=ALPHA[..., None],
        pre=pre,
        post=pre * (1 + rng.uniform(*more, shape)),
        replay=REPLAY[..., None],
        t_pre=T_PRE,
        t_post=T_POST[:, None],
        t_ft=0.0,
    )
    unit = train_pair(pair).post

    # What D_ft wants scatters around its place here too.
    away = rng.normal(0, scatter, shape)
    ft = {x: corpora(replace(pair, x=x + away)).ft for x in PLACES}
    of_pair = corpora(pair)
    mixtures = {w: blend(of_pair.pre, of_pair.post, w) for w in SHARES}
    return read_off(
        unit,
        Placed(of_pair.pre, of_pair.post, ft, mixtures),
        train=descend_unit,
        on_post=lambda unit: loss_on_post(unit, pair).sum(-1),
        L_pre=((unit.a - pair.pre) ** 2).sum(-1),
        noise=noise_of_unit(unit).sum(-1),
    )


# ---- what is printed

MODELS: dict[str, Callable] = {
    "aligned": aligned,
    "random start": from_random,
    "substitutable": substitutable,
}

Seen = dict[str, Trained]                # by model


def compute(rng) -> Seen:
    """Train all models, each with a generator of its own."""
    return {name: model(own) for (name, model), own in zip(MODELS.items(), rng.spawn(len(MODELS)))}


def spearman(one: ndarray, other: ndarray) -> ndarray:
    """Compute the rank correlation over a task's recipes: (tasks,) from (tasks, …) twice, without ties."""
    values = np.stack([one.reshape(len(one), -1), other.reshape(len(other), -1)])
    ranks = values.argsort(-1).argsort(-1)
    one, other = ranks - (ranks.shape[-1] - 1) / 2
    return (one * other).sum(-1) / (one ** 2).sum(-1)


def rank_quartiles(trained: Trained, name: str, x: float = 0, among=slice(None)) -> ndarray:
    """Compute quartiles over tasks of a scalar's rank correlation with Δ: (3,). `among` selects of REPLAY."""
    return quartiles(spearman(trained.known[name][:, :, among], trained.forgetting[x][:, :, among]))


def ranks_at_equal_stage_2(trained: Trained, name: str) -> ndarray:
    """Compute quartiles over tasks of the rank correlation over α alone, D_ft at x = 0: (3,).

    A task's is the mean over ρ and times of Stage 2.
    """
    both = np.stack([trained.known[name], trained.forgetting[0]])
    known, forgetting = np.moveaxis(both, 2, -1).reshape(2, -1, ALPHA.size)
    return quartiles(spearman(known, forgetting).reshape(both.shape[1], -1).mean(-1))


def quartiles(values: ndarray) -> ndarray:
    """Compute first quartile, median and third: (3,)."""
    return np.percentile(values, (25, 50, 75))


def against_alpha(losses: ndarray) -> ndarray:
    """Average losses over the other recipes: (tasks, α) from (tasks, α, ρ, times)."""
    return losses.mean((2, 3))


def lower_with_exposure(losses: ndarray) -> float:
    """Compute in which share of the tasks the recipes with α > 0 have on average the lower loss."""
    by_alpha = against_alpha(losses)
    return (by_alpha[:, 1:].mean(-1) < by_alpha[:, 0]).mean()


def lowered(losses: ndarray) -> float:
    """Compute by how much the recipes with α > 0 have the lower loss, on average over tasks."""
    by_alpha = against_alpha(losses).mean(0)
    return by_alpha[0] - by_alpha[1:].mean()


def best_alpha(trained: Trained, x: float) -> ndarray:
    """Find the α of the lowest L_ret: (tasks,)."""
    return ALPHA.ravel()[against_alpha(trained.L_ret(x)).argmin(-1)]


def tell(seen: Seen) -> None:
    """Print what README.md says of the models."""
    tell_ranks(seen)
    tell_exposure(seen)


def tell_ranks(seen: Seen) -> None:
    """Print all rank correlations with Δ at x = 0, that of the probe at every x and, in pairs, at every w."""
    def row(place, words, of_models):
        cells = []
        for of_model in of_models:
            low, median, high = np.round(of_model, 1) + 0.0                                       # no −0
            cells.append(f"{median:4.1f} ({low:.1f} to {high:.1f})")
        print(f"{place:<10}{words:<49}" + "".join(f"{cell:<20}" for cell in cells).rstrip())

    # One decimal is what so many tasks give.
    recipes = ALPHA.size * REPLAY.size * T_POST.size
    print(f"rank correlation with Δ over {recipes} recipes: median (quartiles) of {TASKS} tasks")
    print(" " * 59 + "".join(f" {model:<19}" for model in seen).rstrip())
    models = seen.values()
    for name in seen["aligned"].known:
        row("x = 0", name, [rank_quartiles(trained, name) for trained in models])
    row("x = 0", "the probe, at equal Stage 2",
        [ranks_at_equal_stage_2(trained, PROBE) for trained in models])
    for index, replay in enumerate(REPLAY.flat):
        row("x = 0", f"{SHORT_PROBE}, ρ = {replay:g}",
            [rank_quartiles(trained, SHORT_PROBE, among=index) for trained in models])
    for x in PLACES[1:]:
        row(f"x = {x:g}", PROBE, [rank_quartiles(trained, PROBE, x) for trained in models])

    # A mixture asks nothing else of the shared feature than D_pre does.
    print("substitutable, D_ft a mixture with a share w of D_post")
    pairs = seen["substitutable"]
    for w, forgetting in pairs.on_mixtures.items():
        row(f"w = {w:g}", PROBE, [quartiles(spearman(pairs.known[PROBE], forgetting))])


def tell_exposure(seen: Seen) -> None:
    """Print by how much Δ depends on what, in which tasks exposure helps, and the best α."""
    for model, trained in seen.items():
        alpha, replay, time = (np.ptp(trained.forgetting[0], axis).mean() for axis in (1, 2, 3))
        print(f"{model}, mean range of Δ at x = 0: {alpha:.3f} over α, {replay:.3f} over ρ, "
              f"{time:.3f} over times of Stage 2; exposure lowers L_ret by {lowered(trained.L_ret(0)):.4f}, "
              f"L_im by {lowered(trained.L_im):.4f}")
    print(f"\n{'x':<52}" + "".join(f"{x:6g}" for x in PLACES))
    for model, trained in seen.items():
        L_ret = "".join(f"{lower_with_exposure(trained.L_ret(x)):6.0%}" for x in PLACES)
        forgetting = "".join(f"{lower_with_exposure(trained.forgetting[x]):6.0%}" for x in PLACES)
        best = "".join(f"{np.median(best_alpha(trained, x)):6.2g}" for x in PLACES)
        print(f"{model + ', tasks in which exposure lowers L_ret':<52}{L_ret}")
        print(f"{model + ', tasks in which it lowers Δ':<52}{forgetting}")
        print(f"{model + ', median of the best α':<52}{best}")


# ---- forecast.png

COLOURS = {"aligned": BLUE, "random start": ORANGE, "substitutable": MIXED}
SHOWN = {0: "o", 0.25: "x", 0.75: "^"}   # x of the recipes that are shown one by one


def draw(seen: Seen) -> Figure:
    """Draw what each scalar is worth at D_pre, what the probe is elsewhere, and forecasts one by one."""
    figure, (left, middle, right) = panels(1, 3, 4)
    draw_scalars(seen, left)
    handles = draw_places(seen, middle)
    draw_one_task(seen["substitutable"], right)
    figure.legend(handles=handles, loc="outside lower center", ncol=4, fontsize=9, frameon=False)
    return figure


def draw_scalars(seen: Seen, axis: Axes) -> None:
    """Draw the rank correlations of all scalars at x = 0, a colour a model."""
    names = list(seen["aligned"].known)
    for shift, (model, trained) in zip((-0.2, 0, 0.2), seen.items()):
        low, median, high = np.transpose([rank_quartiles(trained, name) for name in names])
        height = shift + np.arange(len(names))[::-1]
        axis.hlines(height, low, high, color=COLOURS[model])
        axis.plot(median, height, "o", color=COLOURS[model])
    axis.axvline(0, **GUIDE)
    axis.set_yticks(np.arange(len(names))[::-1], [name.replace(": ", ":\n") for name in names])
    axis.set(xlim=(-1.05, 1.05), xlabel="rank correlation with Δ, x = 0")
    axis.set_title("known before Stage 3: median, quartiles", fontsize=10)


def draw_places(seen: Seen, axis: Axes) -> list[Line2D]:
    """Draw the probe's rank correlation against where D_ft lies, and where exposure itself still helps.

    Returns the lines, which are of two axes, for a legend.
    """
    for model, trained in seen.items():
        low, median, high = np.transpose([rank_quartiles(trained, PROBE, x) for x in PLACES])
        axis.plot(PLACES, median, "o-", color=COLOURS[model], label=model)
        axis.fill_between(PLACES, low, high, color=COLOURS[model], alpha=0.15, lw=0)
    lines = axis.get_lines()
    axis.axhline(0, **GUIDE)
    axis.set(ylim=(-1.05, 1.05), xlabel="x, where D_ft lies (0: D_pre, 1: D_post)",
             ylabel="rank correlation with Δ")
    axis.set_title(PROBE, fontsize=10)

    # A share has an axis of its own, from 0 at the bottom to 1 at the top.
    helps = [lower_with_exposure(seen["substitutable"].L_ret(x)) for x in PLACES]
    shares = axis.twinx()
    dotted = shares.plot(PLACES, helps, color=COLOURS["substitutable"], ls="dotted",
                         label="substitutable: share of tasks in which exposure lowers L_ret")
    shares.set(ylim=(-0.025, 1.025), ylabel="share of tasks (dotted)")
    return [*lines, *dotted]


def draw_one_task(trained: Trained, axis: Axes) -> None:
    """Draw forecast and measured L_ret of every recipe of the first task, at three places of D_ft."""
    L_im = trained.L_im[0].ravel()
    forecast = L_im + trained.known[PROBE][0].ravel()
    for x, marker in SHOWN.items():
        axis.plot(forecast, L_im + trained.forgetting[x][0].ravel(), marker, color=COLOURS["substitutable"],
                  mfc="none", label=f"x = {x:g}")
    axis.axline((1, 1), slope=1, **GUIDE, label="forecast = measured")
    axis.set(xlabel="loss on D_post after the probe", ylabel="L_ret")
    axis.set_title("recipes of one substitutable task", fontsize=10)
    axis.legend(fontsize=8)
