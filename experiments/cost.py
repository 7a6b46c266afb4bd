"""What a plan will take: tokens, time, disk."""

import itertools
import subprocess
import sys
import time

import torch

from data.corpora import HELD_OUT_SEQUENCES
from experiments.speed import measure_step, reason, vocabulary
from experiments.sweep import COMPILING, HOUSE, STAGES, Planned, Settings, cores, duration, number, threads
from experiments.trials import last_words
from model import GPT, PRESETS, SIZES, configure
from run.files import UserError
from run.report import per_second

MODEL_FLAGS = ("--preset", *(f"--{name.replace('_', '-')}" for name in SIZES))
CORPORA_ON_THE_WAY = {"pretrain": 2, "posttrain": 1, "finetune": 2}          # evaluated every --eval-every
CORPORA_AT_THE_END = {"pretrain": 2, "posttrain": 2, "finetune": 3}


def value(run: Planned, flag: str) -> float:
    """Read the value of a run's flag, or its stage's default for the preset."""
    given = dict(run.settings)
    if flag in given:
        return number(given[flag])
    defaults = STAGES[run.stage].DEFAULTS
    column = defaults["preset"].index(preset_of(run))
    return number(defaults[flag.removeprefix("--")][column].rstrip("*"))


def model_of(run: Planned) -> Settings:
    """Find what the first run of a chain says of its model: the preset, and sizes of its own."""
    first = [run, *run.ancestors()][-1]
    return tuple(setting for setting in first.settings if setting[0] in MODEL_FLAGS)


def preset_of(run: Planned) -> str:
    """Find the preset that the first run of a chain names."""
    return dict(model_of(run))["--preset"]


def tokens(run: Planned) -> float:
    """Count the tokens that a run trains on: at most, where a stage may stop early; noise on none."""
    if run.stage == "noise":
        return 0
    if run.stage == "pretrain":
        lam = number(dict(run.settings).get("--lam", "0"))
        return value(run, "--tokens") + lam * value(run, "--post-tokens")
    if "--compute-matched" in dict(run.settings):
        lam = number(dict(run.parent.settings).get("--lam", "0"))
        return (1 - lam) * value(run.parent, "--post-tokens")
    budget = value(run, "--max-tokens" if run.stage == "posttrain" else "--tokens")
    return budget / (1 - value(run, "--replay"))


def evaluated_tokens(run: Planned) -> float:
    """Count the held-out tokens that a run evaluates: at most, where a corpus holds out less."""
    context = int(dict(model_of(run)).get("--context", PRESETS[preset_of(run)]["context"]))
    once = HELD_OUT_SEQUENCES * context
    if run.stage == "noise":
        return 3 * (1 + value(run, "--draws")) * once
    steps = tokens(run) / (value(run, "--batch") * context)
    evaluations = steps // value(run, "--eval-every")
    if {"--compute-matched", "--go-on"} & set(dict(run.settings)):
        evaluations = 0
    return (evaluations * CORPORA_ON_THE_WAY[run.stage] + CORPORA_AT_THE_END[run.stage]) * once


def work(run: Planned) -> float:
    """Count a run's work in tokens trained on: to evaluate one takes the forward pass, a third of a step."""
    return tokens(run) + evaluated_tokens(run) / 3


def tokens_per_second(model: Settings, threads: int, compiled: bool | None) -> float:
    """Measure how fast a model trains here and now, on one device or so many CPU threads.

    Raises what training raises.
    """
    preset = dict(model)["--preset"]
    batch, steps = 8, 10
    if preset == "toy":
        batch = 32
    elif not torch.cuda.is_available():
        batch, steps = 1, 2
    step = preset, batch, steps, (*itertools.chain(*model), *COMPILING[compiled])

    # A process that has been on a GPU keeps some of it: the runs are to have it all.
    if torch.cuda.is_available():
        return apart(step)
    torch.set_num_threads(threads)
    return measure_step(*step).tokens_per_second


def apart(step: tuple) -> float:
    """Measure a step, its speed alone, in a process of its own; raises UserError if that fails."""
    program = ("from experiments.speed import measure_step; from run.flags import launch; "
               f"launch(lambda: print(measure_step(*{step!r}).tokens_per_second))")
    done = subprocess.run([sys.executable, "-c", program], cwd=HOUSE, capture_output=True, text=True)
    if done.returncode:
        raise UserError(last_words(done.stderr).removeprefix("error: "))
    return float(done.stdout.split()[-1])


def checkpoint_bytes(model: Settings) -> int:
    """Tell the size of a ckpt.pt: the weights in float32."""
    preset = dict(model)["--preset"]
    sizes = {name: int(dict(model).get(flag, 0)) for flag, name in zip(MODEL_FLAGS[1:], SIZES)}
    with torch.device("meta"):
        return 4 * GPT(configure(preset, vocabulary(preset), sizes)).parameter_count()


def copies_kept(run: Planned) -> int:
    """Count the copies of its weights, in size, that a run leaves: ckpt.pt, and left.pt's two moments."""
    if run.stage == "noise":
        return 0
    return 3 if run.stage == "pretrain" and "--leave" in dict(run.settings) else 1


def cost(name: str, runs: list[Planned], jobs: int, processes: int, compiled: bool | None = None) -> str:
    """Say in a line what there is to do, and how long that takes if every stage uses all its tokens."""
    start_up = time.process_time()          # importing torch, which every run does as this process did
    left = [run for run in runs if not run.is_finished()]
    line = f"{name}: {len(runs)} runs, {len(runs) - len(left)} of them finished"
    if not left:
        return line

    # Where there are fewer cores than processes, each has a part of one.
    share = 1.0
    if not torch.cuda.device_count():
        share = min(1, cores() / (jobs * processes))

    # Models of different sizes go at different speeds.
    to_go = 0.0                                              # tokens to train on
    training = working = 0.0                                 # seconds of that, and of evaluation besides
    kept = 0                                                 # bytes
    unknown = ""                                             # why a speed could not be measured
    for model in dict.fromkeys(map(model_of, left)):
        of_model = [run for run in left if model_of(run) == model]
        budget = sum(tokens(run) for run in of_model)
        to_go += budget
        kept += checkpoint_bytes(model) * sum(map(copies_kept, of_model))

        # Runs may do what this cannot, and if not, each says so.
        try:
            speed = share * processes * tokens_per_second(model, threads(jobs * processes), compiled)
        except Exception as error:
            unknown = reason(error)
            continue
        training += budget / speed
        working += sum(work(run) for run in of_model) / speed
    seconds = (working + start_up * len(left)) / jobs

    # A toy plan is of megabytes, the paper's of gigabytes.
    megabytes = kept / 1e6
    disk = f"{megabytes / 1e3:,.0f} GB" if megabytes >= 1e4 else f"{megabytes:,.0f} MB"
    speed = f"at {jobs} × {per_second(to_go, training):,.0f} tokens/s about {duration(seconds)}"
    if unknown:
        speed = f"speed unknown ({unknown})"
    return f"{line}; {amount(to_go)} tokens to go, {speed}; {disk} to keep"


def amount(tokens: float) -> str:
    """Write tokens as 25k of a probe, 26.1M of a toy plan, 3.8B of the paper's."""
    if tokens >= 1e9:
        return f"{tokens / 1e9:,.1f}B"
    return f"{tokens / 1e6:.1f}M" if tokens >= 1e6 else f"{tokens / 1e3:.0f}k"
