"""Where tensors live, in which precision they are multiplied, and what is drawn at random there."""

import os
from contextlib import AbstractContextManager

import numpy as np
import torch

from run.files import UserError


def pick_device(name: str | None) -> torch.device:
    """Find the named device, or a GPU if there is one (each local rank its own), else the CPU.

    Raises UserError if it is not there.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    mine = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if name == "cuda" else name
    try:
        device = torch.device(mine)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name} is not there ({reason}), use --device cpu") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def pick_dtype(name: str | None, device: torch.device) -> str:
    """Find the named precision of autocast, or the device's default: bfloat16 on CUDA, else float32."""
    return name or ("bfloat16" if device.type == "cuda" else "float32")


def autocast(device: torch.device, dtype: str) -> AbstractContextManager:
    """Compute in bfloat16 mixed precision in the block, if `dtype` says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")


def be_deterministic(device: torch.device) -> None:
    """Make CUDA bitwise repeatable, as the CPU is; it costs some speed in the attention's backward pass."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False


def mixed(seed: int, step: int, rank: int) -> int:
    """Mix three numbers into the seed of a generator; one on a CPU takes no more than its last 32 bits."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])
