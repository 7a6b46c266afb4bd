"""The runs of the study, in the words of `experiments/early_exposure/plan.py`; those of both are made once.

From every θ_post there goes a Stage 3 on each D_ft, the same on D_pre (its first quarter is a probe), two
changes of the weights that need no training and, at toy, the first quarter of one on text like each D_ft.
"""

from experiments import early_exposure

# At toy there is other text like D_post and like both D_ft; the corpora of the hub have none.
LIKE = {"like_post": "web0music100", "like_ft": "web0chem100", "like_other": "web0chat100"}
CORPORA = early_exposure.CORPORA | {"toy": early_exposure.CORPORA["toy"] | LIKE}
# |D_post| and Stage 2; $names are those of early_exposure.SETTINGS and of MORE below.
STAGES_2 = [("$size", "$sweep"), ("$size", "$dropout"), ("$size", "$replay"), ("$size", "--lora $lora"),
            ("$size", "$short"), ("$few", "$fixed")]


def chains_to_theta_post(post: str) -> list[str]:
    """Write the first two stages of all chains of one D_post."""
    return [f"pretrain --pre $pre --post {post} {size} --lam {{0,1}} | posttrain {stage_2}"
            for size, stage_2 in STAGES_2]


def lines_of(post: str, ft: str, rates: str = "$rates") -> list[str]:
    """Write all chains of one D_post, at some rates of Stage 3."""
    lines = []
    for theta_post in chains_to_theta_post(post):
        lines += [f"{theta_post} | finetune --ft {ft} {rates}",
                  f"{theta_post} | finetune --ft $pre {rates} $course",
                  f"{theta_post} | noise --ft $pre $noise",
                  f"{theta_post} | noise --ft $pre --gamma 0 --back 0.5 --draws 2"]
    return lines


def probes_on(post: str, like: str) -> list[str]:
    """Write the beginnings of a Stage 3, a quarter of it, on other text than D_pre."""
    return [f"{theta_post} | finetune --ft {like} $rates $quarter"
            for theta_post in chains_to_theta_post(post)]


EVERYWHERE = lines_of("$post", "{$ft,$other}") + lines_of("$other", "{$ft,$post}")
AT_TOY = probes_on("$post", "{$like_ft,$like_other}") + probes_on("$other", "{$like_ft,$like_post}")
PLAN = dict.fromkeys(early_exposure.SETTINGS, EVERYWHERE) | {"toy": EVERYWHERE + AT_TOY}
MORE = {  # what the paper's settings lack; a course is evaluated at about an eighth and a quarter of Stage 3
    "toy": {"few": "--post-tokens 55k", "short": "--max-tokens 250k --lr 1e-3", "course": "--eval-every 12",
            "quarter": "--tokens 24576 --leave 74"},                            # 24 of 98 steps
    "30m": {"few": "--post-tokens 2M", "short": "--max-tokens 20M --lr 1e-3", "course": "--eval-every 53"},
    "135m": {"few": "--post-tokens 30M", "short": "--max-tokens 75M --batch 480 --lr 5e-4",
             "course": "--eval-every 51"},
    "1b": {"few": "--post-tokens 30M", "short": "--max-tokens 75M --lr 5e-5", "course": "--eval-every 48"},
}
SETTINGS = {preset: settings | MORE[preset] | {"noise": "--gamma 0.2 --draws 4"}
            for preset, settings in early_exposure.SETTINGS.items()}
