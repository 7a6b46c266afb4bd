"""The forecast's probe on other texts than D_pre, where it is suspected that D_pre is too unlike D_ft."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from experiments.curves import rows_of
from experiments.forecast.claims import MARKERS, Forecasts, by_name, explain, look_of, over_rates
from experiments.forecast.known import BEGUN, QUARTER, Task, on_d_pre, tasks_of, with_course
from experiments.points import Point
from experiments.statistics import estimate


class Surrogates(NamedTuple):
    """A figure of L_ret against what is known before: a row of panels a D_ft, a column a probe or noise."""
    losses: Sequence[str] = ()                   # what is told of a run is what forecast's `describe` tells

    def select(self, points: list[Point]) -> list[Point]:
        """Fill in the courses of the probes on D_pre."""
        return [with_course(point) if on_d_pre(point) else point for point in points]

    def shape(self, points: list[Point]) -> tuple[int, int]:
        """Count the rows and columns of panels."""
        tasks = tasks_of(points)
        return len(by_name(tasks)), len(compared(tasks))

    def verdicts(self, points: list[Point]) -> list[list[str]]:
        """Judge whether other texts, and noise, rank better than D_pre: rows of `drawing.VERDICTS`."""
        tasks = tasks_of(points)
        rows = []
        for where, some in by_name(tasks).items():
            for name in compared(tasks)[1:]:
                better = estimate(over_rates(some, name) - over_rates(some, QUARTER))
                claim = f"{name} ranks better than the probe"
                rows += rows_of([(claim, "Spearman − that of D_pre", better)], where)
        return rows

    def table(self, points: list[Point]) -> list[list[str]]:
        """Tabulate how well everything that is known ranks, as the forecast's figure does."""
        return Forecasts().table(points)

    def draw(self, points: list[Point], axes: ndarray) -> None:
        """Draw L_ret against each of what is compared, every seed and rate of Stage 3."""
        # A D_ft's panels differ in what is known, and are all of the same runs.
        tasks = tasks_of(points)
        markers = dict(zip(sorted({task.rate for task in tasks}), MARKERS))
        for some, row in zip(by_name(tasks).values(), axes):
            for name, axis in zip(compared(tasks), row):
                for task in some:
                    for k, recipe in enumerate(task.recipes):
                        axis.plot(task.known[name][:, k], task.L_ret[:, k], markers[task.rate],
                                  **look_of(recipe))

                # Ranks are of one rate of Stage 3 at a time, the mean of these.
                ranked = np.mean(over_rates(some, name))
                axis.set(title=f"{name}\nSpearman {ranked:.2f}", xlabel="D_post's loss after it",
                         ylabel=f"L_ret after {some[0].ft}")
        explain(axes[0, 0], markers, [recipe for task in tasks for recipe in task.recipes])


def compared(tasks: list[Task]) -> list[str]:
    """Name what is compared: the probe on D_pre, those on other texts, and noise."""
    known = tasks[0].known
    begun = [name for name in known if BEGUN in name]
    noise = [name for name in known if name.startswith("noise")]
    return [QUARTER, *begun, *noise]
