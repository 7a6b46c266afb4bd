"""The command line that all scripts share: kinds of argument, presets as defaults, devices, and how a process ends."""

import argparse
import math
import os
import signal
import sys
import time
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Callable

import torch
import torch.distributed as dist

from files import UserError
from model import PRESETS

CORPUS_HELP = "a file, a folder, hub:ORG/NAME[:CONFIG], or one of web music chem chat c4 musicpile chempile flan"


def count(text: str) -> int:
    """A whole number of tokens, steps or sequences: 150000, 150k, 8.7B."""
    scale = {"k": 10 ** 3, "m": 10 ** 6, "b": 10 ** 9}.get(text[-1:].lower(), 1)
    try:
        value = Decimal(text if scale == 1 else text[:-1]) * scale
        whole = value.is_finite() and value >= 0 and value == int(value)
    except InvalidOperation:
        whole = False
    if not whole:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count, write it like 150000, 150k or 8.7B")
    return int(value)


def positive(text: str) -> int:
    """A count of at least 1."""
    if not (value := count(text)):
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def rate(text: str) -> float:
    """A finite number, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return value


def seed(text: str) -> int:
    """A count below 2³¹, so that seed and step together fit a generator's 64 bits."""
    if (value := count(text)) >= 2 ** 31:
        raise argparse.ArgumentTypeError("must be below 2147483648")
    return value


def share(text: str) -> float:
    """A share of a whole, 0 ≤ share < 1."""
    if (value := rate(text)) >= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share, give 0 or more and less than 1")
    return value


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line and whose defaults are a table: a flag's values for toy, 135m and 1b."""

    def __init__(self, description: str, defaults: dict[str, tuple[str, str, str]] = {}):
        """In `defaults`, a star marks a value that is ours because the paper is silent."""
        notes = "Counts may be written 150k, 30M, 8.7B."
        if defaults:
            notes += " In [brackets]: defaults. One marked * is ours, where the paper is silent; all of toy is ours."
        super().__init__(description=description, epilog=notes, allow_abbrev=False, formatter_class=lambda prog:
                         argparse.RawDescriptionHelpFormatter(prog, max_help_position=26, width=118))
        self.defaults = defaults

    def flag(self, name: str, kind: Callable, help: str, **more) -> None:
        """Add --name with a value, its defaults shown behind its help."""
        if row := self.defaults.get(name):
            values = row[0] if len(set(row)) == 1 else ", ".join(map(" ".join, zip(PRESETS, row)))
            help += f" [{values}]"
        self.add_argument(f"--{name}", type=kind, help=help, **{"metavar": name[0].upper()} | more)

    def parse(self, argv: list[str] | None = None, preset: str | None = None) -> argparse.Namespace:
        """The arguments: those of the preset (by default the one that --preset names) as if typed before the user's."""
        argv = sys.argv[1:] if argv is None else argv
        preset = preset or self.parse_args(argv).preset
        column = list(PRESETS).index(preset)
        typed = [f"--{name}={row[column].rstrip('*')}" for name, row in self.defaults.items()]
        return self.parse_args(typed + argv, argparse.Namespace(preset=preset))

    def error(self, message: str) -> None:
        raise UserError(f"{message.removeprefix('argument ')}, see python {self.prog} --help")


def add_device_flags(parser: Parser) -> None:
    parser.flag("device", str, "cpu, cuda, cuda:1, mps [a GPU if there is one]")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of autocast [bfloat16 on CUDA, else float32]")


def add_stage_flags(parser: Parser, out: str, init: str | None = None) -> None:
    """The flags that all stages take; `init` is where those after the first find the stage before them."""
    flag = parser.flag
    flag("batch", positive, "sequences a step, over all ranks and accumulation")
    flag("micro-batch", positive, "sequences a forward pass on one rank [toy all, else the largest divisor up to 8]")
    flag("lr", rate, "peak learning rate")
    flag("min-lr", rate, "learning rate at the end of the cosine; a lower peak stays flat")
    flag("warmup", count, "steps of linear warm-up")
    flag("weight-decay", rate, "AdamW's, on matrices only")
    flag("seed", seed, "of initial weights, order of the data, dropout")
    flag("eval-every", positive, "steps between held-out losses")
    flag("save-every", positive, "steps between saves of last.pt, from which --resume continues")
    if init:
        flag("init", Path, f"run to start from [{init}]", default=Path(init), metavar="DIR")
    flag("out", Path, f"folder of the run [{out}]", default=Path(out), metavar="DIR")
    add_device_flags(parser)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="torch.compile [on CUDA]")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue an unfinished run, or start it")
    again.add_argument("--overwrite", action="store_true", help="discard what --out holds of an earlier run")
    parser.add_argument("--wandb", action="store_true", help="log to Weights & Biases too (pip install wandb)")


def pick_device(name: str | None, dtype: str | None) -> tuple[torch.device, str]:
    """The named device, or a GPU if there is one (each local rank its own), and the dtype of autocast on it."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if name == "cuda" else name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {name} is not there ({str(error).splitlines()[0]}), use --device cpu") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device, dtype or ("bfloat16" if device.type == "cuda" else "float32")


def launch(main: Callable[[], None]) -> None:
    """Run a script's main: user errors and interruptions end it with one line and the exit status they call for."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))      # so that `finally` is obeyed
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if int(os.environ.get("RANK", 0)) > 0:
            time.sleep(5)                  # rank 0 most likely says the same, and torchrun then ends this one
        if isinstance(error, torch.OutOfMemoryError):
            error = UserError("the device is out of memory, lower --micro-batch")
        if not isinstance(error, UserError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if dist.is_initialized():
        dist.destroy_process_group()
