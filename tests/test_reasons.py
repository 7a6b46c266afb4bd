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
def test_a_chain_is_the_papers_with_one_setting_more(figure, of, changed):
    chains = chains_of(reasons, figure)
    without = {tuple(tuple(setting for setting in settings if setting != changed) for settings in chain)
               for chain in chains}
    assert len(without) == len(chains) and without <= chains_of(early_exposure, of)
    if changed:
        assert all(sum(changed in settings for settings in chain) == 1 for chain in chains)


def test_a_figure_is_drawn_by_the_command(stage):
    for recipe, lower in (("mixed", 0), ("mixed + dropout", 0.2)):
        frontier_of("runs", recipe, lower, ("web", "music", "chem"), seeds=3)
    assert "dropout improves on mixing" in draw(stage, "repeated")
