"""Where tensors live, in which precision they are multiplied, and what is drawn at random there."""

import os
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from run import ranks
from run.files import UserError

MPS_SINCE = "2.7"        # torch's release: before, grouped-query attention crashed on MPS (its issue 149132)
REPEATABLE = (":4096:8", ":16:8")      # cuBLAS's workspaces with which it gives the same bits each time


def gpus() -> int:
    """Count the GPUs that runs take by themselves: CUDA's, else Apple's one (MPS) if this torch is fit."""
    on_mps = torch.backends.mps.is_available() and torch.__version__ >= MPS_SINCE
    return torch.cuda.device_count() or int(on_mps)


def preferred() -> str:
    """Name the device of a run that is told none: cuda, mps or cpu; ranks cannot share an Apple's GPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if gpus() and ranks.world() == 1 else "cpu"


def pick_device(name: str | None) -> torch.device:
    """Find the named device, or a GPU if there is one (each local rank its own), else the CPU.

    Raises UserError if it is not there or cannot do what a run needs.
    """
    # What torch knows besides, a run cannot do with.
    name = name or preferred()
    if name.partition(":")[0] not in ("cpu", "cuda", "mps"):
        raise UserError(f"device {name} is not there (cpu, cuda and mps are known), use --device cpu")
    if name.startswith("mps"):
        refuse_unfit_mps()

    # Whether a device is there shows when something is put on it.
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


def refuse_unfit_mps() -> None:
    """Raise UserError where MPS is asked for what it lacks."""
    if torch.__version__ < MPS_SINCE:
        raise UserError(f"mps needs torch {MPS_SINCE} or newer, this is {torch.__version__}; "
                        "use --device cpu")
    if ranks.world() > 1:
        raise UserError("mps takes one process, start it without torchrun or use --device cpu")


def pick_dtype(name: str | None, device: torch.device) -> str:
    """Find the named precision of autocast, or the default: bfloat16 where CUDA has it, else float32.

    Raises UserError if the device cannot be trusted with it.
    """
    if (device.type, name) == ("mps", "bfloat16"):      # torch's issue 195910: a token sees those after it
        raise UserError("mps computes attention wrongly in bfloat16, use --dtype float32")
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return name or ("bfloat16" if has_bfloat16 else "float32")


def autocast(device: torch.device, dtype: str) -> AbstractContextManager:
    """Compute in bfloat16 mixed precision in the block, if `dtype` says so."""
    return torch.autocast(device.type, torch.bfloat16) if dtype == "bfloat16" else nullcontext()


def be_deterministic(device: torch.device) -> None:
    """Make CUDA bitwise repeatable, as the CPU is; it costs some speed in the attention's backward pass.

    This comes before the process's first matrix product, at which cuBLAS and torch look at the environment.
    """
    if device.type != "cuda":
        return
    if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in REPEATABLE:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = REPEATABLE[0]

    # Not warn_only: with it, attention keeps to the fast backward passes that do not repeat themselves.
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was given, which it does while the program goes on."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def mixed_seed(seed: int, step: int, rank: int) -> int:
    """Mix three numbers into the seed of a generator; one on a CPU takes no more than its last 32 bits."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])
