"""The figure of a linear model's prediction: how the best share of replay and its worth depend on the pool.

With n noisy target samples in d dimensions, noise σ² and a distance b = |θ_target − θ_generic|², linear
regression that replays a share ρ until it converges has the risk (1 − ρ)²v + ρ²b, v = σ²d/n, if the samples
are orthogonal: replay is ridge regression towards the generic model. So
ρ* = v/(v + b) = n₀/(n + n₀) with n₀ = σ²d/b, and replay is worth n₀ samples whatever n is: the multiplier is
M = 1 + n₀/n = 1/(1 − ρ*). A multiplier here is of the pool that fine-tuning without replay would need.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from experiments.points import Point, distinct, having
from experiments.replay.efficiency import line_up
from experiments.statistics import estimate, verdict, vertex
from run.files import UserError

TOLERANCE = 0.25                             # within which M(1 − ρ*) is 1
LEAST_SHARE = 0.25                           # that ρ* must have for that to say anything


class Optimum(NamedTuple):
    """The best share of replay at each pool, and its multiplier; nan where they lie beyond what was run."""
    pools: ndarray                           # (k,) tokens
    rho: ndarray                             # ρ* (seeds, k)
    multiplier: ndarray                      # M (seeds, k)

    def within(self) -> "Optimum":
        """Keep the pools at which every seed's ρ* and M lie within what was run."""
        kept = ~np.isnan(self.rho + self.multiplier).any(axis=0)
        return Optimum(self.pools[kept], self.rho[:, kept], self.multiplier[:, kept])


class Prediction(NamedTuple):
    """A figure of ρ* and of M(1 − ρ*) against the pool, a row of two panels a pipeline."""
    losses: Sequence[str]                    # the target's

    def select(self, points: list[Point]) -> list[Point]:
        """Keep fine-tuning, with replay and without."""
        return having(points, recipe="fine-tuning")

    def shape(self, points: list[Point]) -> tuple[int, int]:
        """Count the rows and columns of panels."""
        return len(distinct(points, "pipeline")), 2

    def verdicts(self, points: list[Point]) -> list[list[str]]:
        """Judge both predictions in every pipeline: rows of `drawing.VERDICTS`. Raises as `line_up`."""
        rows = []
        for pipeline in distinct(points, "pipeline"):
            found = optimum(having(points, pipeline=pipeline), self.losses[0])
            rows += judge(pipeline, found)
        return rows

    def table(self, points: list[Point]) -> list[list[str]]:
        """Tabulate ρ*, M and what they predict of each other, under a header."""
        rows = [["where", "pool", "ρ*", "M", "M(1 − ρ*)", "n₀ by ρ*", "n₀ by M"]]
        for pipeline in distinct(points, "pipeline"):
            found = optimum(having(points, pipeline=pipeline), self.losses[0])
            for k, pool in enumerate(found.pools):
                rho, times = found.rho[:, k], found.multiplier[:, k]
                ratios = [f"{estimate(cell):.2f}" for cell in (rho, times, times * (1 - rho))]
                n0 = [f"{estimate(cell):,.0f}" for cell in (pool * rho / (1 - rho), pool * (times - 1))]
                rows.append([pipeline, f"{pool:,.0f} tokens", *ratios, *n0])
        return rows

    def draw(self, points: list[Point], axes: ndarray) -> None:
        """Draw what was measured, and the prediction with n₀ at the middle pool of those within the runs."""
        for pipeline, (left, right) in zip(distinct(points, "pipeline"), axes):
            found = optimum(having(points, pipeline=pipeline), self.losses[0])
            within = found.within()

            # n₀ is fitted to the best share of one pool: the dashed line is what the model makes of it.
            if len(within.pools):
                middle = len(within.pools) // 2
                rho = within.rho[:, middle].mean()
                n0 = within.pools[middle] * rho / (1 - rho)
                along = np.geomspace(found.pools[0], found.pools[-1], 50)
                left.plot(along, n0 / (along + n0), "--", color="black", label="linear model")

            # On the left where the best share lies, on the right whether it tells what replay is worth.
            right.axhline(1, linestyle="--", color="black")
            named = [(left, found.rho, "best share of replay ρ*"),
                     (right, found.multiplier * (1 - found.rho), "M(1 − ρ*)")]
            for axis, by_seed, name in named:
                axis.plot(found.pools, by_seed.T, ".", color="grey")
                axis.plot(found.pools, by_seed.mean(axis=0), "o-", color="#e87b14", label="measured")
                axis.set(title=pipeline, xscale="log", xlabel="target data (tokens)", ylabel=name)
                axis.set_xticks(found.pools, [f"{pool:,.0f}" for pool in found.pools])
                axis.set_xticks([], minor=True)


def judge(pipeline: str, found: Optimum) -> list[list[str]]:
    """Judge both predictions in one pipeline: rows of `drawing.VERDICTS`.

    They are of all pools: where one lies beyond what was run, what the others say is told, and can refute the
    first but show neither.
    """
    within = found.within()
    worth, falling = "replay is worth 1/(1 − ρ*) times the pool", "it is worth less, the larger the pool"
    if len(within.pools) < 2:
        why = "of fewer than two pools ρ* and M lie within what was run"
        return [[claim, pipeline, why, "–", "not judged"] for claim in (worth, falling)]

    # What must hold on every pool is judged where it holds least.
    off = np.abs(within.multiplier * (1 - within.rho) - 1).max(axis=1)
    near = estimate(TOLERANCE - off)

    # Without replay's gain ρ* is 0 and M is 1, and the prediction holds of nothing.
    replays = estimate(within.rho.min(axis=1) - LEAST_SHARE)
    measured = f"{TOLERANCE} − |M(1 − ρ*) − 1| at its worst: {near:.3f}, ρ* − {LEAST_SHARE}: {replays:.3f}"
    falls = estimate(within.multiplier[:, 0] - within.multiplier[:, -1])
    ends = "M at {:,.0f} tokens − at {:,.0f}".format(within.pools[0], within.pools[-1])
    holds, does_fall = verdict(near, replays), verdict(falls)
    if len(within.pools) < len(found.pools):
        measured += f", on {len(within.pools)} of {len(found.pools)} pools"
        does_fall = "not judged"
        if not near.high < 0:
            holds = "not judged"
    return [[worth, pipeline, measured, f"{near.shown_p()}, {replays.shown_p()}", holds],
            [falling, pipeline, f"{ends}: {falls:.3f}", falls.shown_p(), does_fall]]


def optimum(points: list[Point], loss: str) -> Optimum:
    """Find ρ* and M at each pool that was replayed on, seed by seed.

    ρ* is nan if it is the largest share that was run. M is read off fine-tuning without replay, its loss a
    line in the pool's logarithm between those that were run, and is 1 or more: replay is optional. Raises
    UserError as `line_up`, or if a pool lacks its run without replay.
    """
    losses = line_up(points, loss, {"fine-tuning"})

    # Of each pool the first arm is its run without replay.
    by_pool = {}
    for arm in sorted(losses, key=lambda arm: (arm.pools, arm.rho)):
        by_pool.setdefault(arm.pools, []).append(arm)
    if any(arms[0].rho for arms in by_pool.values()):
        raise UserError("a pool lacks its run without replay, finish the sweep first")
    plain = np.stack([losses[arms[0]] for arms in by_pool.values()], axis=1)           # (seeds, pools)
    every = np.array(list(by_pool))
    replayed = {pool: arms for pool, arms in by_pool.items() if len(arms) > 2}

    # Seed by seed, so that ρ* and M have intervals.
    rhos, multipliers = [], []
    for arms in replayed.values():
        rho = np.array([arm.rho for arm in arms])
        by_seed = np.stack([losses[arm] for arm in arms], axis=1)
        found = np.array([vertex(rho, of_seed) for of_seed in by_seed])
        found[found[:, 0] == rho[-1]] = np.nan             # a loss that still falls at the largest share
        best, least = found.T
        worth = [pool_for(loss, every, of_seed) / arms[0].pools for loss, of_seed in zip(least, plain)]
        rhos.append(best)
        multipliers.append(np.maximum(worth, 1))
    return Optimum(np.array(list(replayed)), np.array(rhos).T, np.array(multipliers).T)


def pool_for(loss: float, pools: ndarray, losses: ndarray) -> float:
    """Tell which pool fine-tuning needs for a loss without replay, by those run, (k,).

    nan below the least of their losses; the smallest pool above the greatest.
    """
    # A larger pool is never worth less than a smaller one; np.interp wants the losses rising.
    rising = np.minimum.accumulate(losses)[::-1]
    return float(np.exp(np.interp(loss, rising, np.log(pools[::-1]), left=np.nan)))
