"""This machine: how fast it trains, and whether it does so exactly.

    python -m experiments.bench                  all of it; nothing begins after --minutes
    python -m experiments.bench --shapes 135m 1b --batch 64 --micro-batch 32 --no-trials

Speeds are those of the stages' own step on random tokens, beside the ceiling, one large matrix product
measured here and now. On CUDA each shape goes through micro-batches until one does not fit or is no faster;
the fastest is then compiled, and tried without deterministic algorithms. Trials are whole runs, as a user
starts them, after the first shape; one that hangs is ended. What fails says why in its line, and the rest
goes on.
"""

import argparse
import signal
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager

import torch

from experiments import trials
from experiments.speed import Speed, forget, matmul_ceiling, measure_step, reason
from experiments.sweep import COMPILING
from model import PRESETS
from run.device import be_deterministic, pick_device, pick_dtype
from run.files import UserError
from run.flags import Parser, add_device_flags, is_out_of_memory, launch, positive
from run.loop import largest_micro_batch, require_divisible

PATIENCE = 300                           # seconds of a trial: one that hangs leaves time to the others
VARIANT = "{:<8}{:<10}{:<15}{:>11}"
ROW = VARIANT + "{:>14}{:>10}{:>8}{:>9}"
HEADER = ("shape", "step", "algorithms", "micro-batch", "tokens/s", "GFLOP/s", "of it", "peak GB")
TRIALS = {                               # the longest, of nine processes, last
    "pretrain.py --mix 0.05": trials.whole_run,
    "one rank by torchrun": trials.by_torchrun,
    "CPU and GPU": trials.against_cpu,
    "135m, beside training": trials.beside_training,
    "killed and resumed": trials.resumed,
}
ON_A_GPU = ("CPU and GPU", "135m, beside training")


def main() -> None:
    # What makes no sense ends it here; from then on, what fails is a row.
    args = parse()
    ends = time.monotonic() + 60 * args.minutes
    device = pick_device(args.device)
    on_gpu = device.type == "cuda"
    args.dtype = pick_dtype(args.dtype, device)
    shapes = args.shapes or (["toy", "135m", "1b"] if on_gpu else ["toy", "135m"])
    for shape in shapes:
        require_divisible(args.batch or default_batch(shape, on_gpu), args.micro_batch)

    # Every speed is told as a share of the ceiling, which comes first, in the same process.
    be_deterministic(device)
    ceiling = matmul_ceiling(device, args.dtype)
    print(f"{name_of(device)}, torch {torch.__version__}, {args.dtype}: "
          f"matrix product {ceiling / 1e9:,.0f} GFLOP/s", flush=True)

    def is_late() -> bool:
        return time.monotonic() > ends

    # Smaller shapes first, and trials before larger ones: what there may be no time for is the largest.
    for number, shape in enumerate(shapes):
        if is_late():
            print(f"\n{shape}: skipped, {args.minutes} minutes are over")
        else:
            measure_shape(shape, device, args, ceiling, is_late)
        if number == 0 and args.trials:
            make_trials(device, args, ends)


def parse() -> Namespace:
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--shapes", nargs="+", choices=PRESETS, help="[toy 135m, on a GPU also 1b]")
    parser.flag("steps", positive, "to time, after two that are not [10]", default=10)
    parser.flag("batch", positive, "sequences a step [toy 32, else 1 on a CPU and 64 on a GPU]")
    parser.flag("micro-batch", positive, "sequences a forward pass [the stages', on a GPU the fastest]")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction,
                        help="time compiled steps too, and compile trials [on a GPU]")
    parser.add_argument("--trials", action=argparse.BooleanOptionalAction, default=True,
                        help="whole runs too [yes]")
    parser.flag("minutes", positive, "nothing is begun later [9]", default=9)
    add_device_flags(parser)
    return parser.parse_args()


def name_of(device: torch.device) -> str:
    """Name what it is measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type.upper()}, {torch.get_num_threads()} threads"


def make_trials(device: torch.device, args: Namespace, ends: float) -> None:
    """Do all trials, and print a line for each; `ends` is when, by the clock, none begins any more."""
    # They are other processes, which need the memory, and do as this one is told.
    forget()
    print()
    flags = " ".join(("--device", str(device), "--dtype", args.dtype, *COMPILING[args.compile]))

    # What only a GPU can show is named where there is none.
    for name, trial in TRIALS.items():
        left = ends - time.monotonic()
        if name in ON_A_GPU and device.type != "cuda":
            print(f"{name}: skipped, it needs CUDA")
        elif left < 0:
            print(f"{name}: skipped, {args.minutes} minutes are over")
        else:
            print(f"{name}: {in_a_folder(trial, flags, min(PATIENCE, left + 60))}", flush=True)


def in_a_folder(trial: Callable[[str], str], flags: str, seconds: float) -> str:
    """Do a trial in an empty folder that is gone afterwards; returns what it finds, or why it failed."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        try:
            with at_most(seconds):
                return trial(flags)
        except Exception as error:
            return failed(error)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise UserError in the block once it has taken so long; on Windows it may take for ever."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise UserError(f"no end after {seconds:.0f} s, it hangs or --minutes is too few")
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def failed(error: Exception) -> str:
    """Say in a line that something failed, and why."""
    return f"FAILED: {reason(error)}"


# ------------------------------------------------------------------------------------------------------------
# Steps

def measure_shape(shape: str, device: torch.device, args: Namespace, ceiling: float,
                  is_late: Callable[[], bool]) -> None:
    """Time a shape's step in all its variants, and print a row for each."""
    on_gpu = device.type == "cuda"
    batch = args.batch or default_batch(shape, on_gpu)
    print(f"\n{ROW.format(*HEADER)}", flush=True)

    def timed(size: int, compiled: bool, deterministic: bool) -> float:
        """Tokens a second, 0 where there are none: memory or time is short, or something fails."""
        flags = ("--device", str(device), "--dtype", args.dtype, "--micro-batch", str(size),
                 *COMPILING[compiled])
        found = f"skipped, {args.minutes} minutes are over"
        if not is_late():
            found = speed_or_reason(shape, batch, args.steps, flags, deterministic)
        print(row(shape, compiled, deterministic or not on_gpu, size, found, ceiling), flush=True)
        return found.tokens_per_second if isinstance(found, Speed) else 0.0

    # The stages' own step first, over micro-batches until a larger one does not pay.
    speeds = {}
    for size in sizes_to_try(shape, batch, args.micro_batch, on_gpu):
        speeds[size] = timed(size, compiled=False, deterministic=True)
        if not speeds[size] or speeds[size] < max(speeds.values()):
            break

    # What compilation would gain, and giving up exactness: a CPU is exact without asking.
    fastest = max(speeds, key=speeds.get)
    compiling = on_gpu if args.compile is None else args.compile
    if on_gpu:
        timed(fastest, compiled=False, deterministic=False)
    if compiling:
        timed(fastest, compiled=True, deterministic=True)
    if compiling and on_gpu:
        timed(fastest, compiled=True, deterministic=False)


def speed_or_reason(shape: str, batch: int, steps: int, flags: tuple[str, ...],
                    deterministic: bool) -> Speed | str:
    """Time a variant, or say why it cannot be."""
    try:
        return measure_step(shape, batch, steps, flags, deterministic)
    except Exception as error:
        return "out of memory" if is_out_of_memory(error) else failed(error)


def default_batch(shape: str, on_gpu: bool) -> int:
    """Choose sequences a step: the stages' own for toy, else what fills a GPU, or one on a CPU."""
    if shape == "toy":
        return 32
    return 64 if on_gpu else 1


def sizes_to_try(shape: str, batch: int, given: int | None, on_gpu: bool) -> list[int]:
    """List micro-batches: the given one, or that of the stages, and on a GPU its doubles up to the batch."""
    first = given or largest_micro_batch(batch, PRESETS[shape]["context"])
    if given or not on_gpu:
        return [first]
    sizes = [first]
    while batch % (2 * sizes[-1]) == 0:
        sizes.append(2 * sizes[-1])
    return sizes


def row(shape: str, compiled: bool, exact: bool, size: int, found: Speed | str, ceiling: float) -> str:
    """Write a line of the table: a variant's speed, or what there is to say instead."""
    variant = (shape, "compiled" if compiled else "eager", "deterministic" if exact else "any", size)
    if isinstance(found, str):
        return f"{VARIANT.format(*variant)}  {found}"
    peak = f"{found.peak_bytes / 1e9:.1f}" if found.peak_bytes else "–"
    return ROW.format(*variant, f"{found.tokens_per_second:,.0f}",
                      f"{found.operations_per_second / 1e9:,.0f}",
                      f"{found.operations_per_second / ceiling:.0%}", peak)


if __name__ == "__main__":
    launch(main)
