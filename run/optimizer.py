"""The optimizer and its schedule (Appendix A)."""

import math

import torch
from torch import nn


def adamw(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """Make the paper's AdamW, β = (0.9, 0.95), over what requires gradients; decay on matrices only."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    matrices = [weight for weight in weights if weight.dim() >= 2]
    gains = [weight for weight in weights if weight.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": gains, "weight_decay": 0.0}]
    fused = weights[0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=fused)


def learning_rate(step: int, steps: int, peak: float, minimum: float, warmup: int,
                  decay: float | None = None) -> float:
    """Rise to `peak` over `warmup` steps, at most half of `steps`; then fall to `minimum` at the last.

    The fall is a cosine, or, with `decay`, linear over the last share `decay` of the steps, none before:
    warm-up–stable–decay. A peak below `minimum` is kept throughout.
    """
    warmup = min(warmup, steps // 2)
    if step < warmup:
        return peak * (step + 1) / warmup
    last = steps - 1
    if decay is None:
        progress = (step - warmup) / max(last - warmup, 1)
        height = (1 + math.cos(math.pi * progress)) / 2
    else:
        falling = min(round(decay * steps), last - warmup)
        height = min(1, (last - step) / falling) if falling > 0 else 1
    minimum = min(minimum, peak)
    return minimum + (peak - minimum) * height
