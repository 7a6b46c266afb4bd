"""Speed of the training step, and what a run spends beside it. Not part of the test run.

    python -m tests.bench                               toy and 135m on what this machine has, and a whole toy Stage 1
    python -m tests.bench --shapes 135m 1b --batch 64 --micro-batch 32

The ceiling is what this machine reaches on one large matrix product, measured here and now, so that the share of it
means the same on any machine. A token costs 6 operations a matrix weight and 6 · layers · width · context in attention.
"""

import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

from cli import Parser, add_device_flags, launch, pick_device, positive
from data import Interleaved, Windows
from model import GPT, PRESETS, configure
from trainer import Trainer

ROOT = Path(__file__).parent.parent


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def matmul_ceiling(device: torch.device, dtype: str) -> float:
    """Operations a second of a square matrix product of random numbers, the best of several."""
    size, best = (8192 if device.type == "cuda" else 2048), 0.0
    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    for _ in range(10):
        synchronize(device)
        started = time.perf_counter()
        a @ b
        synchronize(device)
        best = max(best, 2 * size ** 3 / (time.perf_counter() - started))
    return best


def operations_per_token(model: GPT) -> float:
    config = model.config
    matrices = sum(weight.numel() for weight in model.parameters() if weight.dim() == 2)
    lookups = 0 if config.tied else config.vocab_size * config.width
    return 6 * (matrices - lookups) + 6 * config.layers * config.width * config.context


def measure_step(shape: str, args: Namespace, folder: Path) -> tuple[float, float]:
    """(tokens, operations) a second of Trainer's own steps on random tokens, the first two left out."""
    torch.manual_seed(0)
    config = configure(shape, 256 if shape == "toy" else 50_257)
    default = 32 if shape == "toy" else 64 if args.device == "cuda" else 1
    run_args = Namespace(
        preset=shape, batch=args.batch or default, micro_batch=args.micro_batch, lr=1e-4, min_lr=1e-5, warmup=1,
        weight_decay=0.1, seed=0, save_every=10 ** 9, out=folder / shape, device=args.device, dtype=args.dtype,
        compile=args.compile, resume=False, overwrite=False, wandb=False)
    sequences = run_args.batch * (args.steps + 2)
    tokens = np.random.default_rng(0).integers(config.vocab_size, size=sequences * config.context + 1, dtype=np.uint16)
    windows = Windows(tokens, config.context, 0, 1, np.arange(sequences, dtype=np.uint32))
    run = Trainer("pretrain", run_args)
    model = GPT(config)
    run.begin(model, Interleaved(windows, windows, sequences, 0, run_args.batch))
    for _ in run.steps():
        if run.step == 2:
            synchronize(run.device)
            started = time.perf_counter()
        run.train_step()
    synchronize(run.device)
    run.bar.close()
    speed = args.steps * run_args.batch * config.context / (time.perf_counter() - started)
    return speed, speed * operations_per_token(model)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--shapes", nargs="+", choices=PRESETS, default=["toy", "135m"], help="[toy 135m]")
    parser.flag("steps", positive, "to time, after two that are not [10]", default=10)
    parser.flag("batch", positive, "sequences a step [toy 32, else 1 on a CPU and 64 on a GPU]")
    parser.flag("micro-batch", positive, "sequences a forward pass [as in the stages]")
    parser.add_argument("--no-run", action="store_true", help="leave out the whole toy Stage 1")
    add_device_flags(parser)
    args = parser.parse_args()
    device, args.dtype = pick_device(args.device, args.dtype)
    args.device, args.compile = device.type, device.type == "cuda"

    ceiling = matmul_ceiling(device, args.dtype)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}, {args.dtype}: matrix product {ceiling / 1e9:,.0f} GFLOP/s")
    with tempfile.TemporaryDirectory() as folder:
        for shape in args.shapes:
            speed, operations = measure_step(shape, args, Path(folder))
            print(f"{shape:>5}: {speed:>9,.0f} tokens/s, {operations / 1e9:,.0f} GFLOP/s, "
                  f"{operations / ceiling:.0%} of it", flush=True)
        if not args.no_run:
            subprocess.run([sys.executable, ROOT / "pretrain.py", "--mix", "0.05", "--device", args.device], cwd=folder,
                           check=True, stdout=subprocess.DEVNULL)
            run = json.loads(Path(folder, "out/pretrain/run.json").read_text())
            seconds = run["seconds"]
            shares = ", ".join(f"{name} {seconds[name] / seconds['total']:.1%}" for name in seconds if name != "total")
            speed = f"{seconds['total']:.0f} s, {run['tokens_per_second']:,.0f} tokens/s"
            print(f"pretrain.py --mix 0.05: {speed}; {shares}")


if __name__ == "__main__":
    launch(main)
