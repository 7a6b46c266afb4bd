"""What the linear network with substitutable features says of real models, as numbers that should be above 0.

theory/README.md has the model: exposure retains more while D_ft lies less than about a third of the way from
D_pre to D_post, and compute-matched, the best λ rises with the length of Stage 3.
"""

import re
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from experiments.curves import Curve, Curves, Judged, mean_over_seeds, of_whole_seeds, told
from experiments.drawing import Figure
from experiments.early_exposure.claims import (CHAINS, DOWNSTREAM, LOSSES, MIXED, MIXING, PURPLE, UNMIXED,
                                               describe, frontiers)
from experiments.frontiers import fronts, gap_at_matched
from experiments.linear.plan import PLANS
from experiments.points import Point, distinct, having, stem
from experiments.statistics import estimate, slope
from run.files import UserError

CROSSOVER = 0.29, 0.36                   # x from which on exposure hurts there, for all sizes of δ


def describe_place(lineage: list[dict]) -> dict[str, object]:
    """Tell what sets a chain apart, and x: the percentage of text like D_post's that ends D_ft's name."""
    name = stem(lineage[-1]["args"]["ft"])
    percentage = re.search("[0-9]+$", name)
    if not percentage:
        raise UserError(f"the D_ft {name} must end in its percentage of text like D_post's, as tunes25")
    of = describe(lineage)
    pre, post, ft = of["pipeline"].split(" → ")
    return of | {"x": int(percentage[0]) / 100, "corpora": f"{pre} → {post}"}


# ------------------------------------------------------------------------------------------------------------
# Where D_ft lies

class Places(NamedTuple):
    """A figure of what exposure gains in L_ret at equal L_ft, against x: a panel a D_pre and D_post."""
    losses: tuple[str, ...] = LOSSES

    def select(self, points: list[Point]) -> list[Point]:
        """Keep the points of plain recipes, with and without exposure."""
        return [point for point in points if point["recipe"] in (UNMIXED, MIXED)]

    def shape(self, points: list[Point]) -> tuple[int, int]:
        """Count the rows and columns of panels."""
        return 1, len(distinct(points, "corpora"))

    def verdicts(self, points: list[Point]) -> list[list[str]]:
        """Judge that the gain falls in x, and that there is one at the least x and none at the largest."""
        rows = []
        for corpora in distinct(points, "corpora"):
            x, gains = gains_by_place(having(points, corpora=corpora))
            near, far = f"exposure helps at x = {x[0]:g}", f"exposure hurts at x = {x[-1]:g}"
            rows += told([
                ("exposure helps less, the farther D_ft lies towards D_post", "−slope of the gain in x",
                 estimate(-slope(x, gains))),
                (near, "gain in L_ret at equal L_ft", estimate(gains[:, 0])),
                (far, "−gain in L_ret at equal L_ft", estimate(-gains[:, -1]))], corpora)
        return rows

    def table(self, points: list[Point]) -> list[list[str]]:
        """Tabulate the gain at every x, under a header."""
        rows = [["where", "x", "gain in L_ret at equal L_ft"]]
        for corpora in distinct(points, "corpora"):
            x, gains = gains_by_place(having(points, corpora=corpora))
            rows += [[corpora, f"{place:g}", mean_over_seeds(gain)] for place, gain in zip(x, gains.T)]
        return rows

    def draw(self, points: list[Point], axes: ndarray) -> None:
        """Draw the gain, and where the linear network has it vanish."""
        for corpora, axis in zip(distinct(points, "corpora"), axes.flat):
            x, gains = gains_by_place(having(points, corpora=corpora))
            axis.plot(x, gains.mean(axis=0), "-o", color=PURPLE, label=f"{len(gains)} seeds")
            axis.plot(x, gains.T, ".", color=PURPLE, alpha=0.4)
            if len(gains) > 1:
                band = [estimate(gain) for gain in gains.T]
                axis.fill_between(x, [one.low for one in band], [one.high for one in band], color=PURPLE,
                                  alpha=0.15, linewidth=0)
            axis.axhline(0, color="grey", linewidth=0.8)
            axis.axvspan(*CROSSOVER, color="grey", alpha=0.2, linewidth=0, label="0 in the linear network")
            axis.set(title=corpora, xlabel="x, share of D_ft that is like D_post",
                     ylabel="gain in L_ret at equal L_ft (nats)")


def gains_by_place(points: list[Point]) -> tuple[ndarray, ndarray]:
    """Measure what exposure gains in L_ret at equal L_ft, at every x (k,), for every seed: (seeds, k).

    Raises UserError if two values of x or a gain are missing.
    """
    # The gap is the mean over the L_ft that both frontiers have.
    places = sorted(distinct(points, "x"))
    by_place = []
    for place in places:
        alone = fronts(having(points, x=place, recipe=UNMIXED), DOWNSTREAM)
        mixed = fronts(having(points, x=place, recipe=MIXED), DOWNSTREAM)
        by_place.append({seed: gap_at_matched(alone[seed], mixed[seed]) for seed in alone if seed in mixed})

    # The same seeds at every x.
    seeds = set.intersection(*map(set, by_place)) if by_place else set()
    gains = np.array([[gaps[seed] for gaps in by_place] for seed in sorted(seeds)])
    if len(places) < 2 or not seeds or np.isnan(gains).any():
        raise UserError("no seed has a gap in L_ret at two or more x, finish the sweep or name wider --lr")
    return np.array(places), gains


# ------------------------------------------------------------------------------------------------------------
# Compute-matched: the best λ against Stage 3

def judge_best_lam(curves: dict[float, Curve]) -> Judged:
    """Judge that the best λ for L_ret is higher at the highest rate of Stage 3 than at the lowest."""
    if len(curves) < 2:
        return []
    best = []
    for rate in (min(curves), max(curves)):
        lams, by_loss = curves[rate]
        best.append(lams[by_loss["L_ret"].argmin(axis=1)])
    return [("the best λ is higher, the more Stage 3 changes", "best λ at the highest rate − at the lowest",
             estimate(best[1] - best[0]))]


MATCHED = Curves(
    dial="lam", symbol="λ", series="stage3_lr", name_series=lambda rate: f"fine-tuned at rate {rate:g}",
    panels=("L_im", "L_ret"), losses=LOSSES, falls="L_ret", colour=PURPLE, judge=lambda lams, by_loss: [],
    judge_together=judge_best_lam)

FIGURES = {
    "place": Figure("Where D_ft lies between D_pre and D_post, and what early exposure gains",
                    PLANS["place"], Places(), CHAINS, describe_place, panel=(4.6, 3.4)),
    "place-frontiers": Figure("Unmixed against mixed, by where D_ft lies",
                              PLANS["place"], frontiers("", [DOWNSTREAM], [(UNMIXED, MIXED)], MIXING), CHAINS,
                              describe_place),
    "matched-rates": Figure("Compute-matched: the best λ by Stage 3's rate",
                            PLANS["matched-rates"], MATCHED, CHAINS, describe, panel=(4.2, 3.2)),
}
