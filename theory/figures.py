"""The figures of Section 5: for each, the functions that compute what is seen, then the one that draws it.

Unmixed runs are black, as in the paper. Who asks for a drawing gets the figure, and saves it.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy import ndarray

from .dynamics import (BLOCKS, INCONSISTENT, SPECIALIZED, Run, Setting, Task, aligned_factors, descend,
                       descend_matrices, flow, in_bases, loss, matrix_moments, random_factors, rotation,
                       stage_1, stage_2, targets, tasks, three_stages, three_stages_by_matrices, unmixed)
from .drawing import BLUE, GUIDE, MIXED, ORANGE, PALE, RED, UNMIXED, panels
from .theorems import LONGEST
from .window import (Edges, alpha_threshold, clock, clock_edges, compute_matched, default_T, edges,
                       half_crossing, half_times, measured_edges)

# ---- stages.png: the two runs through their stages

class StagePath(NamedTuple):
    """Hold σ in one stage: after every step of descent (steps + 1, 3), and by flow at each eighth (8, 3)."""
    descent: ndarray
    flow: ndarray


def stage_paths(run: Setting, eta: float) -> list[StagePath]:
    """Follow a run through its three stages. Flow starts each stage where descent does."""
    def follow(sigma, task, time):
        eighths = np.linspace(0, time, 9)[1:]
        return StagePath(
            descent=descend(sigma, task, time, eta, run.depth, record=True),
            flow=flow(sigma, task, eighths, run.depth),
        )

    first = follow(np.broadcast_to(run.sigma_0, 3), stage_1(run), run.t_pre)
    theta_pre = first.descent[-1]
    second = follow(theta_pre, stage_2(run, theta_pre), run.t_post)
    third = follow(second.descent[-1], tasks(run).ft, run.t_ft)
    return [first, second, third]


def draw_stages(s: Setting, eta: float) -> Figure:
    """Draw singular values and L(θ; D_post) along the three stages: lines by descent, dots by flow."""
    # Both runs have the same lines for the blocks, so one legend serves both.
    figure, (left, middle, right) = panels(1, 3, 3.4)
    draw_run(unmixed(s), eta, left, right, UNMIXED, "unmixed")
    draw_run(s, eta, middle, right, MIXED, "mixed")
    middle.legend(fontsize=8, loc="center")
    right.set(title="L(θ; D_post), dots: L_im and L_ret", ylabel="loss")
    right.legend(fontsize=8, loc="upper right")

    # Stages are of very different length, so each has a scale of its own and says its time.
    times = (s.t_pre, s.t_post, s.t_ft)
    names = [f"Stage {stage}\ntime {time:g}" for stage, time in enumerate(times, start=1)]
    for axis in (left, middle, right):
        axis.set_xticks([1, 2.5, 3.5], names)
        axis.set_xlim(0, 4)
        axis.axvline(2, **GUIDE)
        axis.axvline(3, **GUIDE)
    return figure


def draw_run(run: Setting, eta: float, sigmas: Axes, losses: Axes, colour: str, name: str) -> None:
    """Draw one run's singular values, and its loss on D_post beside that of the other run."""
    # A line is in three pieces, one a stage, of which only the first is named in a legend.
    places = [(0, 2), (2, 3), (3, 4)]
    for stage, (path, place) in enumerate(zip(stage_paths(run, eta), places), start=1):
        x = np.linspace(*place, len(path.descent))
        for block, line in enumerate(("dotted", "dashed", "solid")):
            label = BLOCKS[block] if stage == 1 else None
            sigmas.plot(x, path.descent[:, block], color=colour, ls=line, label=label)
        sigmas.plot(np.linspace(*place, 9)[1:], path.flow, ".", color=colour, ms=4)

        # The paper's losses are those at the ends of Stages 2 and 3.
        on_post = loss(path.descent, tasks(run).post, run.counts)
        losses.plot(x, on_post, color=colour, label=name if stage == 1 else None)
        if stage > 1:
            losses.plot(x[-1], on_post[-1], "o", color=colour, clip_on=False)
    sigmas.set(title=f"{name}, α = {run.alpha:g}", ylabel="singular value σ")


# ---- window.png: where the theorems hold

MAP = 64                                 # settings along each side of a map
GAINS = LinearSegmentedColormap.from_list("gains", ["#f7f7f7", "#6db57c"])     # all lines are seen on it
STATES = {"neither": "#f2f2f2", "specialized": PALE, "inconsistent": "#bbbbbb", "both": "#8f8098"}
EDGE_WORDS = Edges(
    specialized="specialized learned in Stage 1",
    acquired="specialized learned by Stage 2",
    inconsistent="inconsistent learned in Stage 1",
    overwritten="inconsistent learned by Stage 3",
    unmixed="unmixed: inconsistent learned in Stage 1",
)
EDGE_LINES = Edges(
    specialized=dict(color=MIXED, linestyle="solid"),
    acquired=dict(color=BLUE, linestyle="solid"),
    inconsistent=dict(color=MIXED, linestyle="dashed"),
    overwritten=dict(color=RED, linestyle="dashdot"),
    unmixed=dict(color=UNMIXED, linestyle="dotted"),
)


def steps_to(end: float) -> ndarray:
    """Divide the way from 0 to end evenly, without 0: (MAP,)."""
    return np.linspace(0, end, MAP + 1)[1:]


def grid_over_stop(s: Setting) -> Setting:
    """Vary t_pre along the first axis, to twice that of the setting, and α along the second."""
    return replace(s, alpha=steps_to(1), t_pre=steps_to(2 * s.t_pre)[:, None])


class Map(NamedTuple):
    """Hold what descent does at each setting of a grid: (MAP, MAP) all."""
    learned: ndarray                     # by the mixed run in Stage 1, as an index into STATES
    forgetting: ndarray                  # Δ_unmixed − Δ_mixed
    L_ret: ndarray                       # unmixed − mixed


def measured_map(grid: Setting, eta: float) -> Map:
    """Train the mixed and the unmixed run at every setting of a grid."""
    mixed = three_stages(grid, eta)
    alone = three_stages(unmixed(grid), eta)
    learned = mixed.theta_pre > targets(stage_1(grid)) / 2
    return Map(
        learned=learned[..., SPECIALIZED] + 2 * learned[..., INCONSISTENT],
        forgetting=alone.forgetting - mixed.forgetting,
        L_ret=alone.L_ret - mixed.L_ret,
    )


class EdgeErrors(NamedTuple):
    """Hold how well the edges are predicted at every α of the upper row of maps."""
    predicted: int                       # edges that are in the map by flow,
    measured: int                        # and those of them that descent finds there
    flow: float                          # the largest relative error of `edges`
    clock: float                         # and of `clock_edges`


def edge_errors(s: Setting, eta: float) -> EdgeErrors:
    """Compare the measured edges of the upper row with the predicted ones; without any, errors are 0."""
    # All edges in one list. The unmixed run has only one, as α is nothing to it.
    grid = grid_over_stop(s)
    stop = grid.t_pre
    crossings = []
    descent = measured_edges(grid, stop, eta)
    for measured, by_flow, by_clock in zip(descent, edges(grid), clock_edges(grid)):
        by_flow, by_clock = np.atleast_1d(by_flow, by_clock)
        inside = (by_flow > stop.min()) & (by_flow < stop.max())
        crossings.append(np.stack([measured[:len(by_flow)], by_flow, by_clock])[:, inside])

    # Descent may be too late for an edge that flow has just before the map ends.
    measured, by_flow, by_clock = np.concatenate(crossings, axis=1)
    found = np.isfinite(measured)
    return EdgeErrors(
        predicted=len(measured),
        measured=found.sum(),
        flow=np.abs(by_flow / measured - 1).max(where=found, initial=0),
        clock=np.abs(by_clock / measured - 1).max(where=found, initial=0),
    )


def draw_window(s: Setting, eta: float) -> Figure:
    """Draw maps over α × stopping time and α × β, measured by descent, with the predicted edges on top."""
    # Two grids: the length of Stage 1 bounds the window, and so does how strong the specialized block is.
    figure, axes = panels(2, 3, 6.4)
    stop, beta = steps_to(2 * s.t_pre), steps_to(s.c_mis)
    over_beta = replace(s, alpha=steps_to(1), beta=beta[:, None])
    draw_maps(grid_over_stop(s), eta, "stopping time of Stage 1", stop, f"β = {s.beta:g}", figure, axes[0])
    draw_maps(over_beta, eta, "β", beta, f"Stage 1 for {s.t_pre:g}", figure, axes[1])

    # The paper wants β below this line; README.md, condition 2, says why it need not be.
    axes[1, 0].axhline(s.c_mis / 2, **GUIDE)
    axes[1, 0].annotate("β = c_mis / 2", (0.35, s.c_mis / 2), fontsize=8, va="bottom", color="#444444")

    # Contours and meshes have no entry of their own in a legend.
    handles = []
    for state, colour in STATES.items():
        handles.append(Rectangle((0, 0), 1, 1, color=colour, label=f"measured: {state}"))
    for words, line in zip(EDGE_WORDS, EDGE_LINES):
        handles.append(Line2D([], [], **line, label=f"predicted: {words}"))
    figure.legend(handles=handles, loc="outside lower center", ncol=3, fontsize=8, frameon=False)
    return figure


def draw_maps(grid: Setting, eta: float, name: str, y: ndarray, fixed: str, figure: Figure,
              row: ndarray) -> None:
    """Draw the three maps of a grid in a row of axes, and say what is the same in all of it.

    y (MAP,) and its name are of the grid's first axis.
    """
    # What is learned has four colours, what is gained a scale from 0 on, or from a loss.
    maps = measured_map(grid, eta)
    states = ListedColormap(list(STATES.values()))
    row[0].pcolormesh(grid.alpha, y, maps.learned, vmin=0, vmax=3, cmap=states)
    row[0].set_title(f"{fixed}: learned in Stage 1, mixed", fontsize=10)
    gains = {
        "Δ_unmixed − Δ_mixed": (maps.forgetting, "above 0: mixed forgets less"),
        "L_ret, unmixed − mixed": (maps.L_ret, "above 0: mixed retains more"),
    }
    for axis, (title, (gain, meaning)) in zip(row[1:], gains.items()):
        colours = axis.pcolormesh(grid.alpha, y, gain, cmap=GAINS, vmin=min(gain.min(), 0))
        figure.colorbar(colours, ax=axis, label=meaning)
        axis.set_title(f"{fixed}: {title}", fontsize=10)

    # An edge is where it is at t_pre itself; a contour needs settings on both sides of it, and no inf.
    for axis in row:
        axis.set(xlabel="α, share of D_post in Stage 1", ylabel=name)
    for edge, line in zip(edges(grid), EDGE_LINES):
        ahead = np.nan_to_num(np.broadcast_to(edge - grid.t_pre, (MAP, MAP)), posinf=1e3)
        if ahead.min() < 0 < ahead.max():
            for axis in row:
                axis.contour(grid.alpha, y, ahead, [0], colors=line["color"], linestyles=line["linestyle"])


# ---- alpha.png: losses against α

ALPHAS = np.linspace(0, 1, 256)          # from the unmixed run on
VARIANTS = {                             # of Stage 2
    "as set": dict(),
    "with replay ρ = 0.1": dict(replay=0.1),
    "with λ_reg = 0.3": dict(reg=0.3),
}
VARIANT_LINES = {
    "as set": dict(color=MIXED, ls="solid"),
    "with replay ρ = 0.1": dict(color=ORANGE, ls="dashed"),
    "with λ_reg = 0.3": dict(color=BLUE, ls="dotted"),
}


def runs_over_alpha(s: Setting, eta: float) -> dict[str, Run]:
    """Train every variant at all of ALPHAS."""
    return {name: three_stages(replace(s, alpha=ALPHAS, **change), eta) for name, change in VARIANTS.items()}


def draw_alpha(s: Setting, runs: dict[str, Run]) -> Figure:
    """Draw L_im, L_ret and Δ of `runs_over_alpha`, with a dot for the unmixed run."""
    # A loss a panel, so that variants are compared within one.
    figure, axes = panels(1, 3, 3.2)
    for name, run in runs.items():
        line = VARIANT_LINES[name]
        for axis, values in zip(axes, (run.L_im, run.L_ret, run.forgetting)):
            axis.plot(ALPHAS, values, **line, label=f"Stage 2 {name}")
            axis.plot(0, values[0], "o", color=UNMIXED, mfc=line["color"], clip_on=False)

    # 5.1's threshold only orders the blocks; which of them are learned by t_pre is another matter.
    threshold = float(alpha_threshold(s))
    for axis, name in zip(axes, ("L_im", "L_ret", "Δ = L_ret − L_im")):
        axis.set(title=name, xlabel="α", ylabel="loss", xlim=(0, 1))
        if threshold <= 1:
            axis.axvline(threshold, **GUIDE, label="threshold of 5.1")
    axes[0].legend(fontsize=8)
    figure.supxlabel("dots: the unmixed run, α = 0", fontsize=9)
    return figure


# ---- times.png: when a direction is learned

TIMES_ETA = 0.005                        # fits the singular values here, whatever the setting's are


class Times(NamedTuple):
    """Hold the times to half of each singular value, (m,) both: predicted by flow, measured by descent."""
    predicted: ndarray
    measured: ndarray


def aligned_times(T: float, depth: int) -> Times:
    """Time descent from an aligned start, for singular values of 0.3 to 3."""
    task = Task(v=np.ones(12), c=np.geomspace(0.3, 3, 12))
    predicted = half_times(task, T, depth)
    path = descend(np.exp(-depth * T), task, 1.1 * predicted.max(), TIMES_ETA, depth, record=True)
    return Times(predicted=predicted, measured=half_crossing(path, task.c, TIMES_ETA * np.arange(len(path))))


def random_times(T: float, task: Task, U: ndarray, V: ndarray, rng) -> Times:
    """Time descent from two random factors of scale e^(−T)."""
    predicted = half_times(task, T)
    factors = random_factors(len(U), T, 2, rng)
    moments = matrix_moments(task, U, V, counts=1)
    path = descend_matrices(factors, moments, 1.6 * predicted.max(), TIMES_ETA, record=True)
    sigma = np.diagonal(in_bases(path, U, V), axis1=1, axis2=2)
    return Times(predicted=predicted, measured=half_crossing(sigma, task.c, TIMES_ETA * np.arange(len(path))))


def draw_times(rng) -> Figure:
    """Draw when a direction is learned, measured against predicted: three depths, and random weights."""
    # Each depth at the T of the same clock, and at a smaller one, where the clock alone is less exact.
    figure, (left, right) = panels(1, 2, 3.8)
    for depth, marker in ((2, "o"), (3, "s"), (4, "^")):
        for share, colour in ((0.7, "#999999"), (1, MIXED)):
            T = share * default_T(depth)
            times = aligned_times(T, depth)
            left.plot(times.predicted, times.measured, marker, color=colour, mfc="none",
                      label=f"L = {depth}, T = {T:.2g}")
    left.plot([0.5, 30], [0.5, 30], color="black", lw=0.8)
    left.set(xscale="log", yscale="log", xlabel="predicted time to σ = s/2", ylabel="measured",
             title="aligned start")
    left.legend(fontsize=8)

    # Random starts scatter, so each T has four of them under one label.
    U, V = rotation(6, rng), rotation(6, rng)
    task = Task(v=np.ones(6), c=np.geomspace(0.5, 3, 6))
    for T, colour in ((3, "#dddddd"), (6, PALE), (9, MIXED)):
        for label in (f"T = {T}", None, None, None):
            times = random_times(T, task, U, V, rng)
            right.plot(task.c, times.measured / times.predicted, "o", color=colour, mec="black", mew=0.4,
                       label=label)
    right.axhline(1, color="black", lw=0.8)
    right.set(xlabel="singular value s", ylabel="measured / predicted",
              title="random small start, two factors")
    right.legend(fontsize=8)
    return figure


# ---- matched.png: compute-matched mixing

LAMBDAS = np.linspace(0, 1, 101)         # λ, share of D_post's time that is in Stage 1
TAU = 2.4                                # D_post's time, × that in which it teaches the specialized block
REG_LINES = {
    0: dict(color=MIXED, ls="solid"),
    0.1: dict(color=BLUE, ls="dashed"),
    0.3: dict(color=RED, ls="dotted"),
}


def matched_runs(s: Setting) -> dict[float, Run]:
    """Train compute-matched at all of LAMBDAS, by flow, for each λ_reg and without replay."""
    strikes = clock(s.T, s.depth)
    base = replace(s, replay=0, t_pre=1.3 * strikes / s.pre)
    tau = TAU * strikes / s.beta
    return {reg: compute_matched(replace(base, reg=reg), LAMBDAS, tau) for reg in REG_LINES}


def draw_matched(matched: dict[float, Run]) -> Figure:
    """Draw Figure 3b in this model, a star at the best λ."""
    # L_im beside L_ret: what is best after Stage 3 need not be best before it.
    figure, (left, right) = panels(1, 2, 3.4)
    for reg, run in matched.items():
        line = REG_LINES[reg]
        left.plot(LAMBDAS, run.L_im, **line, label=f"λ_reg = {reg:g}")
        right.plot(LAMBDAS, run.L_ret, **line)
        best = run.L_ret.argmin()
        right.plot(LAMBDAS[best], run.L_ret[best], "*", color=line["color"], ms=12, clip_on=False)
    for axis, name in ((left, "L_im"), (right, "L_ret")):
        axis.axvline(1 / TAU, **GUIDE, label="specialized learned in Stage 1")
        axis.set(title=f"compute-matched: {name}", xlabel="λ, share of D_post in Stage 1", ylabel="loss",
                 xlim=(0, 1))
    left.legend(fontsize=8)
    figure.supxlabel("star: the least L_ret", fontsize=9)
    return figure


# ---- departures.png: what the theory leaves out

SAMPLES = np.geomspace(300, 100_000, 6).astype(int)
STARTS = np.linspace(0.5, 1.2, 6)        # × T
DRAWS = 4                                # of samples, and of random factors


class Departures(NamedTuple):
    """Hold how far a run is from the theory's after all three stages."""
    rates: ndarray                       # (4,) learning rates
    by_rate: ndarray                     # (4,) descent − flow, the largest difference of σ
    by_samples: ndarray                  # (6, DRAWS) ‖θ of SAMPLES − θ of the population‖
    by_start: ndarray                    # (6, DRAWS) ‖θ from random − θ from aligned factors‖ at STARTS


def departures(run: Setting, aligned: ndarray, U: ndarray, V: ndarray, eta: float, rng) -> Departures:
    """Train a run at finite rates, from aligned factors (L, n, n) on samples, and from random factors."""
    # Flow is the limit of small steps.
    rates = eta * 2.0 ** -np.arange(4)
    exact = three_stages(run).thetas
    by_rate = [np.abs(three_stages(run, rate).thetas - exact).max() for rate in rates]

    # Both sides of a difference take the same steps, twice as large as there are many matrices to train.
    def by_theory(setting):
        ends = three_stages(setting, 2 * eta).thetas
        return np.stack([[np.diag(np.repeat(theta, run.counts))] for theta in ends])

    def by_matrices(setting, starts, samples=None):
        return three_stages_by_matrices(setting, np.stack(starts, axis=1), U, V, 2 * eta, samples, rng)

    def distances(one, other):
        return np.sqrt(((one - other) ** 2).sum((0, 2, 3)))

    # One draw says little: its distance is random too.
    population = by_theory(run)
    by_samples = []
    for samples in SAMPLES:
        by_samples.append(distances(by_matrices(run, DRAWS * [aligned], samples), population))

    # A larger T takes longer: times grow with its clock, so that the same is learned.
    by_start = []
    for T in STARTS * run.T:
        scale = clock(T, run.depth) / clock(run.T, run.depth)
        times = dict(t_pre=scale * run.t_pre, t_post=scale * run.t_post, t_ft=scale * run.t_ft)
        scaled = replace(run, T=T, **times)
        starts = [random_factors(run.n, T, run.depth, rng) for _ in range(DRAWS)]
        by_start.append(distances(by_matrices(scaled, starts), by_theory(scaled)))
    return Departures(
        rates=rates,
        by_rate=np.array(by_rate),
        by_samples=np.array(by_samples),
        by_start=np.array(by_start),
    )


def both_departures(s: Setting, eta: float, rng) -> dict[str, Departures]:
    """Compute `departures` of the unmixed and the mixed run, which share U, V and the aligned start."""
    U, V = rotation(s.n, rng), rotation(s.n, rng)
    aligned = aligned_factors(U, V, np.full(s.n, np.exp(-s.T)), s.depth, rng)
    return {
        "unmixed": departures(unmixed(s), aligned, U, V, eta, rng),
        "mixed": departures(s, aligned, U, V, eta, rng),
    }


def draw_departures(s: Setting, found: dict[str, Departures]) -> Figure:
    """Draw how far descent is from flow, samples from the population, and random from aligned weights."""
    # Draws scatter: a line of the expected slope runs through the most samples, and one through the medians.
    figure, (left, middle, right) = panels(1, 3, 3.2)
    for name, colour in (("unmixed", UNMIXED), ("mixed", MIXED)):
        run = found[name]
        left.loglog(run.rates, run.by_rate, "o-", color=colour, label=name)
        expected = np.median(run.by_samples[-1]) * (SAMPLES / SAMPLES[-1]) ** -0.5
        middle.loglog(SAMPLES, run.by_samples, ".", color=colour)
        middle.loglog(SAMPLES, expected, color=colour, lw=0.8, label=f"{name}, ∝ N^(−1/2)")
        right.plot(STARTS * s.T, run.by_start, ".", color=colour)
        right.plot(STARTS * s.T, np.median(run.by_start, axis=1), color=colour, label=name)

    # Four rates are few enough to be ticks.
    rates = found["mixed"].rates
    left.set(title="descent − flow", xlabel="learning rate", ylabel="largest difference in σ")
    left.set_xticks(rates, [f"{rate:.2g}" for rate in rates])
    left.set_xticks([], minor=True)
    middle.set(title="samples − population", xlabel="samples a stage, N", ylabel="‖difference of θ‖")
    right.set(title="random − aligned start", xlabel="T, times scaled with it", ylabel="‖difference of θ‖")
    for axis in (left, middle, right):
        axis.legend(fontsize=8)
    return figure


# ---- frontier.png: retained against fine-tuning loss along Stage 3

LEVELS = np.array([0.7, 0.5, 0.25, 0.1, 0.03, 0.004])     # of kσ_ft², D_ft's loss on a block that is at 0
HAVE_BLOCK = {
    (): "neither run has",
    ("mixed",): "the mixed run has",
    ("unmixed",): "the unmixed run has",
    ("unmixed", "mixed"): "both runs have",
}


class Along(NamedTuple):
    """Hold σ (steps + 1, 3) and losses (steps + 1,) along a Stage 3 that goes on until L_ft is near 0."""
    sigma: ndarray
    L_ret: ndarray                       # L_im before the first step
    L_ft: ndarray
    L_pre: ndarray
    end: int                             # the step at which the setting's own Stage 3 ends


class Frontier(NamedTuple):
    """Hold both runs along Stage 3, and how far apart they are in L_ret at equal L_ft."""
    setting: Setting
    unmixed: Along
    mixed: Along
    levels: ndarray                      # (6,) L_ft
    apart: ndarray                       # (6,) L_ret, unmixed − mixed; nan where a run is never at that L_ft
    expected: float                      # the part of L_im on the specialized block, unmixed − mixed


def along_stage_3(run: Setting, eta: float) -> Along:
    """Train a run through Stages 1 and 2, and then until it must have learned D_ft's inconsistent block."""
    time = min(max((clock(run.T, run.depth) + 3) / run.ft, run.t_ft), LONGEST * eta)
    corpora = tasks(run)
    sigma = descend(three_stages(run, eta).theta_post, corpora.ft, time, eta, run.depth, record=True)
    return Along(
        sigma=sigma,
        L_ret=loss(sigma, corpora.post, run.counts),
        L_ft=loss(sigma, corpora.ft, run.counts),
        L_pre=loss(sigma, corpora.pre, run.counts),
        end=round(run.t_ft / eta),
    )


def retained_at(along: Along, s: Setting, levels: ndarray) -> ndarray:
    """Compute L_ret where L_ft is at each of `levels` (m,): (m,), nan where it never is."""
    # σ of the inconsistent block is linear in √L_ft, which falls along Stage 3; the others hardly move.
    root = np.sqrt(along.L_ft)[::-1]
    blocks = along.sigma[::-1].T
    at = [np.interp(np.sqrt(levels), root, sigma, left=np.nan, right=np.nan) for sigma in blocks]
    return loss(np.stack(at, axis=-1), tasks(s).post, s.counts)


def frontier(s: Setting, eta: float) -> Frontier:
    """Compare both runs at equal L_ft.

    On the inconsistent block L_ft and L_ret hang on the same σ. So at equal L_ft the runs differ in L_ret by
    what Stage 3 cannot touch, k(β − σ)² on the specialized block, and by that they differ in L_im already.
    """
    alone, mixed = along_stage_3(unmixed(s), eta), along_stage_3(s, eta)
    levels = LEVELS * s.k * s.ft ** 2
    lacking = [(s.beta - run.sigma[0, SPECIALIZED]) ** 2 for run in (alone, mixed)]
    return Frontier(
        setting=s,
        unmixed=alone,
        mixed=mixed,
        levels=levels,
        apart=retained_at(alone, s, levels) - retained_at(mixed, s, levels),
        expected=s.k * (lacking[0] - lacking[1]),
    )


def both_frontiers(s: Setting, eta: float) -> list[Frontier]:
    """Compute `frontier` at the setting, and with 1.4 times the Stage 2 that teaches both runs the block."""
    needed = clock(s.T, s.depth) / ((1 - s.replay) * s.beta)
    steps = min(round(1.4 * needed / eta), LONGEST)
    return [frontier(s, eta), frontier(replace(s, t_post=max(steps, 1) * eta), eta)]


def draw_frontier(found: list[Frontier]) -> Figure:
    """Draw L_ret against L_ft along Stage 3: a ring where it starts, a dot where the setting ends it."""
    figure, axes = panels(1, len(found), 4)
    for axis, one in zip(axes, found):
        draw_one_frontier(one, axis)
    axes[0].legend(fontsize=8, loc="upper right")
    return figure


def draw_one_frontier(found: Frontier, axis: Axes) -> None:
    """Draw both runs, and their distance in L_ret at a quarter of the largest L_ft."""
    # Where both runs meet, the dashes of one show the other.
    s = found.setting
    learned = []
    for name, along, line in (("unmixed", found.unmixed, dict(color=UNMIXED, lw=2)),
                              ("mixed", found.mixed, dict(color=MIXED, lw=2, ls="dashed"))):
        axis.plot(along.L_ft, along.L_ret, **line, label=f"{name}, along Stage 3")
        axis.plot(along.L_ft[0], along.L_ret[0], "o", color=line["color"], mfc="white", ms=8,
                  label=f"{name}: Stage 3 starts, L_ret = L_im")
        axis.plot(along.L_ft[along.end], along.L_ret[along.end], "o", color=line["color"],
                  label=f"{name}: ends after {s.t_ft:g}")
        if along.sigma[0, SPECIALIZED] > s.beta / 2:
            learned.append(name)

    # The distance is the same everywhere, so one place shows it; where it is next to nothing, in words.
    place = 2
    level, apart = found.levels[place], found.apart[place]
    if np.isfinite(apart):
        low = retained_at(found.mixed, s, found.levels)[place]
        words = "not apart"
        if abs(apart) > 0.01 * np.ptp(found.mixed.L_ret):
            words = f"apart by {apart:.2g}; kβ² = {s.k * s.beta ** 2:.2g}"
            arrow = dict(arrowstyle="<->", color=RED)
            axis.annotate("", (level, low), (level, low + apart), arrowprops=arrow)
        axis.annotate(words, (level, low + apart), (10, 10), textcoords="offset points", color=RED)
    have = HAVE_BLOCK[tuple(learned)]
    axis.set_title(f"Stage 2 for {s.t_post:g}: {have} the specialized block", fontsize=11)
    axis.set(xlabel="L_ft", ylabel="L_ret")
