"""How fast the stages' own training step is, on random tokens, and how fast the machine could be.

The ceiling is what the machine reaches on one large matrix product, measured here and now, so that the share
of it means the same on any machine. A token costs 6 operations a matrix weight, and in attention
6 · layers · width · context.
"""

import gc
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import pretrain
from data.stream import Interleaved, Windows
from model import GPT, SIZES, configure
from run.device import wait_for
from run.flags import as_user_error
from run.loop import Run


class Speed(NamedTuple):
    """How fast training goes, and the memory of a GPU that it takes at its peak."""
    tokens_per_second: float
    operations_per_second: float
    peak_bytes: int


def vocabulary(preset: str) -> int:
    """Count the tokens of a preset's own tokenizer, bytes or gpt2's, without loading it."""
    return 256 if preset == "toy" else 50_257


def measure_step(preset: str, batch: int, steps: int, flags: tuple[str, ...] = (),
                 deterministic: bool = True) -> Speed:
    """Time the stages' own step on random tokens, `steps` times after two that are not counted.

    `flags` are further ones of pretrain.py: --width, --micro-batch, --device, --dtype, --compile. Not
    deterministic is what the stages never are: what that would gain on CUDA. Raises torch.OutOfMemoryError.
    """
    # Every window is read once, as in a run; what it says does not change the time.
    forget()
    torch.manual_seed(0)
    args = pretrain.parse(["--preset", preset, "--batch", str(batch), "--save-every", "1B", *flags])
    sizes = {name: getattr(args, name) for name in SIZES}
    config = configure(preset, vocabulary(preset), sizes)
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
        if not deterministic:
            torch.use_deterministic_algorithms(False)
        network = run.begin(GPT(config), stream)
        run.report.mute()

        # The clock starts when what is compiled or allocated once has been, and stops before the last step,
        # as in every run, is saved.
        for step in run.steps():
            if run.step == 2:
                wait_for(run.device)
                started = time.perf_counter()
            for inputs, targets in step:
                loss = step.mean(network(inputs, targets))
                loss.backward()
            run.update()
            if run.at_end():
                wait_for(run.device)
                seconds = time.perf_counter() - started
    speed = steps * batch * config.context / seconds
    peak = torch.cuda.max_memory_allocated(run.device) if run.device.type == "cuda" else 0
    return Speed(speed, speed * operations_per_token(run.model), peak)


def forget() -> None:
    """Leave nothing of a model before: neither what was compiled for its shapes nor its memory."""
    # In this order: what was compiled holds the model, circles of references hold its memory.
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def reason(error: Exception) -> str:
    """Say in a line why a step could not be measured; without the advice to run a diverged stage again."""
    words = str(as_user_error(error) or f"{type(error).__name__}: {error}")
    return words.splitlines()[0].partition(", run again")[0]


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
