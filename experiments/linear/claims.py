"""What the linear network with substitutable features says of real models, as numbers that should be above 0.

theory/README.md has the model. A D_ft that mixes texts like D_pre's and like D_post's teaches the unmixed run
what it lacks: exposure saves ever less forgetting. Compute-matched, the best λ rises with the length of
Stage 3.
"""

import re

from experiments.curves import Curve, Curves, Judged
from experiments.drawing import Figure
from experiments.early_exposure.claims import (CHAINS, COLOURS, DOWNSTREAM, LOSSES, MIXED, MIXING, PURPLE,
                                               UNMIXED, describe, frontiers)
from experiments.forecast.claims import CHAINS as WITH_PROBES
from experiments.forecast.claims import Forecasts
from experiments.forecast.known import describe as describe_known
from experiments.linear.plan import PLANS
from experiments.points import stem
from experiments.statistics import estimate, slope
from run.files import UserError


def describe_place(lineage: list[dict]) -> dict[str, object]:
    """Tell what sets a chain apart, w and ΔL_post: the share of D_ft that is like D_post, what is forgotten.

    w is the percentage that ends D_ft's name; raises UserError if none does.
    """
    name = stem(lineage[-1]["args"]["ft"])
    percentage = re.search("[0-9]+$", name)
    if not percentage:
        raise UserError(f"the D_ft {name} must end in its percentage of text like D_post's, as tunes25")
    told = describe(lineage)
    pre, post, _ = told["pipeline"].split(" → ")
    losses = lineage[-1]["losses"]
    return told | {"pipeline": f"{pre} → {post}, Stage 3 at {told['stage3_lr']:g}",
                   "w": int(percentage[0]) / 100,
                   "ΔL_post": losses["L_ret"]["mean"] - losses["L_im"]["mean"]}


def judge_place(curves: dict[object, Curve]) -> Judged:
    """Judge that exposure saves less forgetting, the more of D_ft is like D_post, but some at every w."""
    if set(curves) != {UNMIXED, MIXED}:
        return []
    w, alone = curves[UNMIXED]
    _, mixed = curves[MIXED]
    saved = alone["ΔL_post"] - mixed["ΔL_post"]
    return [("exposure saves less, the more of D_ft is like D_post",
             "−slope in w of ΔL_post, unmixed − mixed", estimate(-slope(w, saved))),
            (f"it still saves at w = {w[-1]:g}", "ΔL_post, unmixed − mixed", estimate(saved[:, -1]))]


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


PLACE = Curves(
    dial="w", symbol="w", axis="w, share of D_ft that is like D_post", series="recipe", name_series=str,
    panels=("ΔL_post", "L_ft"), losses=("ΔL_post", *LOSSES), falls="ΔL_post", colour=PURPLE, colours=COLOURS,
    star=False, belongs=lambda point: point["recipe"] in (UNMIXED, MIXED), judge_together=judge_place)
MATCHED = Curves(
    dial="lam", symbol="λ", series="stage3_lr", name_series=lambda rate: f"fine-tuned at rate {rate:g}",
    panels=("L_im", "L_ret"), losses=LOSSES, falls="L_ret", colour=PURPLE,
    judge_together=judge_best_lam)

FIGURES = {
    "place": Figure("What is forgotten of D_post, by the share w of D_ft that is like it",
                    PLANS["place"], PLACE, CHAINS, describe_place, panel=(4.2, 2.8)),
    "place-frontiers": Figure("Unmixed, mixed, by the place of D_ft",
                              PLANS["place"], frontiers("", [DOWNSTREAM], [(UNMIXED, MIXED)], MIXING), CHAINS,
                              describe),
    "place-forecast": Figure("L_ret as forecast from D_pre, by the share of D_ft that is like D_post",
                             PLANS["place-forecast"], Forecasts(), WITH_PROBES, describe_known,
                             panel=(3.4, 3.2)),
    "matched-rates": Figure("Compute-matched: the best λ by Stage 3's rate", PLANS["matched-rates"], MATCHED,
                            CHAINS, describe, panel=(4.2, 3.2)),
}
