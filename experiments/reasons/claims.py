"""The claims of `experiments/early_exposure/claims.py`, of runs in which a suspected cause is changed."""

from experiments.drawing import Figure
from experiments.early_exposure.claims import (CHAINS, DOWNSTREAM, KEPT, MIXED, MIXED_DROPOUT, MIXING,
                                               UNMIXED, against_lam, describe, frontiers, judge_full)
from experiments.frontiers import Pair
from experiments.reasons.plan import PLANS

DROPOUT = {"dropout improves on mixing": Pair(better=MIXED_DROPOUT, worse=MIXED)}

FIGURES = {
    "repeated": Figure("Dropout on top of mixing, D_post a quarter", PLANS["repeated"],
                       frontiers("", [KEPT], [(MIXED, MIXED_DROPOUT)], DROPOUT), CHAINS, describe),
    "longer": Figure("L_im and L_ret against λ, Stage 2 four times as long", PLANS["longer"],
                     against_lam("", (), judge_full), CHAINS, describe),
    "foreign": Figure("Unmixed against mixed, from another D_pre", PLANS["foreign"],
                      frontiers("", [DOWNSTREAM], [(UNMIXED, MIXED)], MIXING), CHAINS, describe),
}
