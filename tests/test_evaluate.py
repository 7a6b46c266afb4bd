"""Held-out losses by hand, and the tables, JSON and samples that evaluate.py prints."""

import json
import math

import pytest
import torch

from data import load_tokenizer
from evaluate import Loss, bytes_per_token, held_out_loss, table
from model import GPT, configure


def evaluate(stage, words):
    return stage("evaluate", settings=words)


def test_held_out_loss_and_its_standard_error_by_hand():
    torch.manual_seed(0)
    model = GPT(configure("toy", 256, {"layers": 1, "context": 8})).train()
    sequences = torch.randint(256, (1100, 9))                        # two forward passes
    log_p = model(sequences[:, :-1]).log_softmax(-1).gather(-1, sequences[:, 1:, None]).squeeze(-1)
    each = -log_p.mean(dim=1).double()
    loss = held_out_loss(model, sequences, "float32")
    assert loss.mean == pytest.approx(each.mean().item(), rel=1e-6)
    assert loss.se == pytest.approx(each.std().item() / math.sqrt(1100), rel=1e-5)
    assert model.training


def test_loss_of_a_uniform_model_is_the_log_of_the_vocabulary():
    model = GPT(configure("toy", 256, {"layers": 1, "context": 8}))
    with torch.no_grad():
        model.norm.weight.zero_()
    assert held_out_loss(model, torch.randint(256, (5, 9)), "float32").mean == pytest.approx(math.log(256))


def test_bytes_per_token_counts_text_only():
    tokens = torch.tensor([[97, *"größe".encode(), 255, 98]])        # 9 targets: 7 bytes, the end of a text, 1 byte
    assert bytes_per_token(tokens, load_tokenizer("bytes")) == 8 / 9


def test_table_lines_up():
    assert table(["a", "bb"], [["ccc", "1.25"], ["d", "–"]]) == "a      bb\nccc  1.25\nd       –"
    assert str(Loss(1.23456, 0.0049)) == "1.235 ± 0.005"


def test_tables_json_and_samples(stage):
    for name in ("pretrain", "posttrain", "finetune"):
        stage(name, "--lam 1" if name == "pretrain" else "")
    run = evaluate(stage, "out/finetune")
    lines = run.out.splitlines()
    assert run.status == 0 and lines[0].split()[-4:] == ["L_im", "L_ret", "L_ft", "L_pre"]
    assert [line.split()[0] for line in lines[-3:]] == ["pretrain", "posttrain", "finetune"]

    runs = json.loads(evaluate(stage, "out/pretrain out/posttrain out/finetune --json").out)
    assert [sorted(run["losses"]) for run in runs] == [["L_post", "L_pre"], ["L_im", "L_pre"],
                                                       ["L_ft", "L_im", "L_pre", "L_ret"]]
    for run in runs:                                                 # measured anew, as at the end of the stage
        for name, loss in run["lineage"][-1]["losses"].items():
            assert run["losses"][name]["mean"] == pytest.approx(loss["mean"], rel=1e-6)
    bits = runs[0]["losses"]["L_pre"]
    assert bits["bits_per_byte"] == pytest.approx(bits["mean"] / math.log(2), rel=0.02)    # bytes; a few end a text

    samples = evaluate(stage, "out/posttrain --sample 2 --prompt A2 --length 20 --seed 3").out
    assert samples.count("--- out/posttrain, sample") == 2 and samples.count("\nA2") == 2
    assert evaluate(stage, "out/posttrain --sample 2 --prompt A2 --length 20 --seed 3").out == samples


def test_errors(stage):
    assert "no checkpoint out/none/ckpt.pt" in evaluate(stage, "out/none").err
    assert "RUN" in evaluate(stage, "").err
    assert "--prompt goes with --sample" in evaluate(stage, "out/none --prompt x").err


def test_runs_that_differ_in_their_seed_are_averaged(stage):
    for seed in (1, 2):
        stage("pretrain", f"--tokens 1k --seed {seed} --out out/{seed}")
    stage("pretrain", "--tokens 1k --lam 1 --out out/other")
    run = evaluate(stage, "out/1 out/2 out/other --json")
    means = [loss["losses"]["L_pre"]["mean"] for loss in json.loads(run.out)[:2]]
    line = next(line for line in evaluate(stage, "out/1 out/2 out/other").out.splitlines() if "1 like it" in line)
    assert str(Loss(sum(means) / 2, abs(means[0] - means[1]) / math.sqrt(2))) in line
