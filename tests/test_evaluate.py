"""The tables, JSON and samples that evaluate.py prints of finished runs, whatever stages they are of."""

import json
import math
import shutil
from unittest.mock import Mock

import pytest
import torch

from data.tokenizers import load_tokenizer
from evaluate import bytes_per_token, print_losses, table
from model import GPT
from run.losses import Loss
from tests.conftest import report


def evaluate(stage, words):
    return stage("evaluate", settings=words)


def test_bytes_per_token_counts_text_only():
    tokens = torch.tensor([[97, *"größe".encode(), 255, 98]])        # targets: 7 bytes, a text's end, a byte
    assert bytes_per_token(tokens, load_tokenizer("bytes")) == 8 / 9


def test_table_lines_up():
    assert table(["a", "bb"], [["ccc", "1.25"], ["d", "–"]]) == "a      bb\nccc  1.25\nd       –"


def test_tables_json_and_samples(stage, monkeypatch):
    stage("pretrain", "--lam 1")
    stage("posttrain")
    stage("finetune")
    run = evaluate(stage, "out/finetune")
    lines = run.out.splitlines()
    assert run.status == 0 and lines[0].split()[-4:] == ["L_im", "L_ret", "L_ft", "L_pre"]
    assert [line.split()[0] for line in lines[-3:]] == ["pretrain", "posttrain", "finetune"]

    # Token files that are gone are made again, of which the JSON says nothing.
    shutil.rmtree("out/tokens")
    printed = evaluate(stage, "out/pretrain out/posttrain out/finetune --json")
    runs = json.loads(printed.out)
    assert "ft.jsonl: " in printed.err
    assert [sorted(run["losses"]) for run in runs] == [["L_post", "L_pre"], ["L_im", "L_pre"],
                                                       ["L_ft", "L_im", "L_pre", "L_ret"]]
    for run in runs:                                               # measured anew, as at the end of the stage
        for name, loss in run["lineage"][-1]["losses"].items():
            assert run["losses"][name]["mean"] == pytest.approx(loss["mean"], rel=1e-6)
            assert run["losses"][name]["corpus"] == loss["corpus"]
    bits = runs[0]["losses"]["L_pre"]
    in_bits = bits["mean"] / math.log(2)                             # a token is a byte, but a few end a text
    assert bits["bits_per_byte"] == pytest.approx(in_bits, rel=0.02)

    samples = evaluate(stage, "out/posttrain --sample 2 --prompt A2 --length 20 --seed 3").out
    assert samples.count("--- out/posttrain, sample") == 2 and samples.count("\nA2") == 2

    # They are drawn as the flags say, and end where the document does; what stands for no text is left out.
    drawn = Mock(return_value=torch.tensor([[255, 65, 999, 66, 255, 67]]))
    monkeypatch.setattr(GPT, "generate", drawn)
    flags = "--sample 1 --prompt A --length 20 --temperature 0.5 --seed 3"
    assert evaluate(stage, f"out/posttrain {flags}").out == "--- out/posttrain, sample 1\nAB\n\n"
    prompt, *settings, generator = drawn.call_args.args
    assert (prompt.tolist(), settings, generator.initial_seed()) == ([[255, 65]], [20, 256, 0.5], 3)


def test_errors(stage):
    assert "no checkpoint out/none/ckpt.pt" in evaluate(stage, "out/none").err
    assert "RUN" in evaluate(stage, "").err
    assert "--prompt goes with --sample" in evaluate(stage, "out/none --prompt x").err
    assert "--temperature goes with --sample" in evaluate(stage, "out/none --temperature 0").err
    assert "--sample prints texts" in evaluate(stage, "out/none --sample 1 --json").err


def test_a_loss_that_is_not_finite_is_one_line(stage):
    stage("pretrain", "--tokens 1k")
    checkpoint = torch.load("out/pretrain/ckpt.pt", weights_only=True)
    checkpoint["model"]["norm.weight"].fill_(1e38)
    torch.save(checkpoint, "out/pretrain/ckpt.pt")
    run = evaluate(stage, "out/pretrain")
    assert run.status == 2 and run.err.startswith("error: L_pre of out/pretrain is not finite, try --dtype")


def test_runs_of_different_tokenizers_are_compared_by_the_byte(capsys):
    loss = {"mean": 1.0, "se": 0.1, "loss_on": "all", "bits_per_byte": 1.25}
    one = {"run": "one", "tokenizer": "a", "losses": {"L_pre": loss}, "lineage": [{"lam": 0.0, "args": {}}]}
    told_before = {"mean": 2.0, "se": 0.1, "loss_on": "all"}                      # by its stage, without bits
    other = one | {"run": "other", "losses": {"L_im": told_before, "L_pre": loss | {"bits_per_byte": 0.0}}}
    print_losses([one, other])
    assert "bits per byte" not in capsys.readouterr().out
    print_losses([one, other | {"tokenizer": "b"}])
    *_, header, first, second = capsys.readouterr().out.splitlines()
    assert [header.split(), first.split(), second.split()] == [
        ["bits", "per", "byte", "L_im", "L_pre"], ["one", "–", "1.250"], ["other", "–", "0.000"]]


def test_runs_that_differ_in_their_seed_are_averaged(stage):
    for seed in (1, 2):
        stage("pretrain", f"--tokens 1k --seed {seed} --out out/{seed}")
    stage("pretrain", "--tokens 1k --lam 1 --out out/other")
    run = evaluate(stage, "out/1 out/2 out/other --json")
    means = [loss["losses"]["L_pre"]["mean"] for loss in json.loads(run.out)[:2]]
    lines = evaluate(stage, "out/1 out/2 out/other").out.splitlines()
    (averaged,) = (line for line in lines if "1 like it" in line)
    assert "like it" not in evaluate(stage, "out/1 out/../out/1 out/1/ckpt.pt").out      # one run is one seed,
    shutil.copytree("out/1", "out/copy")
    assert "like it" not in evaluate(stage, "out/1 out/copy").out                         # and so is its copy

    # Made before there was a flag, a run is like those that have its default.
    checkpoint = torch.load("out/2/ckpt.pt", weights_only=True)
    del checkpoint["lineage"][0]["args"]["decay"]
    torch.save(checkpoint, "out/2/ckpt.pt")
    assert "1 like it" in evaluate(stage, "out/1 out/2").out
    assert str(Loss(sum(means) / 2, abs(means[0] - means[1]) / math.sqrt(2))) in averaged


def test_a_chain_without_stage_2_has_no_immediate_loss(stage):
    """L_ret and L_ft of a model fine-tuned twice: each of its own D_ft, and L_im of none."""
    stage("pretrain", "--tokens 1k")
    stage("finetune", "--tokens 1k --init out/pretrain --out out/first")
    stage("finetune", "--tokens 1k --init out/first --out out/second --ft pre.jsonl")
    header, first, second = evaluate(stage, "out/first out/second").out.splitlines()[:3]
    assert header.split() == ["nats", "per", "token", "λ", "L_ret", "L_ft", "L_pre"]
    for run, line in (("first", first), ("second", second)):
        for name in ("L_ret", "L_ft", "L_pre"):
            assert str(Loss(**report(run)["losses"][name])) in line
    (run,) = json.loads(evaluate(stage, "out/second --json").out)
    means = {name: loss["mean"] for name, loss in run["losses"].items()}
    assert means["L_ft"] == pytest.approx(means["L_pre"], rel=1e-6)  # D_ft is D_pre


def test_the_immediate_loss_is_handed_on_and_older_runs_tell_the_corpus_by_the_name(stage):
    stage("pretrain", "--tokens 1k")
    stage("posttrain", "--max-tokens 2k")
    stage("finetune", "--tokens 1k")
    immediate = report("posttrain")["losses"]["L_im"]
    (run,) = json.loads(evaluate(stage, "out/finetune --json").out)
    assert run["losses"]["L_im"] == immediate | {"loss_on": "all"}

    # What was written before the role was recorded.
    new = evaluate(stage, "out/finetune").out
    checkpoint = torch.load("out/finetune/ckpt.pt", weights_only=True)
    for entry in checkpoint["lineage"]:
        for loss in entry["losses"].values():
            del loss["corpus"]
    torch.save(checkpoint, "out/finetune/ckpt.pt")
    assert evaluate(stage, "out/finetune").out == new
