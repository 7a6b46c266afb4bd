"""Stages run in the test's own process, in an empty folder, on small corpora; and what they left there."""

import importlib
import json
import os
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from random import Random
from socket import socket
from threading import RLock
from types import SimpleNamespace

import pytest
import torch
from tqdm import tqdm

from data.tokens import HELD_OUT_SHARES
from run.checkpoint import read_checkpoint
from run.flags import launch
from run.loop import Run
from tests.processes import ROOT, Forked

torch.set_num_threads(1)                 # threads only get in the way of models this small
tqdm.set_lock(RLock())                   # its own is shared with children, and one that is killed may hold it

# A model and budgets at which a stage takes about a second.
SMALL = {
    "pretrain": "--pre pre.jsonl --post post.jsonl --tokens 8k --post-tokens 4k --layers 2 --width 32 "
                "--mlp 48 --heads 2 --kv-heads 1 --context 32 --batch 8 --warmup 5 --save-every 5",
    "posttrain": "--max-tokens 8k --batch 8 --eval-every 5 --save-every 5 --warmup 5",
    "finetune": "--ft ft.jsonl --tokens 4k --batch 8 --save-every 5",
}
WORDS = {"pre": "the a river house sees crosses builds old small green".split(),
         "post": "A2 B2 c2 d2 e2 f2 | |: :| G4".split(),
         "ft": "H2O CO2 NaCl + → 2 4 mol acid salt".split()}


@cache
def corpora() -> dict[str, str]:
    """Make three corpora of words, and pairs: prompts of small letters, completions of capitals."""
    files = {}
    for name, words in WORDS.items():
        random = Random(name)
        documents = (" ".join(random.choice(words) for _ in range(40)) for _ in range(150))
        files[f"{name}.jsonl"] = "".join(json.dumps({"text": text}) + "\n" for text in documents)

    random = Random("pairs")
    rows = ({"prompt": "".join(random.choices("abcde ", k=random.randint(9, 90))),
             "completion": "".join(random.choices("ABCDE", k=random.randint(9, 90)))} for _ in range(150))
    files["pairs.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows)
    return files


def write_corpora() -> None:
    """Write pre.jsonl, post.jsonl, ft.jsonl and pairs.jsonl into the current folder."""
    for name, text in corpora().items():
        Path(name).write_text(text)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder with four small corpora: pre.jsonl, post.jsonl, ft.jsonl, pairs.jsonl."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    write_corpora()

    # What takes long and changes nothing: no test loses power, corpora this small come to the last share in
    # the end, and torch keeps the whole stack, once a kind of device that is not there, of every seed it gets.
    monkeypatch.setattr("os.fsync", lambda file: None)
    monkeypatch.setattr("data.tokens.HELD_OUT_SHARES", HELD_OUT_SHARES[-1:])
    for kind in ("cuda", "xpu", "mtia"):
        monkeypatch.setattr(f"torch.{kind}.manual_seed_all", lambda seed: None)
    return tmp_path


@pytest.fixture
def stage(folder, monkeypatch, capsys):
    """`stage("pretrain", "--lam 1")` runs that script, small, and gives its exit status and output."""
    def run(name: str, flags: str = "", settings: str | None = None) -> SimpleNamespace:
        words = (SMALL.get(name, "") if settings is None else settings).split() + flags.split()
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
        capsys.readouterr()
        try:
            launch(importlib.import_module(name).main)
            status = 0
        except SystemExit as end:
            status = end.code
        printed = capsys.readouterr()
        return SimpleNamespace(status=status, out=printed.out, err=printed.err)
    return run


@pytest.fixture
def start(folder):
    """The same in a process of its own, for what only a process can do: be killed, or be one of several."""
    return lambda name, flags="", **environment: Forked(words_of(name, flags), os.environ | environment)


@pytest.fixture
def start_ranks(start):
    """Start a stage as so many ranks, as torchrun would."""
    def ranks(count: int, name: str, flags: str) -> list[Forked]:
        with socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        meet = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(count),
                "TORCHELASTIC_RUN_ID": "tests"}
        return [start(name, flags, RANK=str(rank), LOCAL_RANK=str(rank), **meet) for rank in range(count)]
    return ranks


@pytest.fixture
def torchrun(folder):
    """Run a stage on two ranks by torchrun itself; gives its status and what was printed."""
    def run(name: str, flags: str) -> SimpleNamespace:
        launcher = [find_spec("torch.distributed.run").origin, "--standalone", "--nproc_per_node=2"]
        process = Forked([*launcher, *words_of(name, flags)], os.environ | {"OMP_NUM_THREADS": "1"})
        out, err = process.communicate()
        return SimpleNamespace(status=process.returncode, out=out, err=err)
    return run


def words_of(name: str, flags: str) -> list[str]:
    return [str(ROOT / f"{name}.py"), *SMALL[name].split(), *flags.split(), "--device=cpu"]


# ---- what a run left in out/

def report(run: str) -> dict:
    return json.loads(Path(f"out/{run}/run.json").read_text())


def nearly(loss: dict) -> dict:
    """A recorded loss to compare with: averaging equal draws may change the last bit."""
    return {name: value if name == "corpus" else pytest.approx(value, rel=1e-12) for name, value in loss.items()}


def log_of(run: str) -> list[dict]:
    return [json.loads(line) for line in Path(f"out/{run}/log.jsonl").read_text().splitlines()]


def files_of(run: str) -> set[str]:
    return {path.name for path in Path("out", run).iterdir()}


def weights(run: str) -> dict[str, torch.Tensor]:
    checkpoint = read_checkpoint(Path(f"out/{run}/ckpt.pt"))
    return {name: weight.clone() for name, weight in checkpoint.model.items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Bitwise."""
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def die_at(monkeypatch, step: int) -> None:
    """The process is gone after this step's update, before anything of it is saved."""
    update = Run.update

    def dying(self):
        update(self)
        if self.step == step:
            raise SystemExit("killed")
    monkeypatch.setattr(Run, "update", dying)
