"""With --loss-on completion prompts count nothing: in training, early stopping and held-out losses."""

import json
import math
import shutil
from pathlib import Path
from random import Random

import numpy as np
import pytest
import tiktoken
import torch
from torch.nn.functional import cross_entropy

from data import tokens
from data.corpora import Corpus, corpus_of, load_corpus, open_corpus
from data.sources import Source, Text, find_source
from data.stream import Interleaved, Windows
from data.tokenizers import load_tokenizer
from hf.card import model_card
from model import GPT, configure, load_model
from run.checkpoint import read_checkpoint
from run.files import UserError
from run.losses import Loss, held_out_loss
from tests.conftest import assert_same, log_of, nearly, report, weights
from tests.test_tokens import BYTES, flip, hard_text, write_vocabulary

ON = "--loss-on completion"


def token_files(folder: Path) -> list[Path]:
    """The folders of token files, and whatever else is there that is not a lock."""
    return [path for path in folder.iterdir() if path.suffix != ".lock"]


# ---- from characters to tokens

def spans_of(random: Random, length: int) -> tuple[tuple[int, int], ...]:
    """Some spans of a text, apart from each other."""
    cuts = sorted(random.sample(range(length + 1), min(length + 1, random.choice((0, 2, 4)))))
    return tuple(zip(cuts[::2], cuts[1::2]))


def marked_by_hand(document: Text, tokenizer: tiktoken.Encoding) -> list[bool]:
    """Token by token: does it have a byte of a completion, and does the document end in one?"""
    owner = [any(first <= place < last for first, last in document.completion)
             for place, character in enumerate(document.text) for _ in character.encode()]
    mask, start = [], 0
    for token in tokenizer.encode_ordinary(document.text):
        end = start + len(tokenizer.decode_single_token_bytes(token))
        mask.append(any(owner[start:end]))
        start = end
    return [*mask, owner[-1]]


@pytest.mark.parametrize("seed", range(3))
def test_a_mask_says_which_tokens_are_of_a_completion_and_changes_none(tmp_path, monkeypatch, seed):
    random = Random(seed)
    monkeypatch.setattr(tokens, "BUNDLE", random.randint(1, 9))
    monkeypatch.setattr(tokens, "HELD_OUT_SHARES", (0.1,))
    texts = [hard_text(random) for _ in range(100)]
    documents = [Text(text, spans_of(random, len(text))) for text in texts]
    monkeypatch.setattr(Source, "documents", lambda self: iter(documents))
    merges = [b"  ", b"\n\n", b" t", b"th", b"the", b" a", b"'s", b" '", b"st", "½".encode()]
    for tokenizer in (BYTES, load_tokenizer(write_vocabulary(tmp_path / "v.tiktoken", *merges))):
        plain, masked = (open_corpus("ft", find_source("web"), tokenizer, folder=tmp_path, loss_on=loss_on)
                         for loss_on in ("all", "completion"))
        assert plain.record == masked.record and plain.train_mask is None
        for part in ("train", "held_out"):
            assert np.array_equal(getattr(plain, part), getattr(masked, part))
            held_out = [tokens.is_held_out(document.text, 0.1) for document in documents]
            chosen = [one for one, held in zip(documents, held_out) if held == (part == "held_out")]
            by_hand = [mark for one in chosen for mark in marked_by_hand(one, tokenizer)]
            assert getattr(masked, f"{part}_mask").tolist() == by_hand


def test_a_tokenizer_that_leaves_characters_out_is_refused_in_one_line(tmp_path, monkeypatch):
    documents = [Text(f"{number} a\nb", ((2, 3),)) for number in range(99)]
    monkeypatch.setattr(Source, "documents", lambda self: iter(documents))
    ranks_of = {bytes([byte]): byte for byte in range(256)}
    tokenizer = tiktoken.Encoding("lossy", pat_str=r"[^\n]+", special_tokens={}, mergeable_ranks=ranks_of)
    assert len(open_corpus("ft", find_source("web"), tokenizer, folder=tmp_path / "all").train)
    with pytest.raises(UserError, match=r"lossy leaves out .*'\d+ a\\nb' on, so .* --loss-on all") as error:
        open_corpus("ft", find_source("web"), tokenizer, folder=tmp_path / "some", loss_on="completion")
    assert "\n" not in str(error.value) and not token_files(tmp_path / "some")


@pytest.mark.parametrize("rows", [
    [{"text": f"T{number}"} for number in range(99)], [{"content": f"C{number}"} for number in range(99)],
    [{"prompt": f"P{number}", "completion": "C"} for number in range(99)] + [{"text": "T"}],
])
def test_a_corpus_that_marks_no_completion_is_refused_in_one_line(tmp_path, rows):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="a.jsonl marks no completion, give .* or --loss-on all") as error:
        open_corpus("ft", find_source(str(tmp_path / "a.jsonl")), BYTES, folder=tmp_path / "tokens",
                    loss_on="completion")
    assert "\n" not in str(error.value) and not token_files(tmp_path / "tokens")


def test_fields_beside_a_text_have_a_completion_once_they_are_named(tmp_path):
    """Alpaca's own layout: the refusal says how."""
    row = {"instruction": "Add.", "input": "1 2", "text": "Below is an instruction: Add. 1 2"}
    rows = [row | {"output": f"{number}"} for number in range(99)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path, folder = str(tmp_path / "a.jsonl"), tmp_path / "tokens"
    with pytest.raises(UserError, match="marks no completion, give .*: --text-field ") as error:
        open_corpus("ft", find_source(path), BYTES, folder=folder, loss_on="completion")
    named = str(error.value).partition("--text-field ")[2].partition(")")[0]
    for fields, prompt in ((named, b"Add.\n1 2\n"), ("instruction+output", b"Add.\n")):
        corpus = open_corpus("ft", find_source(path, fields), BYTES, folder=folder, loss_on="completion")
        texts = bytes(corpus.train.tolist()).split(b"\xff")
        counted = bytes(corpus.train[corpus.train_mask].tolist()).split(b"\xff")
        assert texts == [prompt + output for output in counted[:-1]] + [b""] and len(texts) > 80


def test_documents_without_a_completion_are_counted_and_told(tmp_path, capsys):
    rows = [{"prompt": f"P{number}", "completion": "C" * (number % 3)} for number in range(99)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for loss_on in ("all", "completion"):
        assert "no completion" not in capsys.readouterr().out
        open_corpus("ft", find_source(str(tmp_path / "a.jsonl")), BYTES, folder=tmp_path / "tokens", loss_on=loss_on)
    assert "a.jsonl: 33 of 99 documents have no completion, they count nothing\n" in capsys.readouterr().out


def test_chats_in_which_nobody_answers_leave_nothing_to_measure(tmp_path):
    rows = [{"messages": [{"role": "user", "content": f"{number}" * 9}]} for number in range(99)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = open_corpus("ft", find_source(str(tmp_path / "a.jsonl")), BYTES, folder=tmp_path / "tokens",
                         loss_on="completion")
    with pytest.raises(UserError, match="a.jsonl holds out no completion"):
        corpus.windows(8, 1, 0, 1)


# ---- masks on disk

@pytest.mark.parametrize("name", ["train.mask.bin", "held_out.mask.bin", "train.bin"])
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-1]),
                                    lambda path: path.unlink(), lambda path: flip(path, seed=1)])
def test_damaged_masks_are_made_again(folder, capsys, name, damage):
    def masks() -> list[bytes]:
        corpus = open_corpus("ft", find_source("pairs.jsonl"), BYTES, loss_on="completion")
        return [corpus.train_mask.tobytes(), corpus.held_out_mask.tobytes(), corpus.train.tobytes()]
    whole = masks()
    (home,) = token_files(Path("out/tokens"))
    damage(home / name)
    assert load_corpus("ft", home, masked=True) is None
    assert masks() == whole
    assert f"{home} is damaged ({name}), it is not used" in capsys.readouterr().out


def test_token_files_with_masks_serve_runs_without_but_not_the_other_way_round(stage):
    stage("pretrain", f"--post pairs.jsonl --tokens 1k {ON}")
    Path("pairs.jsonl").rename("elsewhere.jsonl")
    assert stage("posttrain", "--max-tokens 2k").status == 0
    (masked,) = Path("out/tokens").glob("pairs-*")
    shutil.rmtree(masked)
    Path("elsewhere.jsonl").rename("pairs.jsonl")
    assert stage("posttrain", "--max-tokens 2k --out out/all").status == 0
    Path("pairs.jsonl").rename("elsewhere.jsonl")
    refused = stage("posttrain", f"--max-tokens 2k {ON} --out out/completion")
    assert refused.status == 2 and refused.err.startswith("error: no corpus 'pairs.jsonl'")


def test_masks_of_another_corpus_are_not_taken_though_its_text_is_the_same(stage):
    """They are prepared first, and their folder's name comes first."""
    long = [{"prompt": "", "completion": one.text} for one in find_source("pairs.jsonl").documents()]
    Path("long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in long))
    stage("pretrain", f"--post long.jsonl --tokens 1k {ON} --out out/long")
    stage("pretrain", f"--post pairs.jsonl --tokens 1k {ON}")
    found = [corpus_of(read_checkpoint(Path("out", run, "ckpt.pt")).lineage, "post")
             for run in ("long", "pretrain")]
    assert found[0].record["checksum"] == found[1].record["checksum"]
    assert found[0].train_mask.mean() > found[1].train_mask.mean()


# ---- streams and losses

def test_targets_of_prompts_are_minus_one_and_inputs_stay_as_they_are():
    windows = Windows("ft", np.arange(100, 113), 4, 0, 1, np.arange(3), mask=np.arange(13) % 3 == 0)
    inputs, targets = Interleaved(windows, windows, n_major=3, n_minor=0, batch_size=4).batch(0)
    for row in range(3):
        first = inputs[row, 0].item()
        following = range(first + 1, first + 5)
        assert inputs[row].tolist() == list(range(first, first + 4))
        assert targets[row].tolist() == [one if one % 3 == 1 else -1 for one in following]
    assert targets[3].tolist() == [-1] * 4


def test_a_held_out_loss_over_unlike_windows_and_its_standard_error_by_hand():
    """A ratio's: of the windows' losses in all to their tokens that count."""
    torch.manual_seed(0)
    model = GPT(configure("toy", 256, {"layers": 1, "context": 8}))
    text, counts = torch.randint(256, (40, 9)), torch.rand(40, 9) < torch.rand(40, 1)
    log_p = model(text[:, :-1]).log_softmax(-1).gather(-1, text[:, 1:, None]).squeeze(-1).double()
    losses, tokens = -(log_p * counts[:, 1:]).sum(dim=1), counts[:, 1:].sum(dim=1).double()
    mean = losses.sum() / tokens.sum()
    se = ((losses - mean * tokens).square().sum() / 39 / 40).sqrt() / tokens.mean()
    measured = held_out_loss(model, torch.where(counts, text, ~text), "float32")
    assert measured.mean == pytest.approx(mean.item(), rel=1e-5)
    assert measured.se == pytest.approx(se.item(), rel=1e-4)


# ---- stages

def loss_by_hand(run: str, windows: torch.Tensor) -> float:
    """A run's mean loss on what is no prompt in windows of pairs.jsonl: capitals and ends of documents."""
    checkpoint = read_checkpoint(Path(f"out/{run}/ckpt.pt"))
    model = load_model(checkpoint.config, checkpoint.model)
    inputs, targets = windows[:, :-1], windows[:, 1:]
    losses = cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), reduction="none")
    counts = ((targets >= ord("A")) & (targets <= ord("E"))) | (targets == 255)
    assert 0.2 < counts.double().mean() < 0.8
    return losses[counts.flatten()].mean().item()


def pairs() -> Corpus:
    return open_corpus("pairs", find_source("pairs.jsonl"), BYTES)


def test_a_step_is_the_mean_over_what_is_no_prompt_however_it_is_divided(stage):
    stage("pretrain")
    for size in (8, 2, 1):
        stage("finetune", f"--init out/pretrain --ft pairs.jsonl --tokens 256 {ON} --micro-batch {size} "
                          f"--out out/{size}")
    windows = pairs().windows(32, 8, seed=42, stage=2)
    by_hand = loss_by_hand("pretrain", torch.stack([windows[place] for place in range(8)]))
    logs = [log_of(str(size))[0] for size in (8, 2, 1)]
    for line in logs:
        assert line["loss"] == pytest.approx(by_hand, rel=1e-5)
        assert line["gradient_norm"] == pytest.approx(logs[0]["gradient_norm"], rel=1e-4)


def test_held_out_losses_are_of_completions_wherever_d_post_is_measured(stage):
    """L_im, by which Stage 2 stops, L_ret after a Stage 3 of all tokens; in evaluate.py and under noise."""
    stage("pretrain", "--post pairs.jsonl --mix 0.3")
    stage("posttrain", ON)
    stage("finetune")
    held_out = pairs().held_out_sequences(32)
    by_hand = {run: loss_by_hand(run, held_out) for run in ("posttrain", "finetune")}
    immediate, retained = report("posttrain")["losses"]["L_im"], report("finetune")["losses"]["L_ret"]
    assert min(line["L_im"] for line in log_of("posttrain") if "L_im" in line) == immediate["mean"]
    assert immediate["mean"] == pytest.approx(by_hand["posttrain"], rel=1e-5)
    assert retained["mean"] == pytest.approx(by_hand["finetune"], rel=1e-5)

    # Stage 1 had all tokens count; the record of a run says what did in it.
    of_all = report("pretrain")["losses"]["L_post"]["mean"]
    assert of_all != pytest.approx(loss_by_hand("pretrain", held_out), rel=0.01)
    (run,) = json.loads(stage("evaluate", settings="out/finetune --json").out)
    assert {name: run["losses"]["L_ret"][name] for name in retained} == retained
    lines = stage("evaluate", settings="out/pretrain out/posttrain out/finetune").out.splitlines()
    assert [line.count("of completions") for line in lines[1:4]] == [0, 1, 2]
    assert [line.count("of completions") for line in lines[-3:]] == [0, 1, 1]
    card = model_card("x", report("finetune")["lineage"], 32, 1)
    for name, loss in (("L_im", immediate), ("L_ret", retained)):
        assert f"{name} {Loss(**loss)} of completions" in card
    assert card.count("of completions") == 3
    lam = f"λ {run['lineage'][0]['lam']:.3g}"
    for told in ("D_pre: `pre.jsonl`", "D_post: `pairs.jsonl`", "D_ft: `ft.jsonl`", lam):
        assert told in card
    stage("experiments.noise", "--init out/finetune --gamma 0")
    assert report("noise")["losses"]["L_post"] == nearly(retained)


def test_bits_per_byte_are_of_the_completions_bytes(stage):
    stage("pretrain")
    stage("finetune", f"--init out/pretrain --ft pairs.jsonl --tokens 256 {ON}")
    (run,) = json.loads(stage("evaluate", settings="out/finetune --json").out)
    targets = pairs().held_out_sequences(32)[:, 1:]
    capitals = ((targets >= ord("A")) & (targets <= ord("E"))).sum().item()
    ends = (targets == 255).sum().item()
    loss = run["losses"]["L_ft"]
    assert loss["bits_per_byte"] == pytest.approx(loss["mean"] / math.log(2) * (capitals + ends) / capitals)


def test_two_ranks_come_to_the_loss_of_one(start_ranks, stage):
    """Of steps whose ranks and micro-batches have unlike numbers of tokens that count."""
    settings = f"--post pairs.jsonl --mix 0.5 --tokens 1904 --batch 12 --micro-batch 3 {ON}"
    assert stage("pretrain", settings + " --out out/one").status == 0
    for process in start_ranks(2, "pretrain", settings + " --out out/two"):
        _, err = process.communicate()
        assert process.returncode == 0, err
    for one, two in zip(log_of("one"), log_of("two"), strict=True):
        assert [two[name] for name in ("loss", "gradient_norm") if name in two] == pytest.approx(
            [one[name] for name in ("loss", "gradient_norm") if name in one], rel=1e-4)
    for name, loss in report("one")["losses"].items():
        assert report("two")["losses"][name]["mean"] == pytest.approx(loss["mean"], rel=1e-5)
        assert report("two")["losses"][name]["se"] == pytest.approx(loss["se"], rel=1e-3)
    for name, weight in weights("one").items():
        torch.testing.assert_close(weights("two")[name], weight, rtol=1e-3, atol=1e-4)


def test_a_step_without_anything_that_counts_changes_no_weight(stage, monkeypatch):
    stage("pretrain", "--tokens 256 --lr 0 --min-lr 0 --out out/untouched")
    monkeypatch.setattr(Windows, "__getitem__", lambda self, place: ~torch.arange(self.context + 1))
    assert stage("pretrain", "--tokens 256 --weight-decay 0").status == 0
    assert log_of("pretrain")[0]["loss"] == 0
    assert_same(weights("pretrain"), weights("untouched"))


def test_what_marks_no_completion_is_refused_before_anything_is_written(stage):
    for name, flags in (("pretrain", ""), ("finetune", "--init out/first")):
        stage("pretrain", "--tokens 1k --out out/first --resume")
        run = stage(name, f"{flags} {ON}")
        assert run.status == 2 and run.err.startswith("error: ") and run.err.count("\n") == 1
        assert "marks no completion" in run.err and not Path("out", name).exists()


def test_a_run_of_before_there_was_the_flag_counted_all(stage):
    stage("pretrain")
    checkpoint = torch.load("out/pretrain/ckpt.pt", weights_only=True)
    record = json.loads(Path("out/pretrain/run.json").read_text())
    for lineage in (checkpoint["lineage"], record["lineage"], [record]):
        del lineage[0]["args"]["loss_on"]
    torch.save(checkpoint, "out/pretrain/ckpt.pt")
    Path("out/pretrain/run.json").write_text(json.dumps(record))
    assert "is finished with these arguments" in stage("pretrain").out
    assert "finished pretrain run with --loss-on all" in stage("pretrain", ON).err
    assert stage("posttrain", "--max-tokens 2k").status == 0
