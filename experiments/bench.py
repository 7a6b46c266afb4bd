"""Speed of the training step, and what a run spends beside it.

    python -m experiments.bench                  toy and 135m on this machine, and a whole toy Stage 1
    python -m experiments.bench --shapes 135m 1b --batch 64 --micro-batch 32

The ceiling is what this machine reaches on one large matrix product, measured here and now, so that the share
of it means the same on any machine. A token costs 6 operations a matrix weight, and in attention
6 · layers · width · context.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import pretrain
from data.stream import Interleaved, Windows
from model import GPT, PRESETS, SIZES, configure
from run.device import pick_device, pick_dtype
from run.flags import Parser, add_device_flags, launch, positive
from run.loop import Run

HOUSE = Path(__file__).parent.parent


class Speed(NamedTuple):
    """How fast training goes."""
    tokens_per_second: float
    operations_per_second: float


def measure_step(preset: str, batch: int, steps: int, flags: tuple[str, ...] = ()) -> Speed:
    """Time the stages' own step on random tokens, `steps` times after two that are not counted.

    `flags` are further ones of pretrain.py: --width, --micro-batch, --device, --dtype, --compile.
    """
    # Every window is read once, as in a run; what it says does not change the time.
    torch.manual_seed(0)
    args = pretrain.parse(["--preset", preset, "--batch", str(batch), "--save-every", "1B", *flags])
    sizes = {name: getattr(args, name) for name in SIZES}
    config = configure(preset, 256 if preset == "toy" else 50_257, sizes)
    sequences = batch * (steps + 2)
    length = sequences * config.context + 1
    tokens = np.random.default_rng(0).integers(config.vocab_size, size=length, dtype=np.uint16)
    numbers = np.arange(sequences, dtype=np.uint32)
    windows = Windows("pre", tokens, config.context, seed=0, stage=1, chosen=numbers)
    stream = Interleaved(major=windows, minor=windows, n_major=sequences, n_minor=0, batch_size=batch)

    # The loop of pretrain.py, without what it does between steps: no evaluation, no save.
    with tempfile.TemporaryDirectory() as folder:
        args.out = Path(folder, "run")
        run = Run("pretrain", args, then="")
        network = run.begin(GPT(config), stream)
        run.report.mute()

        # The clock starts when what is compiled or allocated once has been.
        for step in run.steps():
            if run.step == 2:
                wait_for(run.device)
                started = time.perf_counter()
            for inputs, targets in step:
                loss = step.mean(network(inputs, targets))
                loss.backward()
            run.update()
        wait_for(run.device)
        seconds = time.perf_counter() - started
    speed = steps * batch * config.context / seconds
    return Speed(tokens_per_second=speed, operations_per_second=speed * operations_per_token(run.model))


def operations_per_token(model: GPT) -> float:
    """Count the floating-point operations of a training step on one token."""
    config = model.config
    matrices = sum(weight.numel() for weight in model.parameters() if weight.dim() == 2)
    lookups = 0 if config.tied else config.vocab_size * config.width
    return 6 * (matrices - lookups) + 6 * config.layers * config.width * config.context


def matmul_ceiling(device: torch.device, dtype: str) -> float:
    """Time a square matrix product of random numbers, the best of several: operations a second."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    b = torch.randn_like(a)

    # The best, because whatever disturbs a measurement makes it slower.
    best = 0.0
    for _ in range(10):
        wait_for(device)
        started = time.perf_counter()
        a @ b
        wait_for(device)
        best = max(best, 2 * size ** 3 / (time.perf_counter() - started))
    return best


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure_run(device: torch.device) -> str:
    """Time a whole toy Stage 1 in a process of its own: seconds, tokens a second, and what took how much."""
    words = [sys.executable, HOUSE / "pretrain.py", "--mix", "0.05", "--device", device.type]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        record = json.loads(Path(folder, "out/pretrain/run.json").read_text())
    seconds = record["seconds"]
    total = seconds.pop("total")
    shares = ", ".join(f"{activity} {took / total:.1%}" for activity, took in seconds.items())
    return f"{total:.0f} s, {record['tokens_per_second']:,.0f} tokens/s; {shares}"


def default_batch(preset: str, device: torch.device) -> int:
    """Choose sequences a step: the stages' own for toy, else what fills a GPU, or one on a CPU."""
    if preset == "toy":
        return 32
    return 64 if device.type == "cuda" else 1


def parse() -> Namespace:
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--shapes", nargs="+", choices=PRESETS, default=["toy", "135m"], help="[toy 135m]")
    parser.flag("steps", positive, "to time, after two that are not [10]", default=10)
    parser.flag("batch", positive, "sequences a step [toy 32, else 1 on a CPU and 64 on a GPU]")
    parser.flag("micro-batch", positive, "sequences a forward pass [as in the stages]")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="torch.compile [on CUDA]")
    parser.add_argument("--no-run", action="store_true", help="leave out the whole toy Stage 1")
    add_device_flags(parser)
    return parser.parse_args()


def main() -> None:
    # Every speed is told as a share of the ceiling, which comes first.
    args = parse()
    device = pick_device(args.device)
    dtype = pick_dtype(args.dtype, device)
    ceiling = matmul_ceiling(device, dtype)
    name = f"CPU, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}, {dtype}: matrix product {ceiling / 1e9:,.0f} GFLOP/s")

    # What was not asked for is left to the stages' defaults.
    flags = ["--device", str(device), "--dtype", dtype]
    if args.micro_batch:
        flags += ["--micro-batch", str(args.micro_batch)]
    if args.compile is not None:
        flags.append("--compile" if args.compile else "--no-compile")
    for shape in args.shapes:
        batch = args.batch or default_batch(shape, device)
        speed = measure_step(shape, batch, args.steps, tuple(flags))
        print(f"{shape:>5}: {speed.tokens_per_second:>9,.0f} tokens/s, "
              f"{speed.operations_per_second / 1e9:,.0f} GFLOP/s, "
              f"{speed.operations_per_second / ceiling:.0%} of it", flush=True)
    if not args.no_run:
        print(f"pretrain.py --mix 0.05: {measure_run(device)}")


if __name__ == "__main__":
    launch(main)
