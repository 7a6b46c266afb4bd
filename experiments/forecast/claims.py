"""What is claimed of the forecast, as numbers that should be above 0, and the figure of it.

A quarter of Stage 3 on D_pre is judged everywhere, one on text like D_ft where it was run. Of all that is
known before, what ranks best on one half of the pipelines is judged on the other, both ways round; the table
has everything, everywhere.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from experiments.drawing import Figure
from experiments.early_exposure.claims import COLOURS
from experiments.forecast.calibration import Forecast
from experiments.forecast.intervals import forecasts_of, judge_intervals, published_beside
from experiments.forecast.known import (ON_LIKE, PROBES, QUARTER, describe, done_of, is_like, is_whole,
                                        on_d_pre, with_course)
from experiments.forecast.plan import PLAN
from experiments.forecast.tasks import Task, tasks_of
from experiments.points import Point, distinct
from experiments.statistics import estimate, spearman, verdict

CHAINS = (("pretrain", "posttrain", "finetune"), ("pretrain", "posttrain", "noise"))
MARKERS = "o^sDv"            # by Stage-3 rate, the lowest first
CHEAP = ("noise", "0.5 of the way back", "an eighth")        # how the names of these kinds begin
COMBINED = "noise, way back and an eighth, combined"
Among = Callable[[Task], list[ndarray]]                      # the groups of recipes that are ranked, as masks
WITH_LORA = "#c2185b"        # in the paper's figures LoRA has the colour of its frontier without


class Forecasts(NamedTuple):
    """A figure of forecast against measured L_ret, a panel a D_ft."""
    losses: Sequence[str] = ()                   # what is told of a run is what `describe` tells

    def select(self, points: list[Point]) -> list[Point]:
        """Keep whole Stages 3, changes of the weights, and quarters on text like a D_ft.

        The courses of those on D_pre are filled in.
        """
        fts = distinct([point for point in points if is_whole(point)], "done")
        kept = [point for point in points
                if done_of(point).percent is None or any(is_like(point, ft) for ft in fts)]
        return [with_course(point) if on_d_pre(point) else point for point in kept]

    def shape(self, points: list[Point]) -> tuple[int, int]:
        """Count the rows and columns of panels: one row per pipeline."""
        by_pipeline = {}
        for task in tasks_of(points):
            by_pipeline.setdefault(task.pipeline, set()).add(task.ft)
        return len(by_pipeline), max(map(len, by_pipeline.values()))

    def verdicts(self, points: list[Point]) -> list[list[str]]:
        """Judge every claim: rows of `drawing.VERDICTS`."""
        tasks = tasks_of(points)
        rows = []
        for where, some in by_name(tasks).items():
            rows += judge_ranks(where, some)
        rows += [judge_choice(tasks, probe) for probe in PROBES if probe in tasks[0].known]

        # What was chosen on the other half is told apart where it is no probe: those are judged above.
        for chosen, judged in chosen_elsewhere(tasks):
            if chosen not in PROBES:
                for where, some in by_name(judged).items():
                    found = estimate(over_rates(some, chosen) - over_rates(some, QUARTER))
                    rows.append(["what ranks best after the other D_post ranks better than on D_pre", where,
                                 f"Spearman of {chosen} − that on D_pre: {found:.2f}", found.shown_p(),
                                 verdict(found)])
        return rows + judge_intervals(tasks, published_beside(tasks, points[0]["preset"]))

    def table(self, points: list[Point]) -> list[list[str]]:
        """Tabulate how well everything that is known ranks, under a header."""
        tasks = with_combination(with_forecasts(tasks_of(points), points[0]["preset"]))
        rates = sorted({task.rate for task in tasks})
        rows = [["where", "known before Stage 3", "Spearman", *(f"at rate {rate:g}" for rate in rates),
                 "within λ", "without dropout", "λ told at equal Stage 2", "L_ret below that chosen by L_im"]]
        for where, some in by_name(tasks).items():
            for name in some[0].known:
                ranked, alike, others = (estimate(over_rates(some, name, among))
                                         for among in (everything, each_lam, without_dropout))
                by_rate = [shown_at(rate, some, name) for rate in rates]
                told = estimate(np.mean([lam_told(task, name) for task in some], axis=0))
                lower = estimate(np.mean([saved_by_choosing(task, name) for task in some], axis=0))
                rows.append([where, name, f"{ranked:.2f}", *by_rate, f"{alike:.2f}",
                             f"{others:.2f}", f"{told:.2f}", f"{lower:.3f}"])
        return rows

    def draw(self, points: list[Point], axes: ndarray) -> None:
        """Draw a row of panels for every pipeline, every run with its interval."""
        tasks = tasks_of(points)
        forecasts = forecasts_of(tasks, points[0]["preset"])
        markers = dict(zip(sorted({task.rate for task in tasks}), itertools.cycle(MARKERS)))
        for pipeline, row in zip(dict.fromkeys(task.pipeline for task in tasks), axes):
            panels = {}
            for task, forecast in zip(tasks, forecasts):
                if task.pipeline == pipeline:
                    panels.setdefault(str(task), []).append((task, forecast))
            for axis in row[len(panels):]:
                axis.set_axis_off()
            for (where, some), axis in zip(panels.items(), row):
                for task, forecast in some:
                    draw_task(axis, task, forecast, markers[task.rate])

                # What is forecast exactly is on the diagonal.
                every = [values.ravel() for task, forecast in some for values in (task.L_ret, forecast.value)]
                span = np.nanmin(np.hstack(every)) - 0.1, np.nanmax(np.hstack(every)) + 0.1
                axis.plot(span, span, color="grey", linewidth=0.8, label="forecast = measured")
                axis.set(title=where, xlim=span, ylim=span, ylabel="measured L_ret (nats per token)",
                         xlabel="forecast L_ret (nats per token); lines: 95%")
        explain(axes[0, 0], markers, [recipe for task in tasks for recipe in task.recipes])


def judge_ranks(where: str, tasks: list[Task]) -> list[list[str]]:
    """Judge how a quarter of Stage 3 ranks in the tasks of one D_ft: rows of `drawing.VERDICTS`."""
    # Each probe for itself, beside what everybody knows.
    claims = []
    ranked = {probe: over_rates(tasks, probe) for probe in PROBES if probe in tasks[0].known}
    for probe, by_seed in ranked.items():
        begins = PROBES[probe]
        claims += [(f"{begins}the probe ranks θ_post", "Spearman", by_seed),
                   (f"{begins}it ranks those of one λ and one size of D_post", "Spearman within λ",
                    over_rates(tasks, probe, each_lam)),
                   (f"{begins}it ranks better than L_im", "Spearman − that of L_im",
                    by_seed - over_rates(tasks, "L_im"))]

    # Text like D_ft must be at hand: is it worth it?
    if ON_LIKE in ranked:
        claims.append((f"{PROBES[ON_LIKE]}it ranks better than on D_pre", "Spearman − that on D_pre",
                       ranked[ON_LIKE] - ranked[QUARTER]))

    # Ranks of equal losses, or of one run, are nan.
    rows = []
    for claim, words, by_seed in claims:
        found = estimate(by_seed)
        rows.append([claim, where, f"{words}: {found:.2f}", found.shown_p(), verdict(found)])
    return rows


def judge_choice(tasks: list[Task], probe: str) -> list[str]:
    """Judge what choosing by a probe is worth, over all tasks: a row of `drawing.VERDICTS`."""
    lower = sum(saved_by_choosing(task, probe) for task in tasks) / len(tasks)
    possible = sum(L_ret_chosen_by(task, "L_im") - task.L_ret.min(axis=1) for task in tasks) / len(tasks)
    found = estimate(lower)
    measured = f"L_ret below that chosen by L_im: {found:.3f}, of {possible.mean():.3f} that are possible"
    claim = f"{PROBES[probe]}choosing by the probe lowers L_ret"
    return [claim, f"mean of {len(tasks)} D_ft and rates", measured, found.shown_p(), verdict(found)]


def draw_task(axis, task: Task, forecast: Forecast, marker: str) -> None:
    """Draw the runs of one Stage 3: forecast against measured, over seeds; unmixed ones are open."""
    for k, recipe in enumerate(task.recipes):
        value, low, high = (part[:, k] for part in forecast)
        look = look_of(recipe)
        axis.hlines(task.L_ret[:, k], low, high, color=look["color"], alpha=0.12, linewidth=0.8)
        axis.plot(value, task.L_ret[:, k], marker, **look)


def look_of(recipe: str) -> dict[str, object]:
    """Choose the colour of a recipe's marks, and whether they are filled."""
    name = recipe.partition(",")[0]
    colour = {str(one): colour for one, colour in COLOURS.items()}.get(name, "grey")
    if "LoRA" in name:
        colour = WITH_LORA
    filled = "none" if name.startswith("unmixed") else colour
    return {"markersize": 4, "color": colour, "markerfacecolor": filled}


def explain(axis, markers: dict[float, str], recipes: list[str]) -> None:
    """Put into the legend what marks mean: their shape the rate of Stage 3, their colour the recipe."""
    for rate, marker in markers.items():
        axis.plot([], [], marker, markersize=4, color="grey", label=f"Stage 3 at rate {rate:g}")
    for recipe in dict.fromkeys(recipe.partition(",")[0] for recipe in recipes):
        axis.plot([], [], "s", label=recipe, **look_of(recipe))


# ------------------------------------------------------------------------------------------------------------
# Ranks and choices

def by_name(tasks: list[Task]) -> dict[str, list[Task]]:
    """Bring the rates of Stage 3 together: tasks by pipeline and D_ft."""
    named = {}
    for task in tasks:
        named.setdefault(str(task), []).append(task)
    return named


def chosen_elsewhere(tasks: list[Task]) -> list[tuple[str, list[Task]]]:
    """Choose what ranks best on one half of the pipelines, beside the tasks of the other; both ways round.

    Of one pipeline nothing is chosen.
    """
    pipelines = sorted({task.pipeline for task in tasks})
    first = pipelines[:len(pipelines) // 2]
    one = [task for task in tasks if task.pipeline in first]
    other = [task for task in tasks if task.pipeline not in first]
    return [(choose(one), other), (choose(other), one)] if one else []


def choose(tasks: list[Task]) -> str:
    """Choose what ranks best in some tasks; a probe as long as Stage 3 is no choice, it costs as much."""
    names = [name for name in tasks[0].known if not name.startswith("Stage 3")]
    ranked = {name: np.nan_to_num(over_rates(tasks, name).mean(), nan=-1) for name in names}
    return max(names, key=lambda name: (ranked[name], name == QUARTER))


def everything(task: Task) -> list[ndarray]:
    """Group recipes to be ranked together, each group a mask (n,): all are one."""
    return [np.full(len(task.recipes), True)]


def each_lam(task: Task) -> list[ndarray]:
    """Group them by λ, those of the |D_post| that most have."""
    sizes, counts = np.unique(task.sizes, return_counts=True)
    common = task.sizes == sizes[counts.argmax()]
    return [common & (task.lams == lam) for lam in np.unique(task.lams)]


def without_dropout(task: Task) -> list[ndarray]:
    """Group those that have no dropout."""
    return [np.array(["dropout" not in recipe for recipe in task.recipes])]


def over_rates(tasks: list[Task], name: str, among: Among = everything) -> ndarray:
    """Average the rank correlation of what is known with L_ret over tasks: (seeds,)."""
    return np.mean([correlation(task, name, among) for task in tasks], axis=0)


def correlation(task: Task, name: str, among: Among) -> ndarray:
    """Correlate ranks over the recipes of each group, averaged: (seeds,); nan where none has two."""
    known = task.known[name]
    by_group = [spearman(known[:, some], task.L_ret[:, some]) for some in among(task) if some.sum() > 1]
    return np.mean(by_group, axis=0) if by_group else np.full(len(task.seeds), np.nan)


def shown_at(rate: float, tasks: list[Task], name: str) -> str:
    """Write the rank correlation at one rate of Stage 3; a dash where it has no task."""
    there = [task for task in tasks if task.rate == rate]
    return f"{estimate(over_rates(there, name)):.2f}" if there else "–"


def lam_told(task: Task, name: str) -> ndarray:
    """Tell in which share of pairs that differ in λ only what is known orders them as L_ret does: (seeds,).

    Half is what chance does, and a tie counts so; nan where there are no pairs.
    """
    right = []
    for (i, one), (j, other) in itertools.combinations(enumerate(task.stages_2), 2):
        if one == other and task.lams[i] != task.lams[j]:
            by_known, by_L_ret = (np.sign(values[:, i] - values[:, j])
                                  for values in (task.known[name], task.L_ret))
            right.append((1 + by_known * by_L_ret) / 2)
    return np.mean(right, axis=0) if right else np.full(len(task.seeds), np.nan)


def saved_by_choosing(task: Task, name: str) -> ndarray:
    """Measure how much lower L_ret is for the choice by what is known than for that by L_im: (seeds,)."""
    return L_ret_chosen_by(task, "L_im") - L_ret_chosen_by(task, name)


def L_ret_chosen_by(task: Task, name: str) -> ndarray:
    """Look up L_ret of the recipe at which what is known is least, (seeds,); the mean where several are."""
    known = task.known[name]
    chosen = known == known.min(axis=1, keepdims=True)
    return (task.L_ret * chosen).sum(axis=1) / chosen.sum(axis=1)


def with_forecasts(tasks: list[Task], preset: str) -> list[Task]:
    """Add the forecasts to what is known, where there is a law for all."""
    forecasts = forecasts_of(tasks, preset)
    if any(np.isnan(forecast.value).any() for forecast in forecasts):
        return tasks
    return [task._replace(known=task.known | {"the forecast": forecast.value})
            for task, forecast in zip(tasks, forecasts)]


def with_combination(tasks: list[Task]) -> list[Task]:
    """Add to what is known its best combination, fitted to the other pipelines: of one nothing is added."""
    if len({task.pipeline for task in tasks}) < 2:
        return tasks
    return [combine(task, [other for other in tasks if other.pipeline != task.pipeline]) for task in tasks]


def combine(task: Task, others: list[Task]) -> Task:
    """Add the linear combination of the cheap kinds that is best in the others.

    Each is taken in standard deviations over the recipes of a task and seed.
    """
    columns = np.concatenate([cheap(other) for other in others])
    wanted = np.concatenate([standardized(other.L_ret).ravel() for other in others])
    weights = np.linalg.lstsq(columns, wanted)[0]
    combined = (cheap(task) @ weights).reshape(task.L_ret.shape)
    return task._replace(known=task.known | {COMBINED: combined})


def cheap(task: Task) -> ndarray:
    """Collect what costs least to know, standardized: (seeds · n, kinds)."""
    names = sorted(name for name in task.known if name.startswith(CHEAP))
    return np.column_stack([standardized(task.known[name]).ravel() for name in names])


def standardized(values: ndarray) -> ndarray:
    """Measure (seeds, n) from its mean over recipes, in its standard deviations."""
    centred = values - values.mean(axis=1, keepdims=True)
    return centred / np.maximum(centred.std(axis=1, keepdims=True), 1e-12)


FIGURES = {"forecast": Figure("L_ret as forecast before Stage 3, and as measured after it", PLAN, Forecasts(),
                              CHAINS, describe, panel=(4.2, 3.8))}
