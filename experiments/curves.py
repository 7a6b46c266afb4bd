"""Figures of losses against a dial: what they say over seeds, and their panels."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from experiments.points import Point, columns, distinct, having
from experiments.statistics import Estimate, band, estimate, verdict
from run.files import UserError

Judged = list[tuple[str, str, Estimate]]         # (claim, statistic in words, estimate), seen if above 0
Curve = tuple[ndarray, dict[str, ndarray]]       # dial (k,), losses (seeds, k)


class Curves(NamedTuple):
    """A figure of losses against a dial: a row of panels a pipeline, a curve a value of `series`."""
    dial: str                                                # a key of the points, λ for instance
    symbol: str                                              # as a table calls it
    series: str                                              # a key of the points
    name_series: Callable[[object], str]                     # its value → as a legend calls it
    panels: Sequence[str]                                    # the losses drawn, a panel each
    losses: Sequence[str]                                    # those in the table
    falls: str                                               # the loss whose fall along the dial is tabulated
    colour: str
    # dial (k,), losses (seeds, k) → what is claimed of a single curve
    judge: Callable[[ndarray, dict[str, ndarray]], Judged] = lambda dial, by_loss: []
    belongs: Callable[[Point], bool] = lambda point: True    # whether a point is of this figure
    # (preset, series, loss) → the paper's curve, (n, 2)
    published: Callable[[str, object, str], ndarray | None] = lambda *of: None
    axis: str = ""                                           # as its axis calls the dial, if not by symbol
    colours: dict[object, str] = {}                          # of the series that have one of their own
    star: bool = True                                        # whether one is drawn where a mean is least
    scale: str = "linear"                                    # of the dial's axis; or "log"
    name_value: Callable[[float], str] = "{:.3g}".format     # a value of the dial, for axis and table
    choose: Callable[[list[Point]], list[Point]] = list      # of those that belong, the ones to show: all
    judge_together: Callable[[dict[object, Curve]], Judged] | None = None        # all series of a pipeline
    for_judge: Sequence[str] = ()                            # what `judge` is told beside the losses

    def select(self, points: list[Point]) -> list[Point]:
        """Keep those of the points that the figure is of."""
        return self.choose([point for point in points if self.belongs(point)])

    def shape(self, points: list[Point]) -> tuple[int, int]:
        """Count the rows and columns of panels."""
        return len(distinct(points, "pipeline")), len(self.panels)

    def verdicts(self, points: list[Point]) -> list[list[str]]:
        """Judge every claim, of a curve and of a pipeline's: rows of `drawing.VERDICTS`.

        Raises UserError as `curve_of`.
        """
        rows = []
        for pipeline, series in groups(points, self.series):
            dial, by_loss = self._curve(points, pipeline, series)
            rows += rows_of(self.judge(dial, by_loss), f"{pipeline}, {self.name_series(series)}")

        # Curves are compared seed by seed, over the seeds that have them all.
        if self.judge_together:
            for pipeline in distinct(points, "pipeline"):
                rows += self._verdicts_together(points, pipeline)
        return rows

    def _verdicts_together(self, points: list[Point], pipeline: str) -> list[list[str]]:
        """Judge what is claimed of all curves of a pipeline, if a seed has them all."""
        whole = of_whole_seeds(having(points, pipeline=pipeline), self.series, self.dial)
        if not whole:
            return [["all curves together", pipeline, "no seed has all of their runs", "–", "not judged"]]
        together = {}
        for series in sorted(distinct(whole, self.series)):
            together[series] = self._curve(whole, pipeline, series)
        return rows_of(self.judge_together(together), pipeline)

    def table(self, points: list[Point]) -> list[list[str]]:
        """Tabulate the means over seeds at every value of the dial, under a header."""
        title = f"{self.falls} below that at the first {self.symbol}"
        rows = [["where", self.symbol, *self.losses, title, "p"]]
        for pipeline, series in groups(points, self.series):
            dial, by_loss = self._curve(points, pipeline, series)
            where = f"{pipeline}, {self.name_series(series)}"
            falling = by_loss[self.falls]
            for k, value in enumerate(dial):
                means = [mean_over_seeds(by_loss[loss][:, k]) for loss in self.losses]
                fall = estimate(falling[:, 0] - falling[:, k])
                told = [f"{fall:.3f}", fall.shown_p()] if k else ["–", "–"]
                rows.append([where, self.name_value(value), *means, *told])
        return rows

    def _curve(self, points: list[Point], pipeline: str, series: object) -> Curve:
        some = having(points, pipeline=pipeline, **{self.series: series})
        return curve_of(some, self.dial, [*self.losses, *self.for_judge])

    def draw(self, points: list[Point], axes: ndarray) -> None:
        """Draw a row of panels for every pipeline."""
        # Series are shades of one colour, or have their own; without colour their markers tell them apart.
        for pipeline, row in zip(distinct(points, "pipeline"), axes):
            there = having(points, pipeline=pipeline)
            series = sorted(distinct(there, self.series))
            shades = np.linspace(1, 0.45, len(series))[::-1]                       # the more, the darker
            for value, shade, marker in zip(series, shades, itertools.cycle("os^Dv")):
                dial, by_loss = self._curve(points, pipeline, value)
                label = self.name_series(value)
                colour = self.colours.get(value, self.colour)
                if value in self.colours:
                    shade = 1
                for axis, loss in zip(row, self.panels):
                    star = self.star and not loss.startswith("Δ")                  # no best cost
                    draw_curve(axis, dial, by_loss[loss], label, colour, shade, marker, star)
                    self._draw_published(axis, points[0]["preset"], value, loss, shade)

            # The panels of a pipeline are compared by eye.
            values = sorted(distinct(there, self.dial))
            for axis, loss in zip(row, self.panels):
                axis.set(xlabel=self.axis or self.symbol, ylabel=f"{loss} (nats per token)", title=pipeline,
                         xscale=self.scale)
                axis.set_xticks(values, [self.name_value(value) for value in values], minor=False)
                axis.set_xticks([], minor=True)
            level_spans(row)

    def _draw_published(self, axis, preset: str, series: object, loss: str, shade: float) -> None:
        line = self.published(preset, series, loss)
        if line is not None:
            label = f"paper, {self.name_series(series).split()[-1]}"
            axis.plot(*line.T, "--", color=self.colour, alpha=shade, linewidth=0.8, label=label)


def groups(points: list[Point], series: str) -> list[tuple[str, object]]:
    """List (pipeline, value of the series), a curve each."""
    pairs = []
    for pipeline in distinct(points, "pipeline"):
        pairs += [(pipeline, value) for value in sorted(distinct(having(points, pipeline=pipeline), series))]
    return pairs


def rows_of(judged: Judged, where: str) -> list[list[str]]:
    """Write claims as rows of `drawing.VERDICTS`."""
    return [[claim, where, f"{statistic}: {one:.3f}", one.shown_p(), verdict(one)]
            for claim, statistic, one in judged]


def of_whole_seeds(points: list[Point], *keys: str) -> list[Point]:
    """Keep the points of the seeds that have one at every combination of the values of the keys."""
    cells = {}
    for point in points:
        cells.setdefault(point["seed"], set()).add(tuple(point[key] for key in keys))
    every = set(itertools.product(*(distinct(points, key) for key in keys)))
    return [point for point in points if cells[point["seed"]] == every]


def curve_of(points: list[Point], dial: str, losses: Sequence[str]) -> Curve:
    """Line up the values of the dial (k,), and each loss over the seeds that have them all (seeds, k).

    Raises UserError if a seed has two points at one value, or no seed has a point at each of two or more.
    """
    # Means over seeds compare along the dial only if the same seeds are in each.
    values = sorted(distinct(points, dial))
    whole = sorted(of_whole_seeds(points, dial), key=lambda point: (point["seed"], point[dial]))
    if len(whole) > len(distinct(whole, "seed")) * len(values):
        raise UserError(f"these runs differ in {what_else_differs(points, dial)}, name those of one value")
    if len(values) < 2 or not whole:
        raise UserError(f"no seed has runs at all of two or more values of {dial}, finish its sweep first")

    # Each loss is an array of its own, a row a seed in the order of their names: claims subtract one curve's
    # from another's.
    by_loss = {name: columns(whole, [name]).reshape(-1, len(values)) for name in losses}
    return np.array(values, dtype=float), by_loss


def what_else_differs(points: list[Point], dial: str) -> str:
    """Name the settings in which points differ beside the dial and the seed, with their values."""
    settings = {}
    for key in points[0]:
        is_loss = key.lstrip("Δ").startswith("L_")
        if key not in ("run", "seed", dial) and not is_loss and len(distinct(points, key)) > 1:
            settings[key] = ", ".join(map(str, distinct(points, key)))
    told = [f"{key} ({values})" for key, values in settings.items()]
    return " and ".join(told) or f"more than {dial} and the seed"


def draw_curve(axis, dial: ndarray, by_seed: ndarray, label: str, colour: str, shade: float,
               marker: str, star: bool) -> None:
    """Draw the mean over seeds (seeds, k), its interval as a band, a dot a seed, a `star` at its least."""
    # Shown in the legend, because intervals of few seeds are not worth much.
    several = len(by_seed) > 1
    if several:
        label += f", {len(by_seed)} seeds"
    mean = by_seed.mean(axis=0)
    axis.plot(dial, mean, "-" + marker, color=colour, alpha=shade, markersize=4, label=label)
    if star:
        best = mean.argmin()
        axis.plot(dial[best], mean[best], "*", color=colour, alpha=shade, markersize=14)

    # The mean of one seed is the seed.
    if several:
        axis.fill_between(dial, *band(by_seed), color=colour, alpha=0.15 * shade, linewidth=0)
        axis.plot(dial, by_seed.T, ".", color=colour, alpha=0.4 * shade, markersize=4)


def level_spans(row: Sequence) -> None:
    """Give the panels of a row one span of losses, so that flat looks flat beside what falls."""
    span = max(np.ptp(axis.get_ylim()) for axis in row)
    for axis in row:
        middle = np.mean(axis.get_ylim())
        axis.set_ylim(middle - span / 2, middle + span / 2)


def mean_over_seeds(values: ndarray) -> str:
    """Write mean and sample standard deviation over seeds."""
    spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{spread}"
