"""What a stage trains on, and in which order: mixing and replay, the paper's idea on one page.

A corpus is cut into non-overlapping windows and read in passes, each a fresh permutation of them. Mixing
D_post into Stage 1 and replaying D_pre in Stage 2 are the same thing: windows of a minor corpus between those
of a major.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from run.files import UserError
from run.losses import inputs_and_targets


@dataclass(frozen=True)
class Interleaved:
    """The sequences of one stage, a pure function of the step: nothing to save, nothing to restore.

    All sequences of the major corpus, and between them, evenly spaced (the paper does not say where), those
    of the minor one. The order of either does not depend on how much there is of the other.
    """
    major: "Windows"
    minor: "Windows"
    n_major: int                 # sequences
    n_minor: int
    batch_size: int              # sequences a step, over all ranks and accumulation

    def sequence(self, slot: int) -> Tensor:
        """Read the tokens at a slot, (context + 1,): the minor corpus's at its evenly spaced slots."""
        before = self.minor_before(slot)
        if self.minor_before(slot + 1) > before:
            return self.minor[before]
        return self.major[slot - before]

    def minor_before(self, slot: int) -> int:
        """Count the minor corpus's sequences before `slot`: slot · n_minor / length, rounded."""
        return (slot * self.n_minor + self.length // 2) // max(self.length, 1)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
        """Read a rank's inputs and targets, int64 (batch_size / world, context).

        A target of -1 does not count: prompt tokens under --loss-on completion, and the rows that pad a short
        last step.
        """
        size = self.batch_size // world
        first = step * self.batch_size + rank * size

        # What pads a short last step stays -1: as an input token 0, as a target one that does not count.
        sequences = torch.full((size, self.context + 1), -1)
        for row, slot in enumerate(range(first, min(first + size, self.length))):
            sequences[row] = self.sequence(slot)
        return inputs_and_targets(sequences)

    @property
    def context(self) -> int:
        return self.major.context

    @property
    def length(self) -> int:
        return self.n_major + self.n_minor

    @property
    def steps(self) -> int:
        """Count the steps; the last may be short, since every slot is trained on once."""
        return -(-self.length // self.batch_size)

    def seen(self, steps: int) -> tuple[int, int]:
        """Count the (major, minor) sequences in the first `steps` steps."""
        slots = min(steps * self.batch_size, self.length)
        return slots - self.minor_before(slots), self.minor_before(slots)

    def tokens(self, steps: int) -> dict[str, int]:
        """Count the tokens in the first `steps` steps, by the role of their corpus."""
        major, minor = self.seen(steps)
        return {self.major.role: major * self.context, self.minor.role: minor * self.context}

    def made_of(self) -> list[str]:
        """Name what is trained on, so that it is known again: the checksums of both corpora."""
        return [self.major.checksum, self.minor.checksum]

    def repeats(self) -> list[str]:
        """Say which corpora are read more than once."""
        lines = []
        for windows, planned in ((self.major, self.n_major), (self.minor, self.n_minor)):
            if planned > len(windows):
                lines.append(f"up to {planned / len(windows):.3g} passes over D_{windows.role}, which has "
                             f"{len(windows) * self.context:,} tokens")
        return lines


@dataclass(frozen=True, eq=False)
class Windows:
    """A corpus cut into windows, read in passes, each a fresh permutation seeded by (seed, stage, pass)."""
    role: str                   # of the corpus: pre, post, ft
    tokens: np.ndarray
    context: int
    seed: int
    stage: int                  # its number in the chain, from 1
    chosen: np.ndarray          # (windows,) uint32: the numbers of those that a pass reads
    mask: np.ndarray | None = None           # (tokens,) bool: which of them count; None: all
    checksum: str = ""                       # of the corpus's token files

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, position: int) -> Tensor:
        """Read the window at a position counted over all passes."""
        number, offset = divmod(position, len(self))
        return window(self.tokens, int(self.permutation(number)[offset]), self.context, self.mask)

    @lru_cache(maxsize=4)                     # two corpora, each where a batch straddles two passes
    def permutation(self, number: int) -> np.ndarray:
        """Draw the order of a pass, as window numbers."""
        return np.random.default_rng([self.seed, self.stage, number]).permutation(self.chosen)

    def left_after(self, stage_1: dict) -> "Windows":
        """Leave out what Stage 1 read in its first pass; `stage_1` is its entry in the lineage."""
        order = replace(self, seed=stage_1["args"]["seed"], stage=1).permutation(0)
        read = order[:stage_1["tokens"][self.role] // self.context]
        return replace(self, chosen=np.setdiff1d(self.chosen, read))


def window(tokens: np.ndarray, index: int, context: int, mask: np.ndarray | None = None) -> Tensor:
    """Read a window, int64 (context + 1,): its inputs and, one further, their targets.

    Inputs do not overlap. A token t that the mask leaves out is there as ~t, which is negative.
    """
    here = slice(index * context, (index + 1) * context + 1)
    some = tokens[here].astype(np.int64)
    if mask is not None:
        some = np.where(mask[here], some, ~some)
    return torch.from_numpy(some)


def whole_sequences(tokens: int, context: int) -> int:
    """Count the sequences in a budget of tokens; raises UserError if it is none."""
    if tokens < context:
        raise UserError(f"{tokens} tokens are less than one sequence of {context}, give a larger budget")
    return tokens // context


def count_for_share(share: float, n_major: int) -> int:
    """Count the minor sequences that are `share` of a stream with `n_major` others: n · share/(1 − share)."""
    return round(n_major * share / (1 - share))
