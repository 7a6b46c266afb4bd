"""What a plan will take: tokens, time, disk."""

import time

import torch

from experiments.bench import measure_step
from experiments.sweep import STAGES, Planned, cores, duration, number, threads
from model import GPT, configure


def value(run: Planned, flag: str) -> float:
    """Read the value of a run's flag, or its stage's default for the preset."""
    given = dict(run.settings)
    if flag in given:
        return number(given[flag])
    defaults = STAGES[run.stage].DEFAULTS
    column = defaults["preset"].index(preset_of(run))
    return number(defaults[flag.removeprefix("--")][column].rstrip("*"))


def preset_of(run: Planned) -> str:
    """Find the preset that the first run of a chain names."""
    first = [run, *run.ancestors()][-1]
    return dict(first.settings)["--preset"]


def tokens(run: Planned) -> float:
    """Count the tokens that a run trains on: at most, where a stage may stop early."""
    if run.stage == "pretrain":
        lam = number(dict(run.settings).get("--lam", "0"))
        return value(run, "--tokens") + lam * value(run, "--post-tokens")
    if "--compute-matched" in dict(run.settings):
        lam = number(dict(run.parent.settings).get("--lam", "0"))
        return (1 - lam) * value(run.parent, "--post-tokens")
    budget = value(run, "--max-tokens" if run.stage == "posttrain" else "--tokens")
    return budget / (1 - value(run, "--replay"))


def tokens_per_second(preset: str, threads: int) -> float:
    """Measure how fast the preset's model trains here and now, on one device or so many CPU threads."""
    torch.set_num_threads(threads)
    batch, steps = 8, 10
    if preset == "toy":
        batch = 32
    elif not torch.cuda.is_available():
        batch, steps = 1, 2
    return measure_step(preset, batch, steps).tokens_per_second


def checkpoint_bytes(preset: str) -> int:
    """Tell the size of a ckpt.pt: the weights in float32."""
    vocabulary = 256 if preset == "toy" else 50_257
    with torch.device("meta"):
        return 4 * GPT(configure(preset, vocabulary)).parameter_count()


def cost(name: str, preset: str, runs: list[Planned], jobs: int, processes: int) -> str:
    """Say in a line what there is to do, and how long that takes if every stage uses all its tokens."""
    start_up = time.process_time()          # importing torch, which every run does as this process did
    left = [run for run in runs if not run.is_finished()]
    line = f"{name}: {len(runs)} runs, {len(runs) - len(left)} of them finished"
    if not left:
        return line

    # Where there are fewer cores than processes, each has a part of one.
    speed = processes * tokens_per_second(preset, threads(jobs * processes))
    if not torch.cuda.device_count():
        speed *= min(1, cores() / (jobs * processes))
    to_go = sum(tokens(run) for run in left)
    seconds = (to_go / speed + start_up * len(left)) / jobs

    # A toy plan is of millions and megabytes, the paper's of billions and gigabytes.
    amount = f"{to_go / 1e9:,.1f}B" if to_go >= 1e9 else f"{to_go / 1e6:.1f}M"
    megabytes = len(left) * checkpoint_bytes(preset) / 1e6
    disk = f"{megabytes / 1e3:,.0f} GB" if megabytes >= 1e4 else f"{megabytes:,.0f} MB"
    return (f"{line}; {amount} tokens to go, at {jobs} × {speed:,.0f} tokens/s about {duration(seconds)}; "
            f"{disk} to keep")
