"""The paper of this repository: its grids, its claims, and its own numbers judged by the same rules."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import pretrain
from experiments.early_exposure import CORPORA, FIGURES, PLANS, SETTINGS
from experiments.early_exposure.claims import (MIXED, MIXED_LORA, UNMIXED, UNMIXED_DROPOUT, Recipe, describe,
                                               judge_full, judge_matched, last_stretch, published_rows,
                                               shown_size, style)
from experiments.frontiers import compare
from experiments.points import columns, having
from experiments.statistics import best_inside, verdict
from experiments.sweep import STAGES, plan
from tests.finished_runs import draw, drawn, frontier_of, lineage_of, sweep_of_shares

LAMS = np.array([0, 0.25, 0.5, 0.75, 1])


# ---- the plan

def runs_of(figure, preset, seeds=1):
    return plan(PLANS[figure], preset, SETTINGS[preset], CORPORA[preset], seeds, Path("out"))


@pytest.mark.parametrize("figure, preset, counts", [
    ("fig3a", "toy", (5, 5, 5)), ("fig3a", "135m", (15, 15, 15)), ("fig3b", "1b", (15, 15, 15)),
    ("fig2", "toy", (4, 8, 48)), ("fig2", "135m", (4, 60, 600)), ("fig2", "1b", (4, 20, 150)),
    ("fig4", "135m", (2, 30 + 30 + 15, 750)), ("fig7", "toy", (2, 8, 48)), ("fig3a", "30m", (10, 10, 10)),
])
def test_size_of_the_grids(figure, preset, counts):
    for seeds in (1, 3):
        runs = runs_of(figure, preset, seeds)
        of_stage = Counter(run.stage for run in runs)
        stages, = FIGURES[figure].chains
        assert tuple(of_stage[stage] for stage in stages) == tuple(seeds * count for count in counts)


@pytest.mark.parametrize("preset", SETTINGS)
def test_every_command_is_understood_and_no_folder_means_two_things(preset):
    """Over all figures: parents first, one settings a folder, every word a flag that its stage takes."""
    by_folder = {}
    for figure in PLANS:
        runs = runs_of(figure, preset, 2)
        for place, run in enumerate(runs):
            assert by_folder.setdefault(run.out, run) == run
            assert run.parent is None or run.parent in runs[:place]

    made = {}
    column = list(SETTINGS).index(preset)
    for run in by_folder.values():
        defaults = {f"--{name}": row[column].rstrip("*") for name, row in STAGES[run.stage].DEFAULTS.items()}
        known = {*defaults, "--preset", "--lam", "--lora", "--compute-matched"}
        assert {flag for flag, _ in run.settings} <= known
        # One configuration, one folder: nothing is trained twice.
        complete = defaults | dict(run.settings)
        same = made.setdefault((run.stage, frozenset(complete.items()), run.seed, run.parent), run)
        assert same == run, f"{same.out} and {run.out}"

    first = next(run for run in by_folder.values() if run.stage == "pretrain")
    args = pretrain.parse([*itertools.chain(*first.settings), "--out", str(first.out), "--resume"])
    assert (args.preset, args.pre, args.post) == (preset, CORPORA[preset]["pre"], CORPORA[preset]["post"])


def test_every_figure_that_is_planned_has_claims_and_every_other_is_of_runs_that_are_there():
    planned = {name for name, figure in FIGURES.items() if figure.plan}
    assert planned == PLANS.keys() == FIGURES.keys() - {"frontier"}


# ---- a chain as the paper calls it

@pytest.mark.parametrize("line, recipe, lam", [
    ("--lam 0 | posttrain", "unmixed", 0), ("--lam 0.5 | posttrain", "mixed", 0.5),
    ("--lam 1 | posttrain --dropout 0.05 --replay 0.1 --lora", "mixed + dropout + replay + LoRA", 1),
    ("--lam 1 | posttrain --compute-matched", "mixed + compute-matched", 1),
])
def test_a_recipe_is_told_by_the_lineage(line, recipe, lam):
    line = f"pretrain --pre $pre --post $post {line} | finetune --ft $ft"
    point = describe(lineage_of(plan([line], "toy", {}, CORPORA["toy"], 1, Path("out"))[-1]))
    assert (str(point["recipe"]), point["lam"], point["pipeline"]) == (recipe, lam, "web → music → chem")
    assert (point["seed"], point["post_tokens"], point["stage3_lr"]) == ("1", 220_000, 3e-4)


def test_a_recipe_is_drawn_dashed_with_lora_and_dotted_beside_the_same_mixed():
    lines = [style(recipe, [MIXED, UNMIXED_DROPOUT]).line for recipe in (MIXED, MIXED_LORA, UNMIXED_DROPOUT)]
    assert lines == ["-", "--", "-"]
    assert style(UNMIXED_DROPOUT, [UNMIXED_DROPOUT, UNMIXED_DROPOUT._replace(mixed=True)]).line == ":"
    assert style(UNMIXED, [UNMIXED, MIXED]).line == "-"
    assert style(Recipe(True, ("dropout", "replay")), []).colour == "grey"           # the paper draws no such


def test_a_size_is_called_as_the_paper_calls_it():
    assert [shown_size(size) for size in (150_000, 30_000_000, 1_500_000)] == \
        ["|D_post| 150k", "|D_post| 30M", "|D_post| 1.5M"]


# ---- the claims

def judged(judge, by_loss, lams=LAMS):
    return [verdict(one) for _, _, one in judge(lams, by_loss)]


def test_flat_is_less_than_a_quarter_as_steep():
    for im, word in ((0.09, "seen (1 seed)"), (0.11, "not seen (1 seed)"), (-0.11, "not seen (1 seed)")):
        by_loss = {"L_im": 1 + im * LAMS[None], "L_ret": 2 - 0.4 * LAMS[None]}
        assert judged(judge_full, by_loss) == ["seen (1 seed)", word]


def test_a_best_share_inside_needs_shares_to_its_left_and_right():
    by_loss = {loss: np.array([[2.0, 1.5, 1.0, 1.5, 2.0]]) for loss in ("L_im", "L_ret")}
    assert judged(judge_matched, by_loss)[1] == "seen (1 seed)"
    for kept in ([1, 2, 3, 4], [0, 1, 2, 3], [0, 4]):             # without λ = 0, without 1, with none inside
        some = {loss: row[:, kept] for loss, row in by_loss.items()}
        assert len(judge_matched(LAMS[kept], some)) == 1


@pytest.mark.parametrize("figure, recipes, claims", [
    ("fig2", {"unmixed": 0, "mixed": 0.2}, {"the mixed frontier dominates": "seen"}),
    ("fig4", {"unmixed": 0, "mixed": 0.2, "mixed + dropout": 0.3, "mixed + replay": 0.1},
     {"dropout improves on mixing": "seen", "replay improves on mixing": "not seen"}),
    ("fig6", {"unmixed": 0, "mixed": 0.2, "unmixed + dropout": 0.1, "unmixed + replay": 0.25},
     {"dropout helps without mixing": "seen", "mixing helps more than dropout": "seen",
      "replay helps without mixing": "seen", "mixing helps more than replay": "not seen"}),
    ("fig6", {"unmixed": 0, "mixed": 0.1, "unmixed + dropout": 0.2, "unmixed + replay": 0.05},
     {"mixing helps more than dropout": "not seen", "mixing helps more than replay": "seen"}),
    ("fig7", {"unmixed": 0, "mixed": 0.2, "unmixed + LoRA": -0.2, "mixed + LoRA": 0.3},
     {"mixing helps LoRA": "seen", "full beats LoRA, mixed": "not seen", "full beats LoRA, unmixed": "seen"}),
])
def test_each_claim_about_frontiers_can_be_seen_or_not(stage, figure, recipes, claims):
    for recipe, saved in recipes.items():
        frontier_of("runs", recipe, saved)
    lines = draw(stage, figure).splitlines()
    views = FIGURES[figure].kind.views
    for claim, word in claims.items():
        said = [line for line in lines if line.startswith(claim)]
        assert len(said) == len(views) and all(line.endswith(f"  {word} (2 seeds)") for line in said)
        assert all((f", {x})" in line) == (f"({y}, {x})" in line) for line in said for y, x in views)


def test_whatever_runs_there_are(stage):
    frontier_of("runs", "unmixed + LoRA", 0.0)
    frontier_of("runs", "mixed + LoRA", 0.1)
    frontier_of("runs", "mixed + dropout + replay", 0.2)
    assert draw(stage, "frontier").count("mixing helps LoRA") == 2


# ---- the paper's own numbers

def published_by_loss(panel, size):
    rows = having(published_rows("fig3.csv"), panel=panel, post_tokens=size)
    return {loss: columns(having(rows, metric=loss), ["loss"]).T for loss in ("L_im", "L_ret")}


@pytest.mark.parametrize("size, saved", [("30M", 0.073), ("150M", 0.057), ("300M", 0.024)])
def test_the_papers_figure_3_bears_its_claims_out(size, saved):
    for panel, judge in (("a", judge_full), ("b", judge_matched)):
        assert judged(judge, published_by_loss(panel, size)) == ["seen (1 seed)"] * 2
    assert best_inside(published_by_loss("b", size)["L_ret"]) == pytest.approx([saved])
    assert judged(judge_matched, published_by_loss("a", "300M"))[1] == "not seen (1 seed)"


def published_points(recipe, view):
    rows = having(published_rows("frontiers.csv"), figure="2", pipeline="C4>MusicPile>ChemPile",
                  recipe=recipe, x=view[0], y=view[1])
    return [{"seed": "paper", view[0]: float(row["x_value"]), view[1]: float(row["y_value"])} for row in rows]


def test_the_papers_figure_2_bears_its_claim_out():
    view = "L_ft", "L_ret"
    mixed, unmixed = published_points("mixed", view), published_points("unmixed", view)
    compared = compare(mixed, unmixed, view)
    assert compared.wins == [True] and compared.verdict == "seen (1 seed)"
    assert compared.gap.value > 0.05 and compared.log_ratio.value > 0
    assert compare(unmixed, mixed, view).verdict == "not seen (1 seed)"


def test_the_last_stretch_is_from_where_a_line_starts_anew():
    line = np.array([[1.0, 9], [2, 8], [1.5, 7], [3, 6], [1.2, 5], [1.2, 4], [4, 3]])
    assert last_stretch(line).tolist() == line[4:].tolist()                # of three; equal x is no new start
    assert last_stretch(line[:2]).tolist() == line[:2].tolist()


def test_just_the_two_lines_that_the_readme_names_start_anew():
    lines, anew = {}, []
    for row in published_rows("frontiers.csv"):
        key = row["figure"], row["pipeline"], row["recipe"], row["x"], row["y"]
        lines.setdefault(key, []).append((float(row["x_value"]), float(row["y_value"])))
    for key, line in lines.items():
        stretch = last_stretch(np.array(line))
        assert (np.diff(stretch[:, 0]) >= 0).all()
        if len(stretch) < len(line):
            anew.append(key)
    assert anew == [("2", "C4>MusicPile>ChemPile", "unmixed", "L_ret", "L_pre"),
                    ("4", "C4>MusicPile>FLAN (replay)", "unmixed", "L_ret", "L_ft")]


def published_lines(drawn):
    labelled = [(more["label"], args[0]) for _, args, more in drawn if "label" in more]
    return [(label, len(x)) for label, x in labelled if label.startswith("paper")]


def test_the_papers_numbers_go_into_figures_of_its_preset(stage, drawn):
    sweep_of_shares("135m", 1, preset="135m", post_tokens=30_000_000)
    sweep_of_shares("toy", 1, post_tokens=30_000_000)
    draw(stage, "fig3a", "toy")
    assert not published_lines(drawn)
    draw(stage, "fig3a", "135m")
    assert published_lines(drawn) == [("paper, 30M", 5)] * 2
    drawn.clear()
    for recipe in ("unmixed", "mixed", "mixed + dropout", "mixed + replay"):
        frontier_of("fronts", recipe, 0.1, ("c4", "musicpile", "chempile"), 1, "135m")
    draw(stage, "fig2", "fronts")                # the first stretch of unmixed, 12 of 18 points, is left out
    assert published_lines(drawn) == [("paper, unmixed", 12), ("paper, mixed", 11), ("paper, unmixed", 6),
                                      ("paper, mixed", 6)]
    drawn.clear()
    draw(stage, "fig4", "fronts")
    assert [label for label, _ in published_lines(drawn)] == [
        "paper, unmixed", "paper, mixed", "paper, mixed + dropout",
        "paper, unmixed", "paper, mixed", "paper, mixed + replay"]


def test_recipes_have_the_papers_colours_on_the_papers_axes(stage, drawn):
    for recipe in ("unmixed", "mixed", "mixed + dropout", "mixed + replay"):
        frontier_of("fronts", recipe, 0.1, seeds=1)
    colours = {"unmixed": "black", "mixed": "#7b2fa8", "mixed + dropout": "#159a90",
               "mixed + replay": "#e87b14"}
    for figure, view in (("fig4", ["L_ret", "L_ft"]), ("fig5", ["L_ret", "L_pre"])):
        draw(stage, figure, "fronts")
        assert {more["label"]: more["color"] for _, _, more in drawn if "label" in more} == colours
        for axis, (x, *_), more in drawn:
            if "label" in more:                                              # the legend's, empty
                continue
            assert [axis.get_xlabel().split()[0], axis.get_ylabel().split()[0]] == view
            assert sorted(x) == pytest.approx([1.41, 1.71, 2.01])            # L_ret of three Stage-3 rates
        drawn.clear()
