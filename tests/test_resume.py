"""Whatever stops a run, however often and wherever: continued, it ends bit for bit as if nothing had been."""

import itertools
import os
import shutil
import signal
import sys
from pathlib import Path
from random import Random

import pytest

from run.loop import Run
from tests.conftest import assert_same, die_at, files_of, log_of, report, weights

# Four to sixteen steps of each stage. D_post has 31 windows, so its passes end within a run.
CHAIN = {"pretrain": "--tokens 2k --post-tokens 1k --lam 0.1 --save-every 3",
         "posttrain": "--max-tokens 2k --save-every 3",
         "finetune": "--tokens 2k --save-every 3"}
RUNS = [
    ("pretrain", "--lam 2"),
    ("posttrain", "--dropout 0.1 --replay 0.2 --eval-every 2"),
    ("posttrain", "--dropout 0.1 --replay 0.2 --lora"),
    ("posttrain", "--dropout 0.1 --eval-every 2 --patience 1 --lr 0.05"),         # it stops early
    ("posttrain", "--dropout 0.1 --compute-matched"),
    ("finetune", "--replay 0.5"),
    ("finetune", "--ft pairs.jsonl --loss-on completion"),
]


@pytest.fixture
def chain(stage):
    """Run a stage of CHAIN after those before it; `chain("posttrain", "--lora")` gives status and output."""
    def run(name: str, flags: str = ""):
        for earlier in itertools.takewhile(lambda other: other != name, CHAIN):
            if not Path("out", earlier).exists():
                assert stage(earlier, CHAIN[earlier]).status == 0
        return stage(name, f"{CHAIN[name]} {flags}")
    return run


def assert_same_run(one: str, other: str) -> None:
    """Weights and lineage to the bit, and what the log says of held-out losses."""
    assert_same(weights(one), weights(other))
    assert report(one)["lineage"] == report(other)["lineage"]
    assert files_of(one) == files_of(other) == {".lock", "ckpt.pt", "run.json", "log.jsonl"}
    losses = [[line for line in log_of(run) if "loss" not in line] for run in (one, other)]
    assert losses[0] == losses[1]


# ---- stopped

@pytest.mark.parametrize("name, flags", RUNS)
def test_stopped_after_every_single_step_and_gone_at_two(chain, monkeypatch, name, flags):
    """Stopped by SIGTERM or Ctrl-C. Ends of a pass, of patience and of the stage are among the steps."""
    assert chain(name, f"{flags} --out out/whole").status == 0
    steps = report("whole")["lineage"][-1]["steps"]
    update = Run.update

    def stopping(self):
        update(self)
        signal.raise_signal(signal.SIGTERM if self.step % 2 else signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "update", stopping)
        starts = 1
        while chain(name, f"{flags} --out out/stopped --resume").status in (143, 130):
            starts += 1
    assert starts in (steps, steps + 1)                   # what ends early ends with its last step
    assert_same_run("stopped", "whole")

    # Gone without a word, at steps that it may have come to before.
    for step in sorted(Random(f"{name} {flags}").sample(range(1, steps + 1), 2)):
        with monkeypatch.context() as patch:
            die_at(patch, step)
            assert chain(name, f"{flags} --out out/gone --resume").status == "killed"
    assert chain(name, f"{flags} --out out/gone --resume").status == 0
    assert_same_run("gone", "whole")


@pytest.mark.parametrize("name, flags", [RUNS[0], RUNS[4], RUNS[5]])
def test_stopped_while_it_measures_what_came_out(chain, monkeypatch, name, flags):
    """All steps are done, and not one is done again."""
    chain(name, f"{flags} --out out/whole")
    evaluate = Run.evaluate

    def stopping(self, **held_out):
        if self.at_end():
            signal.raise_signal(signal.SIGTERM)
        return evaluate(self, **held_out)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "evaluate", stopping)
        assert chain(name, f"{flags} --save-every 1k --out out/stopped").status == 143
    monkeypatch.setattr(Run, "update", None)
    assert chain(name, f"{flags} --out out/stopped --resume").status == 0
    assert_same_run("stopped", "whole")


# ---- killed

def killed_before(event: int, run) -> bool:
    """Call `run` in a child that SIGKILL takes before its event-th change to a file; returns whether it did.

    A child forked here starts at once, and what it left undone no `finally` has tidied up.
    """
    child = os.fork()
    if not child:
        events = itertools.count()

        def dying(name: str, details: tuple) -> None:
            if name in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"):
                if str(details[0]).startswith("out/") and next(events) == event:
                    os.kill(os.getpid(), signal.SIGKILL)
        try:
            sys.addaudithook(dying)
            os._exit(run().status)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), "the child failed by itself"
    return status == signal.SIGKILL


@pytest.mark.parametrize("name, flags", [RUNS[0], RUNS[1], RUNS[5]])
def test_killed_before_any_change_to_a_file(chain, name, flags):
    """Corpora are prepared in it too. What is once saved is never gone again."""
    assert chain(name, f"{flags} --out out/whole").status == 0
    reached, saved = 0, False
    for event in sorted(Random(name).sample(range(60), 5)):
        shutil.rmtree("out/killed", ignore_errors=True)
        if name == "pretrain":
            shutil.rmtree("out/tokens")
        reached += killed_before(event, lambda: chain(name, f"{flags} --out out/killed"))
        left = {path.name for path in Path("out/killed").glob("*")}
        assert not saved or left & {"last.pt", "run.json"}
        saved = saved or "last.pt" in left
        again = chain(name, f"{flags} --out out/killed --resume")
        assert again.status == 0, again.err
        assert_same_run("killed", "whole")
    assert reached > 2
