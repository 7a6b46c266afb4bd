"""What is to be forecast: what is known of every θ_post, lined up with the L_ret that was measured after."""

from typing import NamedTuple

import numpy as np
from numpy import ndarray

from experiments.forecast.calibration import Rises
from experiments.forecast.known import ON_LIKE, is_whole, known_of, on_d_pre
from experiments.points import Point, distinct, having
from run.files import UserError


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
    everywhere = [name for name in counted[0] if all(name in one for one in counted)]
    lined_up = {}
    for name in everywhere:
        lined_up[name] = np.array([[known[seed, recipe][name] for recipe in recipes] for seed in seeds])
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


def rises(tasks: list[Task], probe: str) -> Rises:
    """Collect what Stage 3 and a probe took, by its name in `known`: a row a run of all tasks."""
    # Of every task, arrays (seeds, n).
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

    # Field by field, all tasks behind one another.
    fields = []
    for of_task in zip(*of_tasks):
        fields.append(np.concatenate([values.ravel() for values in of_task]))
    return Rises(*fields)
