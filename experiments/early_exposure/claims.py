"""What the paper claims of each figure, as numbers that should be above 0, and the numbers that it published."""

import csv
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from experiments.curves import Curves, Judged
from experiments.drawing import Figure
from experiments.early_exposure.plan import PLANS
from experiments.frontiers import Frontiers, Style, View
from experiments.points import Point, columns, having, seed_of, stem
from experiments.statistics import best_inside, estimate, estimate_numbers, slope

LOSSES = ("L_im", "L_ret", "L_ft", "L_pre")
PUBLISHED = Path(__file__).parent / "published"              # at 135M


# ---------------------------------------------------------------------------------------------------------------------
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
LOOKS = {     # the paper's colours, told apart by marker and line in black and white too
    UNMIXED: ("black", "o"), MIXED: (PURPLE, "s"), UNMIXED_LORA: ("black", "o"), MIXED_LORA: (PURPLE, "s"),
    UNMIXED_DROPOUT: ("#159a90", "^"), MIXED_DROPOUT: ("#159a90", "^"),
    UNMIXED_REPLAY: ("#e87b14", "D"), MIXED_REPLAY: ("#e87b14", "D"),
}


def style(recipe: Recipe, drawn: list[Recipe]) -> Style:
    """How a recipe is drawn: LoRA dashed; dotted what is unmixed beside the same mixed."""
    colour, marker = LOOKS.get(recipe, ("grey", "v"))        # grey: of recipes that the paper does not draw
    if "LoRA" in recipe.additions:
        return Style(colour, marker, "--", "white")
    if recipe.additions and not recipe.mixed and recipe._replace(mixed=True) in drawn:
        return Style(colour, marker, ":", "white")
    return Style(colour, marker, "-", colour)


def describe(lineage: list[dict]) -> dict[str, object]:
    """What sets a chain of the three stages apart. λ is the one that Stage 1 came to."""
    pre, post, ft = (entry["args"] for entry in lineage)
    additions = [name for name in ("dropout", "replay") if post[name]]
    if post["lora"]:
        additions.append("LoRA")
    if post["compute_matched"]:
        additions.append("compute-matched")
    lam = lineage[0]["lam"]
    return {"recipe": Recipe(lam > 0, tuple(additions)),
            "pipeline": " → ".join((stem(pre["pre"]), stem(pre["post"]), stem(ft["ft"]))), "seed": seed_of(lineage),
            "lam": lam, "post_tokens": pre["post_tokens"], "stage2_lr": post["lr"], "stage2_batch": post["batch"],
            "stage3_lr": ft["lr"], "dropout": post["dropout"], "replay": post["replay"],
            "compute_matched": post["compute_matched"]}


# ---------------------------------------------------------------------------------------------------------------------
# Figure 3: losses against λ

def judge_full(lams: ndarray, by_loss: dict[str, ndarray]) -> Judged:
    """Figure 3a: L_ret falls in λ, and L_im is flat: less than a quarter as steep."""
    im_slope, ret_slope = slope(lams, by_loss["L_im"]), slope(lams, by_loss["L_ret"])
    both = np.stack([im_slope, ret_slope], axis=-1)
    flatness = estimate(both, lambda mean: np.abs(mean[..., 1]) / 4 - np.abs(mean[..., 0]))
    return [("L_ret falls in λ", "−slope of L_ret", estimate_numbers(-ret_slope)),
            ("L_im is flat", "¼|slope of L_ret| − |slope of L_im|", flatness)]


def judge_matched(lams: ndarray, by_loss: dict[str, ndarray]) -> Judged:
    """Figure 3b: L_im worsens with λ, and the best λ for L_ret is neither 0 nor 1."""
    claims = [("L_im worsens with λ", "slope of L_im", estimate_numbers(slope(lams, by_loss["L_im"])))]
    if len(lams) > 2 and (lams[0], lams[-1]) == (0, 1):
        claims.append(("best λ for L_ret is strictly inside", "L_ret at the better end − best inside",
                       estimate_numbers(best_inside(by_loss["L_ret"]))))
    return claims


def shown_size(post_tokens: int | None) -> str:
    """|D_post| as a legend calls it: 150000 → |D_post| 150k."""
    if post_tokens is None:
        return "|D_post|"
    scale, unit = (1e6, "M") if post_tokens >= 1e6 else (1e3, "k")
    return f"|D_post| {post_tokens / scale:g}{unit}"


def published_rows(file: str) -> list[dict[str, str]]:
    """The rows of a table of the paper's numbers."""
    with open(PUBLISHED / file, newline="") as lines:
        return list(csv.DictReader(lines))


def published_curve(panel: str, post_tokens: int, loss: str) -> ndarray | None:
    """The paper's Figure 3: (λ, loss), (n, 2)."""
    size = shown_size(post_tokens).split()[-1]
    rows = having(published_rows("fig3.csv"), panel=panel, metric=loss, post_tokens=size)
    return columns(rows, ("lambda", "loss")) if rows else None


def against_lam(panel: str, additions: tuple[str, ...], judge) -> Curves:
    """A panel of Figure 3, of plain or compute-matched post-training."""
    return Curves(dial="lam", symbol="λ", series="post_tokens", name_series=shown_size, panels=("L_im", "L_ret"),
                  losses=LOSSES, falls="L_ret", belongs=lambda point: point["recipe"].additions == additions,
                  judge=judge, published=partial(published_curve, panel), colour=PURPLE)


# ---------------------------------------------------------------------------------------------------------------------
# Figures 2 and 4 to 7: frontiers

def published_front(figure: str, pipeline: str, column: list[Recipe], recipe: Recipe, view: View) -> ndarray | None:
    """The paper's frontier lines of Figures 2 and 4: (n, 2)."""
    # Figure 4 has a column for dropout and one for replay, told apart in the paper by the pipeline's name.
    names = pipeline
    if len(column) == 3:
        names += f" ({column[-1].additions[0]})"
    rows = having(published_rows("frontiers.csv"), figure=figure, x=view[0], y=view[1],
                  recipe=str(recipe).replace(" ", ""))
    rows = [row for row in rows if row["pipeline"].lower().replace(">", " → ") == names]
    return last_stretch(columns(rows, ("x_value", "y_value"))) if rows else None


def last_stretch(line: ndarray) -> ndarray:
    """The part of a line (n, 2) from where x last starts anew: two lines have a stretch off the printed axes before."""
    start = 0
    for place in range(1, len(line)):
        if line[place, 0] < line[place - 1, 0]:
            start = place
    return line[start:]


def frontiers(figure: str, views: list[View], recipes: list, claims: dict) -> Frontiers:
    """A figure of frontiers at λ = 0 and the highest λ, and at the highest |D_post|."""
    return Frontiers(views, recipes, claims, LOSSES, belongs=lambda point: not point["compute_matched"],
                     highest={"post_tokens": None, "lam": 0}, style=style, published=partial(published_front, figure))


DOWNSTREAM, FORGETTING, RETAINED = ("L_ft", "L_ret"), ("L_ret", "L_ft"), ("L_ret", "L_pre")
ON_MIXING = [(UNMIXED, MIXED, MIXED_DROPOUT), (UNMIXED, MIXED, MIXED_REPLAY)]
MIXING = {"the mixed frontier dominates": (MIXED, UNMIXED)}
ADDED = {"dropout improves on mixing": (MIXED_DROPOUT, MIXED), "replay improves on mixing": (MIXED_REPLAY, MIXED)}
ALONE = {"dropout helps without mixing": (UNMIXED_DROPOUT, UNMIXED),
         "replay helps without mixing": (UNMIXED_REPLAY, UNMIXED),
         "mixing helps more than dropout": (MIXED, UNMIXED_DROPOUT),
         "mixing helps more than replay": (MIXED, UNMIXED_REPLAY)}
LORA = {"mixing helps LoRA": (MIXED_LORA, UNMIXED_LORA), "full beats LoRA, mixed": (MIXED, MIXED_LORA),
        "full beats LoRA, unmixed": (UNMIXED, UNMIXED_LORA)}
KINDS = {
    "fig2": ("Unmixed against mixed",
             frontiers("2", [DOWNSTREAM, RETAINED], [(UNMIXED, MIXED)], MIXING)),
    "fig3a": ("L_im and L_ret against λ",
              against_lam("a", (), judge_full)),
    "fig3b": ("L_im and L_ret against λ, compute-matched",
              against_lam("b", ("compute-matched",), judge_matched)),
    "fig4": ("Dropout and replay on top of mixing: L_ft",
             frontiers("4", [FORGETTING], ON_MIXING, ADDED)),
    "fig5": ("Dropout and replay on top of mixing: L_pre",
             frontiers("5", [RETAINED], ON_MIXING, ADDED)),
    "fig6": ("Dropout and replay without mixing",
             frontiers("6", [FORGETTING, RETAINED], [(UNMIXED, MIXED, UNMIXED_DROPOUT, UNMIXED_REPLAY)], ALONE)),
    "fig7": ("LoRA against full post-training",
             frontiers("7", [FORGETTING, RETAINED], [(UNMIXED, MIXED, UNMIXED_LORA, MIXED_LORA)], LORA)),
}
FIGURES = {name: Figure(f"Figure {name[3:]}: {title}", PLANS[name], kind, "finetune", describe)
           for name, (title, kind) in KINDS.items()}
FIGURES["frontier"] = Figure("Pareto frontiers", (), frontiers("", [DOWNSTREAM, RETAINED], [()],
                                                               MIXING | ADDED | ALONE | LORA), "finetune", describe)
