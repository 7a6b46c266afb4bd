"""What the paper claims, as numbers that should be above 0: of shares of replay, and in target data saved."""

from numpy import ndarray

from experiments.curves import Curve, Curves, Judged
from experiments.drawing import Figure
from experiments.points import seed_of, stem
from experiments.replay.efficiency import COLOURS, Efficiency
from experiments.replay.plan import DECAYED, EFFICIENCY, MID_STRETCHES, PREDICTION, SHARES, USUAL_DECAY
from experiments.replay.prediction import Prediction
from experiments.statistics import at_best_of_others, estimate
from run.files import UserError

CHAINS = (("pretrain", "posttrain", "finetune"), ("pretrain", "finetune"))
ORANGE = COLOURS["mid-training"]
BY_SERIES = {"fine-tuning": COLOURS["fine-tuning"], "mid-training, α = 1": ORANGE,
             "mid-training, α = 0.5": "#c9184a", "mid-training, α = 0.25": "#7b2cbf",
             "mid-training, α = 0.125": "#5c677d"}
MOST_REPLAY = 1 - 1 / MID_STRETCHES[-1]
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


def describe_decay(lineage: list[dict]) -> dict[str, object]:
    """Tell what sets a chain that ends with Stage 2 apart: the decay, None of a cosine's, ρ, and λ."""
    first, post = (entry["args"] for entry in lineage)
    return {"pipeline": f"{stem(first['pre'])} → {stem(first['post'])}", "seed": seed_of(lineage),
            "decay": first.get("decay"), "goes_on": bool(post.get("go_on")), "rho": post["replay"],
            "lam": lineage[0]["lam"]}


def judge_shares(rhos: ndarray, by_loss: dict[str, ndarray]) -> Judged:
    """Judge that L_ret, too, is lower at the ρ that is best for L_im: replay's gain is there after Stage 3.

    The shares (k,) rise from 0, which is no replay; each loss is (seeds, k). Raises UserError if they do not.
    """
    if rhos[0]:
        raise UserError("a recipe lacks its run without replay, finish its sweep first")
    L_im, L_ret = by_loss["L_im"], by_loss["L_ret"]
    kept = estimate(L_ret[:, 0] - at_best_of_others(L_ret[:, 1:], by=L_im[:, 1:]))
    return [("replay lowers L_ret", "at the ρ best for L_im, lower by", kept)]


def judge_decay(decays: ndarray, by_loss: dict[str, ndarray]) -> Judged:
    """Judge that mid-training would rather have another decay than over the last tenth of all steps.

    Raises UserError if there is no run with that.
    """
    if USUAL_DECAY not in decays:
        raise UserError(f"a recipe lacks its run at --decay {USUAL_DECAY}, finish its sweep first")
    L_im = by_loss["L_im"]
    gained = L_im[:, decays == USUAL_DECAY][:, 0] - at_best_of_others(L_im)
    return [("another decay is better", f"L_im at {USUAL_DECAY} − at the best", estimate(gained))]


def judge_replay_at_best_decay(curves: dict[str, Curve]) -> Judged:
    """Judge that replay lowers L_im at the decay that is best without it, as the paper tunes."""
    if len(curves) < 2:
        return []
    without, most = (curves[rho][1]["L_im"] for rho in (min(curves), max(curves)))
    gained = at_best_of_others(without - most, by=without)
    return [("replay lowers L_im at the decay that is best without", "lower by", estimate(gained))]


AGAINST_RHO = Curves(
    dial="rho", symbol="ρ", axis="ρ, the share of Stage 2 that is D_pre", series="series", name_series=str,
    panels=("L_im", "L_ret"), losses=LOSSES, falls="L_im", judge=judge_shares, colour=ORANGE,
    colours=BY_SERIES, name_value="{:.2g}".format,
    belongs=lambda point: point["recipe"] in ("fine-tuning", "mid-training"))
AGAINST_DECAY = Curves(
    dial="decay", symbol="decay", axis="share of all steps over which the rate falls", series="rho",
    name_series="mid-training, α = 1, ρ = {:.3g}".format, panels=("L_im", "L_pre"), losses=("L_im", "L_pre"),
    falls="L_im", judge=judge_decay, judge_together=judge_replay_at_best_decay, colour=ORANGE,
    name_value=lambda share: f"{share:g}".removeprefix("0") or "0",
    belongs=lambda point: point["goes_on"] and not point["lam"] and point["rho"] in (0, MOST_REPLAY))
FIGURES = {
    "replay-prediction": Figure("Is the best share of replay what a linear model says?", PREDICTION,
                                Prediction(("L_im",)), CHAINS, describe),
    "replay-shares": Figure("Replay in Stage 2, at equal compute and target data", SHARES, AGAINST_RHO,
                            CHAINS, describe, panel=(4.6, 3.4)),
    "replay-decay": Figure("Mid-training: over how many steps the rate falls", DECAYED, AGAINST_DECAY,
                           [("pretrain", "posttrain")], describe_decay, panel=(5.2, 3.4)),
    "replay-efficiency": Figure("How much more target data a recipe is worth", EFFICIENCY,
                                Efficiency(LOSSES), CHAINS, describe, panel=(5.0, 4.2)),
}
