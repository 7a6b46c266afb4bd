"""Figures of a loss in the course of a chain's last stage: how what was acquired is lost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from experiments.curves import Judged, curve_of, mean_over_seeds, of_whole_seeds, rows_of
from experiments.points import Point, distinct, having
from experiments.statistics import band
from run.checkpoint import read_run
from run.files import UserError


class Courses(NamedTuple):
    """A figure of a loss against steps: a panel a pipeline, a line a value of the dial."""
    dial: str                                                # a key of the points, λ for instance
    symbol: str                                              # as a table calls it
    before: str                                              # the loss when the stage begins, L_im
    during: str                                              # the same corpus's in its course, L_ret
    belongs: Callable[[Point], bool]                         # whether a point is of this figure
    judge: Callable[[ndarray, dict[str, ndarray]], Judged]   # dial (k,), losses (seeds, k) → the claims
    name_panel: Callable[[str], tuple[str, str]]             # a pipeline → its panel's title and x axis
    name_line: Callable[[str, float], str]                   # (pipeline, value) → what stands at a line's end
    colour: Callable[[float], str]                           # of a value's line

    @property
    def losses(self) -> tuple[str, str]:
        """Name the losses of the table."""
        return self.before, self.during

    def select(self, points: list[Point]) -> list[Point]:
        """Keep those of the points that the figure is of."""
        return [point for point in points if self.belongs(point)]

    def shape(self, points: list[Point]) -> tuple[int, int]:
        """Count the rows and columns of panels."""
        return 1, len(distinct(points, "pipeline"))

    def verdicts(self, points: list[Point]) -> list[list[str]]:
        """Judge every claim in every pipeline: rows of `drawing.VERDICTS`. Raises UserError as `curve_of`."""
        rows = []
        for pipeline in distinct(points, "pipeline"):
            dial, by_loss = curve_of(having(points, pipeline=pipeline), self.dial, self.losses)
            rows += rows_of(self.judge(dial, by_loss), pipeline)
        return rows

    def table(self, points: list[Point]) -> list[list[str]]:
        """Tabulate the means over seeds at every value of the dial, under a header."""
        rows = [["where", self.symbol, *self.losses]]
        for pipeline in distinct(points, "pipeline"):
            dial, by_loss = curve_of(having(points, pipeline=pipeline), self.dial, self.losses)
            for k, value in enumerate(dial):
                means = [mean_over_seeds(by_loss[loss][:, k]) for loss in self.losses]
                rows.append([pipeline, f"{value:.3g}", *means])
        return rows

    def draw(self, points: list[Point], axes: ndarray) -> None:
        """Draw a panel for every pipeline."""
        for pipeline, axis in zip(distinct(points, "pipeline"), axes.flat):
            there = of_whole_seeds(having(points, pipeline=pipeline), self.dial)
            for value in sorted(distinct(there, self.dial)):
                some = having(there, **{self.dial: value})
                self._draw_line(axis, some, self.name_line(pipeline, value), self.colour(value))
            title, xlabel = self.name_panel(pipeline)
            axis.set(title=title, xlabel=xlabel, ylabel=f"{self.before} → {self.during} (nats per token)")

    def _draw_line(self, axis, points: list[Point], name: str, colour: str) -> None:
        """Draw the mean course over seeds, in a band of its interval, with its name at its end."""
        steps, by_seed = self._courses(points)
        mean = by_seed.mean(axis=0)
        axis.plot(steps, mean, "-o", color=colour, markersize=3)
        axis.annotate(name, (steps[-1], mean[-1]), xytext=(6, 0), textcoords="offset points", va="center",
                      color=colour, annotation_clip=False)
        if len(by_seed) > 1:
            axis.fill_between(steps, *band(by_seed), color=colour, alpha=0.15, linewidth=0)

    def _courses(self, points: list[Point]) -> tuple[ndarray, ndarray]:
        """Collect the steps (k,) and the losses of every run at them, (seeds, k)."""
        courses = []
        for point in points:
            run = Path(point["run"])
            end = read_run(run)["lineage"][-1]["steps"]
            course = {0: point[self.before]} | evaluations(run, self.during) | {end: point[self.during]}
            courses.append(course)
        steps = sorted(set.intersection(*(set(course) for course in courses)))
        return np.array(steps), np.array([[course[step] for step in steps] for course in courses])


def evaluations(run: Path, loss: str) -> dict[int, float]:
    """Read a held-out loss at every step at which a run's log has it; raises UserError if it has none."""
    try:
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        found = {line["step"]: line[loss] for line in lines if loss in line}
    except (OSError, ValueError, TypeError, KeyError):
        found = {}
    if not found:
        raise UserError(f"{run} has no log.jsonl with {loss} in it, run it again with a smaller --eval-every")
    return found
