"""`python -m experiments`: what is listed, checked, drawn without training, and of which paper."""

import csv
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import __main__ as command
from experiments import cost, early_exposure
from experiments.curves import Curves
from experiments.drawing import Figure
from experiments.points import seed_of
from experiments.statistics import estimate, slope
from experiments.sweep import Sweep, plan
from tests.finished_runs import finish


@pytest.fixture
def experiments(stage, monkeypatch):
    """`experiments("fig3a --list")`: status, out, err of the command, which neither measures nor trains."""
    monkeypatch.setattr(cost, "tokens_per_second", lambda model, threads, compiled: 10_000)
    monkeypatch.setattr(Sweep, "_start", lambda sweep: pytest.fail("a run was started"))
    return lambda words: stage("experiments.__main__", settings=words)


def runs_of(figure, paper=early_exposure, seeds=1, root="out/toy", **corpora):
    corpora = paper.CORPORA["toy"] | corpora
    return plan(paper.FIGURES[figure].lines("toy"), "toy", paper.SETTINGS["toy"], corpora, seeds, Path(root))


def finish_chains(figure, paper=early_exposure, seeds=1):
    """Leave all runs of a figure, whose L_ret falls with λ and whose L_pre with replay."""
    for run in runs_of(figure, paper, seeds):
        first = [run, *run.ancestors()][-1]
        lam = float(dict(first.settings).get("--lam", 0))
        replay = float(dict(run.settings).get("--replay", 0))
        finish(run, {"L_ret": 2 - 0.4 * lam + 0.01 * run.seed, "L_pre": 1.4 - replay + 0.01 * run.seed})


# ---- what is to be run

def test_list_prints_levels_that_can_run_at_once(experiments):
    run = experiments("fig3a --seeds 2 --list")
    lines = run.out.splitlines()
    assert (run.status, run.err) == (0, "")
    assert [line for line in lines if line[0] == "#"] == ["# pretrain", "# posttrain", "# finetune"]
    assert len(lines) == 3 + 30
    level = experiments("fig3a --seeds 2 --list posttrain").out.splitlines()
    assert level == [line for line in lines if "posttrain.py" in line]
    assert not Path("out").exists()


def test_what_is_said_of_compiling_is_passed_on(stage, monkeypatch):
    told = []
    monkeypatch.setattr(cost, "tokens_per_second", lambda model, threads, compiled: told.append(compiled) or 1)
    monkeypatch.setattr(Sweep, "execute", lambda sweep: told.append(sweep.compiled) or {})
    shutil.copy("ft.jsonl", "other.jsonl")
    for flag in ("--no-compile", "--compile", ""):
        stage("experiments.__main__", f"fig3a --corpora pre.jsonl post.jsonl ft.jsonl other.jsonl {flag}")
    assert told == [False, False, True, True, None, None]


def test_a_list_says_who_compiles(experiments, monkeypatch):
    """Of what is short nobody would wait for that. On CUDA, which is played, a stage compiles by itself."""
    none = experiments("fig3a --no-compile --list").out
    assert none.count(" --no-compile\n") == 15
    long = [line for line in experiments("fig3a --compile --list").out.splitlines() if "--compile" in line]
    assert len(long) == 10 and not [line for line in long if "finetune" in line]
    monkeypatch.setattr("experiments.sweep.preferred", lambda: "cuda")
    short = [line for line in experiments("fig3a --list").out.splitlines() if "compile" in line]
    assert len(short) == 5 and all("finetune.py" in line and " --no-compile" in line for line in short)
    assert "compile" not in experiments("overtrained-noise --no-compile --list noise").out


def test_a_paper_is_every_figure_that_it_plans_and_no_run_twice(experiments):
    lines = experiments("early_exposure --list finetune").out.splitlines()
    outs = {str(run.out) for name in early_exposure.PLANS for run in runs_of(name) if run.stage == "finetune"}
    assert len(lines) == len(outs) and {line.split(" --out ")[1].split()[0] for line in lines} == outs


@pytest.mark.parametrize("paper", ["replay", "overtraining"])
def test_a_quick_grid_is_a_part_of_the_whole(experiments, paper):
    """So that what it ran is not run again."""
    whole, quick = (set(experiments(f"{paper} --list {more}").out.splitlines()) for more in ("all", "all --quick"))
    assert quick < whole
    run = experiments("fig3a --quick")
    assert (run.status, run.err) == (2, "error: fig3a has no plan for toy quick, only for toy, 30m, 135m, 1b\n")


@pytest.mark.parametrize("settings, message", [
    ("fig9", "invalid choice: 'fig9'"), ("fig2 --corpora web musik chem chat --list", "no corpus 'musik'"),
    ("replay --preset 1b", "replay has no plan for 1b"),
    ("fig2 --jobs 0", "at least 1"), ("fig3a --out a/tunes.txt", "cannot write"),
    ("frontier", "frontier is of runs that are there, name them with --runs"),
    ("frontier --list", "name them with --runs"), ("frontier --only draw", "name them with --runs"),
    ("fig2 --list --cost", "not allowed with"), ("fig2 --list --only draw", "not allowed with"),
    ("fig2 --corpora a b", "--corpora takes 4 for this figure: PRE POST FT OTHER"),
    ("fig2 --corpora web music chem web", "give different ones"),
    ("fig2 --corpora b/tunes.txt music chem web", "b/tunes.txt is empty"),
    ("fig2 --corpora web music a/tunes.txt b/tunes.txt --list",
     "share out/toy-web/music-lam0-seed1/lr1e-3/tunes"),
])
def test_bad_input_is_one_line(experiments, settings, message):
    for name in "ab":
        Path(name).mkdir()
        Path(name, "tunes.txt").touch()
    run = experiments(settings)
    assert run.status == 2 and message in run.err and run.err.count("\n") == 1


def test_what_is_finished_must_be_of_these_corpora(experiments):
    for name in "ab":
        Path(name).mkdir()
        Path(name, "pre.jsonl").touch()
    finish(runs_of("fig3a", root="out/toy-pre", pre="a/pre.jsonl")[0])
    same = experiments("fig3a --corpora a/pre.jsonl music chem chat --cost")
    assert "15 runs, 1 of them finished" in same.out
    run = experiments("fig3a --corpora b/pre.jsonl music chem chat --cost")
    assert run.status == 2 and run.err.count("\n") == 1
    assert "music-lam0-seed1/pretrain is finished with --pre a/pre.jsonl, not b/pre.jsonl" in run.err


# ---- drawing what is there

def files_below(folder):
    return {path for path in Path(folder).rglob("*") if path.is_file()}


def test_only_draw_draws_what_is_finished_and_trains_nothing(experiments):
    finish_chains("fig3a")
    before = files_below("out")
    run = experiments("fig3a --only draw")
    assert (run.status, run.err) == (0, "") and "tokens/s" not in run.out
    assert "\nfig3a: 5 of 5 runs\n" in run.out and "L_ret falls in λ" in run.out
    assert files_below("out") - before == {Path("out/toy/figures/fig3a").with_suffix(kind)
                                           for kind in (".png", ".csv", ".md")}
    nothing = experiments("fig3a --only draw --out elsewhere")
    assert (nothing.status, nothing.out) == (2, "\nfig3a: 0 of 5 runs\n") and not Path("elsewhere").exists()


def test_only_draw_needs_no_corpora(experiments):
    for run in runs_of("fig3a", root="out/toy-gone", pre="gone.jsonl"):
        finish(run, {"L_ret": 2.0})
    words = "fig3a --corpora gone.jsonl music chem chat"
    assert experiments(f"{words} --only draw").status == 0
    assert "no corpus 'gone.jsonl'" in experiments(words).err


def test_only_draw_draws_the_seeds_that_are_there(experiments):
    finish_chains("fig3a", seeds=2)
    assert "\nfig3a: 10 of 10 runs\n" in experiments("fig3a --only draw").out
    assert "seen (2 seeds)" in Path("out/toy/figures/fig3a.md").read_text()


def test_one_figure_that_cannot_be_drawn_does_not_stop_the_others(experiments):
    """Figure 3a's runs at λ = 0 and 1 are of Figure 2 too, and of Figure 4, without what it compares."""
    finish_chains("fig3a")
    run = experiments("early_exposure --only draw")
    assert run.status == 2
    assert [line for line in run.out.splitlines() if line.endswith(" runs")] == [
        "fig2: 2 of 48 runs", "fig3a: 5 of 5 runs", "fig3b: 0 of 5 runs", "fig4: 2 of 48 runs",
        "fig5: 2 of 48 runs", "fig6: 2 of 48 runs", "fig7: 2 of 48 runs", "forgetting: 0 of 2 runs"]
    assert {path.name for path in Path("out/toy/figures").glob("*.png")} == {"fig2.png", "fig3a.png"}
    said = [line.partition(", ")[0] for line in run.err.splitlines()]
    assert said == [f"error: none of these runs is of {name}" for name in ("fig4", "fig5", "fig6", "fig7")]


def test_finished_runs_are_drawn_without_being_run_again(experiments):
    finish_chains("fig3a")
    before = files_below("out")
    run = experiments("fig3a")
    assert run.status == 0
    assert run.out.startswith("fig3a: 15 runs, 15 of them finished\n\nfig3a: 5 of 5 runs\n")
    assert {path.parent for path in files_below("out") - before} == {Path("out/toy/figures")}


# ---- another paper

def describe(lineage):
    pre, post = (entry["args"] for entry in lineage)
    return {"pipeline": f"{pre['pre']} then {pre['post']}", "seed": seed_of(lineage),
            "replay": post["replay"], "rate": post["lr"]}


def named(rate):
    return f"rate {rate:g}"


def judge(dial, by_loss):
    return [("replay keeps L_pre", "−slope of L_pre", estimate(-slope(dial, by_loss["L_pre"])))]


@pytest.fixture
def paper(monkeypatch):
    """A second paper: chains of two stages, and replay on the axis in place of λ."""
    kind = Curves(dial="replay", symbol="ρ", series="rate", name_series=named, panels=("L_im", "L_pre"),
                  losses=("L_im", "L_pre"), falls="L_pre", belongs=lambda point: point["rate"] < 1,
                  judge=judge, colour="teal")
    chains = ["pretrain --pre $first --post $second | posttrain --replay {0,0.1,0.5} $rates"]
    paper = SimpleNamespace(
        __name__="experiments.second",
        CORPORA={"toy": {"first": "web", "second": "chat"}}, SETTINGS={"toy": {"rates": "--lr {1e-4,1e-3}"}},
        FIGURES={"keep1": Figure("Replay keeps what was learned first", chains, kind,
                                  [("pretrain", "posttrain")], describe)})
    monkeypatch.setattr(command, "PAPERS", [early_exposure, paper])
    return paper


def test_a_second_paper_is_planned_by_the_same_machinery(experiments, paper):
    lines = experiments("keep1 --seeds 2 --list").out.splitlines()
    assert [line for line in lines if line[0] == "#"] == ["# pretrain", "# posttrain"]
    assert len(lines) == 2 + 2 * 7
    assert lines[1].endswith("pretrain.py --preset toy --pre web --post chat --seed 1 "
                             "--out out/toy/chat-seed1/pretrain --resume")
    assert lines[-1].endswith("--replay 0.5 --lr 1e-3 --seed 2 --init out/toy/chat-seed2/pretrain "
                              "--out out/toy/chat-seed2/replay0.5-lr1e-3/posttrain --resume")
    # 4M of Stage 1, and two rates of 1M · (1 + 1/0.9 + 1/0.5)
    assert "keep1: 7 runs, 0 of them finished; 12.2M tokens to go" in experiments("keep1 --cost").out


def test_a_second_paper_is_drawn_by_the_same_machinery(experiments, paper):
    finish_chains("keep1", paper, seeds=3)
    run = experiments("keep1 --only draw")
    assert (run.status, run.err) == (0, "") and "\nkeep1: 18 of 18 runs\n" in run.out
    where = "web then chat, rate 0.0001"
    assert run.out.count(f"replay keeps L_pre  {where}  −slope of L_pre: 1.000 [1.000, 1.000]  0.125") == 1
    assert run.out.count("seen (3 seeds)") == 2
    text = Path("out/toy/figures/keep1.md").read_text()
    assert text.startswith("# Replay keeps what was learned first\n")
    assert "| where | ρ | L_im | L_pre | L_pre below that at the first ρ | p |" in text
    # L_pre is 1.4 less the replay, and a hundredth of the seed
    assert "rate 0.001 | 0.5 | 1.000 ± 0.000 | 0.920 ± 0.010 | 0.500 [0.500, 0.500] | 0.125 |" in text
    with open("out/toy/figures/keep1.csv", newline="") as file:
        row = next(csv.DictReader(file))
    assert list(row) == ["run", "preset", "pipeline", "seed", "replay", "rate", "L_im", "L_im_se",
                         "L_pre", "L_pre_se"]
    assert Path("out/toy/figures/keep1.png").exists()


def test_runs_of_a_second_paper_may_be_named(experiments, paper):
    finish_chains("keep1", paper)
    run = experiments("keep1 --runs out/toy/chat-seed1 --picture keep.png")
    assert run.status == 0 and run.out.count("seen (1 seed)") == 2 and Path("keep.png").exists()


def test_all_is_of_all_papers(experiments, paper):
    lines = experiments("all --list posttrain").out.splitlines()
    for figure, of in (("keep1", paper), ("fig7", early_exposure)):
        for run in runs_of(figure, of):
            if run.stage == "posttrain":
                assert sum(f" --out {run.out} " in line for line in lines) == 1
