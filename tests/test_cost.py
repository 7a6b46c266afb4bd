"""What a plan will take, by hand; and the measurement of the step that it is reckoned with."""

import errno
import fcntl
import os
import re
import signal
import subprocess
import tempfile
import time
import weakref
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from threading import Timer

import pytest
import torch

import pretrain
from data.tokenizers import load_tokenizer
from experiments import bench, cost, trials
from experiments.cost import checkpoint_bytes, evaluated_tokens, tokens
from experiments.speed import measure_step, operations_per_token
from experiments.sweep import plan
from model import GPT, PRESETS, configure
from run.files import UserError
from run.loop import LOG_EVERY, Run
from tests.conftest import SMALL
from tests.processes import ROOT, Forked

CORPORA = {"pre": "web", "post": "music", "ft": "chem"}


def chain(line, preset="toy"):
    return plan([line], preset, {}, CORPORA, 1, Path("out"))


# ---- tokens, seconds, bytes

@pytest.mark.parametrize("preset, line, counts", [
    ("135m", "pretrain --lam 0.25 --post-tokens 150M | posttrain --compute-matched | finetune --tokens 2k",
     [8.7e9 + 0.25 * 150e6, 0.75 * 150e6, 2_000]),
    ("toy", "pretrain --tokens 1M | posttrain --replay 0.05 | finetune --lr 1e-4",
     [1e6, 1e6 / 0.95, 100_000]),
    ("toy", "pretrain --lam 2 | posttrain --lora | posttrain --max-tokens 8k | finetune --replay 0.2",
     [4e6 + 2 * 220e3, 1e6, 8_000, 125_000]),
])
def test_tokens_by_hand(preset, line, counts):
    assert [tokens(run) for run in chain(line, preset)] == counts


@pytest.mark.parametrize("line, evaluations", [
    ("pretrain | posttrain --max-tokens 100k | finetune", [4 * 2 + 2, 1 + 2, 2 + 3]),
    ("pretrain --context 64 --eval-every 500 | posttrain --compute-matched | noise --draws 4",
     [3 * 2 + 2, 2, 5 * 3]),
])
def test_evaluations_by_hand(line, evaluations):
    context = 64 if "--context" in line else 128
    assert [evaluated_tokens(run) / (256 * context) for run in chain(line)] == evaluations


def test_the_cost_comes_first(stage, monkeypatch):
    monkeypatch.setattr(cost, "tokens_per_second", lambda model, threads, compiled: 10_000)
    monkeypatch.setattr(cost.time, "process_time", lambda: 2.0)

    def printed(words):
        return stage("experiments.__main__", settings=f"fig3a --cost {words}").out
    assert printed("--jobs 64").split(" at ")[1].startswith("5 ×")                   # five can run at once
    # 5 × (4M + 1M + 0.1M) + 2.5 × 220k = 26.05M tokens; (26.05M / 10,000 + 15 × 2 s) / 2 = 1,318 s = 22 min,
    # and 5 × (2 + 21 + 5) + 23 × 2 evaluations of 32,768 tokens, a third of the work: 102 s
    assert printed("--jobs 2") == ("fig3a: 15 runs, 0 of them finished; 26.1M tokens to go, "
                                   "at 2 × 10,000 tokens/s about 24 min; 13 MB to keep\n")
    monkeypatch.setattr(cost, "cores", lambda: 2)                    # 16 processes share them: an eighth each
    assert "at 2 × 10,000 tokens/s" in printed("--jobs 2 --nproc-per-node 8")
    assert not Path("out").exists()


@pytest.mark.parametrize("compiled, flags", [(None, ()), (True, ("--compile",)), (False, ("--no-compile",))])
def test_what_is_measured_compiles_as_the_runs_will(monkeypatch, compiled, flags):
    taken = []
    monkeypatch.setattr(cost, "measure_step", lambda *step: taken.append(step) or bench.Speed(5.0, 1e9, 0))
    assert cost.tokens_per_second((("--preset", "toy"),), torch.get_num_threads(), compiled) == 5
    assert taken == [("toy", 32, 10, ("--preset", "toy", *flags))]


def test_a_gpu_is_measured_by_a_process_that_leaves_it(folder, monkeypatch):
    """The GPU is played, and the other process, which finds none, knows nothing of that."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(cost, "measure_step", lambda *step: pytest.fail("it was measured here"))
    assert cost.tokens_per_second((("--preset", "toy"), ("--layers", "1")), 1, None) > 0
    said = "more about it\nerror: device cuda is not there, use --device cpu\n"
    failing = subprocess.CompletedProcess([], returncode=2, stdout="", stderr=said)
    monkeypatch.setattr("experiments.cost.subprocess.run", lambda *words, **more: failing)
    with pytest.raises(UserError, match="^device cuda is not there, use --device cpu$"):
        cost.tokens_per_second((("--preset", "toy"),), 1, None)


@pytest.mark.parametrize("error, told", [
    (UserError("torch.compile fails (no compiler), use --no-compile"),
     "torch.compile fails (no compiler), use --no-compile"),
    (torch.OutOfMemoryError("CUDA out of memory\nand more"), "the device is out of memory, lower --micro-batch"),
    (RuntimeError("CUDA error: busy\nand more"), "RuntimeError: CUDA error: busy"),
    (OSError(errno.ENOSPC, "No space left"), "no space left to write what is printed or a file, free some and run "
                                             "again, a stage with --resume"),
])
def test_a_sweep_goes_on_where_its_speed_cannot_be_measured(stage, monkeypatch, error, told):
    def failing(*_):
        raise error
    monkeypatch.setattr(cost, "measure_step", failing)
    run = stage("experiments.__main__", settings="fig3a --cost")
    assert run.out == ("fig3a: 15 runs, 0 of them finished; 26.1M tokens to go, "
                       f"speed unknown ({told}); 13 MB to keep\n")


def test_a_checkpoint_is_the_weights_in_float32():
    assert [checkpoint_bytes((("--preset", preset),)) for preset in ("toy", "135m")] == [
        4 * 221_664, 4 * 135_178_560]


# ---- the step

class Circle:
    """What holds itself, as models do."""
    def __init__(self):
        self.itself = self


def test_a_step_is_measured_and_nothing_is_left(folder, monkeypatch):
    """The GPU is played: its memory is given back once nothing holds it, as what was compiled did."""
    before = set(folder.rglob("*"))
    compiled, left = [Circle()], []
    gone = weakref.ref(compiled[0])
    monkeypatch.setattr("torch.compiler.reset", compiled.clear)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: left.append(gone()))
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder.parent / "torch's own"))
    speed = measure_step("toy", batch=2, steps=1, flags=("--micro-batch", "1", "--device", "cpu"))
    assert left == [None]
    assert speed.tokens_per_second > 0 and speed.operations_per_second > speed.tokens_per_second
    assert set(folder.rglob("*")) == before


def test_the_clock_of_a_step_counts_neither_the_first_two_nor_the_save(folder, monkeypatch):
    """On this clock an update takes a second and a save a thousand."""
    now = [0]
    update, save = Run.update, Run._save
    monkeypatch.setattr("experiments.speed.time.perf_counter", lambda: now[0])
    monkeypatch.setattr(Run, "update", lambda run: now.append(now.pop() + 1) or update(run))
    monkeypatch.setattr(Run, "_save", lambda run: now.append(now.pop() + 1000) or save(run))
    speed = measure_step("toy", batch=2, steps=3, flags=("--device", "cpu", "--layers", "1"))
    assert speed.tokens_per_second == 2 * 128


def test_operations_of_a_token_by_hand():
    sizes = {"layers": 2, "width": 4, "mlp": 5, "heads": 2, "kv_heads": 1, "context": 7}
    config = configure("toy", 11, sizes)
    # a layer: query and output 4 × 4, key and value 4 × 2, three of the MLP 4 × 5; the head 4 × 64 (padded)
    matrices = 2 * (2 * 16 + 2 * 8 + 3 * 20) + 4 * 64
    assert operations_per_token(GPT(replace(config, tied=True))) == 6 * matrices + 6 * 2 * 4 * 7
    assert operations_per_token(GPT(replace(config, tied=False))) == 6 * matrices + 6 * 2 * 4 * 7


def test_the_speed_is_told_beside_the_ceiling(stage, monkeypatch):
    monkeypatch.setattr(bench, "matmul_ceiling", lambda device, dtype: 2e9)
    monkeypatch.setattr(bench, "measure_step", lambda *args: bench.Speed(1234.0, 1e9, 0))
    run = stage("experiments.bench", settings="--shapes toy --no-trials")
    assert run.status == 0 and run.out.splitlines()[0].endswith("float32: matrix product 2 GFLOP/s")
    assert run.out.splitlines()[3].split() == "toy eager deterministic 32 1,234 1 50% –".split()


def test_a_gpu_is_made_deterministic_before_its_first_product(stage, monkeypatch):
    """The GPU is played. What cuBLAS finds in the environment then goes for the whole process."""
    found, modes = [], []

    def take(*mode, **more):
        modes.append((*mode, more))

    def product(device, dtype):
        found.append(os.environ.get("CUBLAS_WORKSPACE_CONFIG"))
        return 2e9
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr("torch.utils.deterministic.fill_uninitialized_memory", True)
    monkeypatch.setattr("torch.use_deterministic_algorithms", take)
    monkeypatch.setattr(bench, "pick_device", torch.device)
    monkeypatch.setattr(bench, "name_of", str)
    monkeypatch.setattr(bench, "matmul_ceiling", product)
    monkeypatch.setattr(bench, "measure_step", lambda *args: bench.Speed(1234.0, 1e9, 0))
    assert stage("experiments.bench", settings="--shapes toy --no-trials --device cuda").status == 0
    assert found == [":4096:8"] and modes == [(True, {})]


ARGS = Namespace(batch=None, micro_batch=None, dtype="bfloat16", steps=3, compile=None, minutes=9)


def test_a_gpu_goes_through_micro_batches_until_one_does_not_fit(monkeypatch, capsys):
    """The GPU is played: 8 sequences fit, 16 are faster, 32 do not fit."""
    tried = []

    def step(shape, batch, steps, flags, deterministic):
        size = int(flags[flags.index("--micro-batch") + 1])
        tried.append((size, "--compile" in flags, deterministic))
        if size > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return bench.Speed(1000.0 * size, 1e12, 5_000_000_000)
    monkeypatch.setattr(bench, "measure_step", step)
    bench.measure_shape("135m", torch.device("cuda"), ARGS, ceiling=4e12, is_late=lambda: False)
    assert tried == [(8, False, True), (16, False, True), (32, False, True),
                     (16, False, False), (16, True, True), (16, True, False)]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert lines[1] == "135m eager deterministic 16 16,000 1,000 25% 5.0".split()
    assert lines[2] == "135m eager deterministic 32 out of memory".split()


def test_what_fails_or_comes_too_late_is_a_row(monkeypatch, capsys):
    """The GPU is played: compiling fails, and before the last variant time is over."""
    class CompileError(RuntimeError):
        __module__ = "torch._dynamo.exc"
    tried = []

    def step(shape, batch, steps, flags, deterministic):
        tried.append(flags)
        if "--compile" in flags:
            raise CompileError("no compiler here\nand more about it")
        return bench.Speed(1000.0, 1e12, 5_000_000_000)
    monkeypatch.setattr(bench, "measure_step", step)
    bench.measure_shape("135m", torch.device("cuda"), Namespace(**vars(ARGS) | {"micro_batch": 8}),
                        ceiling=4e12, is_late=lambda: len(tried) == 3)
    *_, failed, late = capsys.readouterr().out.splitlines()
    assert failed.split()[4:] == ("FAILED: torch.compile fails (no compiler here), mend that or use "
                                  "--no-compile").split()
    assert late.split()[4:] == "skipped, 9 minutes are over".split() and len(tried) == 3


def test_a_loss_that_is_not_finite_is_a_row(folder, monkeypatch, capsys):
    def diverging(shape, batch, steps, flags, deterministic):
        if "--compile" in flags:
            return bench.Speed(1234.0, 1e9, 0)
        return measure_step(shape, 2, steps, ("--lr", "1e38", "--micro-batch", "2", "--device", "cpu"))
    monkeypatch.setattr(bench, "measure_step", diverging)
    args = Namespace(**vars(ARGS) | {"compile": True})
    bench.measure_shape("toy", torch.device("cpu"), args, ceiling=2e9, is_late=lambda: False)
    *_, failed, compiled = capsys.readouterr().out.splitlines()
    assert re.fullmatch("FAILED: the (loss is|weights are) not finite at step [0-9]+", failed.split(maxsplit=4)[4])
    assert compiled.split()[4] == "1,234"


def test_a_batch_that_does_not_divide_is_said_before_anything_is_measured(stage, monkeypatch):
    monkeypatch.setattr(bench, "matmul_ceiling", lambda *_: pytest.fail("it was measured"))
    run = stage("experiments.bench", settings="--shapes toy 135m --batch 8 --micro-batch 3")
    assert (run.status, run.out) == (2, "") and run.err.startswith("error: --batch 8 over 1 ranks does not")


@pytest.fixture
def bench_of(stage, monkeypatch):
    """Run bench with other trials in place of its own, and shapes that are only named; gives what it told."""
    def run(settings="", **trials):
        monkeypatch.setattr(bench, "matmul_ceiling", lambda device, dtype: 2e9)
        monkeypatch.setattr(bench, "measure_shape", lambda shape, *args: print(shape))
        monkeypatch.setattr(bench, "TRIALS", trials)
        return stage("experiments.bench", settings=settings)
    return run


def test_a_trial_that_fails_does_not_end_the_others(bench_of, monkeypatch):
    """Nor do trials wait for the larger shapes."""
    def failing(flags):
        raise UserError("pretrain.py ended with status 1: RuntimeError: out of luck")
    monkeypatch.setattr(bench, "forget", lambda: print("forgot"))
    trials = {"one": failing, "other": lambda flags: f"done with {flags}", "CPU and GPU": failing}
    run = bench_of(**trials, settings="--dtype bfloat16 --no-compile")
    assert run.status == 0 and run.out.split("\n", 1)[1] == (
        "toy\nforgot\n\n"
        "one: FAILED: pretrain.py ended with status 1: RuntimeError: out of luck\n"
        "other: done with --device cpu --dtype bfloat16 --no-compile\n"
        "CPU and GPU: skipped, it needs CUDA\n"
        "135m\n")


STUCK = """
import fcntl, os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
held = open(sys.argv[1], "a")
fcntl.flock(held, fcntl.LOCK_EX)
os.fork()
time.sleep(30)
"""


@pytest.fixture
def stuck(tmp_path, monkeypatch):
    """A trial of a process that does not end, nor obey SIGTERM, nor does one that it has started."""
    monkeypatch.setattr(trials, "HOUSE", tmp_path)
    monkeypatch.setattr(trials, "GRACE", 0.1)
    Path(tmp_path, "stuck.py").write_text(STUCK)
    yield lambda flags: trials.run("stuck", str(tmp_path / "held"))

    # Whatever held the file has been killed.
    began = time.monotonic()
    with open(tmp_path / "held", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
    assert time.monotonic() - began < 5


def test_a_trial_that_does_not_end_is_ended(bench_of, stuck, monkeypatch):
    monkeypatch.setattr(bench, "PATIENCE", 1)
    run = bench_of(one=stuck, two=lambda flags: trials.kill(trials.start("stuck", "held"), Path("never")),
                   three=lambda flags: "done")
    assert re.search(r"\none: FAILED: no end after 1 s,.*\ntwo: FAILED: no end after 1 s,.*\nthree: done\n", run.out)


def test_what_ends_the_bench_ends_its_trial(bench_of, stuck):
    def stopped(flags):
        Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        stuck(flags)
    assert bench_of(one=stopped).status == 143


# ---- whole runs

@pytest.mark.parametrize("trial", bench.TRIALS.values())
def test_a_trial_does_as_bench_is_told(folder, monkeypatch, trial):
    told = "--device cuda:1 --dtype bfloat16 --no-compile"

    def run(name: str, flags: str, launcher: tuple[str, ...] = ()) -> None:
        if told in flags:
            raise UserError("found")
    monkeypatch.setattr(trials, "run", run)
    monkeypatch.setattr(trials, "loss_of", lambda out, name: 0.0)
    with pytest.raises(UserError, match="found"):
        trial(told)


def test_the_run_at_135m_has_whole_steps_and_the_vocabulary_of_gpt2(tmp_path):
    args = pretrain.parse(trials.AT_SCALE.split())
    steps = args.tokens / args.batch / PRESETS[args.preset]["context"]
    assert steps % LOG_EVERY == 0 and steps % args.eval_every == 0
    trials.write_pairs(tmp_path / args.tokenizer, size=50_257)
    assert load_tokenizer(str(tmp_path / args.tokenizer)).n_vocab == 50_257


def test_a_killed_run_is_resumed_and_compared(stage, monkeypatch):
    """What is to be killed is a process; the rest runs here, where it starts at once."""
    short = {"pretrain": "--tokens 30k --save-every 20", "posttrain": "--max-tokens 30k --save-every 20"}
    monkeypatch.setattr(trials, "SHORT", {name: f"{SMALL[name]} {flags}" for name, flags in short.items()})
    started = []

    def run_here(name: str, flags: str) -> None:
        started.append((name, "--resume" in flags))
        assert stage(name, flags, settings="").status == 0
    monkeypatch.setattr(trials, "run", run_here)
    monkeypatch.setattr(trials, "start", lambda name, flags: Forked([str(ROOT / f"{name}.py"), *flags.split()],
                                                                    dict(os.environ)))
    answer = trials.resumed("--device cpu")
    assert answer == "all three stages, each killed by SIGKILL and resumed, are bit-equal"
    assert started == [(name, resumed) for name in short for resumed in (False, True)]

    # What it compares can differ.
    run_here("pretrain", f"{SMALL['pretrain']} --tokens 1k --seed 1 --out out/other")
    assert not trials.same_weights("out/other", "out/killed/pretrain")


def test_a_run_that_says_much_is_killed_all_the_same(tmp_path, monkeypatch):
    """What nobody reads would fill a pipe and stop it before it saves; it ends itself then."""
    program = ("import signal, sys, time; signal.alarm(20); sys.stderr.write('much ' * 100_000); "
               "open(sys.argv[1], 'w').close(); time.sleep(60)")
    Path(tmp_path, "loud.py").write_text(program)
    monkeypatch.setattr(trials, "HOUSE", tmp_path)
    saved = tmp_path / "saved"
    assert trials.kill(trials.start("loud", str(saved)), saved)


@pytest.mark.parametrize("printed, last", [
    ("", "it says nothing"), ("warned\nKilled", "Killed"), ("error: no disk\nmore", "error: no disk"),
    ("[rank0]: torch.OutOfMemoryError: CUDA\n\n====\na.b.ChildFailedError: \n====",
     "[rank0]: torch.OutOfMemoryError: CUDA"),
])
def test_why_a_process_ended_is_told_in_a_line(printed, last):
    assert trials.last_words(printed) == last


def test_a_trial_that_fails_says_why(folder):
    with pytest.raises(UserError, match="status 2: error: no corpus 'none.txt'"):
        trials.run("pretrain", "--pre none.txt")
