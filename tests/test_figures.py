"""The figures of Section 5: what is told apart in them, and that they show what was computed."""

from dataclasses import replace

import pytest

from theory import figures
from theory.dynamics import Setting, three_stages, unmixed
from theory.figures import (EDGE_LINES, STATES, VARIANTS, both_frontiers, draw_alpha, draw_frontier,
                            draw_window, edge_errors, grid_over_stop, measured_map, runs_over_alpha)

STANDARD = Setting()
COARSE = 0.02


def test_the_frontier_figure_says_where_runs_are_not_apart():
    found = both_frontiers(STANDARD, COARSE)
    apart, together = [[text.get_text() for text in axis.texts] for axis in draw_frontier(found).axes]
    assert apart == ["", "apart by 2; kβ² = 2"] and together == ["not apart"]


def test_no_edge_has_the_colour_of_a_ground_or_looks_like_another():
    assert not {line["color"] for line in EDGE_LINES} & set(STATES.values())
    assert len({(line["color"], line["linestyle"]) for line in EDGE_LINES}) == len(EDGE_LINES)


def test_a_map_holds_what_single_runs_give(monkeypatch):
    monkeypatch.setattr(figures, "MAP", 6)
    grid = grid_over_stop(STANDARD)
    maps = measured_map(grid, COARSE)
    for i, j in ((1, 4), (5, 0), (3, 5)):
        s = replace(STANDARD, t_pre=float(grid.t_pre[i, 0]), alpha=float(grid.alpha[j]))
        mixed, alone = three_stages(s, COARSE), three_stages(unmixed(s), COARSE)
        assert maps.forgetting[i, j] == pytest.approx(alone.forgetting - mixed.forgetting)
        assert maps.L_ret[i, j] == pytest.approx(alone.L_ret - mixed.L_ret)


def test_errors_of_the_edges_shrink_with_the_step(monkeypatch):
    monkeypatch.setattr(figures, "MAP", 16)
    coarse, fine = edge_errors(STANDARD, 0.02), edge_errors(STANDARD, 0.01)
    assert coarse.measured == coarse.predicted == fine.predicted > 30
    assert fine.flow < coarse.flow < coarse.clock < 0.2


def test_the_window_figure_has_two_rows_over_alpha(monkeypatch):
    monkeypatch.setattr(figures, "MAP", 8)
    maps = [axis for axis in draw_window(STANDARD, COARSE).axes if axis.get_xlabel().startswith("α")]
    assert [axis.get_ylabel() for axis in maps] == ["stopping time of Stage 1"] * 3 + ["β"] * 3
    assert [axis.get_title().partition(": ")[0] for axis in maps] == ["β = 1"] * 3 + ["Stage 1 for 7"] * 3


def test_the_figure_over_alpha_shows_the_three_losses():
    runs = runs_over_alpha(STANDARD, COARSE)
    for axis, values in zip(draw_alpha(STANDARD, runs).axes, ("L_im", "L_ret", "forgetting")):
        lines = axis.lines[::2][:len(VARIANTS)]
        for line, run in zip(lines, runs.values()):
            assert line.get_ydata() == pytest.approx(getattr(run, values))
