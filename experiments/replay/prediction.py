"""The figure of a linear model's prediction: how the best share of replay and its worth depend on the pool.

For a pool of n the best share is ρ* = n₀/(n + n₀), and replay is worth n₀ samples whatever n is: the
multiplier is M = 1 + n₀/n = 1/(1 − ρ*) (theory/replay.py). M is of the pool that fine-tuning without replay
would need.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from experiments.points import Point, distinct, having
from experiments.replay.efficiency import line_up
from experiments.statistics import estimate, slope, verdict, vertex
from run.files import UserError

TOLERANCE = 0.25                             # within which M(1 − ρ*) is 1, and the slope of ln(M − 1) is −1
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

    def lacks_pools(self) -> bool:
        """Tell whether some pool's ρ* or M lies beyond what was run."""
        return len(self.within().pools) < len(self.pools)

    def shown_pools(self) -> str:
        """Write of how many pools something is, if not of all."""
        return f", on {len(self.within().pools)} of {len(self.pools)} pools" if self.lacks_pools() else ""


class Prediction(NamedTuple):
    """A figure of ρ*, M(1 − ρ*) and M − 1 against the pool, a row of panels a pipeline."""
    losses: Sequence[str]                    # the target's

    def select(self, points: list[Point]) -> list[Point]:
        """Keep fine-tuning, with replay and without."""
        return having(points, recipe="fine-tuning")

    def shape(self, points: list[Point]) -> tuple[int, int]:
        """Count the rows and columns of panels."""
        return len(distinct(points, "pipeline")), 3

    def verdicts(self, points: list[Point]) -> list[list[str]]:
        """Judge all predictions in every pipeline: rows of `drawing.VERDICTS`. Raises as `line_up`."""
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
        """Draw what was measured, and the prediction, its n₀ the mean of those that the best shares say."""
        from matplotlib.ticker import LogLocator             # imported when needed, as in drawing.py
        for pipeline, row in zip(distinct(points, "pipeline"), axes):
            found = optimum(having(points, pipeline=pipeline), self.losses[0])
            known = found.pools * found.rho / (1 - found.rho)
            known = known[~np.isnan(known)]
            n0 = known.mean() if len(known) else np.nan
            along = np.geomspace(found.pools[0], found.pools[-1], 50)

            # Where the best share lies, whether it tells what replay is worth, and how that falls.
            drawn = [(found.rho, n0 / (along + n0), "best share of replay ρ*", "linear"),
                     (found.multiplier * (1 - found.rho), np.ones(50), "M(1 − ρ*)", "linear"),
                     (found.multiplier - 1, n0 / along, "M − 1", "log")]
            for axis, (by_seed, predicted, name, scale) in zip(row, drawn):
                axis.plot(along, predicted, "--", color="black", label="linear model, n₀ by ρ*")
                axis.plot(found.pools, by_seed.T, ".", color="grey", label="a seed")
                axis.plot(found.pools, by_seed.mean(axis=0), "o-", color="#e87b14", label="mean over seeds")
                axis.set(title=pipeline, xscale="log", yscale=scale, xlabel="target data (tokens)",
                         ylabel=name)
                axis.set_xticks(found.pools, [f"{pool:,.0f}" for pool in found.pools])
                axis.set_xticks([], minor=True)
            row[-1].yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}",
                              minor_formatter="")


def judge(pipeline: str, found: Optimum) -> list[list[str]]:
    """Judge all predictions in one pipeline: rows of `drawing.VERDICTS`.

    They are of all pools: where one lies beyond what was run, the others can refute the first and the last
    but show neither.
    """
    claims = {"replay is worth 1/(1 − ρ*) times the pool": judge_worth,
              "it is worth less, the larger the pool": judge_fall,
              "what it adds falls as 1/pool": judge_inverse}
    if len(found.within().pools) < 2:
        why = "of fewer than two pools ρ* and M lie within what was run"
        return [[claim, pipeline, why, "–", "not judged"] for claim in claims]
    return [[claim, pipeline, *judged(found)] for claim, judged in claims.items()]


def judge_worth(found: Optimum) -> list[str]:
    """Judge that M(1 − ρ*) is 1 on every pool: what was measured, p, verdict."""
    # It is judged where it holds least. Without replay's gain ρ* is 0 and M is 1, and it holds of nothing.
    within = found.within()
    off = np.abs(within.multiplier * (1 - within.rho) - 1).max(axis=1)
    near = estimate(TOLERANCE - off)
    replays = estimate(within.rho.min(axis=1) - LEAST_SHARE)

    # A pool that is missing may be where it fails.
    measured = f"{TOLERANCE} − |M(1 − ρ*) − 1| at its worst: {near:.3f}, ρ* − {LEAST_SHARE}: {replays:.3f}"
    is_open = found.lacks_pools() and not near.high < 0
    told = left_open(verdict(near, replays), is_open)
    return [measured + found.shown_pools(), f"{near.shown_p()}, {replays.shown_p()}", told]


def judge_fall(found: Optimum) -> list[str]:
    """Judge that M is lower on the largest pool than on the smallest, which it needs: as `judge_worth`."""
    within = found.within()
    falls = estimate(within.multiplier[:, 0] - within.multiplier[:, -1])
    is_open = found.pools[0] < within.pools[0] or found.pools[-1] > within.pools[-1]
    measured = f"M at {within.pools[0]:,.0f} tokens − at {within.pools[-1]:,.0f}: {falls:.3f}"
    return [measured, falls.shown_p(), left_open(verdict(falls), is_open)]


def judge_inverse(found: Optimum) -> list[str]:
    """Judge that M − 1 falls as 1/n, by the slope of its logarithm in ln n: as `judge_worth`."""
    # Where replay is worth nothing, M − 1 has no logarithm.
    within = found.within()
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = slope(np.log(within.pools), np.log(within.multiplier - 1))
    slopes[~np.isfinite(slopes)] = np.nan
    near = estimate(TOLERANCE - np.abs(slopes + 1))

    # A pool that is missing may be where it fails.
    measured = f"{TOLERANCE} − |slope + 1| of ln(M − 1) in ln n: {near:.3f}"
    is_open = found.lacks_pools() and not near.high < 0
    return [measured + found.shown_pools(), near.shown_p(), left_open(verdict(near), is_open)]


def left_open(found: str, is_open: bool) -> str:
    """Withhold a verdict that what is missing could change."""
    return "not judged" if is_open else found


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
