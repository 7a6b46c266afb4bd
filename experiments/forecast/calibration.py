"""From a rank to a number: how much of D_post a Stage 3 takes, from how much a quarter of it took.

g(L_ret − L_im) = g(L_probe − L_im) + a + b·log(rate / RATE), where g(r) = asinh(r / SCALE) is a logarithm,
but a line about 0: there chance may make a rise a fall. So the other three quarters multiply a rise well
above SCALE by a factor that depends on Stage 3's rate. Runs after one D_post are alike, and so are those
before one D_ft: what counts is how many of either the law was fitted to, and how far it misses those that it
was not.
"""

from typing import NamedTuple

import numpy as np
from numpy import ndarray

from experiments.statistics import student_t

SCALE = 0.03            # nats: about the standard error of one loss on 256 windows
RATE = 3e-4             # of Stage 3, its default at toy
ENOUGH = 3              # pipelines and D_ft; of two Student's t is 12.7, and an interval says nothing


class Rises(NamedTuple):
    """What the probe and Stage 3 took of D_post, in nats, and of what runs: (n,) each."""
    probe: ndarray
    measured: ndarray
    pipeline: ndarray
    ft: ndarray
    rate: ndarray
    seed: ndarray
    recipe: ndarray

    def where(self, kept: ndarray) -> "Rises":
        """Keep some of the runs."""
        return Rises(*(column[kept] for column in self))


class Forecast(NamedTuple):
    """L_ret as it is expected, and the ends of its 95% interval, of any shape."""
    value: ndarray
    low: ndarray
    high: ndarray


class Law(NamedTuple):
    """The law, and how sure it is."""
    a: float             # log of the factor, at RATE
    b: float             # by which that grows with log(rate)
    error: float         # root mean square by which g is missed after a D_post and before a D_ft unseen
    kinds: int           # number of pipelines, or of D_ft where those are fewer

    def forecast(self, L_im: ndarray, L_probe: ndarray, rate: ndarray | float) -> Forecast:
        """Forecast L_ret at a rate of Stage 3, after a D_post and a D_ft unseen.

        The interval is Student's t over kinds: few make it wide, and of fewer than three there is none, nan.
        """
        centre = scaled(L_probe - L_im) + self.a + self.b * np.log(rate / RATE)
        half = np.nan
        if self.kinds >= ENOUGH:
            half = student_t(self.kinds - 1) * self.error
        return Forecast(*(L_im + SCALE * np.sinh(g) for g in (centre, centre - half, centre + half)))


NOTHING_KNOWN = Law(a=np.nan, b=np.nan, error=np.nan, kinds=0)


def fit(rises: Rises) -> Law:
    """Fit the law, and measure its error by leaving out every pair of a pipeline and a D_ft in turn."""
    # The others share neither D_post nor D_ft with it, as tables share neither with a user's runs.
    missed = []
    for pipeline, ft in sorted(set(zip(rises.pipeline, rises.ft))):
        unseen = rises.where((rises.pipeline == pipeline) & (rises.ft == ft))
        others = rises.where((rises.pipeline != pipeline) & (rises.ft != ft))
        if len(others.probe):
            a, b = coefficients(others)
            missed.append(((log_factor(unseen) - a - b * np.log(unseen.rate / RATE)) ** 2).mean())

    # Student's t has so many degrees of freedom, less one.
    a, b = coefficients(rises)
    kinds = min(len(np.unique(rises.pipeline)), len(np.unique(rises.ft)))
    return Law(a, b, error=float(np.sqrt(np.mean(missed))) if missed else np.nan, kinds=kinds)


def coefficients(rises: Rises) -> tuple[float, float]:
    """Fit a and b by least squares, every pipeline with the same weight.

    Of one rate a and b cannot be told apart; a forecast at that rate is right all the same.
    """
    _, pipeline, runs = np.unique(rises.pipeline, return_inverse=True, return_counts=True)
    weight = runs[pipeline] ** -0.5
    design = np.column_stack([np.ones(len(weight)), np.log(rises.rate / RATE)])
    a, b = np.linalg.lstsq(design * weight[:, None], log_factor(rises) * weight)[0]
    return float(a), float(b)


def log_factor(rises: Rises) -> ndarray:
    """Measure by how much the rest of Stage 3 raised g: (n,), of large rises the logarithm of a factor."""
    return scaled(rises.measured) - scaled(rises.probe)


def scaled(rise: ndarray) -> ndarray:
    """Take g of a rise in nats."""
    return np.arcsinh(rise / SCALE)
