"""Losses against a dial: which runs make a curve, what the panels show, what is told of the means."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from experiments.curves import Curves, curve_of, groups, level_spans, mean_over_seeds, of_whole_seeds
from experiments.statistics import estimate
from run.files import UserError
from tests.finished_runs import draw, drawn, sweep_of_shares


def points(dial=(0.0, 0.5, 1.0), seeds=("1", "2"), **settings):
    """A point a value of the dial and seed, whose loss is 10 · seed + dial."""
    some = []
    for value, seed in itertools.product(dial, seeds):
        point = {"run": f"{value}-{seed}", "pipeline": "a → b", "seed": seed, "heat": value, "size": 1,
                 "lr": 1e-3, "L_one": 10 * int(seed) + value}
        some.append(point | settings)
    return some


# ---- which runs

def test_a_curve_is_of_the_seeds_that_have_every_value():
    some = points()[::-1]
    dial, by_loss = curve_of(some, "heat", ["L_one"])
    assert dial.tolist() == [0, 0.5, 1] and by_loss["L_one"].tolist() == [[10, 10.5, 11], [20, 20.5, 21]]
    without = [point for point in some if point["run"] != "0.5-2"]
    assert curve_of(without, "heat", ["L_one"])[1]["L_one"].tolist() == [[10, 10.5, 11]]


@pytest.mark.parametrize("some, message", [
    (points(dial=[0.5]), "no seed has runs at all of two or more values of heat"),
    (points([0.0], ["1"]) + points([1.0], ["2"]), "no seed has runs at all of two or more values of heat"),
    (points() + points(lr=1e-4), r"differ in lr \(0.001, 0.0001\), name those of one value"),
    (points() + points(lr=1e-4, size=2), r"differ in size \(1, 2\) and lr \(0.001, 0.0001\)"),
    (points() + points(), "differ in more than heat and the seed"),
])
def test_what_makes_no_curve_is_said_with_its_cause(some, message):
    with pytest.raises(UserError, match=message):
        curve_of(some, "heat", ["L_one"])


def test_a_curve_a_pipeline_and_value_of_the_series():
    some = points(size=3) + points(size=2) + points(pipeline="b → c", size=9)
    assert groups(some, "size") == [("a → b", 2), ("a → b", 3), ("b → c", 9)]


def test_claims_about_several_curves_are_of_the_seeds_that_have_all():
    some = points(size=1) + points(size=2)
    without = [point for point in some if (point["run"], point["size"]) != ("0.5-2", 2)]
    assert of_whole_seeds(some, "size", "heat") == some
    assert {point["seed"] for point in of_whole_seeds(without, "size", "heat")} == {"1"}

    def judge_together(curves):
        lowest = [by_loss["L_one"].min(axis=1) for _, by_loss in curves.values()]
        return [("the second is lower", "difference", estimate(lowest[0] - lowest[1]))]
    kind = Curves(dial="heat", symbol="heat", series="size", name_series=str, panels=(), losses=("L_one",),
                  falls="L_one", judge=lambda dial, by_loss: [], colour="teal",
                  judge_together=judge_together)
    assert kind.verdicts(some) == [
        ["the second is lower", "a → b", "difference: 0.000 [0.000, 0.000]", "1.000", "not seen (2 seeds)"]]
    assert kind.verdicts(without)[0][-1] == "not seen (1 seed)"
    apart = [point for point in without if (point["run"], point["size"]) != ("0.5-1", 1)]
    assert kind.verdicts(apart) == [["all curves together", "a → b", "no seed has all of their runs", "–", "not judged"]]

    # Each seed lacks another end of one curve: what is left is no grid of which to take the whole.
    ragged = [point for point in some if point["size"] == 1 or point["heat"] == 0.5]
    assert of_whole_seeds(ragged, "size", "heat") == []


def test_a_figure_may_choose_among_its_points():
    kind = Curves(dial="heat", symbol="heat", series="size", name_series=str, panels=(), losses=(), falls="",
                  belongs=lambda point: point["seed"] == "1", judge=None, colour="", published=None,
                  choose=lambda some: some[:1])
    assert [point["run"] for point in kind.select(points()[::-1])] == ["1.0-1"]


# ---- what is shown and told

def test_panels_of_a_row_span_the_same_and_stay_centred():
    row = Canvas().subplots(1, 2)
    row[0].set_ylim(0, 1)
    row[1].set_ylim(5, 9)
    level_spans(row)
    assert [axis.get_ylim() for axis in row] == [(-1.5, 2.5), (5, 9)]


def test_one_seed_has_no_spread():
    assert mean_over_seeds(np.array([1.0])) == "1.000"
    assert mean_over_seeds(np.array([1.0, 3.0])) == "2.000 ± 1.414"


def test_losses_against_lambda(stage):
    sweep_of_shares("runs")
    out = draw(stage, "fig3a")
    falls, flat = out.splitlines()[1:3]
    assert falls.endswith("  0.125  seen (3 seeds)") and flat.endswith("  seen (3 seeds)")
    assert "150k" in falls and "web → music → chem" in falls
    with open("figures/fig3a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15 and {float(row["lam"]) for row in rows} == {0, 0.25, 0.5, 0.75, 1}
    assert (float(rows[0]["L_ret"]), float(rows[0]["L_ret_se"])) == (2, 0.02)     # λ = 0, the first by name
    text = Path("figures/fig3a.md").read_text()
    assert "| L_ret falls in λ | web → music → chem, \\|D_post\\| 150k |" in text
    assert "| where | λ | L_im | L_ret | L_ft | L_pre | L_ret below that at the first λ | p |" in text
    # L_ret at λ = 1 is 1.60 + 0.01 × (4, 8, 12 mod 3) = 1.61, 1.62, 1.60; at λ = 0 it is 2
    row = "| 1 | 0.992 ± 0.001 | 1.610 ± 0.010 | 1.500 ± 0.000 | 1.400 ± 0.000 | 0.390 [0.365, 0.415] | 0.125"
    assert row in text


def test_a_star_is_at_the_lowest_mean_and_a_dot_at_every_seed(stage, drawn):
    sweep_of_shares("one", 1, compute_matched=True)
    draw(stage, "fig3b", "one")
    stars = [(axis.get_ylabel().split()[0], *args[:2]) for axis, args, _ in drawn if args[2] == "*"]
    assert stars == [("L_im", 1, pytest.approx(0.991)), ("L_ret", 1, pytest.approx(1.61))]
    assert not [args for _, args, _ in drawn if args[2] == "."]             # the mean of one seed is the seed
    drawn.clear()
    sweep_of_shares("three", 3, compute_matched=True)
    draw(stage, "fig3b", "three")
    dots = [args[1] for _, args, _ in drawn if args[2] == "."]
    assert [one.shape for one in dots] == [(5, 3)] * 2 and dots[1][4] == pytest.approx([1.61, 1.62, 1.60])


def test_a_seed_without_all_lambdas_is_left_out(stage):
    sweep_of_shares("runs", compute_matched=True)
    Path("runs/lam0.5-seed2/finetune/run.json").unlink()
    draw(stage, "fig3b")
    assert "1.610 ± 0.014" not in Path("figures/fig3b.md").read_text()
    assert "| 1 | 0.992 ± 0.001 | 1.605 ± 0.007 |" in Path("figures/fig3b.md").read_text()
