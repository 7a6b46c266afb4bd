"""How sure a number is over seeds, and whether a claim is seen.

A statistic is one number a seed; its interval is Student's t over them, wide where they are few. A new
statistic is one function of (seeds, …) values.
"""

import itertools
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy import ndarray

RANDOM_SIGNS = 10_000


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


def estimate(values: ndarray) -> Estimate:
    """Estimate the mean of one number a seed, (seeds,): its interval and its p; nan if any number is."""
    values = np.asarray(values, dtype=float)
    seeds, value = len(values), float(values.mean())
    if seeds == 1 or np.isnan(value):
        return Estimate(value, low=np.nan, high=np.nan, p=np.nan, seeds=seeds)
    half = student_t(seeds - 1) * values.std(ddof=1) / np.sqrt(seeds)
    return Estimate(value, float(value - half), float(value + half), p=sign_flip_p(values), seeds=seeds)


def band(by_seed: ndarray) -> tuple[list[float], list[float]]:
    """Estimate the 95% interval at every place of (seeds, k): its low ends and its high ends, (k,) each."""
    estimates = [estimate(values) for values in by_seed.T]
    return [one.low for one in estimates], [one.high for one in estimates]


@cache
def student_t(freedom: int, coverage: float = 0.95) -> float:
    """Find what |t| of Student's distribution stays below with probability `coverage`."""
    # With t = √freedom · tan θ its density is cos θ to the power freedom − 1, on |θ| < π/2.
    theta = np.linspace(0, np.pi / 2, 100_001)
    density = np.cos(theta) ** (freedom - 1)
    below = np.cumsum((density[1:] + density[:-1]) / 2)
    return float(np.sqrt(freedom) * np.tan(np.interp(coverage * below[-1], below, theta[1:])))


def sign_flip_p(values: ndarray) -> float:
    """Test one-sidedly and paired that differences within a seed (seeds,) are above 0 on average.

    Exact where they are independent and symmetric. Returns p, the share of the 2ⁿ choices of their signs
    whose mean is at least the observed one: never below 1/2ⁿ. Beyond 13 seeds, the share of the observed
    choice and 10,000 random ones.
    """
    if len(values) <= 13:
        signs = np.array(list(itertools.product((1, -1), repeat=len(values))))
    else:
        signs = np.random.default_rng(0).choice((1, -1), size=(RANDOM_SIGNS, len(values)))
        signs = np.concatenate([np.ones((1, len(values))), signs])
    return float(np.mean(signs @ values >= values.sum() - 1e-12))


def verdict(*estimates: Estimate, also: bool = True) -> str:
    """Say whether the claim that every estimate is above 0 is seen: every interval lies above 0.

    Of one seed, which has no interval, the value must. Estimates that are nan do not count, and where all are
    it is not judged; `also` must hold.
    """
    known = [one for one in estimates if not np.isnan(one.value)]
    if not known:
        return "not judged"
    seeds = known[0].seeds
    if seeds == 1:
        lowest = min(one.value for one in known)
    else:
        lowest = min(one.low for one in known)
    word = "seen" if also and lowest > 0 else "not seen"
    return f"{word} ({seeds} seed{'' if seeds == 1 else 's'})"


def less_sure(*estimates: Estimate) -> Estimate:
    """Choose, of numbers that must all be above 0, the weakest: whose interval begins lowest."""
    return min(estimates, key=lambda one: np.nanmin([one.low, one.value]))


def slope(x: ndarray, y: ndarray) -> ndarray:
    """Fit the least-squares slope of y (…, k) on x (k,): (…)."""
    x = x - x.mean()
    return y @ x / (x @ x)


def partial_slope(x: ndarray, y: ndarray, held: ndarray) -> ndarray:
    """Fit y as a + b x + c held, all (seeds, n), by least squares: b, the slope at equal `held`, (seeds,)."""
    slopes = []
    for one_x, one_y, one_held in zip(x, y, held):
        design = np.column_stack([np.ones(len(one_x)), one_x, one_held])
        slopes.append(np.linalg.lstsq(design, one_y)[0][1])
    return np.array(slopes)


def vertex(x: ndarray, losses: ndarray) -> tuple[float, float]:
    """Find where in the range of x losses (k,) at x (k,) are least, and how low they are there.

    By a parabola through the least of them and its neighbours: further off, losses need not lie on one.
    """
    least = losses.argmin()
    middle = int(np.clip(least, 1, max(len(losses) - 2, 1)))
    around = slice(middle - 1, middle + 2)
    parabola = np.polynomial.Polynomial.fit(x[around], losses[around], min(2, len(losses) - 1))

    # Losses that bend the other way, or are but two, are least at an end.
    place = x[least]
    if parabola.deriv(2)(0) > 0:
        place = np.clip(parabola.deriv().roots()[0], x[0], x[-1])
    return float(place), float(parabola(place))


def spearman(x: ndarray, y: ndarray) -> ndarray:
    """Correlate the ranks of x and y (…, n), ties at their mean rank: (…); nan where either is constant."""
    x, y = ranks(x), ranks(y)
    x, y = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (x * y).sum(axis=-1) / np.sqrt((x ** 2).sum(axis=-1) * (y ** 2).sum(axis=-1))


def ranks(values: ndarray) -> ndarray:
    """Rank values (…, n) from 0, ties at their mean rank."""
    one, others = values[..., :, None], values[..., None, :]
    below, equal = (others < one).sum(axis=-1), (others == one).sum(axis=-1)
    return below + (equal - 1) / 2


def best_inside(by_seed: ndarray) -> ndarray:
    """Measure how much lower a loss (seeds, k) is at its best inside than at the better end: (seeds,)."""
    ends = np.minimum(by_seed[:, 0], by_seed[:, -1])
    return ends - at_best_of_others(by_seed[:, 1:-1])


def at_best_of_others(by_seed: ndarray, by: ndarray | None = None) -> ndarray:
    """Look up each seed's value (seeds, k) where it, or `by`, is least for the other seeds: (seeds,)."""
    return by_seed[np.arange(len(by_seed)), best_of_others(by_seed if by is None else by)]


def best_of_others(by_seed: ndarray) -> ndarray:
    """Choose for each seed where a loss (seeds, k) is least on average over the other seeds: (seeds,).

    The least of noisy values is below the others by itself, a value chosen by other seeds is not. One seed
    has no others and chooses for itself.
    """
    if len(by_seed) == 1:
        return by_seed.argmin(axis=1)
    others = by_seed.sum(axis=0) - by_seed
    return others.argmin(axis=1)
