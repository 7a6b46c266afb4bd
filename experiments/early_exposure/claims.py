"""What the paper claims of each figure, as numbers that should be above 0, and the numbers it published."""

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from experiments.courses import Courses
from experiments.curves import Curves, Judged
from experiments.drawing import Figure
from experiments.early_exposure.plan import PLANS
from experiments.frontiers import Frontiers, Pair, Style, View
from experiments.points import columns, having, seed_of, stem
from experiments.statistics import best_inside, estimate, less_sure, slope

CHAINS = (("pretrain", "posttrain", "finetune"),)
LOSSES = ("L_im", "L_ret", "L_ft", "L_pre")
PUBLISHED = Path(__file__).parent / "published"              # at 135M


# ------------------------------------------------------------------------------------------------------------
# Recipes

class Recipe(NamedTuple):
    """How θ_post came about: with or without D_post in Stage 1, and what Stage 2 added to post-training."""
    mixed: bool
    additions: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " + ".join(("mixed" if self.mixed else "unmixed", *self.additions))


UNMIXED, MIXED = Recipe(False), Recipe(True)
UNMIXED_DROPOUT, MIXED_DROPOUT = Recipe(False, ("dropout",)), Recipe(True, ("dropout",))
UNMIXED_REPLAY, MIXED_REPLAY = Recipe(False, ("replay",)), Recipe(True, ("replay",))
UNMIXED_LORA, MIXED_LORA = Recipe(False, ("LoRA",)), Recipe(True, ("LoRA",))

PURPLE = "#7b2fa8"
COLOURS = {   # the paper's
    UNMIXED: "black", UNMIXED_LORA: "black", MIXED: PURPLE, MIXED_LORA: PURPLE,
    UNMIXED_DROPOUT: "#159a90", MIXED_DROPOUT: "#159a90", UNMIXED_REPLAY: "#e87b14", MIXED_REPLAY: "#e87b14",
}
MARKERS = {"black": "o", PURPLE: "s", "#159a90": "^", "#e87b14": "D"}    # for print in black and white


def style(recipe: Recipe, drawn: list[Recipe]) -> Style:
    """Choose how a recipe is drawn: LoRA dashed; dotted what is unmixed beside the same mixed."""
    colour = COLOURS.get(recipe, "grey")                     # grey: recipes that the paper does not draw
    marker = MARKERS.get(colour, "v")
    if "LoRA" in recipe.additions:
        return Style(colour, marker, "--", "white")
    if recipe.additions and not recipe.mixed and recipe._replace(mixed=True) in drawn:
        return Style(colour, marker, ":", "white")
    return Style(colour, marker, "-", colour)


def recipe_of(lineage: list[dict]) -> Recipe:
    """Tell by which means a chain came to θ_post, not how much of each: those are points of one frontier."""
    post = lineage[1]["args"]
    additions = [name for name in ("dropout", "replay") if post[name]]
    if post["lora"]:
        additions.append("LoRA")
    if post["compute_matched"]:
        additions.append("compute-matched")
    return Recipe(mixed=lineage[0]["lam"] > 0, additions=tuple(additions))


def describe(lineage: list[dict]) -> dict[str, object]:
    """Tell what sets a chain of the three stages apart. λ is the one that Stage 1 came to."""
    pre, post, ft = (entry["args"] for entry in lineage)
    pipeline = f"{stem(pre['pre'])} → {stem(pre['post'])} → {stem(ft['ft'])}"

    # In the order of the columns of a figure's .csv.
    return {"recipe": recipe_of(lineage), "pipeline": pipeline, "seed": seed_of(lineage),
            "lam": lineage[0]["lam"], "post_tokens": pre["post_tokens"],
            "stage2_lr": post["lr"], "stage2_batch": post["batch"], "stage3_lr": ft["lr"],
            "dropout": post["dropout"], "replay": post["replay"], "compute_matched": post["compute_matched"]}


# ------------------------------------------------------------------------------------------------------------
# Figure 3: losses against λ

def judge_full(lams: ndarray, by_loss: dict[str, ndarray]) -> Judged:
    """Judge Figure 3a: L_ret falls in λ, and L_im is flat: its slope is less than a quarter of that fall."""
    im_slope = slope(lams, by_loss["L_im"])
    ret_slope = slope(lams, by_loss["L_ret"])
    rises_less = estimate(-ret_slope / 4 - im_slope)
    falls_less = estimate(-ret_slope / 4 + im_slope)

    # Flat is both, and the one that is less sure is told.
    flat = less_sure(rises_less, falls_less)
    return [("L_ret falls in λ", "−slope of L_ret", estimate(-ret_slope)),
            ("L_im is flat", "−¼ slope of L_ret ± slope of L_im", flat)]


def judge_matched(lams: ndarray, by_loss: dict[str, ndarray]) -> Judged:
    """Judge Figure 3b: L_im worsens with λ, and the best λ for L_ret is neither 0 nor 1."""
    worsening = estimate(slope(lams, by_loss["L_im"]))
    claims = [("L_im worsens with λ", "slope of L_im", worsening)]
    if len(lams) > 2 and (lams[0], lams[-1]) == (0, 1):
        gain = estimate(best_inside(by_loss["L_ret"]))
        claims.append(("best λ for L_ret is strictly inside", "L_ret at the better end − best inside", gain))
    return claims


def shown_size(post_tokens: int) -> str:
    """Write |D_post| as a legend calls it: 150000 → |D_post| 150k."""
    if post_tokens >= 1e6:
        return f"|D_post| {post_tokens / 1e6:g}M"
    return f"|D_post| {post_tokens / 1e3:g}k"


def published_rows(file: str) -> list[dict[str, str]]:
    """Read the rows of a table of the paper's numbers."""
    with open(PUBLISHED / file, newline="") as lines:
        return list(csv.DictReader(lines))


def published_curve(panel: str, preset: str, post_tokens: int, loss: str) -> ndarray | None:
    """Read a curve of the paper's Figure 3: (λ, loss), (n, 2)."""
    if preset != "135m":
        return None
    size = shown_size(post_tokens).split()[-1]
    rows = having(published_rows("fig3.csv"), panel=panel, metric=loss, post_tokens=size)
    return columns(rows, ("lambda", "loss")) if rows else None


def against_lam(panel: str, additions: tuple[str, ...],
                judge: Callable[[ndarray, dict[str, ndarray]], Judged]) -> Curves:
    """Make a panel of Figure 3, of plain or compute-matched post-training."""
    return Curves(dial="lam", symbol="λ", series="post_tokens", name_series=shown_size, colour=PURPLE,
                  panels=("L_im", "L_ret"), losses=LOSSES, falls="L_ret", judge=judge,
                  belongs=lambda point: point["recipe"].additions == additions,
                  published=partial(published_curve, panel))


# ------------------------------------------------------------------------------------------------------------
# The effect in one picture: Stage 3 with and without D_post in Stage 1

def judge_forgetting(lams: ndarray, by_loss: dict[str, ndarray]) -> Judged:
    """Judge that what Stage 3 adds to the loss on D_post falls in λ."""
    forgotten = by_loss["L_ret"] - by_loss["L_im"]
    return [("less is forgotten, the higher λ", "−slope of L_ret − L_im", estimate(-slope(lams, forgotten)))]


def name_panel(pipeline: str) -> tuple[str, str]:
    """Say what a panel shows, and what its x axis is, to somebody who knows no symbols."""
    pre, post, ft = pipeline.split(" → ")
    return f"Loss on {post}, while the model is fine-tuned on {ft}", f"steps of fine-tuning on {ft}"


def name_line(pipeline: str, lam: float) -> str:
    """Say likewise what a model was pretrained on."""
    pre, post, ft = pipeline.split(" → ")
    return f"pretrained on {pre} alone" if lam == 0 else f"and on {post} (λ = {lam:.3g})"


FORGETTING = Courses(dial="lam", symbol="λ", before="L_im", during="L_ret",
                     belongs=lambda point: point["recipe"] in (UNMIXED, MIXED), judge=judge_forgetting,
                     name_panel=name_panel, name_line=name_line,
                     colour=lambda lam: PURPLE if lam else "black")


# ------------------------------------------------------------------------------------------------------------
# Figures 2 and 4 to 7: frontiers

def published_front(figure: str, preset: str, pipeline: str, column: list[Recipe], recipe: Recipe,
                    view: View) -> ndarray | None:
    """Read a frontier of the paper's Figures 2 and 4: (n, 2)."""
    if preset != "135m":
        return None

    # Figure 4 has a column for dropout and one for replay, told apart in the paper by the pipeline's name.
    published_pipeline = pipeline
    if figure == "4":
        published_pipeline += f" ({column[-1].additions[0]})"
    x, y = view
    name = str(recipe).replace(" ", "")
    rows = having(published_rows("frontiers.csv"), figure=figure, x=x, y=y, recipe=name)
    rows = [row for row in rows if row["pipeline"].lower().replace(">", " → ") == published_pipeline]
    return last_stretch(columns(rows, ("x_value", "y_value"))) if rows else None


def last_stretch(line: ndarray) -> ndarray:
    """Keep a line (n, 2) from where x last starts anew: two lines have a stretch off the axes before."""
    anew = np.flatnonzero(np.diff(line[:, 0]) < 0)
    return line[anew[-1] + 1:] if len(anew) else line


def frontiers(figure: str, views: list[View], recipes: list[tuple[Recipe, ...]],
              claims: dict[str, Pair]) -> Frontiers:
    """Make a figure of frontiers at λ = 0 and the highest λ, and at the highest |D_post|."""
    return Frontiers(views, recipes, claims, LOSSES, belongs=lambda point: not point["compute_matched"],
                     highest={"post_tokens": None, "lam": 0}, style=style,
                     published=partial(published_front, figure))


DOWNSTREAM, KEPT, RETAINED = ("L_ft", "L_ret"), ("L_ret", "L_ft"), ("L_ret", "L_pre")
ON_MIXING = [(UNMIXED, MIXED, MIXED_DROPOUT), (UNMIXED, MIXED, MIXED_REPLAY)]
MIXING = {"the mixed frontier dominates": Pair(better=MIXED, worse=UNMIXED)}
ADDED = {"dropout improves on mixing": Pair(better=MIXED_DROPOUT, worse=MIXED),
         "replay improves on mixing": Pair(better=MIXED_REPLAY, worse=MIXED)}
ALONE = {"dropout helps without mixing": Pair(better=UNMIXED_DROPOUT, worse=UNMIXED),
         "replay helps without mixing": Pair(better=UNMIXED_REPLAY, worse=UNMIXED),
         "mixing helps more than dropout": Pair(better=MIXED, worse=UNMIXED_DROPOUT),
         "mixing helps more than replay": Pair(better=MIXED, worse=UNMIXED_REPLAY)}
LORA = {"mixing helps LoRA": Pair(better=MIXED_LORA, worse=UNMIXED_LORA),
        "full beats LoRA, mixed": Pair(better=MIXED, worse=MIXED_LORA),
        "full beats LoRA, unmixed": Pair(better=UNMIXED, worse=UNMIXED_LORA)}


def figure(number: str, title: str, kind: Curves | Frontiers) -> Figure:
    """Make a figure of the paper, of the runs that are planned for it."""
    return Figure(f"Figure {number}: {title}", PLANS[f"fig{number}"], kind, CHAINS, describe)


FIGURES = {
    "fig2": figure("2", "Unmixed against mixed",
                   frontiers("2", [DOWNSTREAM, RETAINED], [(UNMIXED, MIXED)], MIXING)),
    "fig3a": figure("3a", "L_im and L_ret against λ",
                    against_lam("a", (), judge_full)),
    "fig3b": figure("3b", "L_im and L_ret against λ, compute-matched",
                    against_lam("b", ("compute-matched",), judge_matched)),
    "fig4": figure("4", "Dropout and replay on top of mixing: L_ft",
                   frontiers("4", [KEPT], ON_MIXING, ADDED)),
    "fig5": figure("5", "Dropout and replay on top of mixing: L_pre",
                   frontiers("5", [RETAINED], ON_MIXING, ADDED)),
    "fig6": figure("6", "Dropout and replay without mixing",
                   frontiers("6", [KEPT, RETAINED],
                             [(UNMIXED, MIXED, UNMIXED_DROPOUT, UNMIXED_REPLAY)], ALONE)),
    "fig7": figure("7", "LoRA against full post-training",
                   frontiers("7", [KEPT, RETAINED],
                             [(UNMIXED, MIXED, UNMIXED_LORA, MIXED_LORA)], LORA)),
    "forgetting": Figure("Loss on D_post in the course of Stage 3, with D_post in Stage 1 and without",
                         PLANS["forgetting"], FORGETTING, CHAINS, describe, panel=(6.4, 3.0)),
    "frontier": Figure("Pareto frontiers", plan=(), chains=CHAINS, describe=describe,
                       kind=frontiers("", [DOWNSTREAM, RETAINED], [()], MIXING | ADDED | ALONE | LORA)),
}
