"""Pareto frontiers and the comparison of two recipes against values worked out by hand."""

import numpy as np
import pytest

from experiments.frontiers import (compare, dominates, gap_at_matched, hypervolume, pareto_front,
                                   reference_point)
from tests.finished_runs import draw, drawn, frontier_of, write_run


def points(*pairs):
    return np.array(pairs, dtype=float)


# ---- fronts

def test_front_keeps_one_of_equal_points_and_drops_ties_that_are_worse_in_one_loss():
    some = points((2, 2), (1, 3), (3, 1), (1, 3), (1, 4), (2.5, 2), (3, 3), (2, 2))
    assert pareto_front(some).tolist() == [[1, 3], [2, 2], [3, 1]]
    assert pareto_front(points((1, 1))).tolist() == [[1, 1]]


def test_front_is_what_no_other_point_dominates():
    some = np.random.default_rng(0).integers(0, 8, size=(60, 2)).astype(float)
    dominated = [any((q <= p).all() and (q < p).any() for q in some) for p in some]
    assert {tuple(p) for p, bad in zip(some, dominated) if not bad} == {tuple(p) for p in pareto_front(some)}


def test_hypervolume_by_hand():
    # (1, 3) adds 1 wide × 1 high, (2, 2) 1 × 2, (3, 1) 1 × 3, up to (4, 4); what lies beyond adds nothing
    assert hypervolume(points((1, 3), (2, 2), (3, 1), (3, 3), (5, 0)), np.array([4, 4])) == 6
    assert hypervolume(points((5, 5)), np.array([4, 4])) == 0
    assert reference_point(points((1, 3), (2, 2)), points((0, 13))).tolist() == pytest.approx([2.2, 14.1])


def test_gap_is_over_the_common_range_only():
    worse, better = points((0, 4), (2, 2), (4, 1)), points((1, 2), (3, 0))
    # common range 1 to 3: worse 3, 2, 1.5 and better 2, 1, 0 at 1, 2, 3; gaps 1, 1, 1.5
    assert gap_at_matched(better, worse) == pytest.approx((1 + 1.25) / 2)
    assert gap_at_matched(worse, better) == pytest.approx(-(1 + 1.25) / 2)
    assert np.isnan(gap_at_matched(points((2, 0), (3, -1)), points((0, 1))))
    assert gap_at_matched(points((1, 2), (2, 1)), points((0, 5), (1, 3))) == 1    # they touch at one value


def test_dominating_by_hand():
    front = points((1, 3), (2, 2))
    assert dominates(points((1, 2.5), (2, 1)), front) and dominates(points((0, 0)), front)
    assert not dominates(front, front) and not dominates(points((1.5, 0)), front)


# ---- two recipes

def recipe(*fronts):
    return [{"seed": seed, "L_ft": x, "L_ret": y} for seed, front in enumerate(fronts) for x, y in front]


def test_gaps_are_in_the_order_of_the_seeds_however_runs_come():
    worse = recipe([(1, 2), (2, 1)], [(1, 3), (2, 2)])
    better = recipe([(1, 1), (2, 0.5)], [(1, 2.9), (2, 1.9)])
    for some, other in ((better, worse), (better[::-1], worse), (better[::-1], worse[::-1])):
        assert compare(some, other, ("L_ft", "L_ret")).gaps == pytest.approx([0.75, 0.1])


@pytest.mark.parametrize("better, word", [
    ([(2.0, 1.05), (2.2, 1.0)], "not seen (2 seeds)"),  # no L_ft in common: one learns more, one keeps more
    ([(0.5, 1.8), (0.9, 1.0)], "seen (2 seeds)"),       # none either, and better in both
])
def test_without_a_common_range_only_dominating_counts(better, word):
    worse = [(1.0, 2.0), (1.5, 1.9)]
    compared = compare(recipe(better, better), recipe(worse, worse), ("L_ft", "L_ret"))
    assert np.isnan(compared.gap.value) and compared.verdict == word
    assert compared.wins == [word.startswith("seen")] * 2
    shared = [(1.0, 1.8), (1.5, 1.7)]                   # a seed with a range in common is won by its gap
    assert compare(recipe(better, shared), recipe(worse, worse), ("L_ft", "L_ret")).wins == \
        [word.startswith("seen"), True]
    above = [(1.0, 2.1), (1.5, 2.0)]
    assert compare(recipe(better, above), recipe(worse, worse), ("L_ft", "L_ret")).wins[1] is False


def test_a_single_point_has_no_volume():
    alone = compare(recipe([(1, 1)]), recipe([(1, 2)]), ("L_ft", "L_ret"))
    assert alone.gap.value == 1 and np.isnan(alone.log_ratio.value) and alone.verdict == "seen (1 seed)"


def test_a_seed_that_only_one_recipe_has_does_not_count():
    both = [[(1.0, 1.8), (1.5, 1.7)]] * 3
    compared = compare(recipe(*both), recipe([(1.0, 2.0), (1.5, 1.9)]), ("L_ft", "L_ret"))
    assert compared.gap.seeds == 1 and compared.gap.value == pytest.approx(0.2) and compared.wins == [True]


def test_the_gap_is_in_what_is_retained_whichever_axis_it_is_on():
    one, other = recipe([(1.0, 1.8), (1.5, 1.6)]), recipe([(1.0, 2.0), (1.5, 1.9)])
    assert compare(one, other, ("L_ret", "L_ft")) == compare(one, other, ("L_ft", "L_ret"))


# ---- in a figure

def test_gap_and_hypervolume_ratio_by_hand(stage):
    frontier_of("runs", "unmixed", 0.0, seeds=1)
    frontier_of("runs", "mixed", 0.2, seeds=1)
    first = draw(stage, "fig2").splitlines()[1]
    # up to (2.04, 2.19), unmixed is 0.08, 0.38 and 0.68 high over widths of 0.2, 0.2 and 0.04; mixed is
    # 0.2 higher
    assert "(L_ft, L_ret)" in first
    assert f"gap in L_ret 0.200, hypervolume ratio {0.2072 / 0.1192:.2f}" in first


def test_the_reference_is_beyond_every_run_compared(stage):
    for name, lam, L_ft, L_ret in (("a", 0.0, 1.0, 1.5), ("b", 0.0, 1.9, 1.6), ("c", 1.0, 0.9, 1.4)):
        write_run(name, {"L_ft": L_ft, "L_ret": L_ret, "L_pre": 1 + lam}, lam=lam, stage3_lr=L_ft)
    first = draw(stage, "fig2", "a", "b", "c").splitlines()[1]
    # the worst are 1.9 and 1.6, the ranges 1 and 0.2: up to (2, 1.62), 1.1 · 0.22 against 1 · 0.12
    assert f"gap in L_ret –, better in 1 of 1, hypervolume ratio {1.1 * 0.22 / 0.12:.2f}" in first
    assert first.endswith("  seen (1 seed)")


def test_of_several_seeds_the_line_is_their_mean_over_the_range_they_share(stage, drawn):
    for seed, shift in ((1, 0.0), (2, 0.1)):
        for name, lam in (("unmixed", 0.0), ("mixed", 1.0)):
            for k in (0, 1):
                losses = {"L_ft": 1 + 0.5 * k + shift, "L_ret": 2 - 0.5 * k + shift - 0.3 * lam}
                write_run(f"runs/{name}-{seed}-{k}", losses, lam=lam, seed=seed, stage3_lr=1e-4 * (k + 1))
    draw(stage, "fig2")
    # L_ft from 1.1 to 1.5: there one seed's L_ret is 1.9 to 1.5, the other's 2.1 to 1.7
    lines = [args for _, args, more in drawn if args[2] == "-" and more["color"] == "black"]
    x, y, _ = lines[0]
    assert [x[0], x[-1], y[0], y[-1]] == pytest.approx([1.1, 1.5, 2.0, 1.6]) and len(x) == 50
