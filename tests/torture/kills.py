"""Stages as real processes, on one rank and on several, that are killed until they are through."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from subprocess import PIPE, Popen
from typing import NamedTuple

from tests import test_resume
from tests.conftest import ROOT, SMALL, assert_same, report, weights, write_corpora

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGABRT, signal.SIGTERM, signal.SIGINT)
BUDGETS = {                                 # some 250 steps, a second or two
    "pretrain": "--tokens 48k --lam 4 --save-every 10",
    "posttrain": "--max-tokens 64k --eval-every 20 --save-every 10",
    "finetune": "--tokens 64k --save-every 10",
}
RUNS = [("pretrain", ""), ("posttrain", "--dropout 0.1 --replay 0.2"), ("posttrain", "--dropout 0.1 --lora"),
        ("posttrain", "--dropout 0.1 --patience 2 --lr 0.05"), ("finetune", "--replay 0.3")]
TAKEN = "is being written by another run"


class Case(NamedTuple):
    """A run, and how it went undisturbed."""
    stage: str
    flags: str
    ranks: int
    whole: str               # its folder in out/
    seconds: float


def start(stage: str, flags: str, ranks: int = 1, module: str = "") -> Popen:
    """Start a stage on so many ranks, or a module that wraps it; a process group of its own."""
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    script = ["-m", module, stage] if module else [str(ROOT / f"{stage}.py")]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return Popen([*launcher, *script, *SMALL[stage].split(), *flags.split()], stdout=PIPE, stderr=PIPE,
                 text=True, env=variables, start_new_session=True)


def run_chain(budgets: dict[str, str]) -> None:
    """Make corpora, and each stage's default run for the next to start from."""
    write_corpora()
    for stage in SMALL:
        process = start(stage, budgets[stage])
        _, errors = process.communicate()
        assert process.returncode == 0, errors


def undisturbed(budgets: dict[str, str], runs: list[tuple[str, str]], ranks: tuple[int, ...]) -> list[Case]:
    """Make each run whole on each number of ranks."""
    run_chain(budgets)
    cases = []
    for stage, flags in runs:
        for world in ranks:
            whole = f"whole{len(cases)}"
            started = time.monotonic()
            flags_of_it = f"{budgets[stage]} {flags}"
            process = start(stage, f"{flags_of_it} --out out/{whole}", world)
            _, errors = process.communicate()
            assert process.returncode == 0, errors
            cases.append(Case(stage, flags_of_it, world, whole, time.monotonic() - started))
    return cases


def difference(one: str, other: str) -> str:
    """Say how two runs differ in weights or lineage; nothing if they are the same to the bit."""
    try:
        assert_same(weights(one), weights(other))
        assert report(one)["lineage"] == report(other)["lineage"]
    except AssertionError:
        return f"out/{one} is not out/{other}"
    return ""


# ------------------------------------------------------------------------------------------------------------
# Attacks

def at_any_moment(random: Random, count: int) -> Iterator[str]:
    """Kill runs of all stages by all signals, any of their processes, until `count` kills are survived."""
    cases = undisturbed(BUDGETS, RUNS, (1, 2))
    survived = 0
    for trial in itertools.count():
        if survived >= count:
            break
        case = random.choice(cases)
        out = f"killed{trial}"
        kills = []
        while len(kills) < 6 and not Path(f"out/{out}/run.json").exists():
            process = start(case.stage, f"{case.flags} --out out/{out} --resume", case.ranks)
            time.sleep(random.uniform(0, case.seconds))
            killed = kill(process, random) if process.poll() is None else ""
            if process.wait() and killed:
                kills.append(killed)

        # Ranks that torchrun has left behind, killed itself, end by themselves.
        answer = finish(f"{case.flags} --out out/{out} --resume", case)
        answer = answer or difference(out, case.whole)
        for one in kills:
            yield f"WRONG after {one}: {answer}" if answer else f"{one}, resumed, bit-equal"
        survived += len(kills)


def kill(process: Popen, random: Random) -> str:
    """Send a signal to one of a run's processes; returns what was done, nothing if it had just ended."""
    number = random.choice(SIGNALS)
    ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    victims = {process.pid: "torchrun"} | {int(rank): "a rank of two" for rank in ranks}
    if "torch.distributed.run" not in process.args:
        victims = {process.pid: "one rank"}
    victim = random.choice(list(victims))
    try:
        os.kill(victim, number)
    except ProcessLookupError:
        return ""
    return f"{number.name} to {victims[victim]}"


def finish(flags: str, case: Case) -> str:
    """Run a case to its end; returns what went wrong."""
    for _ in range(60):
        process = start(case.stage, flags, case.ranks)
        _, errors = process.communicate()
        if TAKEN not in errors:
            break
        time.sleep(1)
    return f"status {process.returncode}, {errors[-500:]}" if process.returncode else ""


def after_every_step(random: Random, count: int) -> Iterator[str]:
    """Stop runs of two ranks after each of their steps, by a signal that one rank gets."""
    for case in undisturbed(test_resume.CHAIN, test_resume.RUNS, (2,)):
        out = case.whole.replace("whole", "stopped")
        starts = 0
        while not Path(f"out/{out}/run.json").exists() and starts < 50:
            start(case.stage, f"{case.flags} --out out/{out} --resume", case.ranks,
                  "tests.torture.stopping").communicate()
            starts += 1
        answer = finish(f"{case.flags} --out out/{out} --resume", case) or difference(out, case.whole)
        steps = report(case.whole)["lineage"][-1]["steps"]
        if starts not in (steps, steps + 1):                 # what ends early ends with its last step
            answer = answer or f"{starts} starts for {steps} steps"
        for _ in range(starts):
            yield f"WRONG: {answer}" if answer else "stopped and resumed on two ranks, bit-equal"


def on_other_ranks(random: Random, count: int) -> Iterator[str]:
    """Stop runs without dropout and continue them on another number of ranks."""
    runs = [("pretrain", ""), ("posttrain", "--replay 0.2"), ("finetune", "--replay 0.3")]
    cases = undisturbed(BUDGETS, runs, (1,))
    for trial in range(count):
        case = random.choice(cases)
        before, after = random.sample((1, 2, 4), 2)
        flags = f"{case.flags} --out out/moved{trial} --resume"
        process = start(case.stage, flags, before)
        while not Path(f"out/moved{trial}/last.pt").exists() and process.poll() is None:
            time.sleep(0.01)
        process.terminate()
        process.communicate()
        answer = finish(flags, case._replace(ranks=after))
        if not answer:
            moved, whole = report(f"moved{trial}"), report(case.whole)
            if moved["tokens"] != whole["tokens"]:
                answer = f"tokens {moved['tokens']}"
            for name, loss in whole["losses"].items():
                if abs(moved["losses"][name]["mean"] - loss["mean"]) > 1e-3:
                    answer = f"{name} {moved['losses'][name]['mean']}, not {loss['mean']}"
        yield f"WRONG: {answer}" if answer else "moved, same tokens, losses within 0.001 nats"


def busy_torchruns(random: Random, count: int) -> Iterator[str]:
    """Run two ranks to their end beside a process that keeps a core busy."""
    write_corpora()
    busy = Popen([sys.executable, "-c", "while True: pass"])
    try:
        for _ in range(count):
            process = start("pretrain", "--tokens 8k --overwrite", 2)
            _, errors = process.communicate()
            yield f"WRONG: status {process.returncode} {errors[-500:]}" if process.returncode else "status 0"
    finally:
        busy.kill()
