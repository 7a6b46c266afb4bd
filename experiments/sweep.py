"""A plan → the runs of its chains, and what runs them: each once, whatever happens.

Killed, started again, or on several machines that share the folder, a sweep goes on with what is unfinished.
"""

import argparse
import itertools
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import NamedTuple

import torch

import finetune
import posttrain
import pretrain
from experiments import noise
from experiments.points import stem
from run.checkpoint import read_run
from run.device import gpus, preferred
from run.files import UserError, lock, make_folder
from run.flags import Parser, count, noting_signals, positive

STAGES = {"pretrain": pretrain, "posttrain": posttrain, "finetune": finetune, "noise": noise}
WORTH_COMPILING = 1e6                    # tokens of work: a run of fewer is over before it is compiled
COMPILING = {None: (), True: ("--compile",), False: ("--no-compile",)}       # what a stage is told
RETRY = 60                               # seconds until a run that another process had is tried again
HOUSE = Path(__file__).parent.parent

Settings = tuple[tuple[str, str | None], ...]                # (flag, value); a switch has no value


class Planned(NamedTuple):
    """A run of a stage, made or not: its settings, its folder, and the run that it starts from."""
    stage: str
    settings: Settings
    seed: int
    out: Path
    parent: "Planned | None"

    def is_finished(self) -> bool:
        """Say whether its folder has the record of a finished run."""
        return (self.out / "run.json").exists()

    def ancestors(self) -> "list[Planned]":
        """List the runs before it in its chain, the nearest first."""
        if not self.parent:
            return []
        return [self.parent, *self.parent.ancestors()]

    def chain(self) -> tuple[str, ...]:
        """Name the stages of its chain, up to its own."""
        return tuple(run.stage for run in [*self.ancestors()[::-1], self])

    def log(self) -> Path:
        """Name the .log beside its folder, for what it prints."""
        return self.out.with_name(f"{self.stage}.log")


# ------------------------------------------------------------------------------------------------------------
# A plan → its runs

def plan(lines: Sequence[str], preset: str, settings: dict[str, str], corpora: dict[str, str], seeds: int,
         root: Path) -> list[Planned]:
    """Work out the runs of a figure, parents before children, one seed after another, each once.

    Each line is a chain of any length, its stages divided by |, each a name and its flags. Raises UserError
    if two runs would share a folder: corpora whose files have the same name.
    """
    # By folder, because chains that begin alike share their first runs.
    runs = {}
    for seed, line in itertools.product(range(1, seeds + 1), lines):
        parents = [None]
        for part in filled(line, settings, corpora).split("|"):
            stage, *words = part.split()
            children = []
            for parent, choice in itertools.product(parents, expand(words)):
                run = planned(stage, choice, corpora, preset, seed, parent, root)
                if runs.setdefault(run.out, run) != run:
                    raise UserError(f"two runs would share {run.out}, "
                                    "rename a corpus or give them other flags")
                children.append(run)
            parents = children
    return list(runs.values())


def filled(line: str, settings: dict[str, str], corpora: dict[str, str]) -> str:
    """Put a preset's settings in place of their $names; those of corpora stay."""
    try:
        return Template(line).substitute({role: f"${role}" for role in corpora} | settings)
    except KeyError as missing:
        (name,) = missing.args
        raise ValueError(f"the plan {line!r} has ${name}, neither a corpus nor a setting") from None


def planned(stage: str, choice: Settings, corpora: dict[str, str], preset: str, seed: int,
            parent: Planned | None, root: Path) -> Planned:
    """Plan one run of a chain; its folder is called by what tells it from its parent's other children."""
    named = {f"${role}": corpus for role, corpus in corpora.items()}
    settings = tuple((flag, named.get(value, value)) for flag, value in choice)
    name = folder_name(settings)
    if parent:
        return Planned(stage, settings, seed, out=parent.out.parent / name / stage, parent=parent)
    out = root / f"{name}-seed{seed}" / stage
    return Planned(stage, (("--preset", preset), *settings), seed, out, parent=None)


def expand(words: Sequence[str]) -> Iterator[Settings]:
    """Read the settings that words say, once for every choice among {a,b}; the last choice varies fastest."""
    choices = [word.strip("{}").split(",") for word in words]
    for choice in itertools.product(*choices):
        settings = []
        for word in choice:
            if word.startswith("--"):
                settings.append((word, None))                # a switch, unless a value follows
            elif settings and settings[-1][1] is None:
                settings[-1] = (settings[-1][0], word)
            else:
                raise ValueError(f"the plan has {word!r}, which follows no flag")
        yield tuple(settings)


def folder_name(settings: Settings) -> str:
    """Name a folder: (--post, my/tunes.txt), (--lam, 0.5) → tunes-lam0.5. D_pre is the root folder's."""
    parts = []
    for flag, value in settings:
        if flag in ("--post", "--ft"):
            parts.append(stem(value))
        elif flag != "--pre":
            parts.append(flag.removeprefix("--") + (value or ""))
    return "-".join(parts)


def with_further_seeds(runs: list[Planned], of_seeds: Callable[[int], list[Planned]],
                       root: Path) -> list[Planned]:
    """Add to a plan's runs those of every further seed that is finished: a figure never loses seeds.

    `of_seeds(n)` is the plan of the seeds 1 to n.
    """
    there = [folder.name.rpartition("-seed")[2] for folder in root.glob("*-seed*")]
    last = max((int(seed) for seed in there if seed.isdecimal()), default=0)
    more = of_seeds(last)
    unfinished = {run.seed for run in more if not run.is_finished()}
    known = set(runs)
    return runs + [run for run in more if run not in known and run.seed not in unfinished]


def require_same(run: Planned) -> None:
    """Raise UserError if what is finished in a run's folder had other settings, or corpora of that name."""
    if not run.is_finished():
        return
    args = read_run(run.out)["args"]
    for flag, word in (*run.settings, ("--seed", str(run.seed))):
        value = args[flag.removeprefix("--").replace("-", "_")]
        if word is None:
            same = value is True
        elif isinstance(value, str):
            same = value == word
        else:
            same = value == number(word)
        if not same:
            raise UserError(f"{run.out} is finished with {flag} {value}, not {word}; choose another --out")


def number(text: str) -> float:
    """Read 0.05, 5e-4, 150k."""
    return count(text) if text[-1].isalpha() else float(text)


# ------------------------------------------------------------------------------------------------------------
# Commands

def command(run: Planned, processes: int, python: str = "python") -> list[str]:
    """Write the command of a run as a person would; finished it does nothing, unfinished it continues."""
    words = [python]
    if processes > 1:
        words += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    words += script(run.stage)
    for flag, value in (*run.settings, ("--seed", str(run.seed))):
        words += [flag] if value is None else [flag, value]
    if run.parent:
        words += ["--init", str(run.parent.out)]
    return [*words, "--out", str(run.out), "--resume"]


def compiling(run: Planned, work: float, compiled: bool | None) -> tuple[str, ...]:
    """Write what a run of so much work is told of torch.compile; noise, which has no such flag, nothing.

    A short one is not to be compiled, as on CUDA a stage is by itself.
    """
    if run.stage == "noise":
        return ()
    by_itself = compiled is None and preferred() == "cuda"
    if work < WORTH_COMPILING and (compiled or by_itself):
        compiled = False
    return COMPILING[compiled]


def script(stage: str) -> list[str]:
    """Name what Python runs for a stage: a script at the top by its path, a module of a room by its name."""
    module = STAGES[stage].__name__
    return ["-m", module] if "." in module else [os.path.relpath(HOUSE / f"{module}.py")]


def cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):                     # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def jobs_at_once(runs: Sequence[Planned], asked: int | None, processes: int) -> int:
    """Choose how many runs go on at once: as asked for, or one a device, but no more than ever can."""
    devices = gpus() or cores()
    levels = Counter(len(run.ancestors()) for run in runs)             # a run waits for those before it
    return min(max(levels.values()), asked or max(1, devices // processes))


def threads(at_once: int) -> int:
    """Share out the cores among so many processes at once, where OMP_NUM_THREADS does not say it."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    if said.isdecimal() and int(said):
        return int(said)
    return max(1, cores() // at_once)


def environment(slot: int, jobs: int, processes: int, root: Path) -> dict[str, str]:
    """Set the variables of a run: its share of the cores and, where several run at once, of the GPUs.

    What torch.compile makes is kept for all runs of the sweep: the same model is compiled once. A run that is
    stopped has ten minutes to save before torchrun kills it, not its own half.
    """
    variables = {"OMP_NUM_THREADS": str(threads(jobs * processes)), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600",
                 "TORCHINDUCTOR_CACHE_DIR": str((root / ".compiled").resolve())} | os.environ
    cards = torch.cuda.device_count()
    if jobs > 1 and cards:
        everyone = ",".join(map(str, range(cards)))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", everyone).split(",")
        mine = [visible[(slot * processes + process) % cards] for process in range(processes)]
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
    return variables


# ------------------------------------------------------------------------------------------------------------
# Running

def add_flags(parser: Parser, of: str) -> None:
    """Add how many runs, or probes, go on at once, and on what each."""
    parser.flag("jobs", positive, f"{of}s at once [one a GPU, or one a CPU core]", metavar="N")
    parser.flag("nproc-per-node", positive, f"processes a {of}, by torchrun, a GPU each [1]", metavar="N",
                default=1)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction,
                        help=f"torch.compile long {of}s, on a CPU too, or none; what is made is shared by "
                             "all [long ones on CUDA]")


class Running(NamedTuple):
    """A run being made, and the process that makes it."""
    run: Planned
    process: subprocess.Popen


@dataclass
class Sweep:
    """Runs being made, so many at a time, each after its parent."""
    missing: list[Planned]                                   # that were not finished when it began
    jobs: int                                                # runs at once
    processes: int                                           # of a run
    root: Path
    work: Callable[[Planned], float]                         # of a run, in tokens
    compiled: bool | None = None                             # whether long runs are; None: on CUDA
    waiting: list[Planned] = field(init=False, default_factory=list)
    running: dict[int, Running] = field(init=False, default_factory=dict)          # by slot
    failed: dict[Planned, str] = field(init=False, default_factory=dict)           # and how they ended
    not_before: dict[Planned, float] = field(init=False, default_factory=dict)     # clock time to try again
    work_done: float = field(init=False, default=0.0)
    started: float = field(init=False, default=0.0)                                # clock time

    def execute(self) -> dict[Planned, str]:
        """Make the runs that are missing; returns the failed ones, their commands and last lines.

        A run that another process is at is left to it. However this ends, what it started saves and ends too.
        """
        # What a run prints would be mixed with that of the others.
        if self.missing:
            print(f"{self.jobs} at once; what they print is in a .log beside the folder of each, "
                  f"{self.missing[0].log()}", flush=True)
        self.waiting = list(self.missing)
        self.started = time.monotonic()

        # Signals are heeded between the starts of runs, so that none is left behind.
        with noting_signals() as received:
            try:
                while self.waiting or self.running:
                    if received:
                        print("stopping; what runs saves first, and the same command continues it",
                              flush=True)
                        sys.exit(128 + received[0])
                    self._collect()
                    self._start()
                    time.sleep(0.2)

            # All are told before any is waited for: they save side by side.
            finally:
                for one in self.running.values():
                    one.process.terminate()
                for one in self.running.values():
                    one.process.wait()
        return self.failed

    def _collect(self) -> None:
        """Take note of the runs that have ended."""
        for slot, one in list(self.running.items()):
            run = one.run
            status = one.process.poll()
            if status is None:
                continue
            del self.running[slot]

            # A run that failed because another process has it, or had it first, is not a failure.
            if status and is_taken(run):
                self.not_before[run] = time.monotonic() + RETRY
                self.waiting.append(run)
                continue

            # What comes after a failed run cannot be made.
            if status:
                self.failed[run] = f"{shlex.join(self._command(run, 'python'))}\n{last_lines(run.log())}"
                self.waiting = [other for other in self.waiting if run not in other.ancestors()]
            else:
                self.work_done += self.work(run)
            self._tell(run)

    def _start(self) -> None:
        """Start runs whose parents are finished in the slots that are free."""
        now = time.monotonic()
        self.waiting = [run for run in self.waiting if not run.is_finished()]
        ready = [run for run in self.waiting if now >= self.not_before.get(run, 0)]
        ready = [run for run in ready if not run.parent or run.parent.is_finished()]
        free = [slot for slot in range(self.jobs) if slot not in self.running]

        # Looked at first, because a process that only finds its folder taken has spent seconds on its start.
        for slot, run in zip(free, ready):
            if is_taken(run):
                if run not in self.not_before and not run.is_finished():
                    print(f"{run.out}: another process is at it", flush=True)
                self.not_before[run] = now + RETRY
                continue

            # The log is kept over several tries: the reason of a failure may be in an earlier one.
            self.waiting.remove(run)
            make_folder(run.out.parent)
            words = self._command(run, sys.executable)
            variables = environment(slot, self.jobs, self.processes, self.root)
            with open(run.log(), "a") as log:
                process = subprocess.Popen(words, stdout=log, stderr=log, env=variables)
            self.running[slot] = Running(run, process)

    def _command(self, run: Planned, python: str) -> list[str]:
        """The command of a run, with what it is told of torch.compile."""
        return [*command(run, self.processes, python), *compiling(run, self.work(run), self.compiled)]

    def _tell(self, run: Planned) -> None:
        """Say how a run ended and how long the rest may take."""
        finished = sum(one.is_finished() for one in self.missing)
        outcome = "FAILED"
        if run not in self.failed:
            losses = read_run(run.out)["losses"]
            outcome = "  ".join(f"{name} {loss['mean']:.3f}" for name, loss in losses.items())

        # The rest is taken to go as fast, token by token, as what has been done.
        left = [one for one in self.waiting if not one.is_finished()]
        left += [one.run for one in self.running.values()]
        time_left = ""
        if left and self.work_done:
            work_left = sum(map(self.work, left))
            seconds = (time.monotonic() - self.started) * work_left / self.work_done
            time_left = f"; {duration(seconds)} left"
        print(f"{finished}/{len(self.missing)} {run.out}: {outcome}{time_left}", flush=True)


def tell_failures(failed: dict[Planned, str]) -> None:
    """Print the commands of runs that failed, and how each of them ended."""
    for how in failed.values():
        print(f"\nFAILED {how}", file=sys.stderr)


def is_taken(run: Planned) -> bool:
    """Say whether another process, here or on another machine, has finished a run or is at it."""
    if run.out.exists():
        try:
            lock(run.out).release()
        except UserError:
            return True
    return run.is_finished()


def last_lines(log: Path) -> str:
    """Read the end of what a run printed."""
    lines = log.read_text("utf-8", errors="replace").splitlines()[-5:]
    lines = lines or [f"nothing in {log}, is there no space?"]
    return "\n".join(f"    {line}" for line in lines)


def duration(seconds: float) -> str:
    """Write minutes, or hours where those are many."""
    hours = seconds / 3600
    if hours >= 10:
        return f"{hours:,.0f} h"
    if hours >= 2:
        return f"{hours:.1f} h"
    return f"{max(1, round(60 * hours))} min"
