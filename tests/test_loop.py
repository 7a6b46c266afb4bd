"""The mechanics of the loop: schedule, clipping, micro-batches, ranks, and continuing bit for bit."""

import itertools
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.torch_version import TorchVersion

from data.corpora import open_corpus
from data.sources import find_source
from data.tokenizers import load_tokenizer
from model import GPT, configure
from run import folder, loop, ranks
from run.checkpoint import read_progress, save_checkpoint
from run.device import be_deterministic, gpus, mixed_seed, pick_device, pick_dtype, preferred
from run.files import UserError
from run.flags import status_of
from run.loop import Run, adamw, largest_micro_batch, learning_rate
from run.losses import Loss
from tests.conftest import assert_same, die_at, files_of, log_of, report, weights



# ---- a step

def test_learning_rate_by_hand():
    rates = [learning_rate(step, 12, 1.0, 0.2, 2) for step in range(12)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[11] == pytest.approx(0.2)
    assert rates[5] == pytest.approx(0.2 + 0.8 * (1 + np.cos(np.pi / 3)) / 2)
    assert learning_rate(500, 1000, 1e-5, 5e-5, 0) == 1e-5               # a peak under the minimum stays flat
    stable = [learning_rate(step, 10, 1.0, 0.2, 2, decay=0.4) for step in range(10)]
    assert stable == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])       # 4 steps from 1 to 0.2
    assert [learning_rate(step, 5, 1.0, 0.2, 2, decay=0.0) for step in range(5)] == [0.5, 1, 1, 1, 1]
    short = [learning_rate(step, 5, 1.0, 0.0, 500) for step in range(5)]                # at most half warms up
    assert short == pytest.approx([0.5, 1, 1, 0.5, 0])
    assert learning_rate(0, 1, 1.0, 0.2, 500) == 1
    falling = [learning_rate(step, 5, 1.0, 0.0, 2, decay=0.99) for step in range(5)]   # from the warm-up on
    assert falling == pytest.approx([0.5, 1, 1, 0.5, 0])


def test_dropout_is_another_of_every_seed_step_and_rank():
    """A CPU's generator takes the last 32 bits of its seed: where they differ, so do its draws."""
    drawn = set()
    for seed, step, rank in itertools.product((1, 2, 42), (0, 1, 1000), (0, 1)):
        torch.manual_seed(mixed_seed(seed, step, rank))
        drawn.add(torch.rand(1).item())
    assert len(drawn) == 18


def test_every_step_and_rank_of_a_run_draws_its_own(stage, monkeypatch):
    seeds, update = [], Run.update
    monkeypatch.setattr(Run, "update", lambda run: seeds.append(torch.initial_seed()) or update(run))
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        stage("pretrain", f"--tokens 1k --out out/{rank}")
    assert len(seeds) == len(set(seeds)) == 2 * 4


@pytest.mark.parametrize("flags, asked", [("", False), ("--dtype bfloat16 --compile", True)])
def test_precision_and_compiler_are_those_of_the_flags(stage, monkeypatch, flags, asked):
    """Precision in held-out losses, too; what is compiled is only what trains."""
    modes, compiled, forward = set(), [], GPT.forward

    def noting(model, *inputs):
        modes.add((model.training, torch.is_autocast_enabled("cpu")))
        return forward(model, *inputs)
    monkeypatch.setattr(GPT, "forward", noting)
    monkeypatch.setattr("torch.compile", lambda network: compiled.append(network) or network)
    assert stage("pretrain", f"--tokens 1k {flags}").status == 0
    assert modes == {(True, asked), (False, asked)} and len(compiled) == asked
    assert report("pretrain")["args"]["dtype"] == ("bfloat16" if asked else "float32")


MID_TRAINING = "--max-tokens 2048 --replay 0.5 --batch 8 --eval-every 5 --save-every 5"         # 16 steps


def test_mid_training_goes_on_with_schedule_and_optimizer(stage, monkeypatch):
    stage("pretrain", "--decay 0.4 --leave 16")                                      # 32 steps of 48
    taken = []
    update = Run.update

    def noting(run):
        update(run)
        taken.append(run.optimizer.state_dict()["state"][0]["step"].item())
    monkeypatch.setattr(Run, "update", noting)
    assert stage("posttrain", "--go-on", MID_TRAINING).status == 0
    assert taken == list(range(33, 49))
    for offset, name in ((0, "pretrain"), (32, "posttrain")):
        rates = {offset + line["step"]: line["lr"] for line in log_of(name) if "lr" in line}
        assert rates == {step: learning_rate(step - 1, 48, 3e-3, 3e-4, 5, 0.4) for step in rates}


def test_mid_training_continues_bit_for_bit(stage, monkeypatch):
    stage("pretrain", "--leave 16")
    stage("posttrain", "--go-on --out out/whole", MID_TRAINING)
    with monkeypatch.context() as patch:
        die_at(patch, 13)
        stage("posttrain", "--go-on", MID_TRAINING)
    Path("out/pretrain/left.pt").unlink()
    assert stage("posttrain", "--go-on --resume", MID_TRAINING).status == 0
    assert_same(weights("posttrain"), weights("whole"))


def test_stage_3_that_leaves_steps_is_the_beginning_of_a_longer_one(stage):
    """As a probe is: 4 of 16 steps."""
    stage("pretrain", "--tokens 1k")
    stage("finetune", "--init out/pretrain --out out/whole --eval-every 4")
    assert stage("finetune", "--init out/pretrain --tokens 1024 --leave 12 --out out/probe").status == 0
    whole = {line["step"]: line for line in log_of("whole") if "L_ret" in line}
    for name in ("L_ret", "L_ft"):
        assert report("probe")["losses"][name]["mean"] == whole[4][name] != whole[8][name]
    assert files_of("probe") == {".lock", "ckpt.pt", "run.json", "log.jsonl"}


@pytest.mark.parametrize("left, flags, says", [
    ("", "", "out/pretrain left nothing of its schedule, run pretrain.py with --leave STEPS"),
    ("--leave 15", "", "would take 16 steps, and out/pretrain leaves 15 of its schedule"),
    ("--leave 16", "--min-lr 1", "--go-on goes on with Stage 1's min lr"),
    ("--leave 16", "--weight-decay 0", "--go-on goes on with Stage 1's weight decay"),
    ("--leave 16", "--lora", "--go-on takes up the optimizer of all weights"),
])
def test_mid_training_refuses_what_is_not_one_schedule(stage, left, flags, says):
    stage("pretrain", left)
    run = stage("posttrain", f"--go-on {flags}", MID_TRAINING)
    assert run.status == 2 and says in run.err and run.err.count("\n") == 1
    assert not Path("out/posttrain").exists()


def test_what_a_stage_left_is_that_run_and_there(stage):
    stage("pretrain", "--leave 16")
    stage("pretrain", "--leave 16 --seed 1 --out out/other")
    Path("out/other/left.pt").replace("out/pretrain/left.pt")
    assert "left.pt is of another run than its ckpt.pt" in stage("posttrain", "--go-on", MID_TRAINING).err
    Path("out/pretrain/left.pt").unlink()
    assert "no out/pretrain/left.pt, run its stage again" in stage("posttrain", "--go-on", MID_TRAINING).err


def test_adamw_decays_matrices_only():
    sizes = {"layers": 2, "width": 48, "mlp": 80, "heads": 6, "kv_heads": 2, "context": 16}
    optimizer = adamw(GPT(configure("toy", 256, sizes)), lr=1e-3, weight_decay=0.1)
    decayed, spared = optimizer.param_groups
    assert decayed["weight_decay"] == 0.1 and all(weight.dim() == 2 for weight in decayed["params"])
    assert spared["weight_decay"] == 0.0 and all(weight.dim() == 1 for weight in spared["params"])
    assert len(decayed["params"]) == 1 + 2 * 7                                  # a tied head counted once
    assert len(spared["params"]) == 1 + 2 * 2
    assert optimizer.defaults["betas"] == (0.9, 0.95)


def test_four_steps_by_hand(stage):
    """AdamW's own formula: gradients clipped to norm 1, each step at its own rate, decay on matrices only."""
    stage("pretrain", "--tokens 1024 --lr 0.01 --weight-decay 0.5")
    torch.manual_seed(42)
    model = GPT(configure("toy", 256, {"layers": 2, "width": 32, "mlp": 48, "heads": 2, "kv_heads": 1, "context": 32}))
    windows = open_corpus("pre", find_source("pre.jsonl"), load_tokenizer("bytes")).windows(32, 8, seed=42, stage=1)
    m = v = [0.0] * len(list(model.parameters()))
    for step, rate in enumerate((0.005, 0.01, 0.01, 3e-4)):          # half of them warm up
        batch = torch.stack([windows[8 * step + row] for row in range(8)])
        gradients = torch.autograd.grad(model(batch[:, :-1], batch[:, 1:]).mean(), list(model.parameters()))
        norm = torch.sqrt(sum((g ** 2).sum() for g in gradients))
        assert norm > 1
        m = [0.9 * a + 0.1 * g / norm for a, g in zip(m, gradients)]
        v = [0.95 * b + 0.05 * (g / norm) ** 2 for b, g in zip(v, gradients)]
        with torch.no_grad():
            for w, a, b in zip(model.parameters(), m, v):
                w *= 1 - rate * (0.5 if w.dim() == 2 else 0)
                w -= rate * a / (1 - 0.9 ** (step + 1)) / ((b / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8)
    for name, weight in weights("pretrain").items():
        torch.testing.assert_close(weight, model.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_schedule_and_clipping_are_applied(stage, monkeypatch):
    norms = []
    clip = loop.clip_grad_norm_

    def noting(parameters, limit):
        parameters = list(parameters)
        before = clip(parameters, limit)
        after = torch.stack([weight.grad.norm() for weight in parameters]).norm()
        norms.append((before.item(), after.item()))
        return before
    monkeypatch.setattr(loop, "clip_grad_norm_", noting)
    stage("pretrain")
    assert any(before > 1 for before, _ in norms)
    assert all(after == pytest.approx(min(before, 1), rel=1e-4) for before, after in norms)
    for line in log_of("pretrain"):
        if "lr" in line:
            assert line["lr"] == learning_rate(line["step"] - 1, 32, 3e-3, 3e-4, 5)


def test_micro_batches_accumulate_to_the_same_step(stage):
    stage("pretrain", "--lam 1 --tokens 1k --out out/whole")
    stage("pretrain", "--lam 1 --tokens 1k --micro-batch 2 --out out/parts")
    whole, parts = weights("whole"), weights("parts")
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-3, atol=2e-5)
    for one, other in zip(log_of("whole"), log_of("parts")):              # and their losses are the same mean
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)


def test_a_forward_pass_is_of_up_to_8192_tokens_and_divides_what_a_rank_has(monkeypatch):
    assert largest_micro_batch(32, 128) == 32                                   # all: 4,096 tokens
    assert [largest_micro_batch(batch, 1024) for batch in (512, 480, 14, 3)] == [8, 8, 7, 3]
    assert largest_micro_batch(4, 100_000) == 1                                 # one there must be
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert largest_micro_batch(480, 1024) == 6                                  # a rank has 60


def test_a_short_step_is_the_mean_over_what_it_has(stage):
    """7 sequences: one short step of a batch of 8, or one whole step of a batch of 7."""
    for batch in (7, 8):
        stage("pretrain", f"--tokens 224 --batch {batch} --warmup 0 --out out/{batch}")
    for name, weight in weights("7").items():
        torch.testing.assert_close(weights("8")[name], weight, rtol=1e-4, atol=1e-5)
    (seven,), (eight,) = log_of("7"), log_of("8")                               # clipping hides a wrong scale
    for name in ("loss", "gradient_norm"):
        assert eight[name] == pytest.approx(seven[name], rel=1e-5)


def test_a_loss_that_is_not_finite_ends_the_run(stage):
    run = stage("pretrain", "--lr 1e30 --save-every 1")
    assert run.status == 2 and "not finite at step 2" in run.err
    assert "the last good checkpoint is out/pretrain/last.pt, of step 1" in run.err
    _, progress = read_progress(Path("out/pretrain/last.pt"))
    assert progress.step == 1


def test_weights_that_are_not_finite_are_not_saved(stage):
    """Nothing but the same failure could be continued from them."""
    run = stage("pretrain", "--lr 1e39 --warmup 0 --save-every 1")
    assert run.status == 2 and "the weights are not finite at step 1, run again with a lower --lr" in run.err
    assert "no checkpoint was saved yet" in run.err and not Path("out/pretrain/last.pt").exists()


def test_the_last_good_checkpoint_is_of_a_step_before(stage):
    """The last step's weights are saved and finite, and what they lose is not."""
    run = stage("pretrain", "--tokens 256 --lr 1e15 --warmup 0")
    assert run.status == 2 and "not finite at step 1" in run.err and "no checkpoint was saved yet" in run.err


def test_a_held_out_loss_that_is_not_finite_ends_the_run(stage):
    stage("pretrain", "--tokens 1k")
    run = stage("posttrain", "--lr 1e30 --warmup 0 --eval-every 1 --patience 1")
    assert run.status == 2 and "L_im is not finite at step 2" in run.err and "out/pretrain" in run.err
    assert not Path("out/posttrain/ckpt.pt").exists()


# ---- devices

def have(monkeypatch, cuda: int, mps: bool, version: str = "2.13.0", world: int = 1) -> None:
    """A machine with so many of CUDA's GPUs, or an Apple's, and a release of torch."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: cuda)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    monkeypatch.setattr("torch.__version__", TorchVersion(version))
    monkeypatch.setenv("WORLD_SIZE", str(world))


@pytest.mark.parametrize("machine, name, runs", [
    ({"cuda": 4, "mps": False}, "cuda", 4), ({"cuda": 1, "mps": True}, "cuda", 1),
    ({"cuda": 0, "mps": True}, "mps", 1), ({"cuda": 0, "mps": False}, "cpu", 0),
    ({"cuda": 0, "mps": True, "version": "2.6.1"}, "cpu", 0), ({"cuda": 0, "mps": True, "world": 2}, "cpu", 1),
])
def test_a_run_takes_the_gpu_that_is_there(monkeypatch, machine, name, runs):
    """An Apple's only with a torch whose attention works there, and by a run of one process."""
    have(monkeypatch, **machine)
    assert (preferred(), gpus()) == (name, runs)


@pytest.mark.parametrize("machine, says", [
    ({"version": "2.6.1"}, "mps needs torch 2.7 or newer, this is 2.6.1; use --device cpu"),
    ({"world": 2}, "mps takes one process, start it without torchrun or use --device cpu"),
    ({}, "device mps is not there"),
])
def test_what_mps_lacks_is_one_line(monkeypatch, machine, says):
    have(monkeypatch, cuda=0, mps=True, **machine)
    with pytest.raises(UserError, match=says):
        pick_device("mps")


def test_every_rank_takes_the_gpu_of_its_number_on_its_machine(monkeypatch):
    have(monkeypatch, cuda=4, mps=False)
    monkeypatch.setenv("RANK", "7")
    monkeypatch.setenv("LOCAL_RANK", "3")
    taken = []
    monkeypatch.setattr("torch.empty", lambda size, device: None)
    monkeypatch.setattr("torch.cuda.set_device", taken.append)
    assert pick_device(None) == pick_device("cuda") == torch.device("cuda:3")
    assert taken == [torch.device("cuda:3")] * 2


@pytest.mark.parametrize("has_it, dtype", [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_that_only_emulates_bfloat16_is_not_given_it(monkeypatch, has_it, dtype):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: including_emulation or has_it)
    assert pick_dtype(None, torch.device("cuda")) == dtype


def test_mps_is_not_trusted_with_bfloat16():
    assert pick_dtype(None, torch.device("mps")) == "float32"
    with pytest.raises(UserError, match="use --dtype float32"):
        pick_dtype("bfloat16", torch.device("mps"))


@pytest.mark.parametrize("given, taken", [(None, ":4096:8"), (":16:8", ":16:8"), (":0:0", ":4096:8")])
def test_cuda_is_bitwise_repeatable_or_says_that_it_is_not(monkeypatch, given, taken):
    """Only warned, attention takes backward passes that are not, as torch's attention_backward.cu has it."""
    modes = []

    def take(*mode, **more):
        modes.append((*mode, more))
    monkeypatch.setattr("torch.use_deterministic_algorithms", take)
    monkeypatch.setattr("torch.utils.deterministic.fill_uninitialized_memory", True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given or "")
    be_deterministic(torch.device("cpu"))
    be_deterministic(torch.device("cuda:1"))
    assert modes == [(True, {})] and os.environ["CUBLAS_WORKSPACE_CONFIG"] == taken


@pytest.mark.parametrize("activity", ["log", "evaluate", "save", "data"])
def test_what_a_gpu_has_still_to_do_is_trainings(monkeypatch, activity):
    """The GPU is played: it is five seconds behind, which whoever needs its results waits for."""
    now, behind = [0.0], [5.0]

    def synchronize(device):
        now[0] += behind.pop() if behind else 0
    monkeypatch.setattr("torch.cuda.synchronize", synchronize)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    run = SimpleNamespace(device=torch.device("cuda"), seconds={activity: 0.0})
    with Run._clock(run, activity):
        if activity != "data":
            torch.cuda.synchronize(run.device)
        now[0] += 1
    assert run.seconds == {activity: 1.0} and bool(behind) == (activity == "data")


def test_constant_buffers_are_not_exchanged_in_any_release_of_torch(monkeypatch):
    def newer(network, gradient_as_bucket_view, broadcast_buffers=None, forward_sync_buffers=None):
        return forward_sync_buffers, broadcast_buffers

    def older(network, gradient_as_bucket_view, broadcast_buffers=True):
        return broadcast_buffers
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("run.ranks.DistributedDataParallel", newer)
    assert ranks.parallel(None) == (False, None)
    monkeypatch.setattr("run.ranks.DistributedDataParallel", older)
    assert ranks.parallel(None) is False


# ---- watched by others

class Tracker:
    """A package as wandb is, that keeps what it is told: what a run was started with, its rows, its end."""
    def __init__(self):
        self.started, self.rows, self.finished = [], [], 0

    def init(self, **known):
        self.started.append(known)
        return self

    def log(self, values: dict, step: int):
        self.rows.append({"step": step} | values)

    def finish(self):
        self.finished += 1


@pytest.fixture(params=["wandb", "trackio"])
def tracker(request, monkeypatch):
    """`--wandb` or `--trackio`, and what stands in for the package."""
    package = Tracker()
    monkeypatch.setitem(sys.modules, request.param, package)
    return f"--{request.param}", package


def test_a_tracker_gets_every_line_and_how_the_stage_ended(stage, tracker):
    flag, package = tracker
    stage("pretrain", f"--lam 1 --eval-every 12 {flag}")
    assert package.rows[:-1] == log_of("pretrain") and package.finished == 1
    done = report("pretrain")
    means = {name: loss["mean"] for name, loss in done["losses"].items()}
    shares = {name: done["lineage"][0][name] for name in ("lam", "alpha")}
    assert package.rows[-1] == {"step": done["lineage"][0]["steps"]} | means | shares
    assert package.started[0]["config"] == done["args"]

    # L_pre is measured at the end only.
    stage("posttrain", f"--max-tokens 2k {flag}")
    assert set(package.rows[-1]) == {"step", "L_im", "L_pre"}


def test_a_tracker_is_a_choice(stage):
    run = stage("pretrain", "--wandb --trackio")
    assert run.status == 2 and "not allowed with argument" in run.err


def test_a_resumed_run_is_the_same_run_to_a_tracker_and_one_begun_anew_another(stage, tracker, monkeypatch):
    flag, package = tracker
    with monkeypatch.context() as patch:
        die_at(patch, 13)
        stage("pretrain", flag)
    stage("pretrain", f"{flag} --resume")
    stage("pretrain", f"{flag} --overwrite")
    once, resumed, anew = (known.get("id", known["name"]) for known in package.started)
    assert once == resumed != anew and {known["resume"] for known in package.started} == {"allow"}
    assert files_of("pretrain") == {".lock", "ckpt.pt", "run.json", "log.jsonl", "tracked.id"}

    # What the folder says is damaged: another run is better than none.
    Path("out/pretrain/tracked.id").write_bytes(b"\xff\x00")
    assert len(folder.read_tracked(Path("out/pretrain"), resumed=True)) == 8


def test_a_tracker_that_does_not_start_is_one_line_before_anything_is_read(stage, tracker, monkeypatch):
    flag, package = tracker

    def refuse(**known):
        raise RuntimeError("No API key configured.\nSee there")
    monkeypatch.setattr(package, "init", refuse)
    run = stage("pretrain", flag)
    says = f"error: {flag[2:]} does not start (No API key configured.), mend that or leave {flag} away\n"
    assert (run.status, run.err) == (2, says) and not Path("out").exists()


# ---- bit for bit

def test_two_runs_with_one_seed_are_bitwise_equal_and_other_seeds_differ(stage):
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        stage("pretrain", f"--lam 1 --seed {seed} --out out/{out}")
    assert_same(weights("a"), weights("b"))
    assert not torch.equal(weights("a")["norm.weight"], weights("c")["norm.weight"])


def test_resuming_remembers_the_best(stage, monkeypatch):
    """The best is at step 5, the last save at 10, the end of patience at 20."""
    monkeypatch.setattr(Run, "evaluate", lambda self, **held_out: {
        name: Loss(abs(self.step - 5), 0.0, corpus.role) for name, corpus in held_out.items()})
    stage("pretrain", "--tokens 1k")
    stage("posttrain", "--out out/whole")
    with monkeypatch.context() as patch:
        die_at(patch, 12)
        stage("posttrain", "--out out/killed")
    shutil.copytree("out/killed", "out/older")
    stage("posttrain", "--out out/killed --resume")
    assert_same(weights("killed"), weights("whole"))
    ends = [report(out)["lineage"][1] for out in ("killed", "whole")]
    assert [(entry["best_step"], entry["steps"]) for entry in ends] == [(5, 20), (5, 20)]

    # A last.pt from before its step was kept does not know it, and nothing is said of it.
    checkpoint, progress = read_progress(Path("out/older/last.pt"))
    del progress.best["step"]
    save_checkpoint(Path("out/older/last.pt"), checkpoint, progress)
    run = stage("posttrain", "--out out/older --resume")
    assert_same(weights("older"), weights("whole"))
    assert report("older")["lineage"][1]["best_step"] is None and "kept" not in run.out


def wait_for(path: Path, process) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize("number, status", [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_killed_and_resumed(start, stage, number, status):
    settings = "--lam 1 --tokens 20k --save-every 5"
    process = start("pretrain", settings)
    wait_for(Path("out/pretrain/last.pt"), process)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == status
    assert not Path("out/pretrain/ckpt.pt").exists()
    _, progress = read_progress(Path("out/pretrain/last.pt"))
    if number != signal.SIGKILL:
        assert f"saved at step {progress.step}, continue with --resume" in out and err == ""
    assert stage("pretrain", settings + " --resume").status == 0
    assert stage("pretrain", settings + " --out out/whole").status == 0
    assert_same(weights("pretrain"), weights("whole"))
    assert files_of("pretrain") == {".lock", "ckpt.pt", "run.json", "log.jsonl"}


# ---- ranks

def test_two_ranks_train_on_the_same_sequences(torchrun, stage):
    """21 steps of both corpora, the last one short; held-out losses are sharded over the ranks."""
    settings = "--lam 1 --tokens 3808 --batch 12 --micro-batch 3"
    assert stage("pretrain", settings + " --out out/one").status == 0
    pair = torchrun("pretrain", settings + " --out out/two")
    assert pair.status == 0, pair.err
    assert pair.out.count("pretrain finished") == 1
    losses = [[line["loss"] for line in log_of(run) if "loss" in line] for run in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    one, two = report("one"), report("two")
    assert one["lineage"][0]["steps"] == 21 and two["ranks"] == 2
    assert one["tokens"] == two["tokens"]
    for name, loss in one["losses"].items():
        assert two["losses"][name]["mean"] == pytest.approx(loss["mean"], rel=1e-5)
        assert two["losses"][name]["se"] == pytest.approx(loss["se"], rel=1e-3)
        assert two["losses"][name]["corpus"] == loss["corpus"]
    for name, weight in weights("one").items():
        torch.testing.assert_close(weights("two")[name], weight, rtol=1e-3, atol=1e-4)


def test_one_rank_of_torchrun_exchanges_with_itself_and_changes_nothing(stage, start_ranks):
    assert stage("pretrain", "--lam 1 --out out/alone").status == 0
    (process,) = start_ranks(1, "pretrain", "--lam 1 --out out/rank --micro-batch 4")
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert report("rank")["ranks"] == 1
    for name, weight in weights("alone").items():
        torch.testing.assert_close(weights("rank")[name], weight, rtol=1e-3, atol=1e-4)


def test_three_ranks_stopped_and_resumed_end_bit_for_bit_as_if_they_had_not_been(start_ranks):
    """The last bits of a sum of three depend on its order; of two they do not."""
    def start(out):
        return start_ranks(3, "pretrain", f"--tokens 8k --batch 3 --save-every 2 --resume --out out/{out}")

    def statuses(processes):
        return {process.communicate() and process.returncode for process in processes}
    assert statuses(start("whole")) == {0}
    stopped = start("stopped")
    while not Path("out/stopped/last.pt").exists() and stopped[0].poll() is None:
        time.sleep(0.001)
    stopped[0].terminate()
    assert statuses(stopped) == {143}
    assert statuses(start("stopped")) == {0}
    assert_same(weights("stopped"), weights("whole"))


def test_an_error_of_all_ranks_is_said_by_rank_0_in_time_for_torchrun_to_end_the_others(start_ranks):
    first, other = start_ranks(2, "pretrain", "--pre none.jsonl")
    _, err = first.communicate()
    assert first.returncode == 2 and err.startswith("error: no corpus 'none.jsonl'")
    other.terminate()
    assert other.communicate()[1] == ""


@pytest.mark.parametrize("fault, says", [
    (lambda: torch.empty(10 ** 15), "error: the device is out of memory, lower --micro-batch"),
    (lambda: fail("CUDA error: out of memory"), "error: the device is out of memory, lower --micro-batch"),
    (lambda: fail("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
     "error: the device is out of memory, lower --micro-batch"),
    (lambda: [None] * 10 ** 15, "error: memory is short, free some or give shorter documents"),
    (lambda: fail("[third_party/gloo/gloo/transport/tcp/pair.cc:537] Connection reset by peer"),
     "error: another rank has gone or is out of reach ([third_party/gloo/gloo/transport/tcp/pair.cc:537] "
     "Connection reset by peer), see what it said; --resume continues"),
])
def test_what_a_run_cannot_help_is_one_line(monkeypatch, capsys, fault, says):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert status_of(fault) == 2
    assert capsys.readouterr().err == says + "\n"


def test_a_fault_of_the_program_ends_a_rank_as_errors_do(monkeypatch, capsys):
    """Raised it would take the interpreter down while others' threads still need it."""
    with pytest.raises(RuntimeError, match="a fault"):
        status_of(lambda: fail("a fault"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert status_of(lambda: fail("a fault")) == 1
    assert capsys.readouterr().err.endswith("RuntimeError: a fault\n")


def fail(text):
    raise RuntimeError(text)


def test_ranks_that_do_not_share_a_disk_are_told(stage, monkeypatch):
    """Another has found a checkpoint of step 4, this one none."""
    theirs = iter((4, -4))
    monkeypatch.setattr(ranks, "largest", lambda number: max(number, next(theirs)))
    run = stage("pretrain", "--tokens 1k --resume")
    assert run.status == 2 and "ranks find different checkpoints in out/pretrain, share one disk" in run.err


def test_a_signal_to_another_rank_stops_this_one_after_the_same_step(stage, monkeypatch):
    monkeypatch.setattr(ranks, "require_equal", lambda number, otherwise: None)
    monkeypatch.setattr(ranks, "largest", lambda number: signal.SIGTERM)
    run = stage("pretrain")
    assert run.status == 143 and "saved at step 1, continue with --resume" in run.out


def test_batch_must_divide_among_ranks(stage, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert "does not divide among 3 ranks" in stage("pretrain").err
