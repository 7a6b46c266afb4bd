"""The runs of the figures, in the words of `experiments/early_exposure/plan.py`."""

from experiments import forecast
from experiments.forecast.plan import lines_of

CORPORA = {     # D_pre, D_post, D_ft, and four D_ft named by their percentage of text like D_post's
    "toy": {"pre": "web", "post": "music", "ft": "chem", "at0": "web100music0", "at25": "web75music25",
            "at50": "web50music50", "at75": "web25music75"},
}
PLANS = {
    "place": [
        "pretrain --pre $pre --post $post --lam {0,1} | posttrain $fixed "
        "| finetune --ft {$at0,$at25,$at50,$at75} $rates"],
    "matched-rates": [
        "pretrain --pre $pre --post $post --lam {0,0.25,0.5,0.75,1} "
        "| posttrain --compute-matched $once | finetune --ft $ft $rates"],
    "place-forecast": lines_of("$post", "{$at0,$at25,$at50,$at75}", rates="$rate"),
}
SETTINGS = {"toy": forecast.SETTINGS["toy"]}
