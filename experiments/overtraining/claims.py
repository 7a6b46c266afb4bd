"""What the paper claims, and what is asked beyond it, as numbers that should be above 0.

A modification is noise on the weights or a fine-tuning at a fixed rate, its size γ or that rate.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy import ndarray

from experiments.curves import Curve, Curves, Judged, of_whole_seeds
from experiments.drawing import Figure
from experiments.overtraining.plan import PLANS
from experiments.points import Point, columns, distinct, having, seed_of, stem
from experiments.statistics import best_inside, estimate, partial_slope, slope, vertex
from run.files import UserError

ORANGE, TEAL = "#c2571a", "#15808a"
TOLERANCE = 0.25                             # within which the power of γ is 2
SMALL = 0.05                                 # γ up to which noise is small


# ------------------------------------------------------------------------------------------------------------
# What sets chains apart

def describe_noise(lineage: list[dict]) -> dict[str, object]:
    """Tell what sets pretrain | noise apart."""
    pre, noise = (entry["args"] for entry in lineage)
    return {"pipeline": stem(pre["pre"]), "seed": seed_of(lineage), "tokens": pre["tokens"],
            "gamma": noise["gamma"]}


def describe_tuning(lineage: list[dict]) -> dict[str, object]:
    """Tell what sets pretrain | finetune apart, and by how much L_pre has risen."""
    pre, ft = (entry["args"] for entry in lineage)
    before, after = (entry["losses"]["L_pre"]["mean"] for entry in lineage)
    return {"pipeline": f"{stem(pre['pre'])} → {stem(ft['ft'])}", "seed": seed_of(lineage),
            "tokens": pre["tokens"], "rate": ft["lr"], "log₁₀ rate": np.log10(ft["lr"]), "ft": stem(ft["ft"]),
            "ΔL_pre": after - before}


def describe_exposed(lineage: list[dict]) -> dict[str, object]:
    """Tell what sets pretrain | posttrain | noise apart, and L_im."""
    pre, post, noise = (entry["args"] for entry in lineage)
    return {"pipeline": f"{stem(pre['pre'])} → {stem(pre['post'])}, noise γ = {noise['gamma']:g}",
            "seed": seed_of(lineage), "lam": lineage[0]["lam"], "rate": post["lr"], "gamma": noise["gamma"],
            "L_im": lineage[1]["losses"]["L_im"]["mean"]}


def shown_tokens(tokens: float) -> str:
    """Write a budget as the command line has it."""
    return f"{tokens / 1e9:g}B" if tokens >= 1e9 else f"{tokens / 1e6:g}M"


def shown_gamma(gamma: float) -> str:
    """Write γ as a legend calls it."""
    return f"noise γ = {gamma:g}" if gamma else "without noise"


# ------------------------------------------------------------------------------------------------------------
# The ladder: one modification at every budget

def judge_growth(modification: str, rises: tuple[str, ...], budgets: ndarray,
                 by_loss: dict[str, ndarray]) -> Judged:
    """Judge progressive sensitivity and catastrophic overtraining (Section 3) of one size of modification."""
    # The curve at γ = 0 is there to be seen, no claim is about it.
    if not by_loss["ΔL_pre"].any():
        return []
    claims = []
    for rise in rises:
        grows = estimate(slope(np.log2(budgets), by_loss[rise]))
        claims.append((f"{modification} costs more {rise.removeprefix('Δ')} after more pretraining",
                       f"{rise} a doubling of the budget", grows))
    if len(budgets) > 2:
        inside = estimate(best_inside(by_loss["L_pre"]))
        claims.append((f"with {modification}, the best budget is strictly inside",
                       "L_pre at the better end − best inside", inside))
    return claims


def judge_inflection(symbol: str, curves: dict[float, Curve]) -> Judged:
    """Judge that the best budget for L_pre comes earlier at the largest modification than at the smallest."""
    sizes = [one for one in sorted(curves) if one > 0]
    if len(sizes) < 2:
        return []
    best = [best_budget(*curves[one]) for one in (sizes[0], sizes[-1])]
    return [(f"the best budget comes earlier at larger {symbol}",
             f"doublings of the budget, {symbol} {sizes[0]:g} − {sizes[-1]:g}", estimate(best[0] - best[1]))]


def judge_noise(curves: dict[float, Curve]) -> Judged:
    """Judge the inflection, and the linear networks' law that small noise costs as γ², the power to ¼.

    That is between the two smallest γ, of what they cost on average over the budgets.
    """
    judged = judge_inflection("γ", curves)
    sizes = [one for one in sorted(curves) if 0 < one <= SMALL]
    if len(sizes) < 2:
        return judged
    less, more = (curves[one][1]["ΔL_pre"].mean(axis=1) for one in sizes[:2])
    power = np.log(more / less) / np.log(sizes[1] / sizes[0])
    return [*judged, ("small noise costs as γ²", f"{TOLERANCE} − |power − 2|, γ {sizes[0]:g} to {sizes[1]:g}",
                      estimate(TOLERANCE - np.abs(power - 2)))]


def best_budget(budgets: ndarray, by_loss: dict[str, ndarray]) -> ndarray:
    """Find each seed's best budget for L_pre within the ladder, its logarithm to base 2: (seeds,)."""
    return np.array([vertex(np.log2(budgets), losses)[0] for losses in by_loss["L_pre"]])


def judge_tuned(budgets: ndarray, by_loss: dict[str, ndarray]) -> Judged:
    """Judge that the longest pretraining is worse than a shorter one, each at its best rate (Section 3)."""
    claims = []
    for loss in ("L_ft", "L_pre"):
        best_before = by_loss[of_others(loss)][:, :-1].argmin(axis=1)
        measured = by_loss[loss]
        worse = measured[:, -1] - measured[np.arange(len(measured)), best_before]
        claims.append((f"{loss} worsens with the budget, rate tuned",
                       f"{loss} of the largest − of the best before", estimate(worse)))
    return claims


def at_best_rate(points: list[Point]) -> list[Point]:
    """Keep of every D_ft, budget and seed the run at one rate: that of the least L_ft for the other seeds.

    Beside its losses stand the means of the other seeds' at this rate, by which to choose a budget. Raises
    UserError if no seed has every rate at every budget that any seed has, or one has it twice.
    """
    chosen = []
    for pipeline in distinct(points, "pipeline"):
        there = of_whole_seeds(having(points, pipeline=pipeline), "tokens", "rate")
        if not there:
            raise UserError(f"no seed has all rates and budgets of {pipeline}, finish its sweep first")
        seeds, rates = distinct(there, "seed"), distinct(there, "rate")
        for tokens in distinct(there, "tokens"):
            runs = [[only(having(there, tokens=tokens, seed=seed, rate=rate)) for rate in rates]
                    for seed in seeds]

            # Neither rate nor budget is chosen by looking at the seed; of one seed there are no others.
            losses = np.array([columns(row, ["L_ft", "L_pre"]) for row in runs])     # (seeds, rates, 2)
            others = losses
            if len(seeds) > 1:
                others = (losses.sum(axis=0) - losses) / (len(seeds) - 1)
            for row, of_seed in zip(runs, others):
                best = of_seed[:, 0].argmin()
                L_ft, L_pre = of_seed[best]
                chosen.append(row[best] | {of_others("L_ft"): L_ft, of_others("L_pre"): L_pre})
    return chosen


def of_others(loss: str) -> str:
    """Name the mean of a loss over the other seeds."""
    return f"{loss} of the other seeds"


def only(points: list[Point]) -> Point:
    """Take the one point that there is; raises UserError if there are more."""
    if len(points) > 1:
        raise UserError(f"{points[0]['run']} and {points[1]['run']} are alike, name the runs of one sweep")
    return points[0]


# ------------------------------------------------------------------------------------------------------------
# early-noise: noise on θ_post against λ

def judge_exposed(lams: ndarray, by_loss: dict[str, ndarray]) -> Judged:
    """Judge whether noise costs θ_post less of D_post, the more of D_post Stage 1 has seen: no paper says."""
    return [("noise costs less L_post, the higher λ", "−slope of ΔL_post",
             estimate(-slope(lams, by_loss["ΔL_post"])))]


def judge_at_equal_loss(curves: dict[float, Curve]) -> Judged:
    """Judge the same at equal L_im: fit ΔL_post = a + b L_im + c λ for each seed, and take −c.

    Stage 2 at several rates makes L_im vary at every λ, so that b and c can be told apart. What b is made of,
    the slope over rates with every λ for itself, is judged too.
    """
    if len(curves) < 2:
        return []
    lams = np.hstack([np.broadcast_to(dial, by_loss["L_im"].shape) for dial, by_loss in curves.values()])
    im, rise = (np.hstack([by_loss[loss] for _, by_loss in curves.values()]) for loss in ("L_im", "ΔL_post"))
    at_equal_loss = estimate(-partial_slope(lams, rise, held=im))

    # (seeds, rates, λ), each λ from its mean over rates.
    im, rise = (part.reshape(len(part), len(curves), -1) for part in (im, rise))
    apart = im - im.mean(axis=1, keepdims=True)
    over_rates = estimate(-(apart * rise).sum(axis=(1, 2)) / (apart ** 2).sum(axis=(1, 2)))
    return [("noise costs less L_post, the higher λ, at equal L_im", "−slope of ΔL_post in λ beside L_im",
             at_equal_loss),
            ("noise costs more L_post, the lower L_im, over Stage-2 rates at one λ",
             "−slope of ΔL_post in L_im over rates", over_rates)]


# ------------------------------------------------------------------------------------------------------------

def against_budget(**more: object) -> Curves:
    """Make a figure of losses against the budget of Stage 1."""
    return Curves(dial="tokens", symbol="tokens of pretraining", scale="log", name_value=shown_tokens,
                  falls="L_pre", **more)


NOISE = against_budget(
    series="gamma", name_series=shown_gamma, colour=ORANGE, panels=("L_pre", "ΔL_pre"),
    losses=("L_pre", "ΔL_pre", "L_post", "ΔL_post", "L_ft", "ΔL_ft"),
    judge=partial(judge_growth, "noise", ("ΔL_pre", "ΔL_post", "ΔL_ft")),
    judge_together=judge_noise)
RATES = against_budget(
    series="rate", name_series=lambda rate: f"fine-tuned at rate {rate:g}", colour=ORANGE,
    panels=("L_pre", "ΔL_pre"), losses=("L_pre", "ΔL_pre", "L_ft"),
    judge=partial(judge_growth, "fine-tuning", ("ΔL_pre",)), judge_together=partial(judge_inflection, "rate"))
TUNED = against_budget(
    series="ft", name_series=lambda ft: "fine-tuned at the best rate", colour=ORANGE,
    panels=("L_ft", "L_pre"), losses=("L_ft", "L_pre", "log₁₀ rate"), judge=judge_tuned,
    for_judge=(of_others("L_ft"), of_others("L_pre")), choose=at_best_rate)
EXPOSED = Curves(
    dial="lam", symbol="λ", series="rate", name_series=lambda rate: f"post-trained at rate {rate:g}",
    panels=("L_post", "ΔL_post"), losses=("L_im", "L_post", "ΔL_post", "ΔL_pre"), falls="ΔL_post",
    colour=TEAL, belongs=lambda point: point["gamma"] > 0, judge=judge_exposed,
    judge_together=judge_at_equal_loss)


def figure(name: str, title: str, kind: Curves, chains: list[tuple[str, ...]],
           describe: Callable[[list[dict]], dict]) -> Figure:
    """Make a figure of the runs that are planned for it."""
    return Figure(title, PLANS[name], kind, chains, describe, panel=(4.2, 3.2))


FIGURES = {
    "overtrained-noise": figure(
        "overtrained-noise", "Loss on D_pre under noise on the weights, and what the noise costs",
        NOISE, [("pretrain", "noise")], describe_noise),
    "overtrained-rates": figure(
        "overtrained-rates", "Loss on D_pre after fine-tuning at a fixed rate, and what it costs",
        RATES, [("pretrain", "finetune")], describe_tuning),
    "overtrained-tuned": figure(
        "overtrained-tuned", "After fine-tuning, each budget at its best rate for L_ft",
        TUNED, [("pretrain", "finetune")], describe_tuning),
    "early-noise": figure(
        "early-noise", "θ_post under noise, against the fraction of D_post that Stage 1 saw",
        EXPOSED, [("pretrain", "posttrain", "noise")], describe_exposed),
}
