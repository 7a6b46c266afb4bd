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


def inputs_and_targets(sequences: Tensor) -> tuple[Tensor, Tensor]:
    """Divide sequences, int64 (n, context + 1), into inputs and, one further, targets, (n, context) each.

    A token t that counts nothing is there as ~t, which is negative: as an input it is t, as a target -1.
    """
    inputs, targets = sequences[:, :-1], sequences[:, 1:]
    return torch.where(inputs < 0, ~inputs, inputs), targets.clamp(min=-1)


def held_out_loss(model: nn.Module, sequences: Tensor, dtype: str, corpus: str = "") -> Loss:
    """Measure a model's mean loss over the tokens that count in `sequences`, shared out among the ranks.

    Sequences are int64 (n, context + 1), as `inputs_and_targets` has them.
    """
    losses = sequence_losses(model, sequences, dtype)
    se = losses.std() / math.sqrt(len(losses)) if len(losses) > 1 else torch.tensor(math.nan)
    return Loss(losses.mean().item(), se.item(), corpus)


@torch.no_grad()
def sequence_losses(model: nn.Module, sequences: Tensor, dtype: str) -> Tensor:
    """Measure the loss of each of `sequences`, int64 (n, context + 1): float64 (n,), nats per token.

    If they differ in how many of their tokens count, the losses are adjusted: their mean is that over all
    tokens that count, their standard error that of this ratio. Every rank makes the same number of forward
    passes, each of at most 8,192 tokens.
    """
    device = next(model.parameters()).device
    size = max(1, TOKENS_AT_ONCE // (sequences.shape[1] - 1))
    was_training = model.training
    model.eval()

    # Each rank measures its own sequences; those of others stay 0.
    losses = torch.zeros(len(sequences), dtype=torch.float64)
    for start in range(0, len(sequences), ranks.world() * size):
        # A rank for which nothing is left measures the first sequences once more and keeps nothing of it:
        # where weights are divided among the ranks, a forward pass takes all of them.
        mine = slice(start + ranks.rank() * size, start + (ranks.rank() + 1) * size)
        some = sequences[mine] if mine.start < len(sequences) else sequences[:size]
        with autocast(device, dtype):
            token_losses = model(*inputs_and_targets(some.to(device)))
        if mine.start < len(sequences):
            losses[mine] = token_losses.mean(dim=1).cpu().double()
    model.train(was_training)

    ranks.add_up(losses)                            # every sequence is 0 on all ranks but one: exact

    # The mean is a ratio of sums, of losses and of counted tokens. To first order a sequence moves it by its
    # losses − mean · its tokens, over the mean number of tokens: the standard error is that of these. Where
    # all tokens count nothing changes.
    counting = (sequences[:, 1:] >= 0).double().mean(dim=1)
    weight = counting / counting.mean()
    losses /= counting.mean()
    return losses - losses.mean() * (weight - 1)
