"""The processes of one run: nobody else says torch.distributed.

torchrun sets RANK, WORLD_SIZE and LOCAL_RANK; without it there is one rank, and everything here does nothing.
"""

import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from run.files import UserError, refusing


def rank() -> int:
    """Tell the number of this process, 0 to world() − 1."""
    return int(os.environ.get("RANK", 0))


def world() -> int:
    """Tell how many processes run together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def launched() -> bool:
    """Tell whether this process is a rank of torchrun, though it be the only one: it goes all ranks' ways."""
    return world() > 1 or dist.is_torchelastic_launched()


def join(device: torch.device) -> None:
    """Meet the other ranks; raises UserError if they cannot be found."""
    if launched() and not dist.is_initialized():
        # Who waits here longer than minutes waits in vain: what has started the ranks is gone.
        with refusing(ValueError):
            store, mine, count = next(dist.rendezvous("env://", timeout=timedelta(minutes=10)))

        # What they tell each other about the run goes over the CPU, so that waiting holds no GPU. They may
        # wait long: rank 0 tokenizes C4 for hours.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=mine, world_size=count, timeout=timedelta(days=1))


def end(status: int) -> None:
    """End this process at once, its output written, where it has met others; else do nothing.

    DistributedDataParallel keeps its process group, and the group its threads, beyond destroy_process_group.
    A thread that needs the interpreter while that is taken down is ended within C++ code that does not allow
    it, which most likely is why finished processes have aborted. So the interpreter is not taken down.
    """
    if dist.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def another_has_gone(error: Exception) -> bool:
    """Tell whether an error is only that another rank has ended; that one may have said why."""
    return launched() and (isinstance(error, dist.DistError) or "gloo" in str(error))


def wait() -> None:
    """Wait until every rank has come here: none goes on, or ends, while another still writes."""
    add_up(torch.zeros(1))


def add_up(values: Tensor) -> Tensor:
    """Sum a CPU tensor over the ranks, in place; returns it."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def largest(number: int) -> int:
    """Find the largest of the numbers that the ranks bring."""
    value = torch.tensor(number)
    if dist.is_initialized():
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return int(value)


def require_equal(number: int, otherwise: str) -> None:
    """Raise UserError, saying `otherwise`, unless all ranks bring the same number."""
    if largest(number) != -largest(-number):
        raise UserError(otherwise)


@contextmanager
def first() -> Iterator[None]:
    """Let rank 0 go through the block before the others do."""
    if rank() > 0:
        wait()
    yield
    if rank() == 0:
        wait()


def parallel(network: nn.Module) -> nn.Module:
    """Make the gradients of a network the mean over the ranks, whenever `exchanging` says so."""
    if not launched():
        return network

    # Every rank has built or loaded the same weights, and there are no other buffers than constants. What
    # says so was renamed in torch 2.13. Without accumulation, gradients are kept once, where they are
    # exchanged.
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    unsynced = "forward_sync_buffers" if renamed else "broadcast_buffers"
    return DistributedDataParallel(network, gradient_as_bucket_view=True, **{unsynced: False})


def exchanging(network: nn.Module, now: bool) -> AbstractContextManager:
    """Exchange gradients in the block's backward passes only if `now`: with a step's last micro-batch."""
    return network.no_sync() if launched() and not now else nullcontext()
