"""What the linear networks predict, asked of runs: which runs, gains by hand, what is said of them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from experiments import linear
from experiments.early_exposure.claims import MIXED, PURPLE, UNMIXED
from experiments.linear.claims import PLACE, describe_place, judge_best_lam, judge_place
from experiments.points import read_points
from experiments.sweep import plan
from run.files import UserError
from tests.finished_runs import draw, drawn, frontier_of, write_run

CHAIN = ("pretrain", "posttrain", "finetune")


def runs_of(figure):
    settings, corpora = linear.SETTINGS["toy"], linear.CORPORA["toy"]
    return plan(linear.FIGURES[figure].plan, "toy", settings, corpora, 1, Path("out"))


def write_places(root, saved):
    """Write frontiers whose mixed one is lower by saved[w] at each percentage w."""
    for percentage, less in saved.items():
        for recipe, lower in (("unmixed", 0), ("mixed", less)):
            frontier_of(root, recipe, lower, ("web", "music", f"between{percentage}"), seeds=3)


def points_in(root):
    return read_points([Path(root)], [CHAIN], PLACE.losses, describe_place)


@pytest.mark.parametrize("figure, counts", [("place", (2, 2, 24)), ("place-frontiers", (2, 2, 24)),
                                            ("matched-rates", (5, 5, 15)),
                                            ("place-forecast", (4, 20, 20 * (4 + 1)))])
def test_size_of_the_grids(figure, counts):
    of_stage = Counter(run.stage for run in runs_of(figure))
    assert tuple(of_stage[stage] for stage in CHAIN) == counts


def test_w_is_the_percentage_in_the_name_and_each_rate_is_judged_by_itself(tmp_path):
    write_places(tmp_path, {75: 0.05, 0: 0.3, 25: 0.2})
    points = points_in(tmp_path)
    assert {point["w"] for point in points} == {0, 0.25, 0.75}
    assert points[0]["ΔL_post"] == pytest.approx(points[0]["L_ret"] - points[0]["L_im"])
    rows = PLACE.verdicts(points)
    assert [row[1].rpartition(" ")[2] for row in rows] == ["0.0001"] * 2 + ["0.0003"] * 2 + ["0.001"] * 2
    assert {row[-1] for row in rows} == {"seen (3 seeds)"}


def judged(*saved):
    """Judge three seeds of which the unmixed runs forget more by `saved`, at each w."""
    w, wavering = np.linspace(0, 0.75, len(saved)), 0.001 * np.arange(3)[:, None]
    curves = {UNMIXED: (w, {"ΔL_post": 1 + wavering + np.array(saved)}), MIXED: (w, {"ΔL_post": 1 - wavering})}
    falls, lasts = judge_place(curves)
    return round(falls[2].value, 3), falls[2].low > 0, round(lasts[2].value, 3), lasts[2].low > 0


def test_what_is_saved_must_fall_and_something_must_be_left():
    assert judged(0.3, 0.2, 0.1, 0.05) == (0.34, True, 0.052, True)          # slope over w = 0, ¼, ½, ¾ by hand
    assert judged(0.3, 0.2, 0, -0.1) == (0.56, True, -0.098, False)
    assert judged(0.1, 0.2, 0.2, 0.2)[:2] == (-0.12, False)
    assert judge_place({MIXED: (np.zeros(2), {})}) == []


def test_a_name_without_its_percentage_is_refused(tmp_path):
    write_run(tmp_path)
    with pytest.raises(UserError, match="must end in its percentage"):
        points_in(tmp_path)


def test_the_best_lam_is_compared_between_the_lowest_and_the_highest_rate():
    lams = np.array([0, 0.5, 1])
    low, high = np.tile([1, 1.5, 2], (3, 1)), np.tile([2, 1, 1.5], (3, 1))
    curves = {3e-4: (lams, {"L_ret": high}), 1e-4: (lams, {"L_ret": low}), 1e-3: (lams, {"L_ret": high})}
    (_, _, rises), = judge_best_lam(curves)
    assert rises.value == 0.5
    assert judge_best_lam({1e-4: curves[1e-4]}) == []


def test_figures_are_drawn_by_the_command(stage, drawn):
    write_places("runs", {0: 0.3, 50: 0.1})
    assert "exposure saves less, the more of D_ft is like D_post" in draw(stage, "place")

    # A recipe has its colour in both figures, and L_ft is not least at a w that is best.
    colours = {more["label"].split(",")[0]: (more["color"], more["alpha"])
               for _, _, more in drawn if "label" in more}
    assert colours == {"unmixed": ("black", 1), "mixed": (PURPLE, 1)}
    assert "*" not in [args[2] for _, args, _ in drawn]
    assert "the mixed frontier dominates" in draw(stage, "place-frontiers")
