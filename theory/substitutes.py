"""A linear network in which early exposure shifts the frontier: by how much, and when not."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy import ndarray

from .drawing import BLUE, GUIDE, MIXED, ORANGE, PALE, RED, UNMIXED, panels
from .pair import (Pair, Stages, Unit, after_stage_2, after_stage_3, along_stage_2, balanced, best_left,
                   blend, by_matrices, corpora, crossover, descend_unit, least_learned, long_stages,
                   loss_on_post, slow_rate, train_pair)

# One colour has one meaning: of the runs α, of replay orange and of copies blue, of Stage 3's length green.
ALPHAS = {0: UNMIXED, 0.02: PALE, 0.05: MIXED}               # of the runs that are followed; 0 is the unmixed
REPLAYS = {0: "grey", 0.05: "#f7b76d", 0.3: ORANGE}
LENGTHS = {0.05: "#a1d39b", 0.1: "#4ba056", 2.0: "#14532d"}  # of Stage 3 if compute-matched

LEFT = (0.01, 0.001)                     # L_ft at which runs are compared
SHARES = np.linspace(0, 0.06, 7)         # α along an axis
FINE_SHARES = np.linspace(0, 0.06, 121)  # α, of which the best is looked for
FEATURES, DRAWS = 2, 4                   # pairs at once and networks, where weights are random
RATIOS = np.geomspace(0.01, 100, 41)     # |δ| / s_pre along an axis
PLACES = np.linspace(0, 1, 51)           # x along an axis
QUARTERS = np.array([0, 0.25, 0.5, 0.75])                    # x, or the share of D_post in Stage 3
WAYS = {                                 # runs that are compared with the unmixed at every x
    "complete exposure": Pair(alpha=0.3),
    "α = 0.02": Pair(alpha=0.02),
    "α = 0.005": Pair(alpha=0.005),
    "complete, ρ = 0.05": Pair(alpha=0.3, replay=0.05),
    "complete, r = 0.9": Pair(alpha=0.3, copy=0.9),
}
BUDGETS = (0.2, 0.4, 0.8)                # τ, D_post's time if compute-matched
BEFORE = (8.0, 16.0, 32.0)               # D_pre's time if compute-matched, the first unless varied
LAMBDAS = np.linspace(0, 1, 101)         # λ


class Found(NamedTuple):
    """Hold what is printed and drawn, all by gradient descent."""
    runs: Stages                         # paths (steps, α) of ALPHAS
    mixing: Stages                       # (ρ, α) of REPLAYS and SHARES
    random: ndarray                      # L_ret of the same from random weights (draw, ρ, α)
    told_apart: Stages                   # unmixed, for several ρ, r and times of Stage 2
    turns: ndarray                       # x from which each of WAYS retains less than the unmixed run
    partial: Stages                      # (x, α) of QUARTERS and FINE_SHARES
    mixtures: ndarray                    # L_ret (α, share) after Stage 3 on mixtures, of ALPHAS and QUARTERS
    matched: Stages                      # (budget, length, λ)
    waited: Stages                       # (time of D_pre, length, λ)


# ---- what is computed

def compute(rng) -> Found:
    """Train all that is printed and drawn."""
    # Mixing and replay are trained in one hidden unit and in networks with random weights.
    alphas = np.array(list(ALPHAS))
    mixing = Pair(alpha=SHARES, replay=np.array(list(REPLAYS))[:, None])
    return Found(
        runs=train_pair(Pair(alpha=alphas), record=True),
        mixing=train_pair(mixing),
        random=by_matrices(mixing, FEATURES, DRAWS, rng),
        told_apart=told_apart(),
        turns=turns(),
        partial=train_pair(Pair(alpha=FINE_SHARES, x=QUARTERS[:, None])),
        mixtures=loss_on_post(on_a_mixture(Pair(alpha=alphas[:, None]), QUARTERS), Pair()),
        matched=at_lengths(BEFORE[0], np.array(BUDGETS)[:, None, None]),
        waited=at_lengths(np.array(BEFORE)[:, None, None], BUDGETS[1]),
    )


def told_apart() -> Stages:
    """Train unmixed runs whose Stage 2 can tell the features apart, by replay or as the copy is not exact."""
    replay, copy, t_post = np.meshgrid((0, 0.02, 0.1), (1, 0.99, 0.95), (1, 2, 4, 8, 16), indexing="ij")
    return train_pair(Pair(alpha=0.0, replay=replay, copy=copy, t_post=t_post))


def at_lengths(t_pre, tau) -> Stages:
    """Train compute-matched for each of LENGTHS and LAMBDAS, in steps of which every λτ is a whole number."""
    pair = Pair(t_pre=t_pre, t_ft=np.array(list(LENGTHS))[:, None])
    return train_matched(pair, LAMBDAS, tau, eta=LAMBDAS[1] * np.min(tau))


def train_matched(pair: Pair, lam, tau, eta: float) -> Stages:
    """Train Figure 3b in this model: D_post for a time τ in all, its share λ added to Stage 1."""
    t_pre = pair.t_pre + lam * tau
    return train_pair(replace(pair, alpha=lam * tau / t_pre, t_pre=t_pre, t_post=(1 - lam) * tau), eta)


def on_a_mixture(pair: Pair, share) -> Unit:
    """Train Stage 3 on both corpora, D_post with this share, in place of D_ft: where it ends.

    Such a D_ft asks nothing else of the shared feature. It teaches an unmixed run the specialized one.
    """
    on = corpora(pair)
    return descend_unit(train_pair(pair).post, blend(on.pre, on.post, share), pair.t_ft)


def turns() -> ndarray:
    """Measure the x from which each of WAYS no longer retains more than the unmixed run with its ρ and r."""
    found = []
    for way in WAYS.values():
        alone, exposed = (train_pair(replace(way, alpha=alpha, x=PLACES)).L_ret for alpha in (0, way.alpha))

        # Between the two places where the sign changes, a straight line.
        gain = alone - exposed
        after = np.argmax(gain < 0)
        found.append(np.interp(0, -gain[after - 1:after + 1], PLACES[after - 1:after + 1]))
    return np.array(found)


def at_equal_L_ft(runs: Stages, L_ft: float) -> ndarray:
    """Find L_ret where Stage 3 first has this L_ft, for every path: nan where none comes by it."""
    first = np.argmax(runs.L_ft <= L_ft, axis=0)
    L_ret = np.take_along_axis(runs.L_ret, first[None], axis=0)[0]
    return np.where(first > 0, L_ret, np.nan)


def best_lambda(matched: Stages) -> ndarray:
    """Find the λ of the lowest L_ret along the last axis, which is that of LAMBDAS."""
    return LAMBDAS[matched.L_ret.argmin(-1)]


# ---- what is printed

def tell(seen: Found) -> None:
    """Print what README.md says of the model."""
    tell_stages(seen.runs)
    tell_mixing(seen)
    tell_place(seen)
    tell_matched(seen.matched, seen.waited)


def tell_stages(runs: Stages) -> None:
    """Print weights and losses of the runs, and L_ret where their L_ft is the same."""
    pair = runs.pair
    print(f"one pair of features, s_pre = {pair.pre:g}, s_post = {pair.post:g}, r = {pair.copy:g}, "
          f"x = {pair.x:g}; stages for {pair.t_pre:g}, {pair.t_post:g} and {pair.t_ft:g}")
    for column, alpha in enumerate(ALPHAS):
        ends = [path.at((-1, column)) for path in (runs.pre, runs.post, runs.ft)]
        weights = "  ".join(f"{end.a:.2f} {end.b:.2f}" for end in ends)
        L_im, L_ret, L_ft = (losses[-1, column] for losses in (runs.L_im, runs.L_ret, runs.L_ft))
        print(f"α = {alpha:g}: a b after each stage {weights};  "
              f"L_im {L_im:.3f}, L_ret {L_ret:.3f}, L_ft {L_ft:.3f}")

    # A run that starts Stage 3 below that L_ft never comes by it.
    started = ", ".join(f"{one:.4f}" for one in runs.L_ft[0])
    print(f"in that order: L_ft {started} where Stage 3 starts")
    for L_ft in LEFT:
        L_ret = ", ".join(f"{one:.3f}" for one in at_equal_L_ft(runs, L_ft))
        print(f"               L_ret {L_ret} where L_ft is {L_ft:g} (nan: it starts below)")


def tell_mixing(seen: Found) -> None:
    """Print what replay alone, mixing alone and both retain, and how far random weights are from that."""
    for replay, L_ret in zip(REPLAYS, seen.mixing.L_ret):
        print(f"ρ = {replay:g}: L_ret {L_ret[0]:.3f} at α = 0, {L_ret[2]:.3f} at α = {SHARES[2]:g}")
    apart = np.abs(seen.random - seen.mixing.L_ret).max()
    print(f"random weights, {DRAWS} networks of {FEATURES} pairs for each ρ and α: L_ret within {apart:.3f}")


def tell_place(seen: Found) -> None:
    """Print where D_ft may lie, what exposure is best there, and what a D_ft that mixes the corpora does."""
    print("complete exposure retains more than none while x < x*")
    for words, ratios in (("δ > 0", RATIOS), ("δ < 0", -RATIOS)):
        places = crossover(Pair(post=1 + ratios))
        print(f"  in closed form, {words}, |δ|/s_pre from {RATIOS[0]:g} to {RATIOS[-1]:g}: "
              f"x* = {places.min():.2f} to {places.max():.2f}")
    print("  by descent, δ = s_pre: " + "; ".join(f"{way} {x:.2f}" for way, x in zip(WAYS, seen.turns)))

    # The best exposure is that which leaves the b that D_post then wants.
    print(f"of α up to {FINE_SHARES[-1]:g} L_ret is lowest, by descent")
    for row, x in enumerate(QUARTERS):
        L_ret = seen.partial.L_ret[row]
        best = L_ret.argmin()
        wanted, left = best_left(seen.partial.pair)[row, 0], seen.partial.ft.b[row, best]
        print(f"  x = {x:g}: {L_ret[best]:.3f} at α = {FINE_SHARES[best]:g}, which leaves b = {left:.3f} "
              f"(δ(1 − x) = {wanted:g}); {L_ret[0]:.3f} at α = 0, {L_ret[-1]:.3f} at {FINE_SHARES[-1]:g}")
    for alpha, L_ret in zip(ALPHAS, seen.mixtures):
        by_share = ", ".join(f"{one:.3f} ({share:g})" for share, one in zip(QUARTERS, L_ret))
        print(f"α = {alpha:g}: Stage 3 on D_pre with a share of D_post ends at L_ret {by_share}")


def tell_matched(matched: Stages, waited: Stages) -> None:
    """Print the λ that retains most if compute-matched, and what λ costs before Stage 3."""
    lengths = ", ".join(f"{length:g}" for length in LENGTHS)
    print(f"compute-matched, D_pre for {BEFORE[0]:g}, Stage 3 for {lengths}")
    for tau, L_im, best in zip(BUDGETS, matched.L_im[:, 0], best_lambda(matched)):
        lambdas = ", ".join(f"{one:.2f}" for one in best)
        print(f"  D_post for {tau:g}: L_ret is lowest at λ = {lambdas};  "
              f"L_im {L_im[0]:.3f}, {L_im[50]:.3f}, {L_im[-1]:.3f} at λ = 0, ½, 1")
    for before, best in zip(BEFORE[1:], best_lambda(waited)[1:]):
        lambdas = ", ".join(f"{one:.2f}" for one in best)
        print(f"  D_post for {BUDGETS[1]:g} but D_pre for {before:g}: L_ret is lowest at λ = {lambdas}")


# ---- substitutes.png

def draw(seen: Found) -> Figure:
    """Draw the stages, the frontier, mixing and replay, the place of D_ft, telling apart, and Figure 3b."""
    figure, ((stages, frontier, mixing), (place, apart, matched)) = panels(2, 3, 6.6)
    draw_stages(seen.runs, stages)
    draw_frontier(seen.runs, frontier)
    draw_mixing(seen, mixing)
    draw_place(place)
    draw_told_apart(seen.told_apart, apart)
    draw_matched(seen.matched, matched)
    for axis in (stages, frontier, mixing, place, apart, matched):
        axis.title.set_fontsize(10)
    return figure


def draw_stages(runs: Stages, axis: Axes) -> None:
    """Draw the weights of the shared and of the specialized feature along the stages of two runs."""
    # The runs of no and of most exposure are enough; each stage has the same width.
    for index in (0, -1):
        alpha, colour = list(ALPHAS.items())[index]
        for stage, path in enumerate((runs.pre, runs.post, runs.ft)):
            x = np.linspace(stage, stage + 1, len(path.u))
            label = f"α = {alpha:g}" if stage == 0 else None
            axis.plot(x, path.a[:, index], color=colour, ls="dashed")
            axis.plot(x, path.b[:, index], color=colour, label=label)
    axis.set(title="weights: a, shared (dashed); b, specialized", ylabel="a, b", xlim=(0, 3))
    times = (runs.pair.t_pre, runs.pair.t_post, runs.pair.t_ft)
    names = [f"Stage {stage}\ntime {time:g}" for stage, time in enumerate(times, start=1)]
    axis.set_xticks([0.5, 1.5, 2.5], names)
    axis.vlines([1, 2], *axis.get_ylim(), **GUIDE)
    axis.legend(fontsize=8)


def draw_frontier(runs: Stages, axis: Axes) -> None:
    """Draw L_ret against L_ft along Stage 3: here the mixed runs are better at equal L_ft."""
    for (alpha, colour), L_ft, L_ret in zip(ALPHAS.items(), runs.L_ft.T, runs.L_ret.T):
        axis.loglog(L_ft, L_ret, color=colour, label=f"α = {alpha:g}")
    axis.set(title="along Stage 3, which goes from right to left", xlabel="L_ft (cut at 10⁻⁶)",
             ylabel="L_ret (cut at 10⁻⁶)", xlim=(1e-6, 1), ylim=(1e-6, 1))
    axis.legend(fontsize=8)


def draw_mixing(seen: Found, axis: Axes) -> None:
    """Draw L_ret against α for each replay: dots from random weights, a bound for none in closed form."""
    for row, (replay, colour) in enumerate(REPLAYS.items()):
        axis.semilogy(SHARES, seen.mixing.L_ret[row], color=colour, label=f"ρ = {replay:g}")
        axis.semilogy(SHARES, seen.random[:, row].T, "o", color=colour, ms=3)
    pair = Pair(alpha=np.linspace(0, SHARES[-1], 100))
    bound = after_stage_3(after_stage_2(least_learned(pair), pair), pair.ft)
    axis.semilogy(pair.alpha, loss_on_post(bound, pair), color=REPLAYS[0], ls="dotted",
                  label="bound, ρ = 0")
    axis.set(title="mixing, replay; dots: random weights", xlabel="α, share of Stage 1 that is D_post",
             ylabel="L_ret (cut at 10⁻⁴)", ylim=(1e-4, 1))
    axis.legend(fontsize=8)


def draw_place(axis: Axes) -> None:
    """Draw by how much complete exposure lowers L_ret over the place of D_ft and δ, and where that turns."""
    pair = Pair(post=1 + RATIOS[:, None], x=PLACES)
    alone, exposed = long_stages(pair)
    gain = (alone - exposed) / pair.delta ** 2
    black_to_purple = LinearSegmentedColormap.from_list("who retains more", [UNMIXED, "white", MIXED])
    colours = axis.pcolormesh(PLACES, RATIOS, gain, cmap=black_to_purple, vmin=-0.6, vmax=0.6)
    axis.figure.colorbar(colours, ax=axis, extend="min", label="purple: exposed retains more")

    # Beyond the line the unmixed run retains more.
    axis.plot(crossover(Pair(post=1 + RATIOS)), RATIOS, color=RED, label="x* if δ > 0")
    axis.plot(crossover(Pair(post=1 - RATIOS)), RATIOS, color=RED, ls="dashed", label="x* if δ < 0")
    axis.set(title="L_ret, unmixed − fully exposed, / δ²", xlabel="x, where D_ft lies (0: D_pre, 1: D_post)",
             ylabel="|δ| / s_pre (colours: δ > 0)", yscale="log")
    axis.legend(fontsize=8, framealpha=1)


def draw_told_apart(runs: Stages, axis: Axes) -> None:
    """Draw the unmixed L_ret against what tells the features apart in Stage 2, κ × time."""
    pair, standard = runs.pair, Pair()
    advance = slow_rate(pair) * pair.t_post
    along = np.linspace(0, advance.max(), 200)
    unit = along_stage_2(after_stage_2(balanced(standard.pre, 0.0), standard), standard, along)
    L_ret = loss_on_post(after_stage_3(unit, standard.ft), standard)
    axis.semilogy(along, L_ret, color=UNMIXED, label="closed form")

    # By what does it: replay, a copy that is not exact, or both.
    replayed, inexact = pair.replay > 0, pair.copy < 1
    for label, which, look in (("replay", replayed & ~inexact, dict(marker="o", color=ORANGE)),
                               ("inexact copy", inexact & ~replayed, dict(marker="s", color=BLUE)),
                               ("both", replayed & inexact, dict(marker="D", color="grey"))):
        axis.semilogy(advance[which], runs.L_ret[which], ls="none", mfc="none", ms=5, label=label, **look)
    axis.set(title="unmixed: L_ret by how long\nStage 2 separates x₁ from x₂", ylabel="L_ret (cut at 10⁻⁴)",
             ylim=(1e-4, 1), xlabel="κ × time of Stage 2, κ = ρ + 2(1 − ρ)(1 − r)")
    axis.legend(fontsize=8)


def draw_matched(matched: Stages, axis: Axes) -> None:
    """Draw Figure 3b in this model: the best λ, a star, moves right with the length of Stage 3."""
    for (length, colour), L_ret, best in zip(LENGTHS.items(), matched.L_ret[1], best_lambda(matched)[1]):
        axis.plot(LAMBDAS, L_ret, color=colour, label=f"L_ret, Stage 3 for {length:g}")
        axis.plot(best, L_ret.min(), "*", color=colour, ms=12)
    axis.plot(LAMBDAS, matched.L_im[1, 0], color="grey", ls="dashed", label="L_im")
    axis.set(title=f"D_post for {BUDGETS[1]:g} in all, D_pre for {BEFORE[0]:g}\nstar: the least L_ret",
             xlabel="λ, share of D_post that is in Stage 1", ylabel="loss", ylim=(-0.03, 0.85))
    axis.legend(fontsize=8)
