"""What the linear networks predict, asked of runs: which runs, gains by hand, what is said of them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from experiments import linear
from experiments.linear.claims import Places, describe_place, gains_by_place, judge_best_lam
from experiments.points import read_points
from experiments.sweep import plan
from run.files import UserError
from tests.finished_runs import draw, frontier_of, write_run

CHAIN = [("pretrain", "posttrain", "finetune")]


def runs_of(figure):
    return plan(linear.FIGURES[figure].plan, "toy", linear.SETTINGS["toy"], linear.CORPORA["toy"], 1, Path("out"))


def write_places(root, gains):
    """Write frontiers whose mixed one is lower by gains[x] at each percentage."""
    for percentage, gain in gains.items():
        pipeline = ("web", "music", f"between{percentage}")
        frontier_of(root, "unmixed", 0, pipeline, seeds=3)
        frontier_of(root, "mixed", gain, pipeline, seeds=3)


def points_in(root):
    return read_points([Path(root)], CHAIN, Places().losses, describe_place)


@pytest.mark.parametrize("figure, counts", [("place", (2, 2, 24)), ("place-frontiers", (2, 2, 24)),
                                            ("matched-rates", (5, 5, 15))])
def test_size_of_the_grids(figure, counts):
    of_stage = Counter(run.stage for run in runs_of(figure))
    assert tuple(of_stage[stage] for stage in CHAIN[0]) == counts


def test_gains_are_the_gaps_of_the_frontiers_in_the_order_of_x(tmp_path):
    write_places(tmp_path, {75: -0.1, 0: 0.3, 25: 0.2})
    x, gains = gains_by_place(points_in(tmp_path))
    assert x.tolist() == [0, 0.25, 0.75]
    assert gains == pytest.approx(np.tile([0.3, 0.2, -0.1], (3, 1)))
    told = Places().verdicts(points_in(tmp_path))
    assert [row[-1] for row in told] == ["seen (3 seeds)"] * 3


def test_a_gain_that_is_the_same_everywhere_is_not_seen_to_fall(tmp_path):
    write_places(tmp_path, {0: 0.2, 50: 0.21, 75: 0.21})
    verdicts = [row[-1] for row in Places().verdicts(points_in(tmp_path))]
    assert verdicts == ["not seen (3 seeds)", "seen (3 seeds)", "not seen (3 seeds)"]


def test_a_seed_that_lacks_a_place_is_left_out_and_one_place_is_too_few(tmp_path):
    write_places(tmp_path, {0: 0.2})
    with pytest.raises(UserError, match="no seed has a gap"):
        gains_by_place(points_in(tmp_path))
    frontier_of(tmp_path, "unmixed", 0, ("web", "music", "between50"), seeds=2)
    frontier_of(tmp_path, "mixed", 0.1, ("web", "music", "between50"), seeds=2)
    assert gains_by_place(points_in(tmp_path))[1].shape == (2, 2)


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


def test_figures_are_drawn_by_the_command(stage):
    write_places("runs", {0: 0.3, 50: 0.1})
    printed = draw(stage, "place")
    assert "exposure helps less, the farther D_ft lies towards D_post" in printed
    assert "the mixed frontier dominates" in draw(stage, "place-frontiers")
