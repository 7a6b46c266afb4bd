"""Target-data efficiency: how many times more target data the reference recipe needs for the same loss."""

from typing import NamedTuple

import numpy as np
from numpy import ndarray

from experiments.statistics import slope


class PowerLaw(NamedTuple):
    """The paper's L(x) = A·x^(−B) + C, x in pools."""
    A: float
    B: float
    C: float

    def loss(self, x: ndarray) -> ndarray:
        """Tell the loss at a pool of x."""
        return self.A * x ** -self.B + self.C

    def pools(self, loss: float) -> float:
        """Tell how many pools it takes to reach a loss; infinitely many at C and below."""
        return ((loss - self.C) / self.A) ** (-1 / self.B) if loss > self.C else np.inf


class LogLaw(NamedTuple):
    """L(x) = at_one + slope·ln x, which the power law becomes as B goes to 0."""
    slope: float
    at_one: float

    def loss(self, x: ndarray) -> ndarray:
        """Tell the loss at a pool of x."""
        return self.at_one + self.slope * np.log(x)

    def pools(self, loss: float) -> float:
        """Tell how many pools it takes to reach a loss."""
        return float(np.exp((loss - self.at_one) / self.slope))


def line(x: ndarray, y: ndarray) -> tuple[float, float]:
    """Fit y = slope·x + constant by least squares."""
    rise = slope(x, y)
    return rise, y.mean() - rise * x.mean()


def fit_log(x: ndarray, losses: ndarray) -> LogLaw:
    """Fit the log law to reference runs with pools x (n,)."""
    return LogLaw(*line(np.log(x), losses))


def fit_power(x: ndarray, losses: ndarray) -> PowerLaw:
    """Fit the power law to reference runs with pools x (n,), by least squares, B between 1e-4 and 10."""
    # Given B the law is a line in x^(−B), so that only B is searched for, around the best so far.
    exponents = np.geomspace(1e-4, 10, 501)
    for _ in range(3):
        fits = []
        for B in exponents:
            A, C = line(x ** -B, losses)
            fits.append(PowerLaw(A, B, C))
        misses = [np.sum((fit.loss(x) - losses) ** 2) for fit in fits]
        best = int(np.argmin(misses))
        exponents = np.geomspace(exponents[max(best - 1, 0)], exponents[min(best + 1, 500)], 501)
    return fits[best]


LAWS = {"power": fit_power, "log": fit_log}


def multiplier(x: ndarray, losses: ndarray, law: str, better: float, worse: float) -> float:
    """Divide the pool at the better loss by that at the worse, read off references x and losses, (n,)."""
    fit = LAWS[law](x, losses)
    return fit.pools(better) / fit.pools(worse)


def leave_one_out(x: ndarray, losses: ndarray, law: str, better: float,
                  worse: float) -> tuple[float, float]:
    """Tell the least and the greatest multiplier when each reference run is left out once."""
    without = [multiplier(np.delete(x, one), np.delete(losses, one), law, better, worse)
               for one in range(len(x))]
    return min(without), max(without)
