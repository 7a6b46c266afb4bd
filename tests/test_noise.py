"""Noise on the weights of finished runs: its size, whose it is, what it costs, and what a probe leaves."""

import math
import re
from pathlib import Path

import pytest
import torch

from experiments import noise
from experiments.cost import tokens
from experiments.noise import moved_back, perturbed, probe
from experiments.sweep import command, plan
from model import GPT, GPTConfig
from tests.conftest import assert_same, nearly, report, weights

CONFIG = GPTConfig(layers=2, width=64, mlp=96, heads=2, kv_heads=1, context=16, vocab_size=64, tied=True)


def model(seed=0, scale=1.0):
    """A model as after a Stage 1 of its own: other weights of the same shapes."""
    torch.manual_seed(seed)
    some = GPT(CONFIG)
    with torch.no_grad():
        for weight in some.parameters():
            weight *= scale
    return some


def added(some, *how):
    """What perturbing adds to each weight."""
    noisy = perturbed(some, *how).state_dict()
    return {name: noisy[name] - weight for name, weight in some.state_dict().items()}


# ---- the noise

def test_every_matrix_gets_noise_of_gamma_times_its_initial_std_and_gains_get_none():
    """Whatever the weights have become: these are eight times what they were."""
    for name, noise_of in added(model(scale=8), 0.1, 1, 0).items():
        if noise_of.dim() == 1:
            assert "norm" in name and not noise_of.any()
        else:
            assert noise_of.std().item() == pytest.approx(0.1 / math.sqrt(64), rel=0.05), name
            assert abs(noise_of.mean().item()) < 0.005, name


def test_weights_stay_as_they_were_and_a_tied_head_is_its_embedding():
    some = model()
    before = {name: weight.clone() for name, weight in some.state_dict().items()}
    noisy = perturbed(some, 0.5, 1, 0)
    assert_same(before, dict(some.state_dict()))
    assert noisy.lm_head.weight is noisy.embed_tokens.weight
    assert not torch.equal(noisy.lm_head.weight, some.lm_head.weight)


def test_all_models_of_a_shape_get_the_same_draws_and_every_draw_and_seed_another():
    one, other = added(model(0), 0.1, 7, 3), added(model(1, scale=3), 0.1, 7, 3)
    name = "layers.1.mlp.up_proj.weight"
    for matrix in one:
        assert torch.allclose(one[matrix], other[matrix], atol=1e-6)
    assert torch.allclose(added(model(), 0.3, 7, 3)[name], 3 * one[name], atol=1e-6)        # only larger
    for how in ((0.1, 7, 4), (0.1, 8, 3), (0.1, 8, 2)):
        both = torch.stack((one[name], added(model(), *how)[name])).flatten(1)
        assert abs(torch.corrcoef(both)[0, 1]) < 0.1


def test_back_moves_every_weight_a_share_of_its_way_and_a_tied_head_once():
    some, other = model(0), model(1)
    moved = moved_back(some, 0.25, dict(other.state_dict()))
    for name, weight in some.named_parameters():
        there = 0.75 * weight + 0.25 * dict(other.named_parameters())[name]
        assert torch.allclose(dict(moved.named_parameters())[name], there, atol=1e-6), name
    assert moved.lm_head.weight is moved.embed_tokens.weight


# ---- what it costs

def test_what_noise_costs_and_its_standard_error_by_hand(monkeypatch):
    """Two windows cost 1 and 2, under one draw 2 and 4, under another 4 and 6."""
    measured = iter([[1, 2], [2, 4], [4, 6]])
    monkeypatch.setattr(noise, "sequence_losses", lambda *of: torch.tensor(next(measured)).double())
    losses = probe(model(), model(), {"post": None}, 0.1, 2, 1, "float32")
    # by window 3 and 5, by draw 3 and 5: a mean of 4, an error of 1 from either
    assert losses["L_post"] == (4, pytest.approx(math.sqrt(2)), "post")
    # by window 2 and 3, by draw 1.5 and 3.5
    assert losses["ΔL_post"] == (2.5, pytest.approx(math.hypot(0.5, 1)), "post")


# ---- what a probe leaves

def test_without_noise_the_losses_are_those_recorded_and_the_run_stays_as_it_is(stage):
    stage("pretrain", "--lam 1")
    stage("posttrain")
    before = weights("posttrain")
    words = "--init out/posttrain --ft pairs.jsonl --text-field completion --gamma 0"
    probed = stage("experiments.noise", words)
    assert (probed.status, probed.err) == (0, "") and "more than without" in probed.out
    record, recorded = report("noise"), report("posttrain")
    assert record["losses"]["L_post"] == nearly(recorded["losses"]["L_im"])
    assert record["losses"]["L_pre"] == nearly(recorded["losses"]["L_pre"])
    assert [record["losses"][f"ΔL_{role}"]["mean"] for role in ("pre", "post", "ft")] == [0, 0, 0]
    assert [entry["stage"] for entry in record["lineage"]] == ["pretrain", "posttrain", "noise"]
    assert record["lineage"][:2] == recorded["lineage"] and record["stage"] == "noise"
    assert record["lineage"][2]["corpora"]["ft"]["text_field"] == "completion"
    assert record["args"]["dtype"] == "float32"                     # that of this machine, to be known again by
    assert_same(before, weights("posttrain"))
    assert [path.name for path in Path("out/noise").iterdir() if path.name[0] != "."] == ["run.json"]


def test_a_fine_tuned_run_is_probed_on_its_own_d_ft(stage):
    stage("pretrain")
    stage("finetune", "--init out/pretrain")
    stage("experiments.noise", "--init out/finetune --gamma 0")
    assert report("noise")["losses"]["L_ft"] == nearly(report("finetune")["losses"]["L_ft"])
    assert report("noise")["args"]["ft"] is None


@pytest.mark.parametrize("lora", ["", "--lora"])
def test_back_is_towards_the_run_before_wherever_both_were_moved(stage, lora):
    """Almost all the way back L_post is that of θ_pre; other runs beside it are not taken for it."""
    stage("pretrain", "--lam 1 --seed 1 --out out/a/pretrain")
    stage("pretrain", "--lam 1 --seed 2 --out out/a/other")
    stage("posttrain", f"--init out/a/pretrain --out out/a/lr/posttrain {lora}")
    Path("out/a").rename("out/b")
    words = "--init out/b/lr/posttrain --ft ft.jsonl --gamma 0 --draws 2"
    back = stage("experiments.noise", f"{words} --back 0.999999")
    assert back.status == 0 and "0.999999 of the way back" in back.out
    L_post = report("b/pretrain")["losses"]["L_post"]["mean"]
    losses = report("noise")["losses"]
    assert losses["L_post"]["mean"] == pytest.approx(L_post, abs=1e-4)
    L_im = report("b/lr/posttrain")["losses"]["L_im"]["mean"]
    assert losses["ΔL_post"]["mean"] == pytest.approx(L_post - L_im, abs=1e-4)

    # Where the run before is gone, or there was none, a line says so.
    Path("out/b/pretrain").rename("elsewhere")
    for init in ("out/b/lr/posttrain", "elsewhere"):
        gone = stage("experiments.noise", f"--init {init} --ft ft.jsonl --back 0.5 --out out/gone")
        assert (gone.status, gone.err.count("\n")) == (2, 1) and "--back needs the run that" in gone.err
        assert not Path("out/gone").exists()


def test_a_probe_is_made_once_and_only_discarded_when_told(stage, monkeypatch):
    stage("pretrain")
    words = "--ft ft.jsonl --draws 2 --gamma"
    stage("experiments.noise", f"{words} 0.5")
    low = report("noise")["losses"]["ΔL_pre"]["mean"]
    made = Path("out/noise/run.json").stat().st_mtime_ns
    again = stage("experiments.noise", f"{words} 0.5 --resume")
    assert again.status == 0 and again.out == "out/noise is finished with these arguments, nothing to do\n"
    other = stage("experiments.noise", f"{words} 1 --resume")
    assert (other.status, other.err.count("\n")) == (2, 1)
    assert "out/noise holds a finished noise run with --gamma 0.5" in other.err
    assert Path("out/noise/run.json").stat().st_mtime_ns == made
    drawn = []
    monkeypatch.setattr(noise, "perturbed", lambda some, *how: drawn.append(how) or perturbed(some, *how))
    assert stage("experiments.noise", f"{words} 1 --draws 3 --seed 7 --overwrite").status == 0
    assert drawn == [(1.0, 7, draw) for draw in range(3)]
    assert report("noise")["args"]["gamma"] == 1 and 0 < low < report("noise")["losses"]["ΔL_pre"]["mean"]


def test_bad_input_is_one_line(stage):
    stage("pretrain")
    for flags, says in [("--gamma -1", "'-1' is not a number of 0 or more"), ("--draws 1", "at least 2"),
                        ("--init out/none", "no checkpoint out/none/ckpt.pt"),
                        ("--ft chum", "no corpus 'chum'"), ("--device warp", "device warp is not there"),
                        ("--init out/pretrain --out out/pretrain --overwrite", "is the run that --init names"),
                        ("--gamma 1e40 --ft ft.jsonl", "not finite under this noise, lower --gamma 1e+40")]:
        run = stage("experiments.noise", flags)
        assert run.status == 2 and run.err.startswith("error: ") and run.err.count("\n") == 1
        assert re.search(re.escape(says), run.err), run.err
        assert not Path("out/noise/run.json").exists()
    assert stage("experiments.noise", "--ft ft.jsonl --draws 2").status == 0        # nothing is in the way


# ---- as a stage of a chain

def test_a_sweep_runs_it_by_its_name_and_it_trains_on_nothing():
    line = "pretrain --lam 0 | noise --ft $ft --gamma 0.1"
    _, run = plan([line], "toy", {}, {"pre": "web", "ft": "chem"}, 1, Path("out"))
    words = ("--ft chem --gamma 0.1 --seed 1 --init out/lam0-seed1/pretrain "
             "--out out/lam0-seed1/chem-gamma0.1/noise --resume").split()
    assert command(run, 1) == ["python", "-m", "experiments.noise", *words]
    assert command(run, 2)[1:] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
                                   "-m", "experiments.noise", *words]
    assert tokens(run) == 0 and tokens(run.parent) == 4e6
