"""The three stages: what they leave, how they resume, that ranks do not matter, and how they fail."""

import json
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import trainer
from data import Windows, corpus_of
from evaluate import Loss
from files import load_checkpoint, lock
from trainer import Trainer, learning_rate

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def report(run: str) -> dict:
    return json.loads(Path(f"out/{run}/run.json").read_text())


def weights(run: str) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in load_checkpoint(Path(f"out/{run}/ckpt.pt"))["model"].items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Bitwise."""
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def die_at(monkeypatch, step: int) -> None:
    """The process is gone after this step's update, before anything of it is saved."""
    train_step = Trainer.train_step

    def dying(self):
        train_step(self)
        if self.step == step:
            raise SystemExit("killed")
    monkeypatch.setattr(Trainer, "train_step", dying)


# ---- what a chain leaves

def test_the_chain_reports_the_four_losses_and_what_comes_next(stage):
    first = stage("pretrain", "--lam 0.5")
    assert first.status == 0 and "λ = 0.496, α = 0.1987" in first.out and first.err == ""
    assert "next: python posttrain.py\n" in first.out
    assert "next: python finetune.py\n" in stage("posttrain").out
    last = stage("finetune")
    assert all(f"  {name} " in last.out for name in ("L_im", "L_ret", "L_ft", "L_pre"))
    assert "next: python evaluate.py out/finetune" in last.out

    for name in ("pretrain", "posttrain", "finetune"):
        assert {path.name for path in Path("out", name).iterdir()} == {".lock", "ckpt.pt", "run.json", "log.jsonl"}
    lineage = report("finetune")["lineage"]
    assert [entry["stage"] for entry in lineage] == ["pretrain", "posttrain", "finetune"]
    assert lineage[0]["tokens"] == {"pre": 250 * 32, "post": 62 * 32}          # 8k and half of 4k, in windows of 32
    assert lineage[0]["lam"] == 62 / 125 and lineage[0]["alpha"] == 62 / 312
    assert lineage[2]["tokens"] == {"ft": 125 * 32, "pre": 0}
    assert lineage[0]["losses"]["L_pre"]["mean"] < 4.5                          # ln 256 = 5.5 before training
    assert lineage[2]["losses"]["L_im"] == lineage[1]["losses"]["L_im"]
    assert lineage == load_checkpoint(Path("out/finetune/ckpt.pt"))["lineage"]
    steps = [json.loads(line)["step"] for line in Path("out/pretrain/log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == lineage[0]["steps"] == 39


def test_mix_and_lam_say_the_same(stage):
    stage("pretrain", "--lam 0.5 --out out/lam")
    stage("pretrain", f"--mix {62 / 312} --out out/mix")
    assert report("mix")["tokens"] == report("lam")["tokens"]
    assert_same(weights("mix"), weights("lam"))


def test_more_than_one_pass_is_allowed_and_said(stage):
    run = stage("pretrain", "--lam 2 --tokens 40k")
    assert "2 passes over D_post, which has 4,000 tokens" in run.out and "passes over D_pre" in run.out
    assert report("pretrain")["tokens"]["post"] == 250 * 32


def test_two_runs_with_one_seed_are_bitwise_equal_and_other_seeds_differ(stage):
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        stage("pretrain", f"--lam 1 --seed {seed} --out out/{out}")
    assert_same(weights("a"), weights("b"))
    assert not torch.equal(weights("a")["norm.weight"], weights("c")["norm.weight"])


def test_early_stopping_keeps_the_best_weights(stage, monkeypatch):
    stage("pretrain")
    run = stage("posttrain", "--lr 0.05 --min-lr 0.05 --max-tokens 60k --patience 2")
    losses = [json.loads(line) for line in Path("out/posttrain/log.jsonl").read_text().splitlines()]
    losses = [line["L_im"] for line in losses if "L_im" in line]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 46, run.out                                # two evaluations without a better one
    assert report("posttrain")["tokens"]["post"] == len(losses) * 5 * 8 * 32    # all that was trained on, 5 steps each
    assert report("posttrain")["losses"]["L_im"]["mean"] == pytest.approx(min(losses))


def test_compute_matched_reads_exactly_what_stage_1_left(stage, monkeypatch):
    seen = {}                                               # (stage, windows of the corpus): numbers of those read
    read = Windows.__getitem__

    def noting(self, position):
        number, offset = divmod(position, len(self))
        seen.setdefault((self.stage, len(self)), []).append(int(self.permutation(number)[offset]))
        return read(self, position)
    monkeypatch.setattr(Windows, "__getitem__", noting)
    stage("pretrain", "--lam 0.25 --seed 5")
    stage("posttrain", "--compute-matched")
    d_post = corpus_of(report("pretrain")["lineage"], "post").windows(32, 8, 0, 1, limit=4000).chosen.tolist()
    assert len(d_post) == 125 and len(seen[1, 125]) == 31                       # a quarter of 125 in Stage 1
    assert sorted(seen[1, 125] + seen[2, 94]) == d_post
    assert report("posttrain")["tokens"] == {"post": 94 * 32, "pre": 0}

    stage("pretrain", "--lam 1 --out out/full")
    stage("posttrain", "--compute-matched --init out/full --out out/none")      # λ = 1: no Stage 2
    assert report("none")["lineage"][1]["steps"] == 0
    assert_same(weights("none"), weights("full"))


def test_replay_adds_d_pre_and_keeps_exposure(stage):
    stage("pretrain")
    stage("posttrain", "--replay 0.2")
    assert report("posttrain")["tokens"] == {"post": 250 * 32, "pre": 62 * 32}      # 62 of 312 sequences
    stage("finetune", "--replay 0.5")
    assert report("finetune")["tokens"] == {"ft": 125 * 32, "pre": 125 * 32}


def test_dropout_acts_in_stage_2(stage):
    stage("pretrain", "--tokens 1k")
    for rate in (0, 0.1):
        stage("posttrain", f"--dropout {rate} --max-tokens 2k --out out/{rate}")
    assert not torch.equal(weights("0")["norm.weight"], weights("0.1")["norm.weight"])


def test_schedule_and_clipping_are_applied(stage, monkeypatch):
    norms = []
    clip = trainer.clip_grad_norm_

    def noting(parameters, limit):
        parameters = list(parameters)
        before = clip(parameters, limit)
        norms.append((before.item(), torch.stack([weight.grad.norm() for weight in parameters]).norm().item()))
        return before
    monkeypatch.setattr(trainer, "clip_grad_norm_", noting)
    stage("pretrain")
    assert any(before > 1 for before, _ in norms)
    assert all(after == pytest.approx(min(before, 1), rel=1e-4) for before, after in norms)
    for line in map(json.loads, Path("out/pretrain/log.jsonl").read_text().splitlines()):
        if "lr" in line:
            assert line["lr"] == learning_rate(line["step"] - 1, 32, 3e-3, 3e-4, 5)


def test_lora_leaves_a_plain_merged_checkpoint(stage):
    stage("pretrain")
    stage("posttrain", "--lora")
    before, after = weights("pretrain"), weights("posttrain")
    assert before.keys() == after.keys()
    changed = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"}
    assert stage("finetune").status == 0
    trained = weights("finetune")
    assert not torch.equal(trained["embed_tokens.weight"], after["embed_tokens.weight"])
    assert not torch.equal(trained["embed_tokens.weight"], trained["lm_head.weight"])


def test_micro_batches_accumulate_to_the_same_step(stage):
    stage("pretrain", "--lam 1 --tokens 1k --out out/whole")
    stage("pretrain", "--lam 1 --tokens 1k --micro-batch 2 --out out/parts")
    whole, parts = weights("whole"), weights("parts")
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-3, atol=2e-5)


def test_a_short_step_is_the_mean_over_what_it_has(stage):
    """7 sequences: one short step of a batch of 8, or one whole step of a batch of 7."""
    for batch in (7, 8):
        stage("pretrain", f"--tokens 224 --batch {batch} --warmup 0 --out out/{batch}")
    for name, weight in weights("7").items():
        torch.testing.assert_close(weights("8")[name], weight, rtol=1e-4, atol=1e-5)


def test_learning_rate_by_hand():
    rates = [learning_rate(step, 12, 1.0, 0.2, 2) for step in range(12)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[11] == pytest.approx(0.2) and rates[5] == pytest.approx(0.2 + 0.8 * (1 + np.cos(np.pi / 3)) / 2)
    assert learning_rate(500, 1000, 1e-5, 5e-5, 0) == 1e-5                      # a peak under the minimum stays flat


# ---- running again

def test_a_finished_stage_is_left_alone(stage):
    stage("pretrain")
    stamp = Path("out/pretrain/ckpt.pt").stat().st_mtime_ns
    again = stage("pretrain")
    assert again.status == 0 and "nothing to do" in again.out and "next: python posttrain.py" in again.out
    assert stage("pretrain", "--resume --device cpu --save-every 7").status == 0
    other = stage("pretrain", "--lr 0.01")
    assert other.status == 2 and "--lr 0.003" in other.err and "--overwrite" in other.err
    assert Path("out/pretrain/ckpt.pt").stat().st_mtime_ns == stamp
    assert stage("pretrain", "--lr 0.01 --overwrite").status == 0
    assert report("pretrain")["args"]["lr"] == 0.01


def test_a_stage_on_another_init_is_another_run(stage):
    stage("pretrain")
    stage("posttrain")
    Path("out/pretrain/ckpt.pt").unlink()                                       # no longer needed
    assert "nothing to do" in stage("posttrain").out
    stage("pretrain", "--seed 9 --overwrite")
    assert "a finished posttrain run from another --init" in stage("posttrain").err
    assert "out/pretrain holds a finished pretrain run, choose another" in stage("posttrain", "--out out/pretrain").err


def test_an_unfinished_stage_needs_resume(stage, monkeypatch):
    assert stage("pretrain", "--resume --out out/fresh").status == 0             # nothing there: starts
    with monkeypatch.context() as patch:
        die_at(patch, 7)
        stage("pretrain")
    refused = stage("pretrain")
    assert refused.status == 2 and "--resume" in refused.err and "--overwrite" in refused.err
    assert "give the same arguments" in stage("pretrain", "--resume --lr 0.1").err
    assert stage("pretrain", "--resume").status == 0
    assert_same(weights("pretrain"), weights("fresh"))


@pytest.mark.parametrize("died_at", [1, 5, 14, 19])
@pytest.mark.parametrize("flags", ["", "--dropout 0.1 --replay 0.2 --lora",
                                   "--dropout 0.1 --replay 0.2 --patience 1 --lr 0.05"])
def test_resuming_is_bitwise(stage, monkeypatch, flags, died_at):
    stage("pretrain", "--tokens 1k")
    stage("posttrain", f"{flags} --max-tokens 5k --out out/whole")
    with monkeypatch.context() as patch:
        die_at(patch, died_at)
        stage("posttrain", f"{flags} --max-tokens 5k --out out/killed")
    if not Path("out/killed/run.json").exists():
        assert stage("posttrain", f"{flags} --max-tokens 5k --out out/killed --resume").status == 0
    assert_same(weights("killed"), weights("whole"))
    assert report("killed")["lineage"] == report("whole")["lineage"]
    assert [json.loads(line)["step"] for line in Path("out/killed/log.jsonl").read_text().splitlines()] == \
        [json.loads(line)["step"] for line in Path("out/whole/log.jsonl").read_text().splitlines()]


def test_resuming_remembers_the_best(stage, monkeypatch):
    """The best is at step 5, the last save at 10, the end of patience at 20."""
    monkeypatch.setattr(Trainer, "evaluate", lambda self, **held_out:
                        {name: Loss(abs(self.step - 5), 0.0) for name in held_out})
    stage("pretrain", "--tokens 1k")
    stage("posttrain", "--out out/whole")
    with monkeypatch.context() as patch:
        die_at(patch, 12)
        stage("posttrain", "--out out/killed")
    stage("posttrain", "--out out/killed --resume")
    assert_same(weights("killed"), weights("whole"))
    assert report("killed")["lineage"][1]["steps"] == report("whole")["lineage"][1]["steps"] == 20


def wait_for(path: Path, process) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize("number, status", [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_killed_and_resumed(start, stage, number, status):
    settings = "--lam 1 --tokens 40k --save-every 20"
    process = start("pretrain", settings)
    wait_for(Path("out/pretrain/last.pt"), process)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == status
    assert not Path("out/pretrain/ckpt.pt").exists()
    saved = load_checkpoint(Path("out/pretrain/last.pt"))["step"]
    if number != signal.SIGKILL:
        assert f"saved at step {saved}, continue with --resume" in out and err == ""
    assert stage("pretrain", settings + " --resume").status == 0
    assert stage("pretrain", settings + " --out out/whole").status == 0
    assert_same(weights("pretrain"), weights("whole"))
    assert {path.name for path in Path("out/pretrain").iterdir()} == {".lock", "ckpt.pt", "run.json", "log.jsonl"}


# ---- ranks

def test_two_ranks_train_on_the_same_sequences(start, stage):
    """21 steps of both corpora, the last one short; held-out losses are sharded over the ranks."""
    settings = "--lam 1 --tokens 3808 --batch 12 --micro-batch 3"
    assert start("pretrain", settings + " --out out/one").wait() == 0
    pair = start("pretrain", settings + " --out out/two", launcher=TORCHRUN)
    out, err = pair.communicate()
    assert pair.returncode == 0, err
    assert out.count("pretrain finished") == 1
    losses = [[line["loss"] for line in map(json.loads, Path(f"out/{run}/log.jsonl").read_text().splitlines())
               if "loss" in line] for run in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    one, two = report("one"), report("two")
    assert one["lineage"][0]["steps"] == 21 and two["ranks"] == 2
    assert one["tokens"] == two["tokens"]
    for name, loss in one["losses"].items():
        assert two["losses"][name]["mean"] == pytest.approx(loss["mean"], rel=1e-5)
        assert two["losses"][name]["se"] == pytest.approx(loss["se"], rel=1e-3)
    for name, weight in weights("one").items():
        torch.testing.assert_close(weights("two")[name], weight, rtol=1e-3, atol=1e-4)


def test_an_error_of_rank_0_is_said_once(start):
    pair = start("pretrain", "--pre none.jsonl", launcher=TORCHRUN)
    out, err = pair.communicate()
    assert pair.returncode != 0 and err.count("error: no corpus 'none.jsonl'") == 1


# ---- bad input

ERRORS = [  # script, flags, what the line must say
    ("pretrain", "--lrr 1", "unrecognized arguments: --lrr 1"),
    ("pretrain", "--mix 1", "--mix: 1 is not a share"),
    ("pretrain", "--mix -0.1", "--mix: '-0.1' is not a number of 0 or more"),
    ("pretrain", "--mix 0.1 --lam 1", "--lam: not allowed with argument --mix"),
    ("pretrain", "--tokens 1.5", "--tokens: '1.5' is not a count"),
    ("pretrain", "--tokens nan", "is not a count"),
    ("pretrain", "--batch 0", "must be at least 1"),
    ("pretrain", "--preset 7b", "--preset: invalid choice"),
    ("pretrain", "--pre none.jsonl", "no corpus 'none.jsonl'"),
    ("pretrain", "--post-tokens 100", "shorter than one batch"),
    ("pretrain", "--tokens 10", "10 tokens are less than one sequence of 32"),
    ("pretrain", "--seed 5B", "must be below"),
    ("pretrain", "--batch 8 --micro-batch 3", "does not divide into micro-batches of 3"),
    ("pretrain", "--heads 3", "do not fit"),
    ("pretrain", "--device cuda", "device cuda is not there"),
    ("pretrain", "--tokenizer none.tiktoken", "--tokenizer bytes"),
    ("pretrain", "--out pre.jsonl", "holds something else"),
    ("pretrain", "--out .", "holds something else"),
    ("pretrain", "--wandb", "pip install wandb"),
    ("posttrain", "--init out/none", "no checkpoint out/none/ckpt.pt"),
    ("posttrain", "--replay 1", "--replay: 1 is not a share"),
    ("posttrain", "--dropout 1.5", "--dropout: 1.5 is not a share"),
]


@pytest.mark.parametrize("name, flags, says", ERRORS)
def test_errors_are_one_line_and_leave_nothing(stage, name, flags, says, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = stage(name, flags)
    assert run.status == 2 and says in run.err and run.err.startswith("error: ") and run.err.count("\n") == 1
    assert not [path for path in Path("out").glob("*") if path.name != "tokens"]


def test_batch_must_divide_among_ranks(stage, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert "does not divide among 3 ranks" in stage("pretrain").err


@pytest.mark.parametrize("break_it, says", [
    (lambda path: path.write_bytes(path.read_bytes()[:5000]), "truncated or not a checkpoint"),
    (lambda path: path.write_bytes(b""), "truncated or not a checkpoint"),
    (lambda path: torch.save({"state_dict": {}}, path), "another program"),
    (lambda path: torch.save([1], path), "another program"),
    (lambda path: path.unlink(), "no checkpoint"),
])
def test_bad_checkpoints_are_named(stage, break_it, says):
    stage("pretrain", "--tokens 1k")
    break_it(Path("out/pretrain/ckpt.pt"))
    run = stage("posttrain")
    assert run.status == 2 and says in run.err and run.err.count("\n") == 1 and not Path("out/posttrain").exists()


def test_checkpoints_of_another_stage_tokenizer_or_corpus_are_refused(stage):
    stage("pretrain", "--tokens 1k")
    assert "finetune.py takes one after pretrain and posttrain" in stage("finetune", "--init out/pretrain").err
    checkpoint = dict(load_checkpoint(Path("out/pretrain/ckpt.pt")))
    checkpoint["lineage"][0]["tokenizer"] = "another"
    torch.save(checkpoint, "other.pt")
    assert "is not the one of the checkpoint" in stage("posttrain", "--init other.pt").err
    Path("post.jsonl").rename("moved.jsonl")
    assert stage("posttrain", "--max-tokens 1k --out out/moved").status == 0    # the token files are still there
    shutil.rmtree("out/tokens")
    assert "no corpus 'post.jsonl'" in stage("posttrain").err
    Path("post.jsonl").write_text(Path("moved.jsonl").read_text() + '{"text": "one more"}\n')
    assert "post.jsonl has changed" in stage("posttrain").err


def test_a_loss_that_is_not_finite_ends_the_run(stage):
    run = stage("pretrain", "--lr 1e30 --save-every 1")
    assert run.status == 2 and "not finite at step 2" in run.err and "out/pretrain/last.pt, of step 1" in run.err
    assert load_checkpoint(Path("out/pretrain/last.pt"))["step"] == 1


def test_a_held_out_loss_that_is_not_finite_ends_the_run(stage):
    stage("pretrain", "--tokens 1k")
    run = stage("posttrain", "--lr 1e30 --warmup 0 --eval-every 1 --patience 1")
    assert run.status == 2 and "L_im is not finite after step 2" in run.err and "out/pretrain" in run.err
    assert not Path("out/posttrain/ckpt.pt").exists()


def test_a_torn_log_line_is_dropped(stage, monkeypatch):
    with monkeypatch.context() as patch:
        die_at(patch, 19)
        stage("pretrain")
    with open("out/pretrain/log.jsonl", "a") as log:
        log.write('{"step": 1')
    assert stage("pretrain", "--resume").status == 0
    steps = [json.loads(line)["step"] for line in Path("out/pretrain/log.jsonl").read_text().splitlines()]
    assert steps == [5, 10, 15, 20, 25, 30, 32]


def test_a_full_disk_leaves_no_torn_file(stage):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    corpora_ready = stage("pretrain", "--tokens 1k --out out/first")
    assert corpora_ready.status == 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))               # a checkpoint is larger
    try:
        run = stage("pretrain", "--tokens 1k")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run.status == 2 and "no space left" in run.err and run.err.count("\n") == 1
    assert {path.name for path in Path("out/pretrain").iterdir()} == {".lock", "log.jsonl"}
    assert stage("pretrain", "--tokens 1k --resume").status == 0


def test_later_stages_find_the_corpora_by_themselves(stage):
    stage("pretrain", "--tokens 1k")
    lineage = load_checkpoint(Path("out/pretrain/ckpt.pt"))["lineage"]
    assert corpus_of(lineage, "pre").record["source"] == "pre.jsonl"
    assert corpus_of(lineage, "post").record["source"] == "post.jsonl"


def test_a_folder_is_written_by_one_run_at_a_time(stage):
    Path("out/pretrain").mkdir(parents=True)
    held = lock(Path("out/pretrain"))
    second = stage("pretrain")
    assert second.status == 2 and "is being written by another run" in second.err
    assert not list(Path("out/pretrain").glob("[!.]*"))
    held.release()
    assert stage("pretrain", "--resume").status == 0
