"""The figure of a linear model's prediction: how the best share of replay and its worth depend on the pool.

With n noisy target samples in d dimensions, noise σ² and a distance b = |θ_target − θ_generic|², linear
regression that replays a share ρ until it converges has the risk (1 − ρ)²v + ρ²b, v = σ²d/n, if the samples
are orthogonal: replay is ridge regression towards the generic model. So
ρ* = v/(v + b) = n₀/(n + n₀) with n₀ = σ²d/b, and replay is worth n₀ samples whatever n is: the multiplier is
M = 1 + n₀/n = 1/(1 − ρ*).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from experiments.points import Point, distinct, having
from experiments.replay.efficiency import line_up, of, reference_of
from experiments.replay.laws import fit_log
from experiments.statistics import estimate, verdict

TOLERANCE = 0.25                             # within which M(1 − ρ*) is 1
LEAST_SHARE = 0.25                           # that ρ* must have for that to say anything


class Vertex(NamedTuple):
    """The best share of replay by a parabola, and the losses there and without replay."""
    rho: float
    least: float
    at_zero: float


class Optimum(NamedTuple):
    """The best share of replay at each pool, and its multiplier."""
    pools: ndarray                           # (k,) in those of the recipes
    rho: ndarray                             # ρ* (seeds, k)
    multiplier: ndarray                      # M (seeds, k)


class Prediction(NamedTuple):
    """A figure of ρ* and of M(1 − ρ*) against the pool, a row of two panels a pipeline."""
    losses: Sequence[str]                    # the target's

    def select(self, points: list[Point]) -> list[Point]:
        """Keep fine-tuning and the reference runs."""
        return [point for point in points if point["recipe"] in ("fine-tuning", "reference")]

    def shape(self, points: list[Point]) -> tuple[int, int]:
        """Count the rows and columns of panels."""
        return len(distinct(points, "pipeline")), 2

    def verdicts(self, points: list[Point]) -> list[list[str]]:
        """Judge both predictions in every pipeline: rows of `drawing.VERDICTS`. Raises as `line_up`."""
        rows = []
        for pipeline in distinct(points, "pipeline"):
            found = optimum(having(points, pipeline=pipeline), self.losses[0])
            off = np.abs(found.multiplier * (1 - found.rho) - 1).max(axis=1)
            near = estimate(TOLERANCE - off)
            falls = estimate(found.multiplier[:, 0] - found.multiplier[:, -1])

            # Without replay's gain ρ* is 0 and M is 1, and the prediction holds of nothing.
            replays = estimate(found.rho.min(axis=1) - LEAST_SHARE)
            measured = (f"{TOLERANCE} − |M(1 − ρ*) − 1| at its worst: {near:.3f}, "
                        f"ρ* − {LEAST_SHARE}: {replays:.3f}")
            rows.append(["replay is worth 1/(1 − ρ*) times the pool", pipeline, measured,
                         f"{near.shown_p()}, {replays.shown_p()}", verdict(near, replays)])
            measured = f"M at the smallest pool − at the largest: {falls:.3f}"
            rows.append(["it is worth less, the larger the pool", pipeline, measured, falls.shown_p(),
                         verdict(falls)])
        return rows

    def table(self, points: list[Point]) -> list[list[str]]:
        """Tabulate ρ*, M and what they predict of each other, under a header."""
        rows = [["where", "pool", "ρ*", "M", "M(1 − ρ*)", "n₀ by ρ*", "n₀ by M"]]
        for pipeline in distinct(points, "pipeline"):
            found = optimum(having(points, pipeline=pipeline), self.losses[0])
            for k, pool in enumerate(found.pools):
                rho, times = found.rho[:, k], found.multiplier[:, k]
                cells = [rho, times, times * (1 - rho), pool * rho / (1 - rho), pool * (times - 1)]
                rows.append([pipeline, f"×{pool:g}", *(f"{estimate(cell):.2f}" for cell in cells)])
        return rows

    def draw(self, points: list[Point], axes: ndarray) -> None:
        """Draw what was measured, and the prediction with n₀ at the middle pool."""
        # n₀ is fitted to the best share of the middle pool: the dashed line is what the model makes of it.
        for pipeline, (left, right) in zip(distinct(points, "pipeline"), axes):
            found = optimum(having(points, pipeline=pipeline), self.losses[0])
            rho = found.rho.mean(axis=0)
            middle = len(found.pools) // 2
            n0 = found.pools[middle] * rho[middle] / (1 - rho[middle])
            along = np.geomspace(found.pools[0], found.pools[-1], 50)

            # On the left where the best share lies, on the right whether it tells what replay is worth.
            left.plot(found.pools, found.rho.T, ".", color="grey")
            left.plot(found.pools, rho, "o-", color="#e87b14", label="measured")
            left.plot(along, n0 / (along + n0), "--", color="black", label="linear model")
            product = found.multiplier * (1 - found.rho)
            right.plot(found.pools, product.T, ".", color="grey")
            right.plot(found.pools, product.mean(axis=0), "o-", color="#e87b14")
            right.axhline(1, linestyle="--", color="black")
            for axis, name in ((left, "best share of replay ρ*"), (right, "M(1 − ρ*)")):
                axis.set(title=pipeline, xscale="log", xlabel="target data, in pools", ylabel=name)
                axis.set_xticks(found.pools, [f"{pool:g}" for pool in found.pools])
                axis.set_xticks([], minor=True)


def optimum(points: list[Point], loss: str) -> Optimum:
    """Find ρ* and M at each pool, seed by seed: the vertex of a parabola in ρ, read off the log law."""
    losses = line_up(points, loss, {"fine-tuning", "reference"})
    x, references = reference_of(losses)
    pools = sorted({arm.pools for arm in of(losses, "fine-tuning")})
    rhos, multipliers = [], []
    for seed, reference in enumerate(references):
        law = fit_log(x, reference)
        found = []
        for pool in pools:
            arms = [arm for arm in of(losses, "fine-tuning") if arm.pools == pool]
            rho = np.array([arm.rho for arm in arms])
            found.append(vertex(rho, np.array([losses[arm][seed] for arm in arms])))
        rhos.append([best.rho for best in found])
        multipliers.append([law.pools(best.least) / law.pools(best.at_zero) for best in found])
    return Optimum(np.array(pools), np.array(rhos), np.array(multipliers))


def vertex(rho: ndarray, losses: ndarray) -> Vertex:
    """Fit a parabola to losses at shares of replay (k,), and find where in their range it is least."""
    curve = np.polynomial.Polynomial.fit(rho, losses, 2)
    along = np.linspace(0, rho.max(), 1001)
    best = along[curve(along).argmin()]
    return Vertex(best, curve(best), curve(0.0))
