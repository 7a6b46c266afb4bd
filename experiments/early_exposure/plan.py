"""The runs of the paper's figures.

A line is a chain of stages; {a,b} makes a chain with a and one with b. $pre, $post, $ft and $other are the
corpora, the other $names the settings of a preset.
"""

# D_pre, D_post, D_ft, and a second D_ft, which Figure 2 also takes for D_post
EMBEDDED = {"pre": "web", "post": "music", "ft": "chem", "other": "chat"}
FROM_THE_HUB = {"pre": "c4", "post": "musicpile", "ft": "chempile", "other": "flan"}
CORPORA = {"toy": EMBEDDED, "30m": FROM_THE_HUB, "135m": FROM_THE_HUB, "1b": FROM_THE_HUB}
UNMIXED_AND_MIXED = ("pretrain --pre $pre --post $post $size --lam {0,1} | posttrain $sweep "
                     "| finetune --ft {$ft,$other} $rates")
PLANS = {
    "forgetting": [
        "pretrain --pre $pre --post $post $size --lam {0,1} | posttrain $fixed "
        "| finetune --ft $ft $rate $often"],
    "fig2": [
        UNMIXED_AND_MIXED,
        "pretrain --pre $pre --post $other $size --lam {0,1} | posttrain $sweep "
        "| finetune --ft $after_other $rates"],
    "fig3a": [
        "pretrain --pre $pre --post $post $sizes --lam {0,0.25,0.5,0.75,1} "
        "| posttrain $fixed | finetune --ft $ft $rate"],
    "fig3b": [
        "pretrain --pre $pre --post $post $sizes --lam {0,0.25,0.5,0.75,1} "
        "| posttrain --compute-matched $once | finetune --ft $ft $rate"],
    "fig4": [
        UNMIXED_AND_MIXED,
        "pretrain --pre $pre --post $post $size --lam 1 | posttrain $dropout "
        "| finetune --ft {$ft,$other} $rates",
        "pretrain --pre $pre --post $post $size --lam 1 | posttrain $replay "
        "| finetune --ft {$ft,$other} $rates"],
    "fig6": [
        UNMIXED_AND_MIXED,
        "pretrain --pre $pre --post $post $size --lam 0 | posttrain $dropout "
        "| finetune --ft {$ft,$other} $rates",
        "pretrain --pre $pre --post $post $size --lam 0 | posttrain $replay "
        "| finetune --ft {$ft,$other} $rates"],
    "fig7": [
        UNMIXED_AND_MIXED,
        "pretrain --pre $pre --post $post $size --lam {0,1} | posttrain --lora $lora "
        "| finetune --ft {$ft,$other} $rates"],
}
PLANS["fig5"] = PLANS["fig4"]                                      # the other view of the same runs
SETTINGS = {    # the paper's at 135m and 1b, but for what README lists as silent; toy and 30m are ours
    "toy": {
        "size": "", "sizes": "",
        "fixed": "--lr 1e-3",
        "once": "--batch 4 --lr 2e-3",
        "sweep": "--lr {1e-3,2e-3}",
        "dropout": "--dropout 0.05 --lr {1e-3,2e-3}",
        "replay": "--replay 0.01 --lr {1e-3,2e-3}",
        "lora": "--lr {1e-3,3e-3}",
        "rate": "--lr 3e-4",
        "often": "--eval-every 10",
        "rates": "--lr {1e-4,3e-4,1e-3}",
        "after_other": "{$ft,$post}"},
    "30m": {
        "size": "--post-tokens 10M", "sizes": "--post-tokens {2M,10M}",
        "fixed": "--lr 1e-3",
        "once": "--lr 1e-3",
        "sweep": "--lr {5e-4,1e-3,2e-3}",
        "dropout": "--dropout {0.02,0.05} --lr {5e-4,1e-3,2e-3}",
        "replay": "--replay 0.01 --lr {5e-4,1e-3,2e-3}",
        "lora": "--lr {5e-4,1e-3,2e-3}",
        "rate": "--lr 1e-4",
        "often": "--eval-every 20",
        "rates": "--lr {3e-5,1e-4,3e-4}",
        "after_other": "{$ft,$post}"},
    "135m": {
        "size": "--post-tokens 300M", "sizes": "--post-tokens {30M,150M,300M}",
        "fixed": "--batch 480 --lr 5e-4",
        "once": "--batch 480 --lr 5e-4",
        "sweep": "--batch {192,480,896} --lr {1e-4,2e-4,5e-4,1e-3,5e-3}",
        "dropout": "--dropout {0.02,0.05} --batch {192,480,896} --lr {1e-4,2e-4,5e-4,1e-3,5e-3}",
        "replay": "--replay 0.01 --batch {192,480,896} --lr {1e-4,2e-4,5e-4,1e-3,5e-3}",
        "lora": "--batch {192,480,896} --lr {1e-4,2e-4,5e-4,1e-3,5e-3}",
        "rate": "--lr 5e-5",
        "often": "--eval-every 20",
        "rates": "--lr {1e-5,2e-5,5e-5,1e-4,2e-4}",
        "after_other": "{$ft,$post}"},
    "1b": {
        "size": "--post-tokens 300M", "sizes": "--post-tokens {30M,150M,300M}",
        "fixed": "--lr 5e-5",
        "once": "--lr 5e-5",
        "sweep": "--lr {1e-5,2e-5,5e-5,1e-4,2e-4}",
        "dropout": "--dropout {0.02,0.05} --lr {1e-5,2e-5,5e-5}",
        "replay": "--replay 0.01 --lr {1e-5,2e-5,5e-5,1e-4,2e-4}",
        "lora": "--lr {1e-5,2e-5,5e-5,1e-4,2e-4}",
        "rate": "--lr 5e-5",
        "often": "--eval-every 20",
        "rates": "--lr {1e-5,2e-5,5e-5,1e-4,2e-4}",
        "after_other": "$ft"},
}
