"""Figures of Pareto frontiers of two losses: what sets recipes apart, and their panels.

Losses are in nats per token and lower is better.
"""

import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from experiments.points import Point, at_highest, columns, distinct, having
from experiments.statistics import Estimate, band, estimate, verdict
from run.files import UserError

View = tuple[str, str]                                       # the loss on x, the loss on y


# ------------------------------------------------------------------------------------------------------------
# Fronts

def pareto_front(points: ndarray) -> ndarray:
    """Keep the points (n, 2) that no other dominates: (m, 2), the first loss rising, the second falling.

    A point is dominated by one that is no higher in either loss and lower in one. Of equal points one stays.
    """
    points = np.unique(points, axis=0)                    # sorted by the first loss, then the second
    lowest_before = np.minimum.accumulate(np.r_[np.inf, points[:-1, 1]])
    return points[points[:, 1] < lowest_before]


def reference_point(*points: ndarray) -> ndarray:
    """Go a tenth of the range of all points (n, 2) beyond the worst of each loss: (2,)."""
    together = np.concatenate(points)
    return together.max(axis=0) + np.ptp(together, axis=0) / 10


def dominates(better: ndarray, worse: ndarray) -> bool:
    """Say whether every point of the front `worse` (m, 2) is dominated by one of the other."""
    no_higher = (better[:, None] <= worse).all(axis=-1)   # (points of better, points of worse)
    lower_once = (better[:, None] < worse).any(axis=-1)
    return bool((no_higher & lower_once).any(axis=0).all())


def hypervolume(points: ndarray, reference: ndarray) -> float:
    """Measure the area, in nats², that the points (n, 2) dominate up to the reference point (2,)."""
    front = pareto_front(points[(points < reference).all(axis=1)])
    widths = np.diff(np.r_[front[:, 0], reference[0]])
    return float(widths @ (reference[1] - front[:, 1]))


def gap_at_matched(better: ndarray, worse: ndarray) -> float:
    """Measure how much lower the second loss is on the better front at equal first loss, in nats.

    Both fronts (m, 2) are taken as piecewise linear. Returns the mean over the range of the first loss that
    they have in common; nan where they have none: nothing is extrapolated.
    """
    low = max(worse[0, 0], better[0, 0])
    high = min(worse[-1, 0], better[-1, 0])
    if low > high:
        return np.nan

    # Between the knots of both the gap is linear, so that the trapezoids are exact.
    knots = np.unique(np.clip(np.r_[worse[:, 0], better[:, 0]], low, high))
    gaps = np.interp(knots, *worse.T) - np.interp(knots, *better.T)
    if high == low:
        return float(gaps[0])
    return float(np.trapezoid(gaps, knots) / (high - low))


def fronts(points: Sequence[Point], view: View) -> dict[str, ndarray]:
    """Find the front of each seed, (m, 2), in the seeds' order: gaps of two pairs can be subtracted."""
    by_seed = {seed: having(points, seed=seed) for seed in sorted(distinct(points, "seed"))}
    return {seed: pareto_front(columns(some, view)) for seed, some in by_seed.items()}


# ------------------------------------------------------------------------------------------------------------
# Two recipes compared

class Comparison(NamedTuple):
    """By how much one recipe's frontier is better than another's, over the seeds that both have."""
    gap: Estimate                  # in L_ret at the view's other loss matched, nats
    log_ratio: Estimate            # logarithm of the ratio of hypervolumes
    gaps: list[float]              # of each seed, nan where there is none
    wins: list[bool]               # of each seed
    verdict: str


def compare(better: Sequence[Point], worse: Sequence[Point], view: View) -> Comparison:
    """Compare the fronts of two recipes, seed by seed.

    A seed is won if its gap is above 0 or, where its fronts have no range in common and so no gap, if the one
    dominates the other. The claim is that gap and ratio are above 0; without a gap in some seed, that every
    seed is won and the ratio above 0. The hypervolumes' reference is `reference_point` of all the points, so
    that ratios of different pairs do not compare. Raises UserError if no seed has both.
    """
    # The gap is measured in L_ret, which so is the second loss, on whichever axis it is drawn.
    matched = next(loss for loss in view if loss != "L_ret"), "L_ret"
    better_by_seed = fronts(better, matched)
    worse_by_seed = fronts(worse, matched)
    seeds = [seed for seed in better_by_seed if seed in worse_by_seed]
    if not seeds:
        raise UserError(f"no seed has runs of both {better[0]['recipe']} and {worse[0]['recipe']}, "
                        "finish one first")

    # Every hypervolume is measured from beyond all points, so that none depends on a front's own ends.
    reference = reference_point(columns(better, matched), columns(worse, matched))
    gaps, log_ratios, wins = [], [], []
    for seed in seeds:
        front, other = better_by_seed[seed], worse_by_seed[seed]
        with np.errstate(divide="ignore", invalid="ignore"):           # two single points may have no volume
            log_ratios.append(np.log(hypervolume(front, reference)) - np.log(hypervolume(other, reference)))
        gap = gap_at_matched(front, other)
        gaps.append(gap)
        wins.append(dominates(front, other) if np.isnan(gap) else gap > 0)

    # One seed without a gap leaves the mean without one, and then the wins are what can be judged.
    gap = estimate(gaps)
    log_ratio = estimate(log_ratios)
    also = all(wins) if np.isnan(gap.value) else True
    return Comparison(gap, log_ratio, gaps, wins, verdict(gap, log_ratio, also=also))


# ------------------------------------------------------------------------------------------------------------
# Figures

class Style(NamedTuple):
    """How a recipe is drawn."""
    colour: str
    marker: str
    line: str
    face: str


class Pair(NamedTuple):
    """A claim about two recipes."""
    better: Hashable               # as the claim says
    worse: Hashable


class Frontiers(NamedTuple):
    """A figure of frontiers: a row a view or, of one view, a row a pipeline; a column a set of recipes."""
    views: Sequence[View]
    recipes: Sequence[Sequence[Hashable]]                    # a column each; [()]: whatever there are, in one
    claims: dict[str, Pair]                                  # in words → the recipes compared
    losses: Sequence[str]                                    # those in the table
    belongs: Callable[[Point], bool]                         # whether a point may be of this figure
    highest: dict[str, object]                               # key → drawn are its highest value and this one
    style: Callable[[Hashable, Sequence[Hashable]], Style]   # (recipe, those drawn with it)
    published: Callable[[str, str, Sequence[Hashable], Hashable, View], ndarray | None]
    # (preset, pipeline, column, recipe, view) → the paper's line, (n, 2)
    more_verdicts: Callable[[list[Point]], list[list[str]]] = lambda points: []    # of all points together

    def select(self, points: list[Point]) -> list[Point]:
        """Keep those of the points that the figure is of.

        Of pipelines that have two recipes to compare, the recipes drawn, at the highest values.
        """
        points = [point for point in points if self.belongs(point)]
        drawn = self._drawn()
        if drawn:
            chosen = []
            for pipeline in distinct(points, "pipeline"):
                there = having(points, pipeline=pipeline)
                if self._can_compare(there):
                    chosen += [point for point in there if point["recipe"] in drawn]
            points = chosen

        # After the choice of recipes, one of which may alone have been run at the highest value.
        for key, also in self.highest.items():
            points = at_highest(points, key, also)
        return points

    def required(self) -> str:
        """Say what a pipeline must have: the end of the error where none has it."""
        if not self._drawn():
            return ""
        pairs = [f"{pair.better} and {pair.worse}" for pair in self.claims.values()]
        return f", no pipeline has {' or '.join(pairs)}"

    def _drawn(self) -> set[Hashable]:
        """The recipes of all columns; none where a figure takes whatever there are."""
        return set(itertools.chain(*self.recipes))

    def _can_compare(self, points: list[Point]) -> bool:
        there = set(distinct(points, "recipe"))
        return any(set(pair) <= there for pair in self.claims.values())

    def shape(self, points: list[Point]) -> tuple[int, int]:
        """Count the rows and columns of panels."""
        pipelines = len(distinct(points, "pipeline"))
        if len(self.views) > 1:
            return len(self.views), pipelines * len(self.recipes)
        return pipelines, len(self.recipes)

    def verdicts(self, points: list[Point]) -> list[list[str]]:
        """Judge every claim in every pipeline and view: rows of `drawing.VERDICTS`. Raises as `compare`."""
        rows = []
        for (claim, pair), pipeline in itertools.product(self.claims.items(), distinct(points, "pipeline")):
            better = having(points, pipeline=pipeline, recipe=pair.better)
            worse = having(points, pipeline=pipeline, recipe=pair.worse)
            if better and worse:
                for view in self.views:
                    compared = compare(better, worse, view)
                    where = f"{pipeline}, ({', '.join(view)})"
                    rows.append([claim, where, *cells_of(compared)])
        return rows + self.more_verdicts(points)

    def table(self, points: list[Point]) -> list[list[str]]:
        """Tabulate the lowest losses of every recipe, under a header."""
        rows = [["pipeline", "recipe", "runs", "seeds", *(f"lowest {loss}" for loss in self.losses)]]
        for pipeline, recipe in dict.fromkeys((point["pipeline"], point["recipe"]) for point in points):
            some = having(points, pipeline=pipeline, recipe=recipe)
            seeds = distinct(some, "seed")
            lowest = [f"{columns(some, [loss]).min():.3f}" for loss in self.losses]
            rows.append([pipeline, str(recipe), str(len(some)), str(len(seeds)), *lowest])
        return rows

    def draw(self, points: list[Point], axes: ndarray) -> None:
        """Draw every panel."""
        panels = itertools.product(self.views, distinct(points, "pipeline"), self.recipes)
        for (view, pipeline, column), axis in zip(panels, axes.flat):
            drawn = column or distinct(points, "recipe")
            for recipe in drawn:
                some = having(points, pipeline=pipeline, recipe=recipe)
                if some:
                    draw_front(axis, some, view, str(recipe), self.style(recipe, drawn))

            # What the paper published, where it did.
            for recipe in column:
                self._draw_published(axis, points[0]["preset"], pipeline, column, recipe, view)
            x, y = view
            axis.set(xlabel=f"{x} (nats per token)", ylabel=f"{y} (nats per token)", title=pipeline)

    def _draw_published(self, axis, preset: str, pipeline: str, column: Sequence[Hashable], recipe: Hashable,
                        view: View) -> None:
        line = self.published(preset, pipeline, column, recipe, view)
        if line is not None:
            colour = self.style(recipe, column).colour
            axis.plot(*line.T, "--", color=colour, linewidth=0.8, label=f"paper, {recipe}")


def cells_of(compared: Comparison) -> list[str]:
    """Write what was measured, its p and the verdict: three cells of a row."""
    gap = compared.gap
    ratio = compared.log_ratio.exponential()
    won = ""
    if np.isnan(gap.value):
        won = f", better in {sum(compared.wins)} of {len(compared.wins)}"
    measured = f"gap in L_ret {gap:.3f}{won}, hypervolume ratio {ratio:.2f}"
    return [measured, f"{gap.shown_p()}, {ratio.shown_p()}", compared.verdict]


def draw_front(axis, points: list[Point], view: View, label: str, style: Style) -> None:
    """Draw every run as a point, and their frontier: of several seeds its mean and interval.

    The mean is over the range that the seeds share, without markers; seeds that share none have a line each.
    """
    # The legend shows one mark of a recipe: an empty line, whatever is drawn of it.
    by_seed = list(fronts(points, view).values())
    if len(by_seed) > 1:
        label += f", {len(by_seed)} seeds"
    colours = {"color": style.colour, "markerfacecolor": style.face}
    axis.plot(*columns(points, view).T, style.marker, markersize=4, alpha=0.35, **colours)
    axis.plot([], [], style.line + style.marker, markersize=5, label=label, **colours)

    # Nothing is extrapolated, so that a mean needs a range of x that all seeds have.
    low = max(front[0, 0] for front in by_seed)
    high = min(front[-1, 0] for front in by_seed)
    if len(by_seed) == 1 or low >= high:
        for front in by_seed:
            axis.plot(*front.T, style.line + style.marker, markersize=5, linewidth=1.6, **colours)
        return
    x = np.linspace(low, high, 50)
    y = np.array([np.interp(x, *front.T) for front in by_seed])
    axis.plot(x, y.mean(axis=0), style.line, linewidth=1.6, **colours)
    axis.fill_between(x, *band(y), color=style.colour, alpha=0.15, linewidth=0)
