"""Pareto frontiers of losses, what sets two of them apart, and how sure that is over seeds.

Losses are in nats per token and lower is better. The interval of a statistic is the percentile bootstrap over seeds,
which for fewer than five seeds is no more than their range: of three with no effect, all lie above 0 in one case of 8.
"""

import itertools
from typing import Callable, NamedTuple

import numpy as np
from numpy import ndarray

RESAMPLES = 10_000


def pareto_front(points: ndarray) -> ndarray:
    """The points (n, 2) that no other dominates: (m, 2), the first loss rising, the second falling.

    A point is dominated by one that is no higher in either loss and lower in one; of equal points one is kept.
    """
    points = np.unique(points, axis=0)                                  # sorted by the first loss, then the second
    lowest_before = np.minimum.accumulate(np.r_[np.inf, points[:-1, 1]])
    return points[points[:, 1] < lowest_before]


def reference_point(*points: ndarray) -> ndarray:
    """The worst of each loss at any of the points (n, 2), and a tenth of their range beyond it: (2,)."""
    together = np.concatenate(points)
    return together.max(axis=0) + np.ptp(together, axis=0) / 10


def dominates(better: ndarray, worse: ndarray) -> bool:
    """Whether every point of a front (m, 2) is dominated by one of another."""
    no_higher = better[:, None] <= worse
    return bool((no_higher.all(-1) & (better[:, None] < worse).any(-1)).any(0).all())


def hypervolume(points: ndarray, reference: ndarray) -> float:
    """The area, in nats², of all that the points (n, 2) dominate up to the reference point (2,)."""
    front = pareto_front(points[(points < reference).all(axis=1)])
    widths = np.diff(np.r_[front[:, 0], reference[0]])
    return float(widths @ (reference[1] - front[:, 1]))


def gap_at_matched(worse: ndarray, better: ndarray) -> float:
    """How much lower the second loss is on one front than on the other at equal first loss, in nats.

    Both fronts (m, 2) are taken as piecewise linear. The mean over the range of the first loss that they have in
    common; nan where they have none: nothing is extrapolated.
    """
    low, high = max(worse[0, 0], better[0, 0]), min(worse[-1, 0], better[-1, 0])
    if low > high:
        return np.nan
    knots = np.unique(np.clip(np.r_[worse[:, 0], better[:, 0]], low, high))
    gaps = np.interp(knots, *worse.T) - np.interp(knots, *better.T)
    return float(np.trapezoid(gaps, knots) / (high - low) if high > low else gaps[0])


class Estimate(NamedTuple):
    """A statistic, its 95% interval over seeds (nan for one seed), its p, and the number of seeds."""
    value: float
    low: float
    high: float
    p: float
    seeds: int

    def __format__(self, spec: str) -> str:
        if np.isnan(self.value):
            return "–"
        return f"{self.value:{spec}}" + (f" [{self.low:{spec}}, {self.high:{spec}}]" if self.seeds > 1 else "")


def sign_flip_p(values: ndarray) -> float:
    """One-sided exact paired test that values (seeds,), differences within a seed, are above 0 on average.

    The share of the 2ⁿ choices of their signs whose mean is at least the observed one: never below 1/2ⁿ. Beyond 13
    seeds, of the observed choice and 10,000 random ones.
    """
    if len(values) <= 13:
        signs = np.array(list(itertools.product((1, -1), repeat=len(values))))
    else:
        signs = np.random.default_rng(0).choice((1, -1), size=(RESAMPLES, len(values)))
        signs = np.concatenate([np.ones((1, len(values))), signs])
    return float(np.mean(signs @ values >= values.sum() - 1e-12))


def estimate(values: ndarray, statistic: Callable[[ndarray], ndarray] = lambda mean: mean[..., 0]) -> Estimate:
    """A statistic of the mean over seeds of values (seeds, …), with its bootstrap interval and paired test.

    `statistic` takes (…, k) to (…); the default takes values (seeds, 1). The bootstrap draws seeds with replacement,
    10,000 times; the test is `sign_flip_p` of the statistic within each seed. nan if any value is.
    """
    seeds = len(values)
    value = float(statistic(values.mean(axis=0)))
    if seeds == 1 or np.isnan(value):
        return Estimate(value, np.nan, np.nan, np.nan, seeds)
    drawn = np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))
    low, high = np.quantile(statistic(values[drawn].mean(axis=1)), (0.025, 0.975))
    return Estimate(value, float(low), float(high), sign_flip_p(statistic(values)), seeds)


def verdict(*estimates: Estimate, also: bool = True) -> str:
    """Whether a claim, that every estimate is above 0, is seen: every interval, with one seed every value, is above 0.

    Estimates that are nan do not count; `also` must hold too.
    """
    known = [one for one in estimates if not np.isnan(one.value)]
    if not known:
        return "not seen"
    seen = also and all((one.value if one.seeds == 1 else one.low) > 0 for one in known)
    seeds = known[0].seeds
    return f"{'seen' if seen else 'not seen'} ({seeds} seed{'s' * (seeds > 1)})"


def slope(x: ndarray, y: ndarray) -> ndarray:
    """The least-squares slope of y (…, k) on x (k,): (…)."""
    x = x - x.mean()
    return y @ x / (x @ x)
