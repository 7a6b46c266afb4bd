"""The runs of the figures: those of `early_exposure/plan.py`, with one change each."""

from experiments import early_exposure, forecast

CORPORA = {"toy": early_exposure.CORPORA["toy"]}
PLANS = {
    "repeated": [       # a quarter of D_post, which Stage 2 reads up to four times as often
        "pretrain --pre $pre --post $post --lam {0,1} | posttrain $sweep | finetune --ft $ft $rates",
        "pretrain --pre $pre --post $post --lam {0,1} | posttrain $dropout | finetune --ft $ft $rates",
        "pretrain --pre $pre --post $post --lam {0,1} $few | posttrain $sweep | finetune --ft $ft $rates",
        "pretrain --pre $pre --post $post --lam {0,1} $few | posttrain $dropout | finetune --ft $ft $rates"],
    "longer": [         # a Stage 2 four times as long, which never stops early
        "pretrain --pre $pre --post $post --lam {0,0.5,1} | posttrain $fixed $long "
        "| finetune --ft $ft $rate"],
    "foreign": [        # by --corpora, which bring a D_pre that is less like D_post
        "pretrain --pre $pre --post $other --lam {0,1} | posttrain $sweep | finetune --ft $post $rates"],
    "thin": [           # adapters of a ninth of the width, as at 135m, for two thirds
        "pretrain --pre $pre --post $post --lam {0,1} | posttrain $sweep | finetune --ft $ft $rates",
        "pretrain --pre $pre --post $post --lam {0,1} | posttrain --lora $lora | finetune --ft $ft $rates",
        "pretrain --pre $pre --post $post --lam {0,1} | posttrain --lora $thin $lora "
        "| finetune --ft $ft $rates"],
    "higher-rates": [   # Stage 2 at a rate above the paper's figures', whose fronts end before they meet
        "pretrain --pre $pre --post $post --lam {0,1} | posttrain $higher | finetune --ft $ft $rates",
        "pretrain --pre $pre --post $post --lam 0 | posttrain --replay 0.01 $higher "
        "| finetune --ft $ft $rates",
        "pretrain --pre $pre --post $post --lam {0,1} | posttrain --lora $lora_higher "
        "| finetune --ft $ft $rates"],
}
MORE = {"long": "--max-tokens 4M --patience 80", "thin": "--lora-rank 11", "higher": "--lr {1e-3,2e-3,4e-3}",
        "lora_higher": "--lr {1e-3,3e-3,9e-3}"}
SETTINGS = {"toy": forecast.SETTINGS["toy"] | MORE}
