"""Figures from run folders alone: pictures, tables, data, and what is said of them."""

import csv
import json
from pathlib import Path

import pytest
from matplotlib.axes import Axes

from figures import FIGURES, read_points, stem
from files import atomic

BASE = {"L_im": 1.0, "L_ret": 2.0, "L_ft": 1.5, "L_pre": 1.4}


def write_run(folder, losses={}, preset="toy", corpora=("web", "music", "chem"), lam=1.0, seed=1, stage3_lr=3e-4,
              post_tokens=150_000, mix=None, **post):
    """The run.json that finetune.py would leave, as far as figures read it."""
    pre, music, ft = corpora
    post = {"seed": seed, "lr": 5e-4, "batch": 32, "dropout": 0.0, "replay": 0.0, "lora": False,
            "compute_matched": False} | post
    measured = {name: {"mean": mean, "se": 0.02} for name, mean in (BASE | losses).items()}
    lineage = [{"args": {"preset": preset, "pre": pre, "post": music, "lam": None if mix else lam, "mix": mix,
                         "seed": seed, "post_tokens": post_tokens}, "lam": lam, "losses": {}},
               {"args": post, "losses": {}},
               {"args": {"ft": ft, "seed": seed, "lr": stage3_lr}, "losses": measured}]
    folder = Path(folder, "finetune")
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"stage": "finetune", "args": {}, "lineage": lineage}))


def sweep_of_shares(root, seeds=3, **settings):
    for seed in range(1, seeds + 1):
        for k, lam in enumerate((0, 0.25, 0.5, 0.75, 1)):
            losses = {"L_im": 1 + 0.001 * seed - 0.01 * lam, "L_ret": 2 - 0.4 * lam + 0.01 * ((seed * k) % 3)}
            write_run(Path(root, f"lam{lam}-seed{seed}"), losses, lam=lam, seed=seed, **settings)


def frontier_of(root, recipe, saved, pipeline=("web", "music", "chem"), seeds=2, preset="toy"):
    settings = {"lam": 0.0 if recipe.startswith("unmixed") else 1.0, "lora": "LoRA" in recipe,
                "dropout": 0.05 * ("dropout" in recipe), "replay": 0.05 * ("replay" in recipe)}
    for seed in range(1, seeds + 1):
        for k, lr in enumerate((1e-4, 3e-4, 1e-3)):
            losses = {"L_ft": 2 - 0.2 * k, "L_ret": 1.5 + 0.3 * k - saved + 0.01 * seed, "L_pre": 1.5 - 0.1 * k}
            write_run(Path(root, f"{recipe}-{pipeline[2]}-{seed}-{lr}".replace(" ", "")), losses, stage3_lr=lr,
                      seed=seed, preset=preset, corpora=pipeline, **settings)


def draw(stage, figure, root="runs"):
    run = stage("evaluate", settings=f"--figure {figure} {root} --out figures/{figure}.png")
    assert (run.status, run.err) == (0, "")
    assert Path(f"figures/{figure}.png").read_bytes().startswith(b"\x89PNG")
    return run.out


def test_losses_against_lambda(stage):
    sweep_of_shares("runs")
    out = draw(stage, "fig3a")
    falls, flat = out.splitlines()[1:3]
    assert falls.endswith("  0.125  seen (3 seeds)") and flat.endswith("  seen (3 seeds)")
    assert "150k" in falls and "web → music → chem" in falls
    with open("figures/fig3a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15 and {float(row["lam"]) for row in rows} == {0, 0.25, 0.5, 0.75, 1}
    assert float(rows[0]["L_ret"]) == read_points([Path("runs")])[0]["L_ret"]
    text = Path("figures/fig3a.md").read_text()
    assert "| L_ret falls in λ | web → music → chem, \\|D_post\\| 150k |" in text
    # L_ret at λ = 1 is 1.60 + 0.01 × (4, 8, 12 mod 3) = 1.61, 1.62, 1.60; at λ = 0 it is 2
    assert "| 1 | 0.992 ± 0.001 | 1.610 ± 0.010 | 1.500 ± 0.000 | 1.400 ± 0.000 | 0.390 [0.380, 0.400] | 0.125" in text


@pytest.fixture
def drawn(monkeypatch):
    """Every call of Axes.plot: the panel's labels, x, y, format and label."""
    calls, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, *args, **more: (calls.append((self, args, more)),
                                                                   plot(self, *args, **more))[1])
    return calls


def test_points_and_stars_are_where_they_belong(stage, drawn):
    sweep_of_shares("shares", 1, compute_matched=True)
    draw(stage, "fig3b", "shares")
    stars = [(axis.get_ylabel()[:5].strip(), *map(float, args[:2])) for axis, args, _ in drawn if args[2] == "*"]
    assert stars == [("L_im", 1, pytest.approx(0.991)), ("L_ret", 1, pytest.approx(1.61))]
    drawn.clear()
    for recipe in ("unmixed", "mixed", "mixed + dropout", "mixed + replay"):
        frontier_of("fronts", recipe, 0.1, seeds=1)
    colours = {"unmixed": "black", "mixed": "#7b2fa8", "mixed + dropout": "#159a90", "mixed + replay": "#e87b14"}
    for figure, view in (("fig4", ["L_ret", "L_ft"]), ("fig5", ["L_ret", "L_pre"])):
        draw(stage, figure, "fronts")
        lines = [(axis, args, more) for axis, args, more in drawn if "label" in more]
        assert {more["label"]: more["color"] for _, _, more in lines} == colours
        for axis, (x, *_), more in drawn:
            if "label" in more:                                                      # the legend's, empty
                continue
            assert [axis.get_xlabel().split()[0], axis.get_ylabel().split()[0]] == view
            assert sorted(x) == pytest.approx([1.41, 1.71, 2.01])                    # L_ret of three Stage-3 rates
        drawn.clear()


def test_a_seed_without_all_lambdas_is_left_out(stage):
    sweep_of_shares("runs", compute_matched=True)
    Path("runs/lam0.5-seed2/finetune/run.json").unlink()
    draw(stage, "fig3b")
    assert "1.610 ± 0.014" not in Path("figures/fig3b.md").read_text()
    assert "| 1 | 0.992 ± 0.001 | 1.605 ± 0.007 |" in Path("figures/fig3b.md").read_text()


def test_the_papers_numbers_go_into_figures_of_its_preset(stage, monkeypatch):
    drawn, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, *args, **more: (
        drawn.append((more["label"], len(args[0]))) if more.get("label", "").startswith("paper") else None,
        plot(self, *args, **more))[1])
    sweep_of_shares("135m", 1, preset="135m", post_tokens=30_000_000)
    sweep_of_shares("toy", 1, post_tokens=30_000_000)
    draw(stage, "fig3a", "toy")
    assert not drawn
    draw(stage, "fig3a", "135m")
    assert drawn == [("paper, 30M", 5)] * 2
    drawn.clear()
    for recipe in ("unmixed", "mixed", "mixed + dropout", "mixed + replay"):
        frontier_of("fronts", recipe, 0.1, ("c4", "musicpile", "chempile"), 1, "135m")
    draw(stage, "fig2", "fronts")                # the first stretch of unmixed, 12 of 18 points, is left out
    assert drawn == [("paper, unmixed", 12), ("paper, mixed", 11), ("paper, unmixed", 6), ("paper, mixed", 6)]
    drawn.clear()
    draw(stage, "fig4", "fronts")
    assert [label for label, _ in drawn] == ["paper, unmixed", "paper, mixed", "paper, mixed + dropout",
                                             "paper, unmixed", "paper, mixed", "paper, mixed + replay"]


@pytest.mark.parametrize("figure, recipes, claims", [
    ("fig2", {"unmixed": 0, "mixed": 0.2}, {"the mixed frontier dominates": "seen"}),
    ("fig4", {"unmixed": 0, "mixed": 0.2, "mixed + dropout": 0.3, "mixed + replay": 0.1},
     {"dropout improves on mixing": "seen", "replay improves on mixing": "not seen"}),
    ("fig6", {"unmixed": 0, "mixed": 0.2, "unmixed + dropout": 0.1, "unmixed + replay": 0.25},
     {"dropout helps without mixing": "seen", "mixing helps more than dropout": "seen",
      "replay helps without mixing": "seen", "mixing helps more than replay": "not seen"}),
    ("fig6", {"unmixed": 0, "mixed": 0.1, "unmixed + dropout": 0.2, "unmixed + replay": 0.05},
     {"mixing helps more than dropout": "not seen", "mixing helps more than replay": "seen"}),
    ("fig7", {"unmixed": 0, "mixed": 0.2, "unmixed + LoRA": -0.2, "mixed + LoRA": 0.3},
     {"mixing helps LoRA": "seen", "full beats LoRA, mixed": "not seen", "full beats LoRA, unmixed": "seen"}),
])
def test_each_claim_about_frontiers_can_be_seen_or_not(stage, figure, recipes, claims):
    for recipe, saved in recipes.items():
        frontier_of("runs", recipe, saved)
    lines = draw(stage, figure).splitlines()
    for claim, word in claims.items():
        said = [line for line in lines if line.startswith(claim)]
        assert len(said) == len(FIGURES[figure].views) and all(line.endswith(f"  {word} (2 seeds)") for line in said)
        assert all((f", {x})" in line) == (f"({y}, {x})" in line) for line in said for y, x in FIGURES[figure].views)


def test_gap_and_hypervolume_ratio_by_hand(stage):
    frontier_of("runs", "unmixed", 0.0, seeds=1)
    frontier_of("runs", "mixed", 0.2, seeds=1)
    first = draw(stage, "fig2").splitlines()[1]
    # up to (2.04, 2.19), unmixed is 0.08, 0.38 and 0.68 high over widths of 0.2, 0.2 and 0.04; mixed is 0.2 higher
    assert "(L_ft, L_ret)" in first and f"gap in L_ret 0.200, hypervolume ratio {0.2072 / 0.1192:.2f}" in first


def test_the_reference_is_beyond_every_run_compared(stage):
    for name, lam, L_ft, L_ret in (("a", 0.0, 1.0, 1.5), ("b", 0.0, 1.9, 1.6), ("c", 1.0, 0.9, 1.4)):
        write_run(name, {"L_ft": L_ft, "L_ret": L_ret, "L_pre": 1 + lam}, lam=lam, stage3_lr=L_ft)
    first = draw(stage, "fig2", "a b c").splitlines()[1]
    # the worst are 1.9 and 1.6, the ranges 1 and 0.2: up to (2, 1.62), 1.1 · 0.22 against 1 · 0.12
    assert f"gap in L_ret –, better in 1 of 1, hypervolume ratio {1.1 * 0.22 / 0.12:.2f}" in first
    assert first.endswith("  seen (1 seed)")


def test_a_figure_is_of_its_own_runs(stage, drawn):
    """Of a folder with everything in it: neither other shares than the highest, nor other recipes."""
    sweep_of_shares("runs/plain", stage3_lr=5e-4)
    sweep_of_shares("runs/matched", compute_matched=True)
    for recipe in ("unmixed", "mixed", "mixed + dropout", "mixed + replay", "unmixed + dropout"):
        frontier_of("runs/fronts", recipe, 0.1)
    frontier_of("runs/chat", "mixed", 0.1, ("web", "music", "chat"))                 # with nothing to compare it to
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


def test_whatever_runs_there_are(stage):
    frontier_of("runs", "unmixed + LoRA", 0.0)
    frontier_of("runs", "mixed + LoRA", 0.1)
    frontier_of("runs", "mixed + dropout + replay", 0.2)
    run = stage("evaluate", settings="--frontier runs --out figures/any.png")
    assert run.status == 0 and run.out.count("mixing helps LoRA") == 2
    assert all(Path(f"figures/any.{kind}").exists() for kind in ("png", "csv"))


def test_two_may_write_a_file_at_once(folder):
    with atomic(Path("figure")) as first, atomic(Path("figure")) as second:
        second.write(b"second")
        first.write(b"first")
    assert [path.name for path in Path().glob(".figure*")] == [] and Path("figure").read_bytes() == b"first"


def test_lambda_of_a_mix_is_the_one_that_came_of_it(folder):
    write_run("run", mix=0.05, lam=0.53)
    assert [(point["lam"], point["recipe"]) for point in read_points([Path("run")])] == [(0.53, "mixed")]


def test_a_corpus_is_called_by_its_file_or_name():
    assert [stem(name) for name in ("web", "a/tunes.jsonl.gz", "my.folder/", "hub:org/name")] == \
        ["web", "tunes", "my", "name"]
    assert stem(".") == Path.cwd().name.strip(".").split(".")[0] != ""


@pytest.mark.parametrize("settings, message", [
    ("--figure fig2 empty", "no finished fine-tuning run in empty"),
    ("--figure fig2 runs nowhere", "no folder nowhere"),
    ("--figure fig2 --frontier runs", "not allowed with"), ("runs/one --out any.png", "--out goes with --figure"),
    ("--figure fig2 broken", "broken/run.json is damaged"),
    ("--figure fig2 runs --out fig2.foo", "not a .png, .pdf or .svg"),
    ("--figure fig3b shares", "none of these runs is of fig3b"),
    ("--figure fig2 seeds", "no seed has runs of both mixed and unmixed"),
    ("--figure fig4 runs", "no pipeline has mixed + dropout and mixed or mixed + replay and mixed"),
    ("--frontier runs --json", "do not go with --json"),
    ("--figure fig3a runs", "no seed has runs at all of two or more values of λ"),
    ("--figure fig3a twice", "differ in stage3_lr (0.0003, 0.001)"),
    ("--frontier runs other", "presets toy, 135m do not go into one figure"),
    ("--frontier runs --out runs/one/finetune/run.json/f.png", "cannot write"),
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
    run = stage("evaluate", settings=settings)
    assert run.status == 2 and message in run.err and run.err.count("\n") == 1
