"""What is known of a θ_post before anybody fine-tunes it, and what was done to it then."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from data import embedded
from experiments.courses import evaluations
from experiments.early_exposure.claims import recipe_of
from experiments.points import Point, distinct, having, seed_of, stem
from run.checkpoint import read_run
from run.files import UserError

PARTS = {"eighth": 1 / 8, "quarter": 1 / 4}                  # of the steps of a Stage 3
QUARTER = "a quarter of Stage 3 on D_pre"
ON_LIKE = "a quarter of Stage 3 on text like D_ft"
PROBES = {QUARTER: "on D_pre: ", ON_LIKE: "on text like D_ft: "}       # how claims about them begin
BEGUN = "% of Stage 3 on "              # in the names of those that --leave has left unfinished
COLUMNS = {"an eighth of Stage 3 on D_pre": "eighth", QUARTER: "quarter", "Stage 3 on D_pre": "D_post after"}


def describe(lineage: list[dict]) -> dict[str, object]:
    """Tell a θ_post, what is known of it, and what D_post's loss became after what was done to it.

    What was done is a Stage 3, on D_ft, D_pre or other text, or a change of the weights, whose rate and
    tokens are 0.
    """
    pre, post, last = (entry["args"] for entry in lineage)
    losses = [{name: loss["mean"] for name, loss in entry["losses"].items()} for entry in lineage]

    # Whatever sets two θ_post of a seed apart is in the name of the recipe.
    recipe, lam = recipe_of(lineage), lineage[0]["lam"]
    named = [f"|D_post| {pre['post_tokens']:g}", f"rate {post['lr']:g}", f"batch {post['batch']}",
             f"{post['max_tokens'] / 1e6:g}M tokens"]
    named += [f"{name} {post[name]:g}" for name in ("dropout", "replay") if post[name]]
    named += [name for name in ("LoRA", "compute-matched") if name in recipe.additions]
    stage_2 = ", ".join(named)
    known = {"pipeline": f"{stem(pre['pre'])} → {stem(pre['post'])}", "seed": seed_of(lineage),
             "recipe": f"{recipe}, λ {lam:.2g}, {stage_2}",
             "stage_2": stage_2, "lam": round(lam, 2), "post_tokens": float(pre["post_tokens"]),
             "L_im": losses[1]["L_im"], "L_post of θ_pre": losses[0]["L_post"],
             "L_pre of θ_post": losses[1]["L_pre"]}

    # The course of one on D_pre is filled in from its log. The name of an unfinished one says so: it must not
    # pass for a whole one.
    course = dict.fromkeys(PARTS, "")
    if lineage[-1]["stage"] == "finetune":
        done = stem(last["ft"])
        if last.get("leave"):
            steps = lineage[-1]["steps"]
            done = f"{100 * steps / (steps + last['leave']):.0f}{BEGUN}{done}"
        return known | {"done": done, "rate": last["lr"], "tokens": float(last["tokens"]),
                        "D_post after": losses[2]["L_ret"]} | course
    done = f"noise of γ = {last['gamma']:g}"
    if last.get("back"):
        done = f"{last['back']:g} of the way back to θ_pre"
    return known | {"done": done, "rate": 0.0, "tokens": 0.0, "D_post after": losses[2]["L_post"]} | course


class Done(NamedTuple):
    """What was done to a θ_post: a Stage 3, whole or only begun, or a change of its weights."""
    text: str | None = None              # of the Stage 3; None where weights were changed
    percent: float | None = None         # of its steps that were taken; None where it is whole


def done_of(point: Point) -> Done:
    """Tell what was done by its name, as `describe` gave it."""
    if not point["rate"]:
        return Done()
    percent, begun, text = point["done"].partition(BEGUN)
    return Done(text, float(percent)) if begun else Done(point["done"])


def is_whole(point: Point) -> bool:
    """Tell whether what was done was a whole Stage 3."""
    done = done_of(point)
    return done.text is not None and done.percent is None


def on_d_pre(point: Point) -> bool:
    """Tell whether what was done was a whole Stage 3 on D_pre, whose first quarter is the probe."""
    return is_whole(point) and point["done"] == point["pipeline"].split(" → ")[0]


def is_like(point: Point, ft: str) -> bool:
    """Tell whether what was done was a quarter of a Stage 3, to within a tenth, on other text like `ft`.

    Names say what is alike: web0music100 and like-music are like music.
    """
    text, percent = done_of(point)
    quarter = 100 * PARTS["quarter"]
    if percent is None or abs(percent - quarter) > quarter / 10:
        return False
    is_other_draw = text != ft and embedded.shares(text) == {ft: 1.0}
    return text == f"like-{ft}" or is_other_draw


def with_course(point: Point) -> Point:
    """Fill in the losses on D_post close to an eighth and a quarter of a Stage 3's steps.

    Raises UserError if no evaluation is within a tenth of them.
    """
    run = Path(point["run"])
    steps = read_run(run)["lineage"][-1]["steps"]
    measured = evaluations(run, "L_ret")
    told = {}
    for name, share in PARTS.items():
        nearest = min(measured, key=lambda step: abs(step - share * steps))
        if abs(nearest - share * steps) > share * steps / 10:
            raise UserError(f"{run} has no evaluation close to step {share * steps:.0f}, run it again with "
                            f"--eval-every {share * steps:.0f}")
        told[name] = measured[nearest]
    return point | told


def known_of(case: list[Point], ft: str) -> dict[str, float]:
    """Collect what is known of one θ_post, and L_ret after Stage 3 on `ft`; nothing without one on D_pre.

    Raises UserError if something was done to it twice.
    """
    # What this Stage 3 did, what it does on D_pre and on text like D_ft, and what changes of the weights do.
    measured = having(case, done=ft)
    whole_on_pre = [point for point in case if on_d_pre(point)]
    on_like = [point for point in case if is_like(point, ft)]
    changed = [point for point in case if not point["rate"]]
    if not measured or not whole_on_pre:
        return {}

    # Of two alike nobody knows which is meant.
    by_change = [having(changed, done=done) for done in distinct(changed, "done")]
    for alike in (measured, whole_on_pre, on_like, *by_change):
        if len(alike) > 1:
            runs = ", ".join(point["run"] for point in alike[:2])
            raise UserError(f"{runs} are of one θ_post and alike, name those of one sweep")

    # D_post's loss, by what was done before it.
    known = {name: measured[0][name] for name in ("L_im", "L_post of θ_pre", "L_pre of θ_post")}
    known |= {point["done"]: point["D_post after"] for point in changed}
    known |= {name: float(whole_on_pre[0][column]) for name, column in COLUMNS.items()}
    known |= {ON_LIKE: point["D_post after"] for point in on_like}

    # What another Stage 3 did is known to whoever has run one.
    others = [point["D_post after"] for point in case
              if is_whole(point) and point["done"] != ft and not on_d_pre(point)]
    if others:
        known["Stage 3 on another D_ft"] = float(np.mean(others))
    return known | {"L_ret": measured[0]["D_post after"]}
