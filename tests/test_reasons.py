"""Reasons of what is not seen: the runs are those of the paper's figures, but for the suspected cause."""

from pathlib import Path

import pytest

from experiments import early_exposure, reasons
from experiments.sweep import plan
from tests.finished_runs import draw, frontier_of


def runs_of(paper, figure, seeds=1):
    return plan(paper.FIGURES[figure].plan, "toy", paper.SETTINGS["toy"], paper.CORPORA["toy"], seeds, Path("runs"))


def chains_of(paper, figure):
    """Name the chains of a figure, as (stage's settings, …)."""
    runs = runs_of(paper, figure)
    return {tuple(one.settings for one in [*run.ancestors()[::-1], run])
            for run in runs if run.stage == "finetune"}


@pytest.mark.parametrize("figure, of, changed", [
    ("repeated", ["fig4", "fig6"], {("--post-tokens", "55k")}),
    ("longer", ["fig3a"], {("--max-tokens", "4M"), ("--patience", "80")}),               # so that it is as long
    ("thin", ["fig7"], {("--lora-rank", "11")}),
    ("foreign", ["fig2"], set())])
def test_a_chain_is_the_papers_or_has_what_is_changed(figure, of, changed):
    of_paper = set().union(*(chains_of(early_exposure, one) for one in of))
    further = chains_of(reasons, figure) - of_paper
    without = {tuple(tuple(setting for setting in settings if setting not in changed) for settings in chain)
               for chain in further}
    assert len(without) == len(further) and without <= of_paper
    assert all(sum(changed <= set(settings) for settings in chain) == 1 for chain in further if changed)
    assert bool(further) == bool(changed)


def test_higher_rates_has_the_papers_rates_of_stage_2_and_one_more():
    of_paper = chains_of(early_exposure, "fig6") | chains_of(early_exposure, "fig7")
    further = chains_of(reasons, "higher-rates") - of_paper
    rates = [dict(stage_2)["--lr"] for _, stage_2, _ in further]
    assert sorted(rates) == ["4e-3"] * 9 + ["9e-3"] * 6                  # five Stages 2, three rates of Stage 3
    assert len(chains_of(reasons, "higher-rates")) == 3 * 15


def test_thin_adapters_are_a_recipe_of_their_own(stage):
    """At any other loss thin LoRA keeps 0.1 nats less than LoRA of rank 64, and full 0.2 more than that."""
    for recipe, rank, lower in (("mixed", 64, 0.2), ("mixed + LoRA", 64, 0.0), ("mixed + LoRA", 11, -0.1)):
        frontier_of(f"runs/{recipe}-{rank}", recipe, lower, seeds=2, lora_rank=rank)
    draw(stage, "thin")
    text = Path("figures/thin.md").read_text()
    gaps = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if "(L_ret, L_ft)" in line}
    assert "0.100 [0.100, 0.100]" in gaps["thin LoRA is worse, mixed"]
    assert "0.300 [0.300, 0.300]" in gaps["full beats thin LoRA, mixed"]


def test_what_dropout_gains_of_a_quarter_is_set_against_the_whole_on_the_same_seeds(stage):
    """Of the whole it loses 0.1 and of the quarter it gains 0.2; a seed without the quarter is of neither."""
    for size, gain, seeds in ((220_000, -0.1, 4), (55_000, 0.2, 3)):
        for recipe, lower in (("mixed", 0), ("mixed + dropout", gain), ("unmixed", 0), ("unmixed + dropout", gain / 2)):
            frontier_of(f"runs/{size}", recipe, lower, seeds=seeds, post_tokens=size)
    frontier_of("runs/more", "mixed", 0.5, ("web", "music", "chat"), seeds=4, post_tokens=220_000)
    frontier_of("runs/more", "mixed + dropout", 0.9, ("web", "music", "chat"), seeds=4, post_tokens=220_000)
    draw(stage, "repeated")                              # what is of another D_ft is not mixed in
    mixed, unmixed = (line for line in Path("figures/repeated.md").read_text().splitlines() if "more often" in line)
    assert "improves on mixing" in mixed and "0.300 [0.300, 0.300]" in mixed and "seen (3 seeds)" in mixed
    assert "without mixing" in unmixed and "0.150 [0.150, 0.150]" in unmixed
