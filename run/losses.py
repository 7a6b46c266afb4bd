"""Held-out losses: a mean cross-entropy over fixed windows, and how sure it is."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from run import ranks
from run.device import autocast

TOKENS_AT_ONCE = 8192     # a forward pass; fixed, so that a loss does not depend on the batch trained with


class Loss(NamedTuple):
    """A mean cross-entropy in nats per token, its standard error over sequences, and its corpus."""
    mean: float
    se: float
    corpus: str = ""         # its role: pre, post, ft

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.se:.3f}"


def held_out_loss(model: nn.Module, sequences: Tensor, dtype: str, corpus: str = "") -> Loss:
    """Measure a model's mean loss on `sequences`, int64 (n, context + 1), shared out among the ranks."""
    losses = sequence_losses(model, sequences, dtype)
    se = losses.std() / math.sqrt(len(losses)) if len(losses) > 1 else torch.tensor(math.nan)
    return Loss(losses.mean().item(), se.item(), corpus)


@torch.no_grad()
def sequence_losses(model: nn.Module, sequences: Tensor, dtype: str) -> Tensor:
    """Measure the loss of each of `sequences`, float64 (n,), nats per token, likewise.

    Every rank makes the same number of forward passes, each of at most 8,192 tokens.
    """
    device = next(model.parameters()).device
    size = max(1, TOKENS_AT_ONCE // (sequences.shape[1] - 1))
    was_training = model.training
    model.eval()

    losses = torch.zeros(len(sequences), dtype=torch.float64)
    for start in range(0, len(sequences), ranks.world() * size):
        # A rank for which nothing is left measures the first sequences once more and keeps nothing of it:
        # where weights are divided among the ranks, a forward pass takes all of them.
        mine = slice(start + ranks.rank() * size, start + (ranks.rank() + 1) * size)
        some = sequences[mine] if mine.start < len(sequences) else sequences[:size]
        some = some.to(device)
        with autocast(device, dtype):
            token_losses = model(some[:, :-1], some[:, 1:])
        if mine.start < len(sequences):
            losses[mine] = token_losses.mean(dim=1).cpu().double()
    model.train(was_training)

    ranks.add_up(losses)                            # every sequence is 0 on all ranks but one: exact
    return losses
