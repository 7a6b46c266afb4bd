"""`python -m theory`: the theorems at one setting, two sides and a verdict each, and six figures of the rest."""

import argparse
import math
import sys
from dataclasses import fields, replace
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from .dynamics import (BLOCKS, INCONSISTENT, SPECIALIZED, Setting, Task, aligned_factors, descend, descend_matrices,
                       flow, in_bases, loss, matrix_moments, mix, random_factors, rotation, stage_2, targets, tasks,
                       three_stages, three_stages_by_matrices, unmixed, violations)
from .theorems import (LONGEST, alpha_threshold, clock, clock_edges, compute_matched, edges, half_crossing, half_times,
                       latest_post, measured_edges, perturbed_loss, theorems)

MIXED, BLUE, RED = "#7b2fa8", "#2a6fbb", "#c44e00"     # unmixed is black, as in the paper
STATES = {"neither": "#f2f2f2", "specialized": "#c9a6e0", "inconsistent": "#bbbbbb", "both": "#8f8098"}
EDGES = [("specialized learned in Stage 1", "solid", MIXED), ("specialized learned by Stage 2", "solid", "#c9a6e0"),
         ("inconsistent learned in Stage 1", "dashed", MIXED), ("inconsistent learned by Stage 3", "dashdot", RED),
         ("unmixed: inconsistent learned in Stage 1", "dotted", "black")]
MAP = 64                                               # settings along each side of a map


# ---- figures

def panels(rows: int, columns: int, height: float):
    """A figure of 11 inches and its axes."""
    return plt.subplots(rows, columns, figsize=(11, height), layout="constrained")


def save(figure, path: Path) -> None:
    figure.savefig(path, dpi=90)
    plt.close(figure)


def draw_stages(s: Setting, eta: float, out: Path) -> None:
    """Singular values and L(θ; D_post) along the three stages, unmixed and mixed: lines by descent, dots by flow."""
    figure, axes = panels(1, 3, 3.4)
    pre, post, ft = tasks(s)
    times = s.t_pre, s.t_post, s.t_ft
    places = (0, 2), (2, 3), (3, 4)                    # of the stages on the x axis, which is not to scale across them
    for run, axis, colour, name in zip((unmixed(s), s), axes, ("black", MIXED), ("unmixed", "mixed")):
        sigma = np.full(3, s.sigma_0)
        for stage, (time, place) in enumerate(zip(times, places)):
            task = (mix(pre, post, run.alpha), stage_2(run, sigma), ft)[stage]
            path = descend(sigma, task, time, eta, s.depth, record=True)
            x, few = np.linspace(*place, len(path)), np.linspace(0, 1, 9)[1:]
            for block, line in enumerate(("dotted", "dashed", "solid")):
                axis.plot(x, path[:, block], color=colour, ls=line, label=BLOCKS[block] if stage == 0 else None)
            axis.plot(np.interp(few, (0, 1), place), flow(sigma, task, few * time, s.depth), ".", color=colour, ms=4)
            axes[2].plot(x, loss(path, post, s.counts), color=colour, label=name if stage == 0 else None)
            sigma = path[-1]
            if stage:
                axes[2].plot(place[1], loss(sigma, post, s.counts), "o", color=colour, clip_on=False)
        axis.set(title=f"{name}, α = {run.alpha:g}", ylabel="singular value σ")
    axes[2].set(title="L(θ; D_post), dots: L_im and L_ret", ylabel="loss")
    axes[1].legend(fontsize=8, loc="center")
    axes[2].legend(fontsize=8, loc="upper right")
    for axis in axes:
        axis.set_xticks([1, 2.5, 3.5], [f"Stage {stage}\ntime {time:g}" for stage, time in enumerate(times, start=1)])
        axis.set_xlim(0, 4)
        for end in (2, 3):
            axis.axvline(end, color="grey", lw=0.8)
    save(figure, out / "stages.png")


def draw_window(s: Setting, eta: float, out: Path) -> None:
    """Maps over α × stopping time and α × β, measured by descent, with the predicted edges on top."""
    figure, axes = panels(2, 3, 6.4)
    alpha, stop, beta = (np.linspace(0, end, MAP + 1)[1:] for end in (1, 2 * s.t_pre, s.c_mis))
    for row, y, name, grid in (
            (axes[0], stop, "stopping time of Stage 1", replace(s, alpha=alpha, t_pre=stop[:, None])),
            (axes[1], beta, "β", replace(s, alpha=alpha, beta=beta[:, None]))):
        mixed, alone = three_stages(grid, eta), three_stages(unmixed(grid), eta)
        learned = mixed.theta_pre > targets(mix(*tasks(grid)[:2], alpha)) / 2
        state = learned[..., SPECIALIZED] + 2 * learned[..., INCONSISTENT]
        row[0].pcolormesh(alpha, y, state, vmin=0, vmax=3, cmap=matplotlib.colors.ListedColormap(list(STATES.values())))
        row[0].set_title("learned in Stage 1 by the mixed run", fontsize=10)
        for axis, gain, title in ((row[1], alone.delta - mixed.delta, "Δ_unmixed − Δ_mixed"),
                                  (row[2], alone.L_ret - mixed.L_ret, "L_ret, unmixed − mixed")):
            most = 1.4 * np.abs(gain).max()            # lines stay visible on the darkest
            figure.colorbar(axis.pcolormesh(alpha, y, gain, cmap="PuOr", vmin=-most, vmax=most), ax=axis)
            axis.set_title(title, fontsize=10)
        for axis in row:
            axis.set(xlabel="α", ylabel=name)
            for edge, (_, line, colour) in zip(edges(grid), EDGES):      # where an edge is at t_pre itself
                ahead = np.nan_to_num(np.broadcast_to(edge - grid.t_pre, (MAP, MAP)), posinf=1e3)
                if ahead.min() < 0 < ahead.max():
                    axis.contour(alpha, y, ahead, levels=[0], colors=colour, linestyles=line)
    axes[1, 0].axhline(s.c_mis / 2, color="grey", lw=0.8)
    axes[1, 0].annotate("β = c_mis / 2", (0.02, s.c_mis / 2), fontsize=8, va="bottom", color="#444444")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in STATES.values()]
    handles += [plt.Line2D([], [], color=colour, ls=line) for _, line, colour in EDGES]
    labels = [*(f"measured: {state}" for state in STATES), *(f"predicted: {label}" for label, _, _ in EDGES)]
    figure.legend(handles, labels, loc="outside lower center", ncol=3, fontsize=8, frameon=False)
    save(figure, out / "window.png")


def edge_error(s: Setting, eta: float) -> str:
    """How far the measured edges of the window are from the predicted ones, over α."""
    grid = replace(s, alpha=np.linspace(0, 1, MAP + 1)[1:])
    stop = np.linspace(0, 2 * s.t_pre, MAP + 1)[1:, None]
    found = []
    for crossing, exact, leading in zip(measured_edges(grid, stop, eta), edges(grid), clock_edges(grid)):
        exact, leading = np.atleast_1d(exact, leading)
        inside = (exact > stop.min()) & (exact < stop.max())
        found += zip(crossing[:len(exact)][inside], exact[inside], leading[inside])    # the unmixed run has one edge
    found = np.array(found).reshape(-1, 3)
    measured, exact, leading = found[np.isfinite(found[:, 0])].T
    if not len(measured):
        return "window: none of its edges is in the map"
    worst, worst_leading = (np.abs(predicted / measured - 1).max() for predicted in (exact, leading))
    return (f"window: {len(measured)} of {len(found)} edges over α found, within {worst:.1%} of where flow has them at "
            f"--eta {eta:g},\n{worst_leading:.0%} of where the clock has them")


def draw_alpha(s: Setting, eta: float, out: Path) -> str:
    """L_im, L_ret and Δ against α: as set, with replay and with λ_reg in Stage 2; α = 0 is the unmixed run.

    Returns a line for each: the losses at α = 0, and by how much L_ret is at most below and above that as set.
    """
    figure, axes = panels(1, 3, 3.2)
    alpha, lines = np.linspace(0, 1, 4 * MAP), []
    as_set = three_stages(replace(s, alpha=alpha), eta).L_ret
    for name, variant, colour, line in (
            ("as set", s, MIXED, "solid"), ("replay ρ = 0.1", replace(s, replay=0.1), "#e87b14", "dashed"),
            ("λ_reg = 0.3", replace(s, reg=0.3), BLUE, "dotted")):
        run = three_stages(replace(variant, alpha=alpha), eta)
        for axis, values in zip(axes, (run.L_im, run.L_ret, run.delta)):
            axis.plot(alpha, values, color=colour, ls=line, label=name)
            axis.plot(0, values[0], "o", color="black", mfc=colour, clip_on=False)
        above = run.L_ret - as_set
        lines.append(f"{name}: L_im {run.L_im[0]:.2f} and L_ret {run.L_ret[0]:.2f} at α = 0"
                     + f"; over α L_ret up to {-above.min():.2f} below and {above.max():.2f} above" * bool(above.any()))
    threshold = float(alpha_threshold(s))
    for axis, name in zip(axes, ("L_im", "L_ret", "Δ = L_ret − L_im")):
        axis.set(title=name, xlabel="α", ylabel="loss", xlim=(0, 1))
        if threshold <= 1:
            axis.axvline(threshold, color="grey", lw=0.8, label="threshold of 5.1")
    axes[0].legend(fontsize=8)
    save(figure, out / "alpha.png")
    return "\n".join(lines)


def draw_times(out: Path, rng) -> None:
    """When a direction is learned: measured by descent against the closed form, for three depths and random weights."""
    figure, (left, right) = panels(1, 2, 3.8)
    eta = 0.005                                        # for the singular values here, whatever the setting's are
    for depth, marker in ((2, "o"), (3, "s"), (4, "^")):
        for share, colour in ((0.7, "#999999"), (1, MIXED)):
            T, task = share * default_T(depth), Task(np.ones(12), np.geomspace(0.3, 3, 12))
            expected = half_times(task, T, depth)
            path = descend(np.exp(-depth * T), task, 1.1 * expected.max(), eta, depth, record=True)
            left.plot(expected, half_crossing(path, task.c, eta * np.arange(len(path))), marker, color=colour,
                      mfc="none", label=f"L = {depth}, T = {T:.2g}")
    left.plot([0.5, 30], [0.5, 30], color="black", lw=0.8)
    left.set(xscale="log", yscale="log", xlabel="predicted time to σ = s/2", ylabel="measured", title="aligned start")
    U, V, task = rotation(6, rng), rotation(6, rng), Task(np.ones(6), np.geomspace(0.5, 3, 6))
    for T, colour in ((3, "#dddddd"), (6, "#c9a6e0"), (9, MIXED)):
        expected = half_times(task, T)
        for start in range(4):
            factors = random_factors(6, T, 2, rng)
            path = descend_matrices(factors, matrix_moments(task, U, V, 1), 1.6 * expected.max(), eta, record=True)
            sigma = np.diagonal(in_bases(path, U, V), axis1=1, axis2=2)
            right.plot(task.c, half_crossing(sigma, task.c, eta * np.arange(len(path))) / expected, "o", color=colour,
                       mec="black", mew=0.4, label=None if start else f"T = {T}")
    right.axhline(1, color="black", lw=0.8)
    right.set(xlabel="singular value s", ylabel="measured / predicted", title="random small start, two factors")
    left.legend(fontsize=8)
    right.legend(fontsize=8)
    save(figure, out / "times.png")


def draw_beyond(s: Setting, out: Path) -> str:
    """Figure 3b in this model, and the loss after noise in the weights against pretraining time. Returns the best λ."""
    figure, axes = panels(1, 3, 3.4)
    lam, strikes = np.linspace(0, 1, 101), clock(s.T, s.depth) / s.beta
    tau, best = 2.4 * strikes, []
    for reg, line, colour in ((0, "solid", MIXED), (0.1, "dashed", BLUE), (0.3, "dotted", RED)):
        run = compute_matched(replace(s, reg=reg, replay=0, t_pre=1.3 * clock(s.T, s.depth) / s.pre), lam, tau)
        axes[0].plot(lam, run.L_im, color=colour, ls=line, label=f"λ_reg = {reg:g}")
        axes[1].plot(lam, run.L_ret, color=colour, ls=line)
        at = run.L_ret.argmin()
        axes[1].plot(lam[at], run.L_ret[at], "*", color=colour, ms=12, clip_on=False)
        best.append(f"{lam[at]:.2f} (λ_reg = {reg:g})")
    for axis, name in zip(axes, ("L_im", "L_ret")):
        axis.axvline(strikes / tau, color="grey", lw=0.8, label="specialized learned in Stage 1")
        axis.set(title=f"compute-matched: {name}", xlabel="λ, share of D_post in Stage 1", ylabel="loss", xlim=(0, 1))
    pre, counts = tasks(s)[0], s.counts
    time = np.linspace(0, 2.5 * half_times(pre, s.T, s.depth)[INCONSISTENT], 200)
    sigma = flow(s.sigma_0, pre, time, s.depth)
    for gamma, line in ((0, "solid"), (0.3, "dashed"), (0.5, "dotted")):
        axes[2].plot(time, perturbed_loss(sigma, pre, counts, gamma, s.depth), color="black", ls=line,
                     label=f"γ = {gamma:g}")
    axes[2].set(title="L(θ_pre + noise γ; D_pre), unmixed", xlabel="stopping time of Stage 1", ylabel="loss")
    axes[0].legend(fontsize=8)
    axes[2].legend(fontsize=8)
    save(figure, out / "beyond.png")
    return f"compute-matched: L_ret is lowest at λ = {', '.join(best)}"


def draw_departures(s: Setting, eta: float, out: Path, rng) -> str:
    """How far descent is from flow, samples from the population, random from aligned weights, after all stages."""
    figure, axes = panels(1, 3, 3.2)
    U, V = rotation(s.n, rng), rotation(s.n, rng)
    aligned = aligned_factors(U, V, np.full(s.n, np.exp(-s.T)), s.depth, rng)
    rates, sizes = eta * 2.0 ** -np.arange(4), np.geomspace(300, 100_000, 6).astype(int)
    starts = np.linspace(0.5, 1.2, 6) * s.T

    def distance(run: Setting, factors, samples=None) -> float:
        """‖θ − θ_aligned, population‖ over the three stages."""
        reference = [np.diag(np.repeat(theta, s.counts)) for theta in three_stages(run, 2 * eta)[:3]]
        return np.linalg.norm(three_stages_by_matrices(run, factors, U, V, 2 * eta, samples, rng) - reference)

    for run, colour, name in ((unmixed(s), "black", "unmixed"), (s, MIXED, "mixed")):
        exact = np.stack(three_stages(run)[:3])
        apart = [np.abs(np.stack(three_stages(run, rate)[:3]) - exact).max() for rate in rates]
        axes[0].loglog(rates, apart, "o-", color=colour, label=name)
        sampled = [[distance(run, aligned, size) for _ in range(4)] for size in sizes]
        axes[1].loglog(sizes, sampled, ".", color=colour)
        axes[1].loglog(sizes, np.median(sampled[-1]) * (sizes / sizes[-1]) ** -0.5, color=colour, lw=0.8,
                       label=f"{name}, ∝ N^(−1/2)")
        random = []
        for T in starts:
            scale = clock(T, s.depth) / clock(s.T, s.depth)
            scaled = replace(run, T=T, t_pre=scale * s.t_pre, t_post=scale * s.t_post, t_ft=scale * s.t_ft)
            random.append([distance(scaled, random_factors(s.n, T, s.depth, rng)) for _ in range(4)])
        axes[2].plot(starts, random, ".", color=colour)
        axes[2].plot(starts, np.median(random, 1), color=colour, label=name)
    axes[0].set(title="descent − flow", xlabel="learning rate", ylabel="largest difference in σ")
    axes[0].set_xticks(rates, [f"{rate:.2g}" for rate in rates])
    axes[0].set_xticks([], minor=True)
    axes[1].set(title="samples − population", xlabel="samples a stage, N", ylabel="‖difference of θ‖")
    axes[2].set(title="random − aligned start", xlabel="T, times scaled with it", ylabel="‖difference of θ‖")
    for axis in axes:
        axis.legend(fontsize=8)
    save(figure, out / "departures.png")
    return f"descent − flow, mixed: {apart[0]:.2g} at --eta {eta:g}, {apart[1]:.2g} at half of it"


# ---- command line

HELP = {
    "alpha": "α, share of D_post in Stage 1 of the mixed run", "beta": "β, singular value of the specialized block",
    "invariant": "singular value of the invariant block", "pre": "of the inconsistent block under D_pre",
    "post": "under D_post", "ft": "under D_ft", "c_mis": "by how much these are at least apart",
    "T": "factors start at singular values e^(−T); by default 10, at other depths what makes the same clock",
    "t_pre": "learning rate × steps of Stage 1", "t_post": "of Stage 2", "t_ft": "of Stage 3",
    "reg": "λ_reg of Stage 2", "replay": "share of D_pre in Stage 2", "n": "directions in all",
    "k": "directions of the inconsistent, and of the specialized, block", "depth": "factors, at least 2",
}


def default_T(depth: int) -> float:
    """T such that every depth has the clock of two factors at T = 10."""
    return 10.0 if depth == 2 else math.log(10 * (depth - 2)) / (depth - 2)


def fail(message: str):
    """End the process with one line and status 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def parse(argv: list[str] | None = None) -> tuple[Setting, argparse.Namespace]:
    """The setting and the whole command line."""
    parser = argparse.ArgumentParser("python -m theory", description=__doc__, allow_abbrev=False)
    parser.error = fail
    for field in fields(Setting):
        parser.add_argument("--" + field.name.replace("_", "-"), type=type(field.default), default=field.default,
                            help=f"{HELP[field.name]} ({field.default})")
    parser.set_defaults(T=None)
    parser.add_argument("--eta", type=float, default=0.005, help="learning rate of gradient descent (%(default)s)")
    parser.add_argument("--steps", type=int, help="of Stage 1, in place of --t-pre")
    parser.add_argument("--seed", type=int, default=1, help="of rotations, random weights and samples (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/theory"), help="folder of the figures (%(default)s)")
    args = parser.parse_args(argv)
    if args.depth < 2:
        fail("--depth must be at least 2")
    if args.steps is not None:
        args.t_pre = args.steps * args.eta
    if args.T is None:
        args.T = default_T(args.depth)
    s = Setting(**{field.name: getattr(args, field.name) for field in fields(Setting)})
    largest, times = max(s.invariant, s.pre, s.post, s.ft, s.beta), (s.t_pre, s.t_post, s.t_ft)
    converges = 0.5 / ((1 + s.reg) * s.depth * largest ** (2 - 2 / s.depth)) if largest > 0 and s.reg >= 0 else 0
    for wrong, message in (
            (not all(map(math.isfinite, [*vars(s).values(), args.eta])), "every number must be finite"),
            (s.k < 1 or s.n < 2 * s.k, "--k must be at least 1 and --n at least twice that"),
            (not 0 <= s.alpha <= 1, f"--alpha {s.alpha:g} is not a share, from 0 to 1"),
            (not 0 <= s.replay < 1, f"--replay {s.replay:g} is not a share, from 0 to below 1"),
            (min(s.invariant, s.pre, s.post, s.ft, s.beta) <= 0 or s.c_mis <= 0, "singular values must be above 0"),
            (s.reg < 0, "--reg must be 0 or more"),
            (s.T <= 0 or s.depth * s.T > 300, "--T must be above 0, and --depth times --T at most 300"),
            (args.seed < 0, "--seed must be 0 or more"),
            (args.eta <= 0, "--eta must be above 0"),
            (args.eta > converges, f"--eta {args.eta:g} is too large for a singular value of {largest:g}, "
                                   f"use at most {converges:.2g}"),
            (min(times) < args.eta, "every stage must last at least one step of --eta"),
            (max(times) > LONGEST * args.eta, f"a stage has more than {LONGEST:,} steps, raise --eta")):
        if wrong:
            fail(message)
    whole_steps = {name: round(getattr(s, name) / args.eta) * args.eta for name in ("t_pre", "t_post", "t_ft")}
    return replace(s, **whole_steps), args


def main() -> None:
    s, args = parse()
    rng, eta, out = np.random.default_rng(args.seed), args.eta, args.out
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"cannot make the folder --out {out}: {error.strerror}")
    print("assumptions: " + ("; ".join(f"violated: {condition}" for condition in violations(s)) or "all hold"))
    print(f"\n{'theorem':<9}  {'claim':<60}  {'left':>9}   {'right':>9}  holds  at exact rank")
    for check, ideal in zip(theorems(s, eta), theorems(s, eta, ideal=True)):
        holds, holds_ideal = ("yes" if x.holds else "NO" for x in (check, ideal))
        print(f"{check.theorem:<9}  {check.claim:<60}  {check.left:9.3g} {check.relation} {check.right:9.3g}  "
              f"{holds:<5}  {holds_ideal}")
    print(f"\n{f'stopping time of Stage 1, here {s.t_pre:g}, from which':<60}  {'by flow':>9}   {'by clock':>9}")
    for (label, _, _), exact, leading in zip(EDGES, edges(s), clock_edges(s)):
        print(f"{label:<60}  {exact:9.3g}   {leading:9.3g}")
    leading = clock(s.T, s.depth) / ((1 - s.replay) * s.beta)
    print(f"time of Stage 2, here {s.t_post:g}, from which\n"
          f"{'unmixed: specialized learned in Stage 2':<60}  {latest_post(s):9.3g}   {leading:9.3g}\n")
    print(edge_error(s, eta))
    draw_stages(s, eta, out)
    draw_window(s, eta, out)
    print(draw_alpha(s, eta, out))
    draw_times(out, rng)
    print(draw_beyond(s, out))
    print(draw_departures(s, eta, out, rng))
    print(f"figures: {out}/ alpha.png beyond.png departures.png stages.png times.png window.png")


if __name__ == "__main__":
    matplotlib.use("Agg")
    main()
