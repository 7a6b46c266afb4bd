"""The claims of `experiments/early_exposure/claims.py`, of runs in which a suspected cause is changed."""

import numpy as np

from experiments.curves import of_whole_seeds, rows_of
from experiments.drawing import Figure
from experiments.early_exposure.claims import (CHAINS, DOWNSTREAM, KEPT, MIXED, MIXED_DROPOUT, MIXING,
                                               UNMIXED, against_lam, describe, frontiers, judge_full,
                                               shown_size)
from experiments.frontiers import Pair, compare
from experiments.points import Point, distinct, having
from experiments.reasons.plan import PLANS
from experiments.statistics import estimate

DROPOUT = {"dropout improves on mixing": Pair(better=MIXED_DROPOUT, worse=MIXED)}


def describe_size(lineage: list[dict]) -> dict[str, object]:
    """Tell what sets a chain apart, each |D_post| a pipeline of its own."""
    told = describe(lineage)
    return told | {"pipeline": f"{told['pipeline']}, {shown_size(told['post_tokens'])}"}


def judge_sizes(points: list[Point]) -> list[list[str]]:
    """Judge that dropout on mixing gains more of the smallest |D_post| than of the largest, seed by seed.

    Returns rows of `drawing.VERDICTS`; none where only one |D_post| is there.
    """
    # Both gaps are of the same seeds.
    points = of_whole_seeds(points, "post_tokens", "recipe")
    gaps = []
    for size in sorted(distinct(points, "post_tokens")):
        mixed, dropout = (having(points, post_tokens=size, recipe=recipe)
                          for recipe in (MIXED, MIXED_DROPOUT))
        if mixed and dropout:
            gaps.append(np.array(compare(dropout, mixed, KEPT).gaps))
    if len(gaps) < 2:
        return []
    more = estimate(gaps[0] - gaps[-1])
    claim = "dropout gains more where D_post is read more often"
    return rows_of([(claim, "gap at the smallest |D_post| − at the largest", more)], f"({', '.join(KEPT)})")


FIGURES = {
    "repeated": Figure("Dropout on top of mixing, by |D_post|", PLANS["repeated"],
                       frontiers("", [KEPT], [(MIXED, MIXED_DROPOUT)], DROPOUT)._replace(
                           highest={}, judge_together=judge_sizes),
                       CHAINS, describe_size),
    "longer": Figure("L_im and L_ret against λ, Stage 2 four times as long", PLANS["longer"],
                     against_lam("", (), judge_full), CHAINS, describe),
    "foreign": Figure("Unmixed against mixed, from another D_pre", PLANS["foreign"],
                      frontiers("", [DOWNSTREAM], [(UNMIXED, MIXED)], MIXING), CHAINS, describe),
}
