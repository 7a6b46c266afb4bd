"""From a rank to a number: how much of D_post a Stage 3 takes, from how much a quarter of it on D_pre took.

g(L_ret − L_im) = a + b·g(L_probe − L_im), where g(r) = asinh(r / SCALE) is a logarithm, but a line about 0:
there chance may make a rise a fall. Runs of one D_post are alike, so what counts is how many pipelines the
law was fitted to, and how far it misses one that it was not.
"""

from typing import NamedTuple

import numpy as np
from numpy import ndarray

from experiments.statistics import student_t

SCALE = 0.03            # nats: a few standard errors of a rise that is measured on 256 windows


class Rises(NamedTuple):
    """What the probe and Stage 3 took of D_post, in nats, and of what runs: (n,) each."""
    probe: ndarray
    measured: ndarray
    pipeline: ndarray
    seed: ndarray
    recipe: ndarray

    def where(self, kept: ndarray) -> "Rises":
        """Keep some of the runs."""
        return Rises(*(column[kept] for column in self))


class Law(NamedTuple):
    """The law, and how sure it is."""
    a: float
    b: float
    error: float         # root mean square by which g of a pipeline is missed that is not fitted to; or nan
    pipelines: int

    def forecast(self, L_im: ndarray, L_probe: ndarray) -> ndarray:
        """Forecast L_ret in a pipeline unseen: value, and the ends of its 95% interval, (3, …).

        Student's t over pipelines: few make it wide, and of one there is none, nan.
        """
        centre = self.a + self.b * scaled(L_probe - L_im)
        half = np.nan
        if self.pipelines > 1:
            half = student_t(self.pipelines - 1) * self.error
        return L_im + SCALE * np.sinh([centre, centre - half, centre + half])


def fit(rises: Rises) -> Law:
    """Fit the law, and measure its error by leaving out every pipeline in turn."""
    pipelines = np.unique(rises.pipeline)
    if len(pipelines) == 1:
        return Law(*line(rises), error=np.nan, pipelines=1)
    missed = []
    for pipeline in pipelines:
        unseen = rises.pipeline == pipeline
        a, b = line(rises.where(~unseen))
        left = scaled(rises.measured[unseen]) - a - b * scaled(rises.probe[unseen])
        missed.append((left ** 2).mean())
    return Law(*line(rises), error=float(np.sqrt(np.mean(missed))), pipelines=len(pipelines))


def line(rises: Rises) -> tuple[float, float]:
    """Fit a and b by least squares, every pipeline with the same weight."""
    _, pipeline, runs = np.unique(rises.pipeline, return_inverse=True, return_counts=True)
    weight = runs[pipeline] ** -0.5
    design = np.column_stack([np.ones(len(weight)), scaled(rises.probe)])
    a, b = np.linalg.lstsq(design * weight[:, None], scaled(rises.measured) * weight)[0]
    return float(a), float(b)


def scaled(rise: ndarray) -> ndarray:
    """Take g of a rise in nats."""
    return np.arcsinh(rise / SCALE)
