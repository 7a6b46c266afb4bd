"""Figures by one command: what is planned, in which folders, and that every run is made once whatever happens."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import reproduce
from reproduce import CORPORA, FIGURES, SETTINGS, expand, folder_name, plan

ROOT = Path(reproduce.__file__).parent


def of_stage(runs, stage):
    return [run for run in runs if run.stage == stage]


# ---- planning

def test_alternatives_multiply():
    assert list(expand("--lam {0,1} --lora --lr {1e-4,1e-3}")) == [
        ("--lam", "0", "--lora", "--lr", "1e-4"), ("--lam", "0", "--lora", "--lr", "1e-3"),
        ("--lam", "1", "--lora", "--lr", "1e-4"), ("--lam", "1", "--lora", "--lr", "1e-3")]
    assert list(expand("")) == [()]


def test_folders_are_called_by_what_sets_runs_apart():
    assert folder_name(("--post", "my/tunes.txt", "--lam", "0.5")) == "tunes-lam0.5"
    assert folder_name(("--lora", "--lr", "1e-3")) == "lora-lr1e-3"
    assert folder_name(("--compute-matched", "--batch", "8")) == "compute-matched-batch8"


@pytest.mark.parametrize("target, preset, counts", [
    ("fig3a", "toy", (5, 5, 5)), ("fig3a", "135m", (15, 15, 15)), ("fig3b", "1b", (15, 15, 15)),
    ("fig2", "toy", (4, 8, 48)), ("fig2", "135m", (4, 60, 600)), ("fig2", "1b", (4, 20, 150)),
    ("fig4", "135m", (2, 30 + 30 + 15, 750)), ("fig7", "toy", (2, 8, 48)),
])
def test_size_of_the_grids(target, preset, counts):
    for seeds in (1, 3):
        runs = plan(target, preset, CORPORA[preset], seeds, Path("out"))
        assert tuple(len(of_stage(runs, stage)) for stage in reproduce.STAGES) == tuple(seeds * n for n in counts)


@pytest.mark.parametrize("preset", SETTINGS)
def test_every_command_is_understood_and_no_folder_means_two_things(preset):
    """Over all targets: parents first, one command a folder, every word a flag that its stage takes."""
    by_folder = {}
    for target in FIGURES:
        runs = plan(target, preset, CORPORA[preset], 2, Path("out"))
        for place, run in enumerate(runs):
            assert by_folder.setdefault(run.out, run) == run
            assert run.parent is None or run.parent in runs[:place]
    for run in by_folder.values():
        flags = set(word for word in run.command(1) if word.startswith("--"))
        known = set(reproduce.STAGES[run.stage].DEFAULTS) | {"preset", "lam", "lora", "compute-matched", "init", "out",
                                                             "resume"}
        assert {flag[2:] for flag in flags} <= known
        assert run.tokens() > 0 or "--compute-matched" in run.flags
    made = {}
    for run in by_folder.values():                      # one configuration, one folder: nothing is trained twice
        column = list(SETTINGS).index(preset)
        typed = [f"--{name}={row[column].rstrip('*')}" for name, row in reproduce.STAGES[run.stage].DEFAULTS.items()]
        words = iter(run.flags)
        for word in words:
            value = "" if word in ("--lora", "--compute-matched") else f"={next(words)}"
            typed = [other for other in typed if not other.startswith(f"{word}=")] + [word + value]
        same = made.setdefault((run.stage, frozenset(typed), run.parent and run.parent.out), run)
        assert same == run, f"{same.out} and {run.out}"
    first = next(run for run in by_folder.values() if run.stage == "pretrain")
    args = reproduce.pretrain.parse([*first.flags, "--out", str(first.out), "--resume"])
    assert (args.preset, args.pre, args.seed) == (preset, CORPORA[preset][0], 1)


def test_the_paths_spell_the_tree():
    runs = plan("fig4", "toy", ("a/prose.jsonl", "tunes.txt", "chem", "chat"), 1, Path("out/x"))
    dropout = next(run for run in of_stage(runs, "finetune") if "dropout" in str(run.out))
    assert str(dropout.out) == "out/x/tunes-lam1-seed1/dropout0.05-lr5e-4/chem-lr1e-4/finetune"
    assert shlex.join(dropout.parent.command(8)) == (
        f"python -m torch.distributed.run --standalone --nproc_per_node=8 {os.path.relpath(ROOT / 'posttrain.py')} "
        "--dropout 0.05 --lr 5e-4 --seed 1 --init out/x/tunes-lam1-seed1/pretrain "
        "--out out/x/tunes-lam1-seed1/dropout0.05-lr5e-4/posttrain "
        "--resume")


def test_tokens_by_hand():
    runs = plan("fig3b", "135m", CORPORA["135m"], 1, Path("out"))
    quarter = next(run for run in of_stage(runs, "posttrain") if "150M-lam0.25" in str(run.out))
    assert quarter.parent.tokens() == 8.7e9 + 0.25 * 150e6 and quarter.tokens() == 0.75 * 150e6
    replay = next(run for run in plan("fig4", "toy", CORPORA["toy"], 1, Path("out")) if "--replay" in run.flags)
    assert replay.tokens() == 2.5e6 / 0.95


# ---- the command line

def printed(stage, settings):
    run = stage("reproduce", settings=settings)
    return run.status, run.out, run.err


def test_list_prints_levels_that_can_run_at_once(stage):
    status, out, err = printed(stage, "fig3a --seeds 2 --list")
    lines = out.splitlines()
    assert (status, err) == (0, "") and [line for line in lines if line[0] == "#"] == ["# pretrain", "# posttrain",
                                                                                      "# finetune"]
    assert len(lines) == 3 + 30
    level = printed(stage, "fig3a --seeds 2 --list posttrain")[1].splitlines()
    assert level == [line for line in lines if "posttrain.py" in line]
    assert not Path("out").exists()


def test_the_cost_comes_first(stage, monkeypatch):
    monkeypatch.setattr(reproduce, "tokens_per_second", lambda preset, threads: 10_000)
    monkeypatch.setattr(reproduce.time, "process_time", lambda: 2.0)
    assert printed(stage, "fig3a --jobs 64 --cost")[1].split(" at ")[1].startswith("5 ×")     # five can run at once
    # 5 × (1.5M + 2.5M + 0.2M) + 2.5 × 150k tokens; (21.375M / 10,000 + 15 × 2 s) / 2 = 1,084 s
    assert printed(stage, "fig3a --jobs 2 --cost")[1] == \
        "fig3a: 15 runs, 0 of them finished; 21.4M tokens to go, at 2 × 10,000 tokens/s about 18 min; " \
        "46 MB to keep\n"
    monkeypatch.setattr(reproduce, "cores", lambda: 2)                    # 16 processes share them: an eighth each
    assert "at 2 × 10,000 tokens/s" in printed(stage, "fig3a --jobs 2 --nproc-per-node 8 --cost")[1]
    assert [reproduce.checkpoint_bytes(preset) for preset in ("toy", "135m")] == [4 * 771_200, 4 * 135_178_560]


def test_further_seeds_are_drawn_when_they_are_finished(folder):
    arguments = "fig2", "toy", CORPORA["toy"]
    three, one = (plan(*arguments, seeds, Path("out")) for seeds in (3, 1))
    for run in three[:-1]:
        run.out.mkdir(parents=True)
        (run.out / "run.json").touch()
    Path("out/other-seeds").mkdir()
    assert reproduce.with_further_seeds(one, *arguments, Path("out")) == plan(*arguments, 2, Path("out"))
    assert reproduce.with_further_seeds(three, *arguments, Path("out")) == three


@pytest.mark.parametrize("settings, message", [
    ("fig9", "invalid choice: 'fig9'"), ("fig2 --corpora web musik chem chat --list", "no corpus 'musik'"),
    ("fig2 --jobs 0", "at least 1"),
    ("fig2 --corpora a b", "expected 4 arguments"), ("fig2 --corpora web music chem web", "give four different ones"),
    ("fig2 --corpora web music chem b/tunes.txt", "b/tunes.txt is empty"), ("fig3a --out a/tunes.txt", "cannot write"),
    ("fig2 --corpora web music a/tunes.txt b/tunes.txt --list", "share out/toy-web/music-lam0-seed1/lr5e-4/tunes"),
])
def test_bad_input_is_one_line(stage, monkeypatch, settings, message):
    for name in "ab":
        Path(name).mkdir()
        Path(name, "tunes.txt").touch()
    monkeypatch.setattr(reproduce, "tokens_per_second", lambda preset, threads: 10_000)
    status, _, err = printed(stage, settings)
    assert status == 2 and message in err and err.count("\n") == 1


def test_what_is_finished_must_be_of_these_corpora(stage, monkeypatch):
    monkeypatch.setattr(reproduce, "tokens_per_second", lambda preset, threads: 10_000)
    for name in "ab":
        Path(name).mkdir()
        Path(name, "pre.jsonl").touch()
    first = plan("fig3a", "toy", ("a/pre.jsonl", "music", "chem", "chat"), 1, Path("out/toy-pre"))[0]
    first.out.mkdir(parents=True)
    args = {"preset": "toy", "pre": "a/pre.jsonl", "post": "music", "lam": 0.0, "seed": 1}
    (first.out / "run.json").write_text(json.dumps({"stage": "pretrain", "args": args, "lineage": []}))
    assert "15 runs, 1 of them finished" in printed(stage, "fig3a --corpora a/pre.jsonl music chem chat --cost")[1]
    status, _, err = printed(stage, "fig3a --corpora b/pre.jsonl music chem chat --cost")
    assert status == 2 and f"{first.out} is finished with --pre a/pre.jsonl, not b/pre.jsonl" in err


# ---- running

GRID = {"fig3a": ["--post $music --lam {0,1} --tokens 8k --post-tokens 4k --layers 1 --width 32 --context 32 --batch 8"
                  " | --max-tokens 4k --batch 8 | --ft {$chem,$chat} --tokens 4k --batch 8"]}


@pytest.fixture
def sweep(folder):
    """Start `reproduce.py fig3a` on a small grid whose fourth corpus is too short, in a process group of its own."""
    driver = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import reproduce; from cli import launch; " \
             f"reproduce.FIGURES = {GRID!r}; reproduce.RETRY = 1; launch(reproduce.main)"
    words = "fig3a --jobs 2 --out out --corpora pre.jsonl post.jsonl ft.jsonl short.txt".split()
    Path("short.txt").write_text("\n\n".join(f"{number} is a number." for number in range(12)))
    return lambda: subprocess.Popen([sys.executable, "-c", driver, *words], stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE, text=True, start_new_session=True,
                                    env=os.environ | {"OMP_NUM_THREADS": "1"})


def finished():
    return {path: path.stat().st_mtime_ns for path in Path("out").glob("**/run.json")}


def test_killed_or_shared_every_run_is_made_once_and_failures_do_not_stop_the_rest(sweep):
    process = sweep()
    while not list(Path("out").glob("**/pretrain.log")):
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
    assert len(logs) == 8 and sum(log.count("train finished") + log.count("tune finished") for log in logs) == 6
    for process, (out, err) in zip(both, output):
        assert process.returncode == 2 and err.count("FAILED python") == 2
        assert "\n    error: short.txt " in err and "error: 2 runs failed, 2 are missing" in err
        assert "L_ret falls in λ" in out
    assert {path.name for path in Path("out/figures").iterdir()} == {"fig3a.png", "fig3a.csv", "fig3a.md"}
