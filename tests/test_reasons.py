"""Reasons of what is not seen: the runs are those of the paper's figures, but for the suspected cause."""

from pathlib import Path

import pytest

from experiments import early_exposure, reasons
from experiments.sweep import plan
from tests.finished_runs import draw, frontier_of


def chains_of(paper, figure):
    """Name the chains of a figure, as (stage's settings, …)."""
    corpora = {role: role for role in paper.CORPORA["toy"]}
    runs = plan(paper.FIGURES[figure].plan, "toy", paper.SETTINGS["toy"], corpora, 1, Path("out"))
    return {tuple(one.settings for one in [*run.ancestors()[::-1], run])
            for run in runs if run.stage == "finetune"}


@pytest.mark.parametrize("figure, of, changed", [("repeated", "fig4", ("--post-tokens", "55k")),
                                                 ("longer", "fig3a", ("--max-tokens", "4M")),
                                                 ("foreign", "fig2", None)])
def test_a_chain_is_the_papers_or_has_one_setting_more(figure, of, changed):
    of_paper = chains_of(early_exposure, of)
    further = chains_of(reasons, figure) - of_paper
    without = {tuple(tuple(setting for setting in settings if setting != changed) for settings in chain)
               for chain in further}
    assert len(without) == len(further) and without <= of_paper
    assert all(sum(changed in settings for settings in chain) == 1 for chain in further)
    assert bool(further) == bool(changed)


def test_what_dropout_gains_of_a_quarter_is_set_against_the_whole_on_the_same_seeds(stage):
    """Of the whole it loses 0.1 and of the quarter it gains 0.2; a seed without the quarter is of neither."""
    for size, gain, seeds in ((220_000, -0.1, 4), (55_000, 0.2, 3)):
        for recipe, lower in (("mixed", 0), ("mixed + dropout", gain)):
            frontier_of(f"runs/{size}", recipe, lower, seeds=seeds, post_tokens=size)
    draw(stage, "repeated")
    row = next(line for line in Path("figures/repeated.md").read_text().splitlines() if "gains more" in line)
    assert "0.300 [0.300, 0.300]" in row and "seen (3 seeds)" in row
