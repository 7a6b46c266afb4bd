"""The runs of the figures: T steps each, and within a recipe the target pool is read equally often, R times.

g = R · pool/(T · batch) is the target's share of all sequences. Stage 2 takes α of it, and of Stage 2 a share
ρ is generic text, so that it has d = gα/(1 − ρ) of all steps; Stage 1 has the rest. More replay makes Stage 2
longer, Stage 1 shorter, and adds no compute.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

CORPORA = {     # generic, target, and what is fine-tuned on later
    "toy": {"pre": "web", "post": "music", "ft": "chem"},
    "135m": {"pre": "c4", "post": "flan", "ft": "chempile"},
}
STRETCHES = (1, 1.125, 1.25, 1.5, 2, 3, 4, 8)                # 1/(1 − ρ) of fine-tuning; the paper ends at 4
MID_STRETCHES = (1, 2, 4, 8)                                 # and of mid-training
ALPHAS = (1, 0.5, 0.25, 0.125)
USUAL_DECAY = 0.1                                            # share of all steps over which the rate falls
DECAYS = "{0,0.05,0.1,0.2,0.5,0.99}"                         # those that the paper tried
POOLS = (1, 2, 4, 8, 16)                                     # of the reference runs, times the recipes' pool
STAGE_3 = "finetune --ft $ft $stage3"


class Budget(NamedTuple):
    """What all runs of a preset share. Sequences are of the model's context."""
    steps: int               # T, of both stages
    batch: int               # sequences a step
    context: int             # tokens a sequence
    pool: int                # sequences of the target pool
    tuning_repeats: int      # R of fine-tuning
    repeats: int             # R of mid-training and of the reference runs


class Split(NamedTuple):
    """A run of two stages, in sequences; the target's are spread evenly over their stage."""
    generic1: int
    target1: int
    generic2: int
    target2: int


def split(budget: Budget, repeats: int, stretch: float = 1, alpha: float = 1,
          pools: float = 1) -> Split:
    """Share out a budget's steps: R repeats of so many pools, α of them in Stage 2.

    `stretch` is how many times longer replay makes Stage 2, 1/(1 − ρ). The target is rounded to whole
    sequences, Stage 2 to whole steps. Raises ValueError if Stage 2 would be longer than all.
    """
    target = round(repeats * pools * budget.pool)
    target2 = round(alpha * target)
    later = round(target2 * stretch / budget.batch) * budget.batch
    earlier = budget.steps * budget.batch - later
    parts = Split(earlier - (target - target2), target - target2, later - target2, target2)
    if min(parts) < 0:
        raise ValueError(f"{budget.steps} steps are too few for {parts}")
    return parts


def stage1(budget: Budget, parts: Split, pools: float = 1) -> str:
    """Write Stage 1's tokens as pretrain.py's flags; λ is the passes over the pool."""
    context, size = budget.context, round(pools * budget.pool)
    return (f"pretrain --pre $pre --post $post $model --tokens {parts.generic1 * context} "
            f"--post-tokens {size * context} --lam {parts.target1 / size:g}")


def stage2(budget: Budget, parts: Split) -> str:
    """Write Stage 2's tokens as posttrain.py's flags."""
    replay = parts.generic2 / (parts.generic2 + parts.target2)
    return f"posttrain --max-tokens {parts.target2 * budget.context} --replay {replay:.6g} $at_end"


def fine_tuning(budget: Budget, stretches: Sequence[float] = STRETCHES, pools: float = 1) -> list[str]:
    """Plan two schedules, one a stage, the optimizer new: one chain per ρ."""
    lines = []
    for stretch in stretches:
        parts = split(budget, budget.tuning_repeats, stretch, pools=pools)
        lines.append(f"{stage1(budget, parts, pools)} $cosine | {stage2(budget, parts)} $tuned | {STAGE_3}")
    return lines


def mid_training(budget: Budget, alphas: Sequence[float] = ALPHAS,
                 stretches: Sequence[float] = MID_STRETCHES) -> list[str]:
    """Plan mid-training and what comes after it: one chain per ρ and α."""
    return [f"{two_stages(budget, split(budget, budget.repeats, stretch, alpha), USUAL_DECAY)} | {STAGE_3}"
            for alpha, stretch in itertools.product(alphas, stretches)]


def decays(budget: Budget, choice: str = DECAYS) -> list[str]:
    """Plan mid-training at every decay that the paper tried, or some, without replay and with the most."""
    return [two_stages(budget, split(budget, budget.repeats, stretch), choice)
            for stretch in (MID_STRETCHES[0], MID_STRETCHES[-1])]


def two_stages(budget: Budget, parts: Split, decay: float | str) -> str:
    """Write one schedule and one optimizer over both stages."""
    left = (parts.generic2 + parts.target2) // budget.batch
    return (f"{stage1(budget, parts)} $warmed --decay {decay} --leave {left} "
            f"| {stage2(budget, parts)} --go-on")


def tied(budget: Budget) -> list[str]:
    """Plan mid-training's schedule with the target spread evenly over all steps, which the paper has not."""
    parts = split(budget, budget.repeats, alpha=0)
    return [f"{stage1(budget, parts)} $warmed --decay {USUAL_DECAY} | {STAGE_3}"]


def reference(budget: Budget) -> list[str]:
    """Plan one stage with more and more of the target, spread evenly: the scale that recipes are read on."""
    lines = []
    for pools in POOLS:
        parts = split(budget, budget.repeats, alpha=0, pools=pools)
        lines.append(f"{stage1(budget, parts, pools)} $reference | {STAGE_3}")
    return lines


BUDGETS = {
    # the paper's shares of all steps, with an eighth of its repeats: 1/1,024 of so few steps is no corpus
    "toy": Budget(steps=512, batch=32, context=128, pool=128, tuning_repeats=8, repeats=4),
    "135m": Budget(steps=1024, batch=1024, context=4096, pool=1024, tuning_repeats=64, repeats=32),
}
# Smaller pools are replayed more; the largest, without replay, are there to read off what replay is worth.
POOLED = {0.5: (1, 2, 4, 8, 16), 1: STRETCHES, 2: (1, 2, 4), 4: (1,), 8: (1,)}
QUICK_POOLED = {0.5: (1, 2, 4, 8), 1: (1, 2, 4), 2: (1, 2, 4), 4: (1,)}


def pooled(budget: Budget, stretches: dict[float, Sequence[float]] = POOLED) -> list[str]:
    """Plan fine-tuning on pools of several sizes: one chain per pool and ρ."""
    return [line for pools, some in stretches.items() for line in fine_tuning(budget, some, pools)]


def with_references(budget: Budget, shares: list[str]) -> list[str]:
    """Plan what shares of replay are read off, too."""
    return [*shares, *tied(budget), *reference(budget)]


SHARES = {preset: [*fine_tuning(budget), *mid_training(budget)] for preset, budget in BUDGETS.items()}
EFFICIENCY = {preset: with_references(budget, SHARES[preset]) for preset, budget in BUDGETS.items()}
PREDICTION = {preset: pooled(budget) for preset, budget in BUDGETS.items()}
DECAYED = {preset: decays(budget) for preset, budget in BUDGETS.items()}
TOY = BUDGETS["toy"]
SHARES["toy quick"] = [*fine_tuning(TOY, (1, 2, 4)), *mid_training(TOY, alphas=(1, 0.25), stretches=(1, 8))]
EFFICIENCY["toy quick"] = with_references(TOY, SHARES["toy quick"])
PREDICTION["toy quick"] = pooled(TOY, QUICK_POOLED)
DECAYED["toy quick"] = decays(TOY, "{0,0.1}")
SETTINGS = {
    "toy": {
        "model": "--batch 32",
        "cosine": "--lr 3e-3 --min-lr 0 --warmup 5",
        "reference": "--lr 3e-3 --min-lr 0 --warmup 5",
        "warmed": "--lr 3e-3 --min-lr 0 --warmup 5",
        "tuned": "--lr 5e-3 --min-lr 0 --warmup 5",
        "at_end": "--batch 32 --eval-every 100k",
        "stage3": "--lr 3e-4"},
    "135m": {   # the paper's 22.8M beside the embedding; its own flags but for Stage 3, which it has not
        "model": "--layers 6 --width 512 --mlp 1792 --heads 8 --kv-heads 8 --context 4096 --batch 1024",
        "cosine": "--lr 1e-3 --min-lr 0 --warmup 10",
        "reference": "--lr 3e-3 --min-lr 0 --warmup 10",
        "warmed": "--lr 3e-3 --min-lr 0 --warmup 10",
        "tuned": "--lr 3e-4 --min-lr 0 --warmup 10",
        "at_end": "--batch 1024 --eval-every 100k",
        "stage3": "--batch 128 --lr 5e-5"},
}
SETTINGS["toy quick"] = SETTINGS["toy"]
