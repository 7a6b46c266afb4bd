"""A plan's runs and their folders, and that each is made once whatever happens."""

import errno
import os
import re
import shlex
import signal
import time
from pathlib import Path

import pytest

from experiments import early_exposure
from experiments.early_exposure import CORPORA, PLANS, SETTINGS
from experiments.points import stem
from experiments.sweep import (HOUSE, Sweep, command, environment, expand, folder_name, last_lines, plan,
                               require_same, threads, with_further_seeds)
from run.files import UserError
from tests.finished_runs import finish
from tests.processes import Forked
from tests.test_folder import broken, spoiled

TOY = CORPORA["toy"]


def of_stage(runs, stage):
    return [run for run in runs if run.stage == stage]


def runs_of(line, seeds=1, corpora=TOY, settings={}):
    return plan([line], "toy", settings, corpora, seeds, Path("out"))


# ---- planning

def test_alternatives_multiply():
    lora = ("--lora", None)
    assert list(expand("--lam {0,1} --lora --lr {1e-4,1e-3}".split())) == [
        (("--lam", "0"), lora, ("--lr", "1e-4")), (("--lam", "0"), lora, ("--lr", "1e-3")),
        (("--lam", "1"), lora, ("--lr", "1e-4")), (("--lam", "1"), lora, ("--lr", "1e-3"))]
    assert list(expand([])) == [()]


def test_folders_are_called_by_what_sets_runs_apart():
    assert folder_name((("--pre", "web"), ("--post", "my/tunes.txt"), ("--lam", "0.5"))) == "tunes-lam0.5"
    assert folder_name((("--lora", None), ("--lr", "1e-3"))) == "lora-lr1e-3"
    assert folder_name((("--compute-matched", None), ("--batch", "8"))) == "compute-matched-batch8"


def test_a_corpus_is_called_by_its_file_or_name():
    assert [stem(name) for name in ("web", "a/tunes.jsonl.gz", "my.folder/", "hub:org/name")] == \
        ["web", "tunes", "my", "name"]
    stem.cache_clear()                                  # another test may have been in another folder
    assert stem(".") == Path.cwd().name.strip(".").split(".")[0] != ""


def test_the_paths_spell_the_tree():
    corpora = dict(zip(TOY, ("a/prose.jsonl", "tunes.txt", "chem", "chat")))
    runs = plan(PLANS["fig4"], "toy", SETTINGS["toy"], corpora, 1, Path("out/x"))
    dropout = next(run for run in of_stage(runs, "finetune") if "dropout" in str(run.out))
    assert str(dropout.out) == "out/x/tunes-lam1-seed1/dropout0.05-lr1e-3/chem-lr1e-4/finetune"
    assert shlex.join(command(dropout.parent, 8)) == (
        "python -m torch.distributed.run --standalone --nproc_per_node=8 "
        f"{os.path.relpath(HOUSE / 'posttrain.py')} --dropout 0.05 --lr 1e-3 --seed 1 "
        "--init out/x/tunes-lam1-seed1/pretrain --out out/x/tunes-lam1-seed1/dropout0.05-lr1e-3/posttrain "
        "--resume")
    assert shlex.join(command(dropout.parent.parent, 1)).endswith(
        "pretrain.py --preset toy --pre a/prose.jsonl --post tunes.txt --lam 1 --seed 1 "
        "--out out/x/tunes-lam1-seed1/pretrain --resume")


def test_a_chain_may_end_after_two_stages():
    runs = runs_of("pretrain --pre $pre --post $post --lam {0,1} | posttrain $gentle --lora", seeds=2,
                   settings={"gentle": "--lr 1e-4"})
    assert [str(run.out) for run in runs] == [
        "out/music-lam0-seed1/pretrain", "out/music-lam1-seed1/pretrain",
        "out/music-lam0-seed1/lr1e-4-lora/posttrain", "out/music-lam1-seed1/lr1e-4-lora/posttrain",
        "out/music-lam0-seed2/pretrain", "out/music-lam1-seed2/pretrain",
        "out/music-lam0-seed2/lr1e-4-lora/posttrain", "out/music-lam1-seed2/lr1e-4-lora/posttrain"]
    assert [run.parent for run in runs] == [None, None, *runs[:2], None, None, *runs[4:6]]
    words = command(runs[-1], 1)[2:]
    assert shlex.join(words) == ("--lr 1e-4 --lora --seed 2 --init out/music-lam1-seed2/pretrain "
                                 "--out out/music-lam1-seed2/lr1e-4-lora/posttrain --resume")


def test_a_chain_may_have_a_stage_twice():
    runs = runs_of("pretrain --pre $pre --post $post --lam 1 | posttrain --lr 1e-3 "
                   "| posttrain --replay {0.1,0.2} | finetune --ft {$ft,$other}")
    assert [(run.stage, str(run.out.relative_to("out/music-lam1-seed1"))) for run in runs] == [
        ("pretrain", "pretrain"), ("posttrain", "lr1e-3/posttrain"),
        ("posttrain", "lr1e-3/replay0.1/posttrain"), ("posttrain", "lr1e-3/replay0.2/posttrain"),
        ("finetune", "lr1e-3/replay0.1/chem/finetune"), ("finetune", "lr1e-3/replay0.1/chat/finetune"),
        ("finetune", "lr1e-3/replay0.2/chem/finetune"), ("finetune", "lr1e-3/replay0.2/chat/finetune")]
    pretrained, first, second, *_, last = runs
    assert (first.parent, second.parent, last.parent) == (pretrained, first, runs[3])
    assert last.ancestors() == [runs[3], first, pretrained]
    assert shlex.join(command(second, 1)[2:]).startswith("--replay 0.1 --seed 1 --init "
                                                         "out/music-lam1-seed1/lr1e-3/posttrain --out ")


def test_runs_that_lines_share_are_planned_once():
    lines = ["pretrain --post $post --lam {0,1} | posttrain --lr 1e-3",
             "pretrain --post $post --lam 1 | posttrain --lora"]
    runs = plan(lines, "toy", {}, TOY, 1, Path("out"))
    assert [run.stage for run in runs] == ["pretrain", "pretrain", "posttrain", "posttrain", "posttrain"]
    assert runs[-1].parent == runs[3].parent == runs[1]


def test_two_corpora_of_one_name_do_not_share_a_folder():
    with pytest.raises(UserError, match="would share out/music-lam1-seed1/lr1e-3/tunes/finetune"):
        runs_of("pretrain --post $post --lam 1 | posttrain --lr 1e-3 | finetune --ft {$ft,$other}",
                corpora=TOY | {"ft": "a/tunes.txt", "other": "b/tunes.txt"})


def test_further_seeds_are_drawn_when_they_are_finished(folder):
    def of_seeds(seeds):
        return plan(PLANS["fig2"], "toy", SETTINGS["toy"], TOY, seeds, Path("out"))
    three, one = of_seeds(3), of_seeds(1)
    for run in three[:-1]:
        run.out.mkdir(parents=True)
        (run.out / "run.json").touch()
    Path("out/other-seeds").mkdir()
    assert with_further_seeds(one, of_seeds, Path("out")) == of_seeds(2)
    assert with_further_seeds(three, of_seeds, Path("out")) == three


@pytest.mark.parametrize("then, message", [
    ("--pre chat --lam 0.5 --tokens 8k --lora", "--pre web, not chat"),
    ("--pre $pre --lam 0.25 --tokens 8k", "--lam 0.5, not 0.25"),
    ("--pre $pre --lam 0.5 --tokens 9k", "--tokens 8000, not 9k"),
])
def test_what_is_finished_must_be_of_these_settings(folder, then, message):
    first = runs_of("pretrain --pre $pre --lam 0.5 --tokens 8k")[0]
    finish(first)
    require_same(first)
    require_same(runs_of("pretrain --pre $pre --lam 5e-1 --tokens 8000")[0]._replace(out=first.out))
    with pytest.raises(UserError, match=f"is finished with {message}; choose another --out"):
        require_same(runs_of(f"pretrain {then}")[0]._replace(out=first.out))
    with pytest.raises(UserError, match="--seed 1, not 2"):
        require_same(first._replace(seed=2))


def test_a_switch_that_is_finished_without_is_said(folder):
    _, plain = runs_of("pretrain --pre $pre | posttrain --lr 1e-3")
    _, lora = runs_of("pretrain --pre $pre | posttrain --lora")
    finish(plain)
    with pytest.raises(UserError, match="is finished with --lora False"):
        require_same(lora._replace(out=plain.out))
    finish(lora)
    require_same(lora)


def test_runs_share_the_gpus_and_the_cores(monkeypatch):
    monkeypatch.setattr("experiments.sweep.torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("experiments.sweep.cores", lambda: 8)
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    shares = [environment(slot, 2, 2, Path("out")) for slot in range(2)]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["0,1", "2,3"]
    assert {share["OMP_NUM_THREADS"] for share in shares} == {"2"}
    assert shares[0]["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "600"           # seconds to save in, under torchrun
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert environment(0, 2, 2, Path("out"))["OMP_NUM_THREADS"] == "3" and threads(4) == 3    # what is priced, too
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,5,3,1")
    assert environment(1, 4, 1, Path("out"))["CUDA_VISIBLE_DEVICES"] == "5"
    assert environment(0, 1, 2, Path("out"))["CUDA_VISIBLE_DEVICES"] == "7,5,3,1"    # alone it has them all


# ---- running

SMALL = "--tokens 8k --post-tokens 4k --layers 1 --width 32 --heads 2 --context 32 --batch 8"
GRID = [f"pretrain --pre $pre --post $post --lam {lams} {SMALL} | posttrain --max-tokens 4k --batch 8 "
        f"| finetune --ft {ft} --tokens 4k --batch 8" for lams, ft in (("{0,1}", "$ft"), ("1", "$other"))]
DRIVER = f"""
import sys, time
from experiments import __main__ as command, cost, early_exposure, sweep
from run.flags import launch
from run.loop import Run
from tests.processes import Child
update, pause = Run.update, float(sys.argv.pop(1))
Run.update = lambda run: (update(run), time.sleep(pause))
early_exposure.FIGURES["fig3a"] = early_exposure.FIGURES["fig3a"]._replace(plan={GRID!r})
cost.tokens_per_second = lambda model, threads, compiled: 10_000
sweep.RETRY = 0.1
sweep.subprocess.Popen = Child
launch(command.main)
"""


@pytest.fixture
def sweep(folder):
    """Start `python -m experiments fig3a` on a small grid whose last corpus is too short, a process group.

    Its runs pause for so many seconds after every step.
    """
    words = "fig3a --jobs 2 --no-compile --out out --corpora pre.jsonl post.jsonl ft.jsonl short.txt".split()
    Path("short.txt").write_text("\n\n".join(f"{number} is a number." for number in range(12)))
    Path("driver.py").write_text(DRIVER)
    return lambda pause=0: Forked(["driver.py", str(pause), *words], dict(os.environ), group=True)


def finished():
    return {path: path.stat().st_mtime_ns for path in Path("out").glob("**/run.json")}


def test_killed_or_shared_every_run_is_made_once_and_failures_do_not_stop_the_rest(sweep):
    process = sweep(pause=0.1)                          # it is stopped before its first runs have ended
    while not list(Path("out").glob("**/pretrain.log")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.terminate()
    process.communicate()
    with pytest.raises(ProcessLookupError):             # nor does a stage go on without it
        os.killpg(process.pid, 0)
    assert process.returncode == 143 and not finished()

    process = sweep()
    while not finished():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = finished()

    both = [sweep(), sweep()]                           # two machines on one folder
    output = [process.communicate() for process in both]
    after = finished()
    assert len(after) == 2 + 2 + 2 and all(after[path] == before[path] for path in before)
    logs = [log.read_text() for log in Path("out").glob("**/*.log")]
    assert len(logs) == 7
    told = [log.count("train finished") + log.count("tune finished") for log in logs]
    assert max(told) == 1 and sum(told) >= 6 - len(before)      # SIGKILL may have come before its last words
    for process, (out, err) in zip(both, output):
        assert process.returncode == 2 and err.count("FAILED python") == err.count("--resume --no-compile\n") == 1
        assert "\n    error: short.txt " in err and "error: 1 runs failed, 1 are missing" in err
        assert "L_ret falls in λ" in out
    assert {path.name for path in Path("out/figures").iterdir()} == {"fig3a.png", "fig3a.csv", "fig3a.md"}


@pytest.mark.parametrize("there", ["", "pretrain"])
def test_a_sweep_that_cannot_write_says_so_in_one_line(stage, monkeypatch, there):
    """Neither the log of a run, nor the lock of one that is unfinished."""
    figure = early_exposure.FIGURES["fig3a"]._replace(plan=GRID[:1])
    monkeypatch.setitem(early_exposure.FIGURES, "fig3a", figure)
    monkeypatch.setattr("experiments.cost.tokens_per_second", lambda model, threads, compiled: 10_000)
    corpora = dict(zip(TOY, ("pre.jsonl", "post.jsonl", "ft.jsonl", "short.jsonl")))
    Path("short.jsonl").write_text("".join(Path("ft.jsonl").read_text().splitlines(keepends=True)[:100]))

    words = f"fig3a --jobs 1 --out out --corpora {' '.join(corpora.values())}"

    def sweep():
        return stage("experiments.__main__", words)

    with monkeypatch.context() as patch:
        patch.setattr(Sweep, "execute", lambda sweep: {})
        sweep()
    first = plan(GRID[:1], "toy", SETTINGS["toy"], corpora, 1, Path("out"))[0]
    (first.out.parent / there).mkdir(parents=True)
    assert "Read-only file system" in spoiled(broken(1, errno.EROFS), sweep).err


def test_a_run_whose_log_has_no_space_has_failed_for_that(folder):
    Path("pretrain.log").touch()
    assert last_lines(Path("pretrain.log")) == "    nothing in pretrain.log, is there no space?"


@pytest.mark.parametrize("line, says", [
    ("pretrain --lam 0 | finetune $ratte", "has $ratte, neither a corpus nor a setting"),
    ("pretrain --lam 0 1", "'1', which follows no flag"),
])
def test_a_plan_with_a_slip_is_not_run(line, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        plan([line], "toy", {"rate": "--lr 1"}, {"pre": "web"}, 1, Path("out"))
