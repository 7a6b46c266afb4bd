"""What the paper claims, as numbers that should be above 0: of shares of replay, and in target data saved."""

import numpy as np
from numpy import ndarray

from experiments.curves import Curves, Judged
from experiments.drawing import Figure
from experiments.points import seed_of, stem
from experiments.replay.efficiency import Efficiency
from experiments.replay.plan import EFFICIENCY, PREDICTION, SHARES
from experiments.replay.prediction import Prediction
from experiments.statistics import best_of_others, estimate, less_sure
from run.files import UserError

CHAINS = (("pretrain", "posttrain", "finetune"), ("pretrain", "finetune"))
LOSSES = ("L_im", "L_ret", "L_ft", "L_pre")


def describe(lineage: list[dict]) -> dict[str, object]:
    """Tell a recipe, its ρ, its α and its pool from a chain. L_im is the target's loss before Stage 3."""
    # The roles of its corpora name a pipeline.
    first, ft = lineage[0]["args"], lineage[-1]["args"]
    told = {"pipeline": f"{stem(first['pre'])} → {stem(first['post'])} → {stem(ft['ft'])}",
            "seed": seed_of(lineage), "pool_tokens": first["post_tokens"]}

    # One stage that has the target all along: a schedule of its own tells the tied mixture from a reference.
    if len(lineage) == 2:
        recipe = "reference" if first.get("decay") is None else "tied"
        loss = lineage[0]["losses"]["L_post"]
        return told | {"recipe": recipe, "alpha": 0.0, "rho": 0.0, "series": recipe,
                       "L_im": loss["mean"], "L_im_se": loss["se"]}
    post = lineage[1]["args"]
    early, late = lineage[0]["tokens"]["post"], lineage[1]["tokens"]["post"]
    recipe = "mid-training" if post.get("go_on") else "fine-tuning"
    alpha = late / (early + late)
    series = "fine-tuning" if recipe == "fine-tuning" else f"mid-training, α = {alpha:.3g}"
    return told | {"recipe": recipe, "alpha": alpha, "rho": post["replay"], "series": series}


def judge(rhos: ndarray, by_loss: dict[str, ndarray]) -> Judged:
    """Judge that replay's gain is there after Stage 3: at the ρ that is best for L_im, L_ret is lower too.

    The shares (k,) rise from 0, which is no replay; each loss is (seeds, k). Raises UserError if they do not.
    """
    if rhos[0]:
        raise UserError("a recipe lacks its run without replay, finish its sweep first")
    seeds = np.arange(len(by_loss["L_im"]))
    chosen = 1 + best_of_others(by_loss["L_im"][:, 1:])
    gained = estimate(by_loss["L_im"][:, 0] - by_loss["L_im"][seeds, chosen])
    kept = estimate(by_loss["L_ret"][:, 0] - by_loss["L_ret"][seeds, chosen])
    return [("replay's gain survives Stage 3", "lesser gain, in L_im or L_ret, at the ρ best for L_im",
             less_sure(gained, kept))]


AGAINST_RHO = Curves(dial="rho", symbol="ρ", series="series", name_series=str, panels=("L_im", "L_ret"),
                     losses=LOSSES, falls="L_im", judge=judge, colour="#e87b14",
                     colours={"fine-tuning": "#15808a"},
                     belongs=lambda point: point["recipe"] in ("fine-tuning", "mid-training"))
FIGURES = {
    "replay-prediction": Figure("Is the best share of replay what a linear model says?", PREDICTION,
                                Prediction(("L_im",)), CHAINS, describe),
    "replay-shares": Figure("Replay in Stage 2, at equal compute and target data", SHARES, AGAINST_RHO,
                            CHAINS, describe),
    "replay-efficiency": Figure("How much more target data a recipe is worth", EFFICIENCY,
                                Efficiency(LOSSES), CHAINS, describe, panel=(5.0, 4.2)),
}
