"""From a rank to a number: how much of D_post a Stage 3 takes, from how much a quarter of it on D_pre took.

log(L_ret − L_im) = a + b log(L_probe − L_im) + what is of the task + what is of the run. A task is a pipeline
and its D_ft, at all rates. The interval of a task that the law has never seen has to cover both parts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from experiments.statistics import student_t

LEAST = 0.01            # nats: less than this is not told from nothing on 256 windows


class Rises(NamedTuple):
    """What was forgotten in one task: by the probe and by Stage 3, in nats, (n,) each."""
    probe: ndarray
    measured: ndarray


class Law(NamedTuple):
    """The law, fitted to some tasks."""
    a: float
    b: float
    between: float       # variance of tasks about the law, of log rises
    within: float        # variance of runs about their task
    tasks: int

    def forecast(self, L_im: ndarray, L_probe: ndarray) -> ndarray:
        """Forecast L_ret of a task unseen: value, and the ends of its 95% interval, (3, …).

        Student's t over tasks: few make it wide, and of one there is none, nan.
        """
        centre = self.a + self.b * log_rise(L_probe - L_im)
        half = np.nan
        if self.tasks > 1:
            half = student_t(self.tasks - 1) * np.sqrt(self.between * (1 + 1 / self.tasks) + self.within)
        return L_im + np.exp([centre, centre - half, centre + half])


def fit(tasks: Sequence[Rises]) -> Law:
    """Fit the law by least squares, every task with the same weight."""
    x = np.concatenate([log_rise(task.probe) for task in tasks])
    y = np.concatenate([log_rise(task.measured) for task in tasks])
    weight = np.concatenate([np.full(len(task.probe), len(task.probe) ** -0.5) for task in tasks])
    design = np.column_stack([np.ones(len(x)), x])
    a, b = np.linalg.lstsq(design * weight[:, None], y * weight)[0]

    # What is left over is of the task as far as it is in the mean of its runs.
    left = [log_rise(task.measured) - a - b * log_rise(task.probe) for task in tasks]
    of_task = np.array([some.mean() for some in left])
    between = float((of_task ** 2).sum() / max(len(tasks) - 1, 1))
    within = float(np.mean([some.var() for some in left]))
    return Law(float(a), float(b), between, within, len(tasks))


def log_rise(rise: ndarray) -> ndarray:
    """Take the logarithm of a rise in nats, what cannot be told from nothing as the least that can."""
    return np.log(np.maximum(rise, LEAST))
