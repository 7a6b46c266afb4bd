"""What a figure leaves: a picture, its table and its data, of the runs it is of; and what cannot be drawn."""

import csv
from pathlib import Path

import pytest

from experiments.drawing import markdown
from run.files import atomic
from tests.finished_runs import draw, drawn, frontier_of, sweep_of_shares, write_run


def test_a_figure_is_of_its_own_runs(stage, drawn):
    """Of a folder with everything in it: neither other shares than the highest, nor other recipes."""
    sweep_of_shares("runs/plain", stage3_lr=5e-4)
    sweep_of_shares("runs/matched", compute_matched=True)
    for recipe in ("unmixed", "mixed", "mixed + dropout", "mixed + replay", "unmixed + dropout"):
        frontier_of("runs/fronts", recipe, 0.1)
    frontier_of("runs/chat", "mixed", 0.1, ("web", "music", "chat"))         # with nothing to compare it to
    for figure, runs in (("fig2", 2 * 3 * 2 + 2 * 3), ("fig4", 2 * 3 * 4 + 2 * 3), ("fig3b", 15)):
        assert "runs are not of " + figure in draw(stage, figure)
        assert len(Path(f"figures/{figure}.csv").read_text().splitlines()) == 1 + runs
    draw(stage, "frontier")
    assert "compute-matched" not in Path("figures/frontier.md").read_text()
    drawn.clear()
    draw(stage, "frontier", "runs/fronts")
    styles = {more["label"]: (args[2], more["color"], more["markerfacecolor"])
              for _, args, more in drawn if "label" in more}
    assert len(set(styles.values())) == len(styles) == 5


def test_a_row_of_data_says_what_sets_a_run_apart_and_how_sure_its_losses_are(stage):
    write_run("runs/a", {"L_ret": 1.25}, lam=0.0, dropout=0.05)
    write_run("runs/b", lam=0.53, mix=0.05)                            # λ is the one that came of the mix
    draw(stage, "frontier", "runs/b", "runs/a")
    with open("figures/frontier.csv", newline="") as file:
        b, a = csv.DictReader(file)
    assert (a["run"], a["recipe"], a["dropout"], a["L_ret"], a["L_ret_se"]) == \
        ("runs/a/finetune", "unmixed + dropout", "0.05", "1.25", "0.02")
    assert (b["recipe"], b["lam"], b["pipeline"], b["seed"]) == ("mixed", "0.53", "web → music → chem", "1")


def test_the_table_is_under_the_picture_and_says_how_to_read_it(stage):
    sweep_of_shares("runs", 1)
    run = stage("experiments.__main__", settings="fig3a --runs runs")
    assert run.out.splitlines()[-1] == "saved fig3a.png, fig3a.csv and fig3a.md"
    title, _, picture, *_, note = Path("fig3a.md").read_text().splitlines()
    assert (title, picture) == ("# Figure 3a: L_im and L_ret against λ",
                                "![Figure 3a: L_im and L_ret against λ](fig3a.png)")
    assert note.startswith("Losses in nats per token.")
    assert markdown(["a", "|b|"], [["1", "2"]]) == "| a | \\|b\\| |\n| --- | --- |\n| 1 | 2 |\n"


@pytest.mark.parametrize("kind, start", [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_a_picture_is_of_the_kind_that_its_name_says(stage, kind, start):
    sweep_of_shares("runs", 1)
    assert stage("experiments.__main__", settings=f"fig3a --runs runs --picture a.{kind}").status == 0
    assert Path(f"a.{kind}").read_bytes().startswith(start)
    assert {path.name for path in Path().glob("a.*")} == {f"a.{kind}", "a.csv", "a.md"}


def test_a_run_named_twice_is_drawn_once(stage):
    write_run("runs/a")
    draw(stage, "frontier", "runs", "runs/a/finetune")
    assert len(Path("figures/frontier.csv").read_text().splitlines()) == 1 + 1


def test_two_may_write_a_file_at_once(folder):
    with atomic(Path("figure")) as first, atomic(Path("figure")) as second:
        second.write(b"second")
        first.write(b"first")
    assert [path.name for path in Path().glob(".figure*")] == [] and Path("figure").read_bytes() == b"first"


@pytest.mark.parametrize("settings, message", [
    ("fig2 --runs empty", "no finished finetune run in empty"),
    ("fig2 --runs runs nowhere", "no folder nowhere"),
    ("fig2 --runs runs --only draw", "not allowed with"),
    ("fig2 --picture any.png", "--picture goes with --runs"),
    ("all --runs runs", "--runs goes with one figure"),
    ("fig2 --runs broken", "broken/run.json is damaged"),
    ("fig2 --runs runs --picture fig2.foo", "not a .png, .pdf or .svg"),
    ("fig3b --runs shares", "none of these runs is of fig3b"),
    ("fig2 --runs seeds", "no seed has runs of both mixed and unmixed"),
    ("fig4 --runs runs", "no pipeline has mixed + dropout and mixed or mixed + replay and mixed"),
    ("fig3a --runs runs", "no seed has runs at all of two or more values of lam"),
    ("fig3a --runs twice", "differ in stage3_lr (0.0003, 0.001)"),
    ("frontier --runs runs other", "presets toy, 135m do not go into one figure"),
    ("frontier --runs runs --picture runs/one/finetune/run.json/f.png", "cannot write"),
])
def test_what_cannot_be_drawn_is_one_line(stage, settings, message):
    write_run("runs/one")
    write_run("twice/one")
    write_run("twice/two", stage3_lr=1e-3)
    write_run("other/one", preset="135m")
    sweep_of_shares("shares", 1)
    write_run("seeds/one", lam=0.0)
    write_run("seeds/two", seed=2)
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/run.json").write_text('{"stage": "fine')
    run = stage("experiments.__main__", settings=settings)
    assert run.status == 2 and message in run.err and run.err.count("\n") == 1
    assert not Path("figures").exists()
