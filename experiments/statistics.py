"""How sure a number is over seeds, and whether a claim is seen.

The interval of a statistic is the percentile bootstrap over seeds, which for fewer than five seeds is no more
than their range: of three with no effect, all lie above 0 in one case of 8. A new statistic is one function
of (seeds, …) values.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy import ndarray

RESAMPLES = 10_000


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
        interval = f" [{self.low:{spec}}, {self.high:{spec}}]" if self.seeds > 1 else ""
        return f"{self.value:{spec}}{interval}"

    def exponential(self) -> "Estimate":
        """Estimate e to this statistic: a ratio, of a logarithm."""
        return self._replace(value=np.exp(self.value), low=np.exp(self.low), high=np.exp(self.high))

    def shown_p(self) -> str:
        """Write its p to three decimals, or a dash."""
        return "–" if np.isnan(self.p) else f"{self.p:.3f}"


def estimate(values: ndarray,
             statistic: Callable[[ndarray], ndarray] = lambda mean: mean[..., 0]) -> Estimate:
    """Estimate a statistic of the mean over seeds of values (seeds, …), its interval and its p.

    `statistic` takes (…, k) to (…); the default takes values (seeds, 1). The bootstrap draws seeds with
    replacement, 10,000 times; p is `sign_flip_p` of the statistic within each seed. nan if any value is.
    """
    seeds = len(values)
    value = float(statistic(values.mean(axis=0)))
    if seeds == 1 or np.isnan(value):
        return Estimate(value, low=np.nan, high=np.nan, p=np.nan, seeds=seeds)

    # The same draws for every statistic, so that a figure drawn again says the same.
    drawn = np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))
    low, high = np.quantile(statistic(values[drawn].mean(axis=1)), (0.025, 0.975))
    return Estimate(value, float(low), float(high), p=sign_flip_p(statistic(values)), seeds=seeds)


def estimate_numbers(numbers: ndarray) -> Estimate:
    """Estimate the mean of one number a seed, (seeds,)."""
    return estimate(np.asarray(numbers)[:, None])


def sign_flip_p(values: ndarray) -> float:
    """Test one-sidedly, paired and exactly, that differences within a seed (seeds,) are above 0 on average.

    Returns p, the share of the 2ⁿ choices of their signs whose mean is at least the observed one: never below
    1/2ⁿ. Beyond 13 seeds, the share of the observed choice and 10,000 random ones.
    """
    if len(values) <= 13:
        signs = np.array(list(itertools.product((1, -1), repeat=len(values))))
    else:
        signs = np.random.default_rng(0).choice((1, -1), size=(RESAMPLES, len(values)))
        signs = np.concatenate([np.ones((1, len(values))), signs])
    return float(np.mean(signs @ values >= values.sum() - 1e-12))


def verdict(*estimates: Estimate, also: bool = True) -> str:
    """Say whether the claim that every estimate is above 0 is seen: every interval lies above 0.

    Of one seed, which has no interval, the value must. Estimates that are nan do not count; `also` must hold.
    """
    known = [one for one in estimates if not np.isnan(one.value)]
    if not known:
        return "not seen"
    seeds = known[0].seeds
    if seeds == 1:
        lowest = min(one.value for one in known)
    else:
        lowest = min(one.low for one in known)
    word = "seen" if also and lowest > 0 else "not seen"
    return f"{word} ({seeds} seed{'' if seeds == 1 else 's'})"


def slope(x: ndarray, y: ndarray) -> ndarray:
    """Fit the least-squares slope of y (…, k) on x (k,): (…)."""
    x = x - x.mean()
    return y @ x / (x @ x)


def best_inside(by_seed: ndarray) -> ndarray:
    """Measure how much lower a loss (seeds, k) is at its best inside than at the better end: (seeds,).

    Of several seeds, each is measured at the value that is best on average over the others: the least of
    noisy values is below the ends by itself, a value chosen by other seeds is not.
    """
    gains = []
    for seed, losses in enumerate(by_seed):
        others = np.delete(by_seed, seed, axis=0) if len(by_seed) > 1 else by_seed
        chosen = 1 + others.mean(axis=0)[1:-1].argmin()
        gains.append(min(losses[0], losses[-1]) - losses[chosen])
    return np.array(gains)
