"""The claims of early exposure, of runs in which a suspected cause is changed."""

import numpy as np

from experiments.curves import of_whole_seeds, rows_of
from experiments.drawing import Figure
from experiments.early_exposure.claims import (ALONE, CHAINS, DOWNSTREAM, KEPT, LORA, MIXED, MIXED_DROPOUT,
                                               MIXED_LORA, MIXING, RETAINED, UNMIXED, UNMIXED_DROPOUT,
                                               UNMIXED_LORA, UNMIXED_REPLAY, Recipe, against_lam, describe,
                                               frontiers, judge_full, shown_size, style)
from experiments.frontiers import Pair, Style, compare
from experiments.points import Point, distinct, having
from experiments.reasons.plan import PLANS
from experiments.statistics import estimate
from run.folder import OLD_DEFAULTS

UNMIXED_THIN, MIXED_THIN = Recipe(False, ("thin LoRA",)), Recipe(True, ("thin LoRA",))
THIN = {"full beats LoRA, mixed": Pair(better=MIXED, worse=MIXED_LORA),
        "full beats thin LoRA, mixed": Pair(better=MIXED, worse=MIXED_THIN),
        "thin LoRA is worse, mixed": Pair(better=MIXED_LORA, worse=MIXED_THIN),
        "full beats LoRA, unmixed": Pair(better=UNMIXED, worse=UNMIXED_LORA),
        "full beats thin LoRA, unmixed": Pair(better=UNMIXED, worse=UNMIXED_THIN),
        "thin LoRA is worse, unmixed": Pair(better=UNMIXED_LORA, worse=UNMIXED_THIN)}
HIGHER = {claim: pair for claim, pair in ALONE.items() if UNMIXED_REPLAY in pair} | LORA
DROPOUT = {"dropout improves on mixing": Pair(better=MIXED_DROPOUT, worse=MIXED),
           "dropout helps without mixing": Pair(better=UNMIXED_DROPOUT, worse=UNMIXED)}


def describe_size(lineage: list[dict]) -> dict[str, object]:
    """Tell what sets a chain apart, each |D_post| a pipeline of its own."""
    told = describe(lineage)
    return told | {"corpora": told["pipeline"],
                   "pipeline": f"{told['pipeline']}, {shown_size(told['post_tokens'])}"}


def describe_rank(lineage: list[dict]) -> dict[str, object]:
    """Tell what sets a chain apart, LoRA of a smaller rank than the paper's a recipe of its own."""
    told, post = describe(lineage), OLD_DEFAULTS | lineage[1]["args"]
    if post["lora"] and post["lora_rank"] < OLD_DEFAULTS["lora_rank"]:
        told["recipe"] = Recipe(told["recipe"].mixed, ("thin LoRA",))
    return told


def thin_style(recipe: Recipe, drawn: list[Recipe]) -> Style:
    """Choose how a recipe is drawn: thin LoRA as LoRA, but dotted and with triangles."""
    if recipe in (UNMIXED_THIN, MIXED_THIN):
        return style(Recipe(recipe.mixed, ("LoRA",)), drawn)._replace(line=":", marker="v")
    return style(recipe, drawn)


def judge_sizes(points: list[Point]) -> list[list[str]]:
    """Judge that dropout gains more of the smallest |D_post| than of the largest, seed by seed.

    Returns rows of `drawing.VERDICTS`; none where only one |D_post| is there.
    """
    rows = []
    for corpora in distinct(points, "corpora"):
        # Both gaps are of the same seeds.
        there = of_whole_seeds(having(points, corpora=corpora), "post_tokens", "recipe")
        judged = []
        for claim, pair in DROPOUT.items():
            gaps = []
            for size in sorted(distinct(there, "post_tokens")):
                better, worse = (having(there, post_tokens=size, recipe=recipe) for recipe in pair)
                if better and worse:
                    gaps.append(np.array(compare(better, worse, KEPT).gaps))
            if len(gaps) > 1:
                judged.append((f"{claim} more where D_post is read more often",
                               "gap at the smallest |D_post| − at the largest", estimate(gaps[0] - gaps[-1])))
        rows += rows_of(judged, f"{corpora}, ({', '.join(KEPT)})")
    return rows


FIGURES = {
    "repeated": Figure("Dropout with mixing and without, by |D_post|", PLANS["repeated"],
                       frontiers("", [KEPT], [(MIXED, MIXED_DROPOUT), (UNMIXED, UNMIXED_DROPOUT)],
                                 DROPOUT)._replace(more_verdicts=judge_sizes),
                       CHAINS, describe_size),
    "longer": Figure("L_im and L_ret against λ, Stage 2 four times as long", PLANS["longer"],
                     against_lam("", (), judge_full), CHAINS, describe),
    "thin": Figure("LoRA of rank 64 and of rank 11 against full post-training", PLANS["thin"],
                   frontiers("", [KEPT, RETAINED],
                             [(UNMIXED, UNMIXED_LORA, UNMIXED_THIN), (MIXED, MIXED_LORA, MIXED_THIN)],
                             THIN)._replace(style=thin_style),
                   CHAINS, describe_rank),
    "higher-rates": Figure("Replay, mixing and LoRA, Stage 2 at a higher rate too", PLANS["higher-rates"],
                           frontiers("", [KEPT, RETAINED],
                                     [(UNMIXED, MIXED, UNMIXED_REPLAY),
                                      (UNMIXED, MIXED, UNMIXED_LORA, MIXED_LORA)], HIGHER),
                           CHAINS, describe),
    "foreign": Figure("Unmixed against mixed, from another D_pre", PLANS["foreign"],
                      frontiers("", [DOWNSTREAM], [(UNMIXED, MIXED)], MIXING), CHAINS, describe),
}
