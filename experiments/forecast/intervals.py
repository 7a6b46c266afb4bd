"""Intervals of the forecast, judged where its law has seen nothing of the run: D_post, D_ft or recipe."""

from functools import cache

import numpy as np
from numpy import ndarray

from experiments.forecast.calibration import NOTHING_KNOWN, Forecast, fit, scaled
from experiments.forecast.known import ON_LIKE, PROBES, QUARTER
from experiments.forecast.tables import published
from experiments.forecast.tasks import Task, rises
from experiments.statistics import Estimate, estimate, verdict

COVERED = 0.9                # share of L_ret inside their 95% intervals, or more
MANY = 36                    # pipelines: if intervals cover 0.9, all hold theirs in 0.9³⁶ < 2.5% of cases


def judge_intervals(tasks: list[Task], others: list[Task]) -> list[list[str]]:
    """Judge the intervals of all pipelines that are known, by every probe: rows of `drawing.VERDICTS`."""
    # The published tasks count as the figure's own: each forecast leaves out what it is of.
    rows = []
    for probe in PROBES:
        if probe in tasks[0].known:
            rows += judge_intervals_by(probe, [task for task in [*tasks, *others] if probe in task.known])
    return rows


def judge_intervals_by(probe: str, tasks: list[Task]) -> list[list[str]]:
    """Judge the intervals of the law of one probe, on all tasks that have it.

    A statistic is one number a pipeline, not a seed: the runs of one share by how much they are missed.
    """
    forecasts = left_out(tasks, [], probe)
    unprobed = left_out(tasks, [], "L_im")
    pipelines = sorted({task.pipeline for task in tasks})
    where = f"{len(pipelines)} pipelines"
    claim = f"{PROBES[probe]}{COVERED:.0%} of L_ret lie in their 95% intervals"
    if any(np.isnan(forecast.low).any() for forecast in forecasts):
        return [[claim, where, "of so few there are none", "–", "not judged"]]

    # In each, over D_ft, rates, seeds and recipes: what is inside, and by how much the probe lowers the root
    # mean square of what is missed, as a logarithm.
    inside, nearer = [], []
    for pipeline in pipelines:
        there = [of_task for of_task in zip(tasks, forecasts, unprobed) if of_task[0].pipeline == pipeline]
        inside.append(np.mean([covered(task, probed) for task, probed, _ in there]))
        with_probe = np.mean([(missed(task, probed) ** 2).mean() for task, probed, _ in there])
        without = np.mean([(missed(task, blind) ** 2).mean() for task, _, blind in there])
        nearer.append(np.log(without / with_probe) / 2)

    # A pipeline is mostly held whole or missed whole, so that a few that are held say nothing. What an
    # interval is worth to somebody depends on its width.
    above, nearer = estimate(np.array(inside) - COVERED), estimate(np.array(nearer))
    nats = np.median([np.median(forecast.high - forecast.low) for forecast in forecasts])
    shares = ", ".join(f"{pipeline} {share:.2f}" for pipeline, share in zip(pipelines, inside))
    measured = f"share of L_ret inside: {shares}, median width {nats:.2f} nats"
    times = f"{nearer.exponential():.1f}"
    is_open = len(pipelines) < MANY and not above.high < 0
    return [[claim, where, measured, above.shown_p(), "not judged" if is_open else of_pipelines(above)],
            [f"{PROBES[probe]}the probe brings forecasts nearer to L_ret", where,
             f"without it they miss it by {times} times as much on g's scale", nearer.shown_p(),
             of_pipelines(nearer)]]


def of_pipelines(found: Estimate) -> str:
    """Say whether a claim is seen whose statistic is a number a pipeline."""
    return verdict(found).replace("seed", "pipeline")


def published_beside(tasks: list[Task], preset: str) -> list[Task]:
    """Read what is published of other pipelines at this preset."""
    ours = {task.pipeline for task in tasks}
    return [task for task in published(preset) if task.pipeline not in ours]


def forecasts_of(tasks: list[Task], preset: str) -> list[Forecast]:
    """Forecast every run of each of the tasks by what it has not to do with, published too: as `left_out`.

    The probe is that on text like D_ft, where there is one.
    """
    probe = ON_LIKE if ON_LIKE in tasks[0].known else QUARTER
    others = [task for task in published_beside(tasks, preset) if probe in task.known]
    return left_out(tasks, others, probe)


def left_out(tasks: list[Task], others: list[Task], probe: str) -> list[Forecast]:
    """Forecast every run of each of the tasks, (seeds, n), by a law that has seen nothing of it.

    Its pipeline, its D_ft and its recipe are left out, and its seed where a pipeline has others; of nothing
    a forecast is nan. With L_im for a probe, which took nothing, the law knows the rate of Stage 3 alone.
    """
    # All runs that a law may learn from; those of a pipeline with one seed whatever the run's seed is.
    runs = rises([*tasks, *others], probe)
    seeds = {pipeline: set(runs.seed[runs.pipeline == pipeline]) for pipeline in np.unique(runs.pipeline)}
    only_seed = np.array([len(seeds[pipeline]) == 1 for pipeline in runs.pipeline])

    # One fit serves all runs for which the same is left out.
    @cache
    def law(pipeline, ft, seed, recipe):
        unseen = (runs.pipeline != pipeline) & (runs.ft != ft) & (runs.recipe != recipe)
        unseen &= (runs.seed != seed) | only_seed
        return fit(runs.where(unseen)) if unseen.any() else NOTHING_KNOWN

    forecasts = []
    for task in tasks:
        L_im, L_probe = task.known["L_im"], task.known[probe]
        rows = []
        for i, seed in enumerate(task.seeds):
            laws = [law(task.pipeline, task.ft, seed, recipe) for recipe in task.recipes]
            rows.append([one.forecast(L_im[i, k], L_probe[i, k], task.rate) for k, one in enumerate(laws)])
        # (seeds, n, 3), the last axis value, low and high → three of (seeds, n).
        forecasts.append(Forecast(*np.moveaxis(np.array(rows), -1, 0)))
    return forecasts


def covered(task: Task, forecast: Forecast) -> ndarray:
    """Tell which share of a seed's L_ret lie in their intervals: (seeds,)."""
    return ((forecast.low <= task.L_ret) & (task.L_ret <= forecast.high)).mean(axis=1)


def missed(task: Task, forecast: Forecast) -> ndarray:
    """Measure by how much L_ret is missed, (seeds, n), as the law sees rises: large ones by logarithm."""
    measured, expected = (scaled(L_ret - task.known["L_im"]) for L_ret in (task.L_ret, forecast.value))
    return measured - expected
