"""What is known of every θ_post before anybody fine-tunes it, beside the L_ret that was measured after."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from data import embedded
from experiments.courses import evaluations
from experiments.early_exposure.claims import recipe_of
from experiments.forecast.calibration import Rises
from experiments.points import Point, distinct, having, seed_of, stem
from run.checkpoint import read_run
from run.files import UserError

RESULTS = Path(__file__).parent / "results"
PARTS = {"eighth": 1 / 8, "quarter": 1 / 4}                  # of the steps of a Stage 3
QUARTER = "a quarter of Stage 3 on D_pre"
ON_LIKE = "a quarter of Stage 3 on text like D_ft"
PROBES = {QUARTER: "on D_pre: ", ON_LIKE: "on text like D_ft: "}       # how claims about them begin
BEGUN = "% of Stage 3 on "              # in the names of those that --leave has left unfinished
COLUMNS = {"an eighth of Stage 3 on D_pre": "eighth", QUARTER: "quarter", "Stage 3 on D_pre": "D_post after"}


class Task(NamedTuple):
    """What is to be forecast: L_ret after one Stage 3, from the n recipes of a pipeline in the same seeds."""
    pipeline: str                        # "web → music"
    ft: str
    rate: float                          # of Stage 3
    tokens: float                        # of Stage 3
    seeds: list[str]                     # (seeds,)
    recipes: list[str]                   # (n,)
    lams: ndarray                        # (n,)
    sizes: ndarray                       # (n,) |D_post| in tokens
    stages_2: list[str]                  # (n,) recipes without their λ
    known: dict[str, ndarray]            # by name, what is known before, in nats, (seeds, n)
    L_ret: ndarray                       # (seeds, n)

    def __str__(self) -> str:
        return f"{self.pipeline} → {self.ft}"


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


def on_d_pre(point: Point) -> bool:
    """Tell whether what was done was a whole Stage 3 on D_pre, whose first quarter is the probe."""
    return point["done"] == point["pipeline"].split(" → ")[0]


def is_whole(point: Point) -> bool:
    """Tell whether what was done was a whole Stage 3, and not only its beginning or a change of weights."""
    return bool(point["rate"]) and BEGUN not in point["done"]


def is_like(done: str, ft: str) -> bool:
    """Tell whether what was done was a quarter of a Stage 3, to within a tenth, on other text like `ft`.

    Names say what is alike: web0music100 and like-music are like music.
    """
    percent, begun, text = done.partition(BEGUN)
    quarter = 100 * PARTS["quarter"]
    if not begun or abs(float(percent) - quarter) > quarter / 10:
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


def tasks_of(points: list[Point]) -> list[Task]:
    """Line up what is known and what came out, over the seeds that have all of it.

    Raises UserError if there is nothing to forecast, or no seed has everything.
    """
    tasks = []
    for pipeline in distinct(points, "pipeline"):
        there = having(points, pipeline=pipeline)
        tuned = [point for point in there if is_whole(point) and not on_d_pre(point)]
        for ft in distinct(tuned, "done"):
            for rate in sorted(distinct(having(tuned, done=ft), "rate")):
                tasks.append(task_of(there, pipeline, ft, rate))
    if not tasks:
        raise UserError("none of these runs is a Stage 3 on another corpus than D_pre, add those to forecast")

    # Means over tasks are of the same seeds in each.
    shared = set.intersection(*(set(task.seeds) for task in tasks))
    if not shared:
        raise UserError("no seed has every run of every D_ft and rate, finish the sweep first")

    # They are compared by what is known in all of them.
    everywhere = set.intersection(*(set(task.known) for task in tasks))
    return [of_seeds(task, shared, everywhere) for task in tasks]


def of_seeds(task: Task, kept: set[str], names: set[str]) -> Task:
    """Keep some seeds of a task, and what is known by some names."""
    rows = [number for number, seed in enumerate(task.seeds) if seed in kept]
    known = {name: values[rows] for name, values in task.known.items() if name in names}
    return task._replace(seeds=[task.seeds[row] for row in rows], known=known, L_ret=task.L_ret[rows])


def task_of(points: list[Point], pipeline: str, ft: str, rate: float) -> Task:
    """Line up one Stage 3; raises UserError if no seed has everything."""
    # All that was done to one θ_post: Stage 3 at this rate, and changes of weights, which have none (0).
    cases = {}
    for point in points:
        if point["rate"] in (0, rate):
            cases.setdefault((point["seed"], point["recipe"]), []).append(point)
    known = {where: known_of(case, ft) for where, case in cases.items()}

    # A recipe takes part that was probed in some seed. A seed counts in which all of them have whatever is
    # known of any θ_post, but for text like D_ft: a study may have none.
    recipes = sorted({recipe for (_, recipe), found in known.items() if found})
    needed = set().union(*known.values()) - {ON_LIKE}
    lacking = {seed for seed, _ in cases for recipe in recipes
               if not needed <= known.get((seed, recipe), {}).keys()}
    seeds = sorted({seed for seed, _ in cases} - lacking)
    if not seeds or not recipes:
        raise UserError(f"no seed has every run of {pipeline} → {ft} at rate {rate:g}, "
                        "finish its sweep first")

    # From dictionaries to arrays (seeds, n). What one of them lacks is left out: all are compared alike.
    counted = [known[seed, recipe] for seed in seeds for recipe in recipes]
    lined_up = {name: np.array([[known[seed, recipe][name] for recipe in recipes] for seed in seeds])
                for name in counted[0] if all(name in one for one in counted)}
    L_ret = lined_up.pop("L_ret")

    # What sets recipes apart is the same in every seed.
    first = [cases[seeds[0], recipe][0] for recipe in recipes]
    (whole,) = having(cases[seeds[0], recipes[0]], done=ft)
    return Task(
        pipeline=pipeline,
        ft=ft,
        rate=rate,
        tokens=whole["tokens"],
        seeds=seeds,
        recipes=recipes,
        lams=np.array([point["lam"] for point in first]),
        sizes=np.array([point["post_tokens"] for point in first]),
        stages_2=[point["stage_2"] for point in first],
        known=lined_up,
        L_ret=L_ret,
    )


def known_of(case: list[Point], ft: str) -> dict[str, float]:
    """Collect what is known of one θ_post, and L_ret after Stage 3 on `ft`; nothing without one on D_pre.

    Raises UserError if something was done to it twice.
    """
    # What this Stage 3 did, what it does on D_pre and on text like D_ft, and what changes of the weights do.
    measured = having(case, done=ft)
    whole_on_pre = [point for point in case if on_d_pre(point)]
    on_like = [point for point in case if is_like(point["done"], ft)]
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


def rises(tasks: list[Task], probe: str) -> Rises:
    """Collect what Stage 3 and a probe took, by its name in `known`: a row a run of all tasks."""
    of_tasks = []
    for task in tasks:
        seed, recipe = np.meshgrid(task.seeds, task.recipes, indexing="ij")
        of_tasks.append(Rises(
            probe=task.known[probe] - task.known["L_im"],
            measured=task.L_ret - task.known["L_im"],
            pipeline=np.full(seed.shape, task.pipeline),
            ft=np.full(seed.shape, task.ft),
            rate=np.full(seed.shape, task.rate),
            seed=seed,
            recipe=recipe,
        ))
    fields = []
    for of_task in zip(*of_tasks):
        fields.append(np.concatenate([values.ravel() for values in of_task]))
    return Rises(*fields)


# ------------------------------------------------------------------------------------------------------------
# The figure's tables

def published(preset: str) -> list[Task]:
    """Read the tables in results/ that are of a preset."""
    tables = {path: read_table(path) for path in sorted(RESULTS.glob("*/forecast.csv"))}
    return [task for path, points in tables.items() if presets_in(points) == preset
            for task in tasks_in(path, points)]


def presets_in(points: list[Point]) -> str:
    """Name the preset that points are of, or all of several."""
    return " and ".join(distinct(points, "preset"))


def read_table(path: Path) -> list[Point]:
    """Read the points that a figure wrote; raises UserError if it did not."""
    words = {"run", "preset", "pipeline", "seed", "recipe", "stage_2", "done"}
    needed = words | {"rate", "tokens", "lam", "post_tokens", "L_im", "D_post after", *PARTS}

    # What is empty in a column of numbers stays text: a change of weights has no course.
    points = []
    try:
        with open(path, newline="") as lines:
            for row in csv.DictReader(lines):
                numbers = {name: float(text) for name, text in row.items() if text and name not in words}
                points.append(row | numbers)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, csv.Error) as error:
        raise not_a_table(path, error) from error

    # A table of an older figure may lack what is asked of it now.
    missing = needed - points[0].keys() if points else needed
    if missing:
        raise UserError(f"{path} is no forecast.csv of the figure as it is now, draw it again "
                        f"(it lacks {', '.join(sorted(missing))})")
    return points


def tasks_in(path: Path, points: list[Point]) -> list[Task]:
    """Line up the points of a file; raises UserError if something in it is missing or no number."""
    try:
        tasks = tasks_of(points)
        for task in tasks:
            if not all(np.isfinite(values).all() for values in (task.L_ret, *task.known.values())):
                raise ValueError(f"{task} has a number that is not finite")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise not_a_table(path, error) from error
    return tasks


def not_a_table(path: Path, error: Exception) -> UserError:
    """Say that a file is not what the figure wrote."""
    return UserError(f"{path} is no forecast.csv of the figure ({error}), name one")
