"""What the three stages do and leave, in chains of any length, and what they say to a wrong command line."""

import json
import shutil
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

import posttrain
from data.corpora import corpus_of, open_corpus
from data.stream import Windows
from run.checkpoint import read_checkpoint
from tests.conftest import assert_same, corpora, files_of, log_of, report, weights
from tests.test_tokens import write_vocabulary


# ---- the chain

def test_the_chain_reports_the_four_losses_and_what_comes_next(stage):
    first = stage("pretrain", "--lam 0.5")
    assert first.status == 0 and "λ = 0.496, α = 0.1987" in first.out and first.err == ""
    whole = len(corpus_of(read_checkpoint(Path("out/pretrain/ckpt.pt")).lineage, "post").train)
    assert f"of D_post (4,000 of the {whole:,} in post.jsonl)" in first.out          # --post-tokens 4k
    assert "next: python posttrain.py --init out/pretrain\n" in first.out
    assert "next: python finetune.py --init out/posttrain\n" in stage("posttrain").out
    last = stage("finetune")
    shown = {line.split()[0]: line.split()[-1] for line in last.out.splitlines() if " ± " in line}
    assert shown == {"L_im": "D_post", "L_ret": "D_post", "L_ft": "D_ft", "L_pre": "D_pre"}
    assert "next: python evaluate.py out/finetune" in last.out

    for name in ("pretrain", "posttrain", "finetune"):
        assert files_of(name) == {".lock", "ckpt.pt", "run.json", "log.jsonl"}
    lineage = report("finetune")["lineage"]
    assert [entry["stage"] for entry in lineage] == ["pretrain", "posttrain", "finetune"]
    assert lineage[0]["tokens"] == {"pre": 250 * 32, "post": 62 * 32}    # 8k and half of 4k, in windows of 32
    assert lineage[0]["lam"] == 62 / 125 and lineage[0]["alpha"] == 62 / 312
    assert lineage[2]["tokens"] == {"ft": 125 * 32, "pre": 0}
    assert lineage[0]["losses"]["L_pre"]["mean"] < 4.5                          # ln 256 = 5.5 before training
    assert lineage[2]["losses"]["L_im"] == lineage[1]["losses"]["L_im"]
    assert lineage == read_checkpoint(Path("out/finetune/ckpt.pt")).lineage
    steps = [line["step"] for line in log_of("pretrain")]
    assert steps == sorted(steps) and steps[-1] == lineage[0]["steps"] == 39


def test_every_held_out_loss_is_recorded_with_its_corpus(stage):
    for name in ("pretrain", "posttrain", "finetune"):
        stage(name)
    losses = [entry["losses"] for entry in report("finetune")["lineage"]]
    roles = [{name: loss["corpus"] for name, loss in measured.items()} for measured in losses]
    assert roles == [{"L_pre": "pre", "L_post": "post"}, {"L_im": "post", "L_pre": "pre"},
                     {"L_im": "post", "L_ret": "post", "L_ft": "ft", "L_pre": "pre"}]


def test_later_stages_find_the_corpora_by_themselves(stage):
    stage("pretrain", "--tokens 1k")
    lineage = read_checkpoint(Path("out/pretrain/ckpt.pt")).lineage
    assert corpus_of(lineage, "pre").record["source"] == "pre.jsonl"
    assert corpus_of(lineage, "post").record["source"] == "post.jsonl"


def test_no_more_of_a_corpus_is_needed_than_its_flag_says_and_of_d_pre_than_is_replayed(stage, monkeypatch):
    """Though D_pre has 72 windows, less than one batch of later stages."""
    opened = Mock(wraps=open_corpus)
    for name in ("pretrain", "finetune"):
        monkeypatch.setattr(f"{name}.open_corpus", opened)
    Path("pre.jsonl").write_text("".join(corpora()["pre.jsonl"].splitlines(keepends=True)[:12]))
    stage("pretrain", "--tokens 512")
    assert stage("posttrain", "--max-tokens 2k --batch 96 --replay 0.1").status == 0
    assert stage("finetune", "--batch 96").status == 0
    assert [call.kwargs.get("limit", call.args[-1]) for call in opened.call_args_list] == [512, 4000, 4000]


# ---- chains of other lengths

def lose_tokens() -> None:
    shutil.rmtree("out/tokens")


def lose_corpora() -> None:
    for name in ("pre.jsonl", "post.jsonl"):
        Path(name).unlink()


def move_without_corpora() -> None:
    lose_corpora()
    shutil.move(Path.cwd(), "../moved")


def move_out_alone() -> None:
    lose_corpora()
    shutil.move("out", "../moved")


def forget_the_folder() -> None:
    """Make a checkpoint as it was before stages noted where they ran."""
    checkpoint = torch.load("out/run/ckpt.pt", weights_only=True)
    del checkpoint["lineage"][0]["folder"]
    torch.save(checkpoint, "out/run/ckpt.pt")
    lose_tokens()


@pytest.mark.parametrize("out, happens", [("../run", lose_corpora), ("../run", lose_tokens),
                                          ("out/run", move_without_corpora), ("out/run", move_out_alone),
                                          ("out/run", forget_the_folder)])
def test_relative_names_lead_to_the_same_files_from_another_folder(stage, folder, monkeypatch, out, happens):
    for name in ("work", "other"):
        Path(name).mkdir()
    for name in ("pre.jsonl", "post.jsonl"):
        Path(name).rename(f"work/{name}")
    monkeypatch.chdir("work")
    write_vocabulary(Path("merges.tiktoken"), b"th", b"the")
    stage("pretrain", f"--tokenizer merges.tiktoken --tokens 1k --out {out}")
    before = json.loads(stage("evaluate", f"{out} --json").out)

    # What becomes of it, and where it is now.
    happens()
    monkeypatch.chdir(folder / "other")
    places = "../run", "../work/out/run", "../moved/out/run", "../moved/run"
    run = next(path for path in places if Path(path).exists())
    after = stage("evaluate", f"{run} --json")
    assert after.status == 0, after.err
    assert json.loads(after.out[after.out.index("[\n"):])[0]["losses"] == before[0]["losses"]
    monkeypatch.chdir(run)
    assert stage("posttrain", "--init .").status == 0


def test_finetune_may_follow_pretrain(stage):
    stage("pretrain", "--tokens 1k")
    run = stage("finetune", "--init out/pretrain")
    assert run.status == 0 and "L_im" not in run.out and "L_ret" in run.out
    assert sorted(report("finetune")["losses"]) == ["L_ft", "L_pre", "L_ret"]
    assert [entry["stage"] for entry in report("finetune")["lineage"]] == ["pretrain", "finetune"]


def test_finetune_may_follow_finetune_on_another_corpus(stage):
    stage("pretrain", "--tokens 1k")
    stage("posttrain", "--max-tokens 2k")
    stage("finetune", "--tokens 1k")
    Path("other.jsonl").write_text(Path("pre.jsonl").read_text().replace("river", "ocean"))
    run = stage("finetune", "--tokens 1k --ft other.jsonl --init out/finetune --out out/again")
    assert run.status == 0
    lineage = report("again")["lineage"]
    assert lineage[3]["losses"]["L_im"] == lineage[1]["losses"]["L_im"]         # still θ_post's
    assert lineage[3]["losses"]["L_ft"] != lineage[2]["losses"]["L_ft"]
    assert [lineage[i]["corpora"]["ft"]["source"] for i in (2, 3)] == ["ft.jsonl", "other.jsonl"]


def test_posttrain_may_follow_posttrain_in_a_fresh_order(stage, monkeypatch):
    stages = []
    permutation = Windows.permutation
    monkeypatch.setattr(Windows, "permutation", lambda self, number:
                        stages.append((self.role, self.stage)) or permutation(self, number))
    stage("pretrain", "--tokens 1k")
    stage("posttrain", "--max-tokens 2k")
    stages.clear()
    assert stage("posttrain", "--max-tokens 2k --init out/posttrain --out out/again").status == 0
    assert set(stages) == {("post", 3)}                                         # the third of its chain
    assert [entry["stage"] for entry in report("again")["lineage"]] == ["pretrain", "posttrain", "posttrain"]
    assert stage("finetune", "--tokens 1k --init out/again").status == 0        # L_im is that of the last
    assert report("finetune")["losses"]["L_im"] == report("again")["losses"]["L_im"]


def test_a_stage_follows_no_stage_that_comes_after_it(stage):
    stage("pretrain", "--tokens 1k")
    stage("posttrain", "--max-tokens 2k")
    stage("finetune", "--tokens 1k")
    refused = stage("posttrain", "--init out/finetune --out out/new")
    assert refused.status == 2 and refused.err.count("\n") == 1
    assert "is a checkpoint after pretrain and posttrain and finetune" in refused.err
    assert "posttrain.py takes one after pretrain or posttrain" in refused.err
    matched = stage("posttrain", "--compute-matched --init out/posttrain --out out/new")
    assert matched.status == 2 and matched.err.count("\n") == 1
    assert "takes what Stage 1 left, --init out/posttrain is of a later stage" in matched.err
    assert not Path("out/new").exists()


# ---- Stage 1: mixing

def test_mix_and_lam_say_the_same(stage):
    stage("pretrain", "--lam 0.5 --out out/lam")
    stage("pretrain", f"--mix {62 / 312} --out out/mix")
    assert report("mix")["tokens"] == report("lam")["tokens"]
    assert_same(weights("mix"), weights("lam"))


def test_more_than_one_pass_is_allowed_and_said(stage):
    run = stage("pretrain", "--lam 2 --tokens 40k")
    assert "2 passes over D_post, which has 4,000 tokens" in run.out and "passes over D_pre" in run.out
    assert report("pretrain")["tokens"]["post"] == 250 * 32


# ---- Stage 2: early stopping, compute-matched, replay, dropout, LoRA

def test_early_stopping_keeps_the_best_weights(stage):
    stage("pretrain")
    run = stage("posttrain", "--lr 0.05 --min-lr 0.05 --max-tokens 60k --patience 2")
    losses = [line["L_im"] for line in log_of("posttrain") if "L_im" in line]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 46, run.out                        # two evaluations without a better one
    assert report("posttrain")["tokens"]["post"] == len(losses) * 5 * 8 * 32    # all trained on, 5 steps each
    assert report("posttrain")["losses"]["L_im"]["mean"] == pytest.approx(min(losses))

    # Which step they are of is said wherever the steps are.
    kept, steps = 5 * (best + 1), 5 * len(losses)
    assert report("posttrain")["lineage"][-1]["best_step"] == kept and f"kept   the weights of step {kept}, the best" in run.out
    assert f"posttrain  {kept} kept of {steps}  " in stage("evaluate", "out/posttrain", "").out

    # The last step is evaluated, however few there are.
    assert "kept" not in stage("posttrain", "--max-tokens 1k --eval-every 50 --out out/short").out
    assert [line["step"] for line in log_of("short") if "L_im" in line] == [4]
    assert report("short")["lineage"][-1]["best_step"] == 4


def test_compute_matched_reads_exactly_what_stage_1_left(stage, monkeypatch):
    seen = {}                                          # (stage, windows of the corpus): numbers of those read
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
    assert not [line for line in log_of("posttrain") if "L_im" in line]   # it is not looked at before the end

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


def test_lora_leaves_a_plain_merged_checkpoint(stage):
    stage("pretrain")
    assert "--lora-rank is of adapters" in stage("posttrain", "--lora-rank 8").err
    stage("posttrain", "--lora --lora-rank 8")
    before, after = weights("pretrain"), weights("posttrain")
    assert before.keys() == after.keys()
    changed = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"}
    assert torch.linalg.matrix_rank(after["lm_head.weight"] - before["lm_head.weight"]) == 8
    assert stage("finetune").status == 0
    trained = weights("finetune")
    assert not torch.equal(trained["embed_tokens.weight"], after["embed_tokens.weight"])
    assert not torch.equal(trained["embed_tokens.weight"], trained["lm_head.weight"])


# ---- the command line

ERRORS = [  # script, flags, what the line must say
    ("pretrain", "--lrr 1", "unrecognized arguments: --lrr 1"),
    ("pretrain", "--mix 1", "--mix: 1 is not a share"),
    ("pretrain", "--mix -0.1", "--mix: '-0.1' is not a number of 0 or more"),
    ("pretrain", "--mix 0.1 --lam 1", "--lam: not allowed with argument --mix"),
    ("pretrain", "--tokens 1.5", "--tokens: '1.5' is not a count"),
    ("pretrain", "--tokens nan", "is not a count"),
    ("pretrain", "--tokens -1", "--tokens: '-1' is not a count"),
    ("pretrain", "--lr nan", "--lr: 'nan' is not a number of 0 or more"),
    ("pretrain", "--batch 0", "must be at least 1"),
    ("pretrain", "--preset 7b", "--preset: invalid choice"),
    ("pretrain", "--pre none.jsonl", "no corpus 'none.jsonl'"),
    ("pretrain", "--post-tokens 100", "asked for of post.jsonl, 100 tokens, is shorter than one batch"),
    ("pretrain", "--tokens 10", "10 tokens are less than one sequence of 32"),
    ("pretrain", "--seed 5B", "must be below"),
    ("pretrain", "--batch 8 --micro-batch 3", "does not divide into micro-batches of 3"),
    ("pretrain", "--heads 3", "do not fit"),
    ("pretrain", "--device cuda", "device cuda is not there"),
    ("pretrain", "--device warp", "device warp is not there"),
    ("pretrain", "--device meta", "device meta is not there"),
    ("pretrain", "--context 2k --batch 1", "less than two sequences of 2000, give it more text or a smaller"),
    ("pretrain", "--tokenizer none.tiktoken", "--tokenizer bytes"),
    ("pretrain", "--out pre.jsonl", "holds something else"),
    ("pretrain", "--out .", "holds something else"),
    ("pretrain", "--resume --overwrite", "not allowed with argument"),
    ("pretrain", "--wandb", "pip install wandb"),
    ("posttrain", "--init out/none", "no checkpoint out/none/ckpt.pt"),
    ("posttrain", "--replay 1", "--replay: 1 is not a share"),
    ("posttrain", "--dropout 1.5", "--dropout: 1.5 is not a share"),
    ("finetune", "", "no checkpoint out/posttrain/ckpt.pt, run its stage first or name another run"),
]


@pytest.mark.parametrize("name, flags, says", ERRORS)
def test_errors_are_one_line_and_leave_nothing(stage, name, flags, says, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = stage(name, flags)
    assert run.status == 2 and says in run.err and run.err.startswith("error: ") and run.err.count("\n") == 1
    assert not [path for path in Path("out").glob("*") if path.name != "tokens"]


def test_a_checkpoint_of_a_preset_that_is_no_more_is_refused(stage):
    stage("pretrain", "--tokens 1k")
    checkpoint = torch.load("out/pretrain/ckpt.pt", weights_only=True)
    checkpoint["lineage"][0]["args"]["preset"] = "70b"
    torch.save(checkpoint, "out/pretrain/ckpt.pt")
    run = stage("posttrain")
    assert run.status == 2 and "no preset '70b'" in run.err and run.err.count("\n") == 1


def test_the_preset_gives_a_default_wherever_a_flag_is_not_given(stage):
    stage("pretrain", "--tokens 1k --lr 0.01 --weight-decay 0")
    args = report("pretrain")["args"]
    assert (args["lr"], args["weight_decay"], args["min_lr"], args["warmup"]) == (0.01, 0.0, 3e-4, 5)
    checkpoint = torch.load("out/pretrain/ckpt.pt", weights_only=True)
    checkpoint["lineage"][0]["args"]["preset"] = "1b"                        # that of Stage 1, for all stages
    torch.save(checkpoint, "out/pretrain/ckpt.pt")
    args, _ = posttrain.parse(["--patience", "7"])
    assert (args.patience, args.max_tokens, args.warmup, args.batch) == (7, 2_000_000_000, 100, 512)


@pytest.mark.parametrize("name, says", [
    ("pretrain", "tokens of D_pre to train on [toy 4M, 30m 300M, 135m 8.7B, 1b 19.7B]"),
    ("posttrain", "evaluations without a lower loss after which to stop [toy 3, 30m 3, 135m 3*, 1b 3]"),
    ("finetune", "peak learning rate [toy 3e-4, 30m 1e-4, 135m 5e-5, 1b 5e-5*]"),
    ("evaluate", "of a sample, in tokens [300]"),
])
def test_help_says_units_defaults_and_an_example(stage, name, says):
    run = stage(name, "--help", settings="")
    assert run.status == 0 and f"  python {name}.py " in run.out and says in " ".join(run.out.split())
