"""The paper's figures from finished runs: what to draw, which claims it bears on, whether the data show them.

`draw("fig3a", runs, "fig3a.png")` writes the picture, fig3a.csv with every run, and fig3a.md with the verdicts.
"""

import csv
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from files import UserError, atomic, make_folder, read_run
from frontier import (Estimate, dominates, estimate, gap_at_matched, hypervolume, pareto_front, reference_point, slope,
                      verdict)

LOSSES = ("L_im", "L_ret", "L_ft", "L_pre")
PAPER = Path(__file__).parent / "paper"      # the paper's numbers at 135M
STYLE = {     # recipe → colour, marker; the paper's colours, told apart by marker and line in black and white too
    "unmixed": ("black", "o"), "mixed": ("#7b2fa8", "s"),
    "unmixed + dropout": ("#159a90", "^"), "mixed + dropout": ("#159a90", "^"),
    "unmixed + replay": ("#e87b14", "D"), "mixed + replay": ("#e87b14", "D"),
    "unmixed + LoRA": ("black", "o"), "mixed + LoRA": ("#7b2fa8", "s"),
}
OTHER_STYLE = "grey", "v"                    # of recipes that the paper does not draw


class Frontiers(NamedTuple):
    """A figure of frontiers: its views (loss on x, loss on y), the recipes of each column, what it is to show."""
    views: Sequence[tuple[str, str]]
    recipes: Sequence[Sequence[str]]                          # of one column each; (): whatever there are, in one
    claims: dict[str, tuple[str, str]]                        # claim → the recipe said to be better, the worse


FORGETTING, RETAINED = ("L_ret", "L_ft"), ("L_ret", "L_pre")
ON_MIXING = [("unmixed", "mixed", "mixed + dropout"), ("unmixed", "mixed", "mixed + replay")]
IMPROVE_ON_MIXING = {"dropout improves on mixing": ("mixed + dropout", "mixed"),
                     "replay improves on mixing": ("mixed + replay", "mixed")}
FIGURES = {
    "fig2": Frontiers([("L_ft", "L_ret"), RETAINED], [("unmixed", "mixed")],
                      {"the mixed frontier dominates": ("mixed", "unmixed")}),
    "fig4": Frontiers([FORGETTING], ON_MIXING, IMPROVE_ON_MIXING),
    "fig5": Frontiers([RETAINED], ON_MIXING, IMPROVE_ON_MIXING),
    "fig6": Frontiers([FORGETTING, RETAINED], [("unmixed", "mixed", "unmixed + dropout", "unmixed + replay")],
                      {"dropout helps without mixing": ("unmixed + dropout", "unmixed"),
                       "replay helps without mixing": ("unmixed + replay", "unmixed"),
                       "mixing helps more than dropout": ("mixed", "unmixed + dropout"),
                       "mixing helps more than replay": ("mixed", "unmixed + replay")}),
    "fig7": Frontiers([FORGETTING, RETAINED], [("unmixed", "mixed", "unmixed + LoRA", "mixed + LoRA")],
                      {"mixing helps LoRA": ("mixed + LoRA", "unmixed + LoRA"),
                       "full beats LoRA, mixed": ("mixed", "mixed + LoRA"),
                       "full beats LoRA, unmixed": ("unmixed", "unmixed + LoRA")}),
}
FIGURES["frontier"] = Frontiers([("L_ft", "L_ret"), RETAINED], [()],
                                {claim: pair for figure in FIGURES.values() for claim, pair in figure.claims.items()})
TITLES = {"fig2": "Unmixed against mixed",
          "fig3a": "L_im and L_ret against λ", "fig3b": "L_im and L_ret against λ, compute-matched",
          "fig4": "Dropout and replay on top of mixing: L_ft", "fig5": "Dropout and replay on top of mixing: L_pre",
          "fig6": "Dropout and replay without mixing", "fig7": "LoRA against full post-training",
          "frontier": "Pareto frontiers"}


# ---------------------------------------------------------------------------------------------------------------------
# Runs → points

def stem(corpus: str) -> str:
    """A corpus as folders and titles call it: a file's name up to its first dot, or the last part of an id."""
    return Path(corpus).resolve().name.strip(".").split(".")[0]


def read_points(paths: Sequence[Path]) -> list[dict]:
    """A dictionary for each finished Stage 3 at or below the paths: its settings and four losses (and their _se).

    Raises UserError where a path has none.
    """
    points = {}
    for path in paths:
        folders = [path] if (path / "run.json").exists() else [file.parent for file in sorted(path.rglob("run.json"))]
        there = {folder: run["lineage"] for folder in folders if (run := read_run(folder))["stage"] == "finetune"}
        if not there:
            raise UserError(f"no finished fine-tuning run in {path}, run finetune.py first" if path.exists() else
                            f"no folder {path}, name one with finished runs in it")
        points |= {folder: _point(folder, lineage) for folder, lineage in there.items()}
    return list(points.values())


def _point(folder: Path, lineage: list[dict]) -> dict:
    pre, post, ft = (entry["args"] for entry in lineage)
    lam = pre["lam"] if pre["mix"] is None else lineage[0]["lam"]
    parts = ["mixed" if lam else "unmixed", *(name for name in ("dropout", "replay") if post[name]),
             *["LoRA"] * post["lora"], *["compute-matched"] * post["compute_matched"]]
    seeds = dict.fromkeys(str(args["seed"]) for args in (pre, post, ft))
    point = {"run": str(folder), "preset": pre["preset"], "recipe": " + ".join(parts),
             "pipeline": " → ".join(map(stem, (pre["pre"], pre["post"], ft["ft"]))),
             "seed": "-".join(seeds), "lam": lam, "post_tokens": pre["post_tokens"],
             "stage2_lr": post["lr"], "stage2_batch": post["batch"], "stage3_lr": ft["lr"]}
    point |= {name: post[name] for name in ("dropout", "replay", "compute_matched")}
    for name in LOSSES:
        point |= {name: lineage[2]["losses"][name]["mean"], f"{name}_se": lineage[2]["losses"][name]["se"]}
    return point


def distinct(points: list[dict], key: str) -> list:
    """The values of a key, in order of appearance."""
    return list(dict.fromkeys(point[key] for point in points))


def having(points: list[dict], **values: object) -> list[dict]:
    return [point for point in points if all(point[key] == value for key, value in values.items())]


def losses(points: list[dict], names: Sequence[str]) -> ndarray:
    """(n, len(names)), nats per token."""
    return np.array([[point[name] for name in names] for point in points], dtype=float)


def of_figure(name: str, points: list[dict]) -> list[dict]:
    """The points that a figure is of, where a folder has others too; raises UserError if there are none.

    Figure 3: plain post-training, for 3b compute-matched. Frontiers: of pipelines that have two recipes to compare,
    the recipes drawn, at λ = 0 and the highest λ, and at the highest |D_post|.
    """
    chosen, needed = [], ""
    if name not in FIGURES:
        wanted = "compute-matched" if name == "fig3b" else ""
        chosen = [point for point in points if point["recipe"].partition(" + ")[2] == wanted]
    elif name == "frontier":
        chosen = [point for point in points if not point["compute_matched"]]
    else:
        drawn, pairs = set(itertools.chain(*FIGURES[name].recipes)), FIGURES[name].claims.values()
        needed = f", no pipeline has {' or '.join(' and '.join(pair) for pair in pairs)}"
        for pipeline in distinct(points, "pipeline"):
            there = having(points, pipeline=pipeline)
            if any(set(pair) <= {*distinct(there, "recipe")} for pair in pairs):
                chosen += [point for point in there if point["recipe"] in drawn]
    if not chosen:
        raise UserError(f"none of these runs is of {name}{needed}")
    if name in FIGURES:
        chosen = at_highest("lam", at_highest("post_tokens", chosen), but_also=0)
    return chosen


def at_highest(key: str, points: list[dict], but_also: float | None = None) -> list[dict]:
    """The points of each pipeline that have its highest value of a key, or `but_also`."""
    highest = {pipeline: max(point[key] for point in having(points, pipeline=pipeline))
               for pipeline in distinct(points, "pipeline")}
    return [point for point in points if point[key] in (highest[point["pipeline"]], but_also)]


# ---------------------------------------------------------------------------------------------------------------------
# Figure 3: losses against λ

def curves(points: list[dict]) -> tuple[ndarray, dict[str, ndarray]]:
    """The values of λ (k,), and each loss over the seeds that have them all (seeds, k)."""
    lams = sorted(distinct(points, "lam"))
    by_seed = [[having(points, seed=seed, lam=lam) for lam in lams] for seed in distinct(points, "seed")]
    if any(len(same) > 1 for row in by_seed for same in row):
        settings = {key: distinct(points, key) for key in ("stage2_lr", "stage2_batch", "stage3_lr")}
        differ = " and ".join(f"{key} ({', '.join(map(str, few))})" for key, few in settings.items() if len(few) > 1)
        raise UserError(f"these runs differ in {differ or 'more than λ and the seed'}, name those of one value")
    complete = [[same[0] for same in row] for row in by_seed if all(row)]
    if len(lams) < 2 or not complete:
        raise UserError("no seed has runs at all of two or more values of λ, finish its sweep first")
    return np.array(lams), {name: np.array([[point[name] for point in row] for row in complete]) for name in LOSSES}


def best_inside(curves: ndarray) -> ndarray:
    """How much lower L_ret (seeds, k) is at the best λ strictly inside the range than at the better end: (seeds,).

    Of several seeds, each is measured at the λ that is best on average over the others: the least of noisy values is
    below the ends by itself, a value chosen by other seeds is not.
    """
    seeds = range(len(curves))
    chosen = [1 + np.delete(curves, seed if len(curves) > 1 else [], axis=0).mean(axis=0)[1:-1].argmin()
              for seed in seeds]
    return np.minimum(curves[:, 0], curves[:, -1]) - curves[seeds, chosen]


def judge_shares(name: str, lams: ndarray, by_loss: dict[str, ndarray]) -> list[tuple[str, str, Estimate]]:
    """Claim, statistic and estimate for Figure 3a or 3b; each claim is that its statistic is above 0."""
    im_slope, ret_slope = (slope(lams, by_loss[loss]) for loss in ("L_im", "L_ret"))
    if name == "fig3a":
        both = np.stack([im_slope, ret_slope], axis=-1)
        return [("L_ret falls in λ", "−slope of L_ret", estimate(-ret_slope[:, None])),
                ("L_im is flat", "¼|slope of L_ret| − |slope of L_im|",
                 estimate(both, lambda mean: np.abs(mean[..., 1]) / 4 - np.abs(mean[..., 0])))]
    claims = [("L_im worsens with λ", "slope of L_im", estimate(im_slope[:, None]))]
    if len(lams) > 2 and (lams[0], lams[-1]) == (0, 1):
        claims.append(("best λ for L_ret is strictly inside", "L_ret at the better end − best inside",
                       estimate(best_inside(by_loss["L_ret"])[:, None])))
    return claims


def tokens(count: int) -> str:
    """150000 → 150k."""
    scale, unit = (1e6, "M") if count >= 1e6 else (1e3, "k")
    return f"{count / scale:g}{unit}"


def shares(name: str, points: list[dict], axes: ndarray) -> tuple[list[list[str]], list[list[str]]]:
    """Draw Figure 3 for every pipeline (a row of two panels); returns the rows of its verdicts and of its values."""
    verdicts, values = [], []
    for pipeline, row in zip(distinct(points, "pipeline"), axes):
        sizes = sorted(distinct(having(points, pipeline=pipeline), "post_tokens"))
        for size, shade, marker in zip(sizes, np.linspace(1, 0.45, len(sizes)), itertools.cycle("os^D")):
            lams, by_loss = curves(having(points, pipeline=pipeline, post_tokens=size))
            where = f"{pipeline}, |D_post| {tokens(size)}"
            for claim, statistic, one in judge_shares(name, lams, by_loss):
                verdicts.append([claim, where, f"{statistic}: {one:.3f}", _p(one), verdict(one)])
            for k, lam in enumerate(lams):
                saved = estimate((by_loss["L_ret"][:, 0] - by_loss["L_ret"][:, k])[:, None])
                values.append([where, f"{lam:g}", *(_mean(by_loss[loss][:, k]) for loss in LOSSES),
                               *((f"{saved:.3f}", _p(saved)) if k else ("–", "–"))])
            for axis, loss in zip(row, ("L_im", "L_ret")):
                _curve(axis, lams, by_loss[loss], f"|D_post| {tokens(size)}", shade, marker)
                if points[0]["preset"] == "135m":
                    _paper_curve(axis, name[-1], loss, tokens(size), shade)
        for axis, loss in zip(row, ("L_im", "L_ret")):
            axis.set(xlabel="λ", ylabel=f"{loss} (nats per token)", title=pipeline, xticks=lams)
        span = max(np.ptp(axis.get_ylim()) for axis in row)       # equal, so that flat looks flat beside what falls
        for axis in row:
            middle = np.mean(axis.get_ylim())
            axis.set_ylim(middle - span / 2, middle + span / 2)
    return verdicts, values


def _curve(axis, lams: ndarray, by_seed: ndarray, label: str, shade: float, marker: str) -> None:
    """Mean over seeds (seeds, k) with a star at its minimum, its interval as a band, every seed as a dot."""
    mean, colour = by_seed.mean(axis=0), STYLE["mixed"][0]
    best = mean.argmin()
    label += f", {len(by_seed)} seeds" * (len(by_seed) > 1)
    axis.plot(lams, mean, "-" + marker, color=colour, alpha=shade, markersize=4, label=label)
    axis.plot(lams[best], mean[best], "*", color=colour, alpha=shade, markersize=14)
    if len(by_seed) > 1:
        drawn = [estimate(column[:, None]) for column in by_seed.T]
        axis.fill_between(lams, [one.low for one in drawn], [one.high for one in drawn], color=colour,
                          alpha=0.15 * shade, linewidth=0)
        axis.plot(lams, by_seed.T, ".", color=colour, alpha=0.4 * shade, markersize=4)


def _paper_rows(file: str) -> list[dict]:
    with open(PAPER / file, newline="") as lines:
        return list(csv.DictReader(lines))


def _paper_curve(axis, panel: str, loss: str, size: str, shade: float) -> None:
    rows = having(_paper_rows("fig3.csv"), panel=panel, metric=loss, post_tokens=size)
    if rows:
        axis.plot(*losses(rows, ("lambda", "loss")).T, "--", color=STYLE["mixed"][0], alpha=shade, linewidth=0.8,
                  label=f"paper, {size}")


def _p(one: Estimate) -> str:
    return "–" if np.isnan(one.p) else f"{one.p:.3f}"


def _mean(values: ndarray) -> str:
    """Mean and sample standard deviation over seeds."""
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")


# ---------------------------------------------------------------------------------------------------------------------
# Frontiers: one recipe against another

def fronts(points: list[dict], view: tuple[str, str]) -> dict[str, ndarray]:
    """seed → the Pareto front of its points in a view: (m, 2)."""
    return {seed: pareto_front(losses(having(points, seed=seed), view)) for seed in distinct(points, "seed")}


def compare(better: list[dict], worse: list[dict], view: tuple[str, str]) -> tuple[Estimate, Estimate, list[bool], str]:
    """Gap in L_ret at the view's other loss matched, logarithm of the ratio of hypervolumes, wins, and the verdict.

    Over the seeds that both have. A seed is won if its gap is above 0 or, where its fronts have no range in common and
    so no gap, if the one dominates the other. The claim is that gap and ratio are above 0; without a gap in some seed,
    that every seed is won and the ratio above 0. The hypervolumes' reference is `reference_point` of all points
    compared. Raises UserError if no seed has both.
    """
    matched = next(loss for loss in view if loss != "L_ret"), "L_ret"
    by_seed = [fronts(points, matched) for points in (better, worse)]
    pairs = [(by_seed[0][seed], by_seed[1][seed]) for seed in by_seed[0] if seed in by_seed[1]]
    if not pairs:
        raise UserError(f"no seed has runs of both {better[0]['recipe']} and {worse[0]['recipe']}, finish one first")
    reference = reference_point(losses(better, matched), losses(worse, matched))
    with np.errstate(divide="ignore", invalid="ignore"):           # two single points may have no volume
        ratio = [np.log(hypervolume(b, reference)) - np.log(hypervolume(w, reference)) for b, w in pairs]
    gaps = [gap_at_matched(w, b) for b, w in pairs]
    gap, ratio = estimate(np.array(gaps)[:, None]), estimate(np.array(ratio)[:, None])
    wins = [dominates(b, w) if np.isnan(one) else one > 0 for one, (b, w) in zip(gaps, pairs)]
    return gap, ratio, wins, verdict(gap, ratio, also=all(wins) or not np.isnan(gap.value))


def frontiers(name: str, points: list[dict], axes: ndarray) -> tuple[list[list[str]], list[list[str]]]:
    """Draw a figure of frontiers, views down, unless there is one, then pipelines; returns as `shares` does."""
    figure = FIGURES[name]
    panels = itertools.product(figure.views, distinct(points, "pipeline"), figure.recipes)
    for (view, pipeline, recipes), axis in zip(panels, axes.flat):
        drawn = recipes or distinct(points, "recipe")
        for recipe in drawn:
            if some := having(points, pipeline=pipeline, recipe=recipe):
                beside_mixed = recipe.startswith("unmixed +") and recipe.removeprefix("un") in drawn
                _front(axis, some, recipe, view, beside_mixed)
        if points[0]["preset"] == "135m":
            _paper_fronts(axis, name, pipeline, recipes, view)
        axis.set(xlabel=f"{view[0]} (nats per token)", ylabel=f"{view[1]} (nats per token)", title=pipeline)
    verdicts = []
    for claim, (better, worse) in figure.claims.items():
        for pipeline in distinct(points, "pipeline"):
            pair = [having(points, pipeline=pipeline, recipe=recipe) for recipe in (better, worse)]
            for view in figure.views if all(pair) else ():
                gap, ratio, wins, word = compare(*pair, view)
                won = f", better in {sum(wins)} of {len(wins)}" if np.isnan(gap.value) else ""
                times = Estimate(*np.exp(ratio[:3]), *ratio[3:])
                verdicts.append([claim, f"{pipeline}, ({view[0]}, {view[1]})",
                                 f"gap in L_ret {gap:.3f}{won}, hypervolume ratio {times:.2f}",
                                 f"{_p(gap)}, {_p(ratio)}", word])
    values = []
    for pipeline, recipe in dict.fromkeys((point["pipeline"], point["recipe"]) for point in points):
        some = having(points, pipeline=pipeline, recipe=recipe)
        values.append([pipeline, recipe, str(len(some)), str(len(distinct(some, "seed"))),
                       *(f"{losses(some, [loss]).min():.3f}" for loss in LOSSES)])
    return verdicts, values


def _front(axis, points: list[dict], recipe: str, view: tuple[str, str], beside_mixed: bool) -> None:
    """Every run as a point, and their frontier: of one seed as it is, of several the mean and its interval.

    The mean is over the range that the seeds share, without markers; seeds that share none have a line each.
    """
    colour, marker = STYLE.get(recipe, OTHER_STYLE)
    line, face = ("--", "white") if "LoRA" in recipe else (":", "white") if beside_mixed else ("-", colour)
    by_seed = list(fronts(points, view).values())
    label = recipe + f", {len(by_seed)} seeds" * (len(by_seed) > 1)
    style = {"color": colour, "markerfacecolor": face}
    axis.plot(*losses(points, view).T, marker, markersize=4, alpha=0.35, **style)
    axis.plot([], [], line + marker, markersize=5, label=label, **style)
    low, high = max(front[0, 0] for front in by_seed), min(front[-1, 0] for front in by_seed)
    if len(by_seed) == 1 or low >= high:
        for front in by_seed:
            axis.plot(*front.T, line + marker, markersize=5, linewidth=1.6, **style)
        return
    x = np.linspace(low, high, 50)
    y = np.array([np.interp(x, *front.T) for front in by_seed])
    band = [estimate(column[:, None]) for column in y.T]
    axis.plot(x, y.mean(axis=0), line, linewidth=1.6, **style)
    axis.fill_between(x, [one.low for one in band], [one.high for one in band], color=colour, alpha=0.15, linewidth=0)


def _paper_fronts(axis, name: str, pipeline: str, recipes: Sequence[str], view: tuple[str, str]) -> None:
    rows = having(_paper_rows("frontiers.csv"), figure=name.removeprefix("fig"), x=view[0], y=view[1])
    column = next((f" ({word})" for word in ("dropout", "replay") if len(recipes) == 3 and word in recipes[-1]), "")
    for recipe in recipes:
        same = [row for row in rows if row["recipe"].replace("+", " + ") == recipe
                and row["pipeline"].lower().replace(">", " → ") == pipeline + column]
        if same:
            line = losses(same, ("x_value", "y_value"))
            line = line[np.flatnonzero(np.diff(line[:, 0], prepend=np.inf) < 0)[-1]:]       # what paper/README.md says
            axis.plot(*line.T, "--", color=STYLE[recipe][0], linewidth=0.8,
                      label=f"paper, {recipe}")


# ---------------------------------------------------------------------------------------------------------------------
# Picture, data and table

def markdown(header: Sequence[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def draw(name: str, runs: Sequence[Path], out: Path) -> list[list[str]]:
    """Write a figure of the runs to `out`, every run to .csv and the verdicts to .md beside it; returns the verdicts.

    A verdict is [claim, where, statistic with its interval, p, verdict]. Raises UserError where the runs do not make
    the figure.
    """
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    if out.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--out {out} is not a .png, .pdf or .svg")
    points = read_points(runs)
    if len(distinct(points, "preset")) > 1:
        raise UserError(f"runs of presets {', '.join(distinct(points, 'preset'))} do not go into one figure")
    title = TITLES[name] if name == "frontier" else f"Figure {name[3:]}: {TITLES[name]}"
    there, points = len(points), of_figure(name, points)
    if len(points) < there:
        print(f"{there - len(points)} of {there} runs are not of {name}, left out")
    pipelines = len(distinct(points, "pipeline"))
    if name in FIGURES:
        views, columns = len(FIGURES[name].views), len(FIGURES[name].recipes)
        shape = (views, pipelines * columns) if views > 1 else (pipelines, columns)
        header = ["pipeline", "recipe", "runs", "seeds", *(f"lowest {loss}" for loss in LOSSES)]
    else:
        shape = pipelines, 2
        header = ["|D_post|", "λ", *LOSSES, "L_ret below that at the first λ", "p"]
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 9, "legend.fontsize": 7, "legend.title_fontsize": 7,
                         "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25})
    figure, axes = plt.subplots(*shape, figsize=(3.4 * shape[1], 3.0 * shape[0]), squeeze=False, layout="constrained")
    verdicts, values = (frontiers if name in FIGURES else shares)(name, points, axes)

    figure.suptitle(title, fontsize=10)
    labelled = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=4)
    verdict_header = ["claim", "where", "measured", "p", "verdict"]
    text = (f"# {title}\n\n![{title}]({out.name})\n\n{markdown(verdict_header, verdicts)}\n"
            f"{markdown(header, values)}\n"
            "Losses in nats per token. [95% bootstrap interval over seeds, of fewer than five their range]; ± standard "
            "deviation over seeds; p: one-sided paired test over seeds, at least 1/2ⁿ for n seeds; of frontiers, p of "
            "the gap and of the ratio. A gap is – where the frontiers of a seed have no range in common; such a seed is "
            "better if every point of the one is dominated by the other, and for *seen* all must be. Definitions: "
            "frontier.py and `compare` in figures.py.\n")
    make_folder(out.parent)
    with atomic(out) as file:
        figure.savefig(file, dpi=min(110, 1200 / figure.get_figwidth()), format=out.suffix[1:])
    plt.close(figure)
    with atomic(out.with_suffix(".csv")) as file:
        lines = io.StringIO()
        writer = csv.DictWriter(lines, points[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(points)
        file.write(lines.getvalue().encode())
    with atomic(out.with_suffix(".md")) as file:
        file.write(text.encode())
    return verdicts
