"""The runs of the figures, in the words of `experiments/early_exposure/plan.py`.

The ladder: one model, one peak rate, and for every budget a cosine of its own to zero (Section 3).
"""

from experiments.early_exposure.plan import EMBEDDED, FROM_THE_HUB

# toy's D_pre is written so long that the largest budget does not repeat it
CORPORA = {"toy": EMBEDDED | {"pre": "web:66M"}, "135m": FROM_THE_HUB, "1b": FROM_THE_HUB}
LADDER = "pretrain --pre $pre --post $post $model --min-lr 0 --tokens $budgets"
PLANS = {
    "overtrained-noise": [f"{LADDER} | noise --ft $ft --gamma $gammas"],
    "overtrained-rates": [f"{LADDER} | finetune --ft {{$ft,$other}} $stage3 --min-lr 0 --lr $rates"],
    "early-noise": ["pretrain --pre $pre --post $post $exposed --lam {0,0.25,0.5,0.75,1} | posttrain $stage2 "
                    "| noise --ft $ft --gamma $exposed_gammas"],
}
PLANS["overtrained-tuned"] = PLANS["overtrained-rates"]      # the same runs, each budget at its best rate
SETTINGS = {    # 135m and 1b: the successor's 20M and 150M, at the paper's budgets and its own; see README.
    # The longest budget comes first, lest it run alone at the end. $exposed is of early-noise: this room's
    # model at toy, elsewhere the runs of Figure 3a.
    "toy": {
        "model": "--width 64 --mlp 128 --heads 2",
        "budgets": "{64M,32M,16M,8M,4M,2M,1M}",
        "gammas": "{0,0.025,0.05,0.1,0.2}",
        "stage3": "--tokens 200k",
        "rates": "{1e-4,3e-4,1e-3,3e-3,1e-2}",
        "exposed": "--width 64 --mlp 128 --heads 2",
        "stage2": "--lr {5e-4,1e-3,2e-3}",
        "exposed_gammas": "{0.1,0.2}"},
    "135m": {
        "model": "--layers 8 --width 256 --mlp 1024 --heads 8 --kv-heads 8 --batch 256 --lr 1e-3",
        "budgets": "{128B,64B,32B,16B,8B,4B}",
        "gammas": "{0,0.025,0.05,0.1,0.2}",
        "stage3": "--tokens 10M --batch 64",
        "rates": "{4e-5,2e-4,1e-3,3e-3}",
        "exposed": "--post-tokens 300M",
        "stage2": "--batch 480 --lr {2e-4,5e-4,1e-3}",
        "exposed_gammas": "{0.1,0.2}"},
    "1b": {
        "model": "--layers 12 --width 768 --mlp 3072 --heads 12 --kv-heads 12 --batch 256 --lr 3e-4 "
                 "--warmup 3000",
        "budgets": "{240B,120B,60B,30B,15B}",
        "gammas": "{0,0.025,0.05,0.1,0.2}",
        "stage3": "--tokens 10M --batch 64",
        "rates": "{4e-5,2e-4,1e-3,3e-3}",
        "exposed": "--post-tokens 300M",
        "stage2": "--lr {2e-5,5e-5,1e-4}",
        "exposed_gammas": "{0.1,0.2}"},
}
SETTINGS["toy quick"] = SETTINGS["toy"] | {
    "budgets": "{16M,8M,4M,2M,1M}", "gammas": "{0,0.1,0.2}", "rates": "{3e-4,3e-3}",
    "stage2": "--lr {5e-4,2e-3}"}
