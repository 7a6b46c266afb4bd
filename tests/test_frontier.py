"""Frontiers and their statistics against values worked out by hand, and against the paper's own numbers."""

import csv

import numpy as np
import pytest

from figures import PAPER, best_inside, compare, judge_shares
from frontier import (dominates, estimate, gap_at_matched, hypervolume, pareto_front, reference_point, sign_flip_p,
                      slope, verdict)


def points(*pairs):
    return np.array(pairs, dtype=float)


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
    assert gap_at_matched(worse, better) == pytest.approx((1 + 1.25) / 2)
    assert gap_at_matched(better, worse) == pytest.approx(-(1 + 1.25) / 2)
    assert np.isnan(gap_at_matched(points((0, 1)), points((2, 0), (3, -1))))
    assert gap_at_matched(points((0, 5), (1, 3)), points((1, 2), (2, 1))) == 1      # they touch at a single value


def test_sign_flips_by_hand():
    assert sign_flip_p(np.array([1.0, 2.0, 3.0])) == 1 / 8                           # the largest of 8 means
    assert sign_flip_p(np.array([-1.0, 2.0, 3.0])) == 2 / 8                          # 6 and 4
    assert sign_flip_p(np.array([-1.0, -2.0])) == 1
    assert sign_flip_p(np.arange(1.0, 21)) == pytest.approx(1 / 10_001)              # of 10,000 random choices and this


def test_bootstrap_interval_covers_as_often_as_it_says():
    random = np.random.default_rng(1)
    covered = [one.low <= 0 <= one.high for one in (estimate(random.normal(size=(40, 1))) for _ in range(150))]
    assert 0.88 < np.mean(covered) < 0.99


def test_interval_of_three_seeds_is_their_range_and_one_seed_has_none():
    three = estimate(np.array([[1.0], [2.0], [6.0]]))
    assert three == (3, 1, 6, 1 / 8, 3) and f"{three:.3f}" == "3.000 [1.000, 6.000]"
    one = estimate(np.array([[1.0]]))
    assert one.value == 1 and np.isnan(one.low) and f"{one:.2f}" == "1.00"


def test_interval_is_of_the_statistic_of_the_mean():
    of_opposites = estimate(np.array([[-1.0], [1.0]]), lambda mean: np.abs(mean[..., 0]))
    assert of_opposites[:3] == (0, 0, 1)


def test_a_verdict_needs_the_whole_interval_above_zero():
    above, across, below = (estimate(np.array(values)[:, None]) for values in ([1.0, 2], [-1.0, 2], [-1.0, -2]))
    unknown = estimate(np.array([[np.nan], [1.0]]))
    assert verdict(above) == verdict(above, unknown) == "seen (2 seeds)"
    assert verdict(across) == verdict(below) == verdict(above, across) == "not seen (2 seeds)"
    assert verdict(unknown) == "not seen" and verdict(above, also=False) == "not seen (2 seeds)"
    assert verdict(estimate(np.array([[0.1]]))) == "seen (1 seed)"
    assert verdict(estimate(np.array([[-0.1]]))) == "not seen (1 seed)"


def test_slope_is_least_squares():
    x, y = np.array([0, 0.25, 0.5, 1]), np.random.default_rng(0).normal(size=(3, 4))
    assert slope(x, y) == pytest.approx(np.polyfit(x, y.T, 1)[0])


# ---- the paper's Figure 3 and Figure 2, judged by the same rules

def paper_curves(panel, size):
    rows = list(csv.DictReader(open(PAPER / "fig3.csv")))
    by_loss = {loss: np.array([[float(row["loss"]) for row in rows
                                if (row["panel"], row["metric"], row["post_tokens"]) == (panel, loss, size)]])
               for loss in ("L_im", "L_ret")}
    return np.array([0, 0.25, 0.5, 0.75, 1]), by_loss


@pytest.mark.parametrize("size, saved", [("30M", 0.073), ("150M", 0.057), ("300M", 0.024)])
def test_the_papers_figure_3_bears_its_claims_out(size, saved):
    for panel in "ab":
        judged = judge_shares(f"fig3{panel}", *paper_curves(panel, size))
        assert [verdict(one) for _, _, one in judged] == ["seen (1 seed)"] * 2
    assert best_inside(paper_curves("b", size)[1]["L_ret"]) == pytest.approx([saved])
    assert verdict(judge_shares("fig3b", *paper_curves("a", "300M"))[1][2]) == "not seen (1 seed)"


def test_the_best_share_is_chosen_by_the_other_seeds():
    # the others' best inside are λ index 2, 2 and 3 (means of 3, 2 and 2, 4 against 3, 1 and so on)
    curves = np.array([[5, 4, 3, 2, 5], [5, 4, 1, 4, 6], [6, 4, 2, 3, 4.0]])
    # without the first: 4, 1.5, 3.5 → index 2 → 5 − 3; without the second: 4, 2.5, 2.5 → 2 → 5 − 1; third: 4, 2, 3 → 2
    assert best_inside(curves).tolist() == [2, 4, 2]
    flat = np.random.default_rng(0).normal(size=(2_000, 3, 5))
    assert np.mean([best_inside(one).mean() > 0 for one in flat]) < 0.35         # mere noise does not look like one
    lams = np.array([0.25, 0.5, 0.75, 1])
    assert len(judge_shares("fig3b", lams, {"L_im": curves[:, 1:], "L_ret": curves[:, 1:]})) == 1   # λ = 0 is missing


def test_flat_is_less_than_a_quarter_as_steep():
    lams = np.array([0, 0.5, 1])
    for im, word in ((0.2, "seen (1 seed)"), (0.3, "not seen (1 seed)")):
        by_loss = {"L_im": 1 + im * lams[None], "L_ret": 2 - lams[None]}
        assert verdict(judge_shares("fig3a", lams, by_loss)[1][2]) == word


def paper_points(pipeline, recipe, view):
    return [{"seed": "paper", view[0]: float(row["x_value"]), view[1]: float(row["y_value"])}
            for row in csv.DictReader(open(PAPER / "frontiers.csv"))
            if (row["figure"], row["pipeline"], row["recipe"], row["x"], row["y"]) == ("2", pipeline, recipe, *view)]


def test_the_papers_figure_2_bears_its_claim_out():
    view = "L_ft", "L_ret"
    mixed, unmixed = (paper_points("C4>MusicPile>ChemPile", recipe, view) for recipe in ("mixed", "unmixed"))
    gap, ratio, wins, word = compare(mixed, unmixed, view)
    assert wins == [True] and word == "seen (1 seed)" and gap.value > 0.05 and ratio.value > 0
    assert compare(unmixed, mixed, view)[3] == "not seen (1 seed)"


def recipe(*fronts):
    return [{"seed": seed, "L_ft": x, "L_ret": y} for seed, front in enumerate(fronts) for x, y in front]


@pytest.mark.parametrize("better, word", [
    ([(2.0, 1.05), (2.2, 1.0)], "not seen (2 seeds)"),        # no L_ft in common: one learns more, the other keeps more
    ([(0.5, 1.8), (0.9, 1.0)], "seen (2 seeds)"),              # none either, and better in both
])
def test_without_a_common_range_only_dominating_counts(better, word):
    worse = [(1.0, 2.0), (1.5, 1.9)]
    gap, _, wins, said = compare(recipe(better, better), recipe(worse, worse), ("L_ft", "L_ret"))
    assert np.isnan(gap.value) and said == word and wins == [word.startswith("seen")] * 2
    shared = [(1.0, 1.8), (1.5, 1.7)]                           # a seed with a range in common is won by its gap
    wins = compare(recipe(better, shared), recipe(worse, worse), ("L_ft", "L_ret"))[2]
    assert wins == [word.startswith("seen"), True]
    above = [(1.0, 2.1), (1.5, 2.0)]
    assert compare(recipe(better, above), recipe(worse, worse), ("L_ft", "L_ret"))[2][1] is False


def test_dominating_by_hand():
    front = points((1, 3), (2, 2))
    assert dominates(points((1, 2.5), (2, 1)), front) and dominates(points((0, 0)), front)
    assert not dominates(front, front) and not dominates(points((1.5, 0)), front)


def test_a_single_point_has_no_volume():
    alone = compare(recipe([(1, 1)]), recipe([(1, 2)]), ("L_ft", "L_ret"))
    assert alone[0].value == 1 and np.isnan(alone[1].value) and alone[3] == "seen (1 seed)"
