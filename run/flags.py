"""The command line that all scripts share: kinds of argument, presets as defaults, and how a process ends."""

import argparse
import math
import os
import signal
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import NoReturn

import torch

from run import ranks
from run.files import UserError, cannot_write


# ------------------------------------------------------------------------------------------------------------
# Kinds of argument

def count(text: str) -> int:
    """Read a whole number of tokens, steps or sequences: 150000, 150k, 8.7B."""
    scale = {"k": 10 ** 3, "m": 10 ** 6, "b": 10 ** 9}.get(text[-1:].lower(), 1)
    digits = text if scale == 1 else text[:-1]
    try:
        value = Decimal(digits) * scale
        whole = 0 <= value < 2 ** 63 and value == int(value)
    except ArithmeticError:
        whole = False
    if not whole:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count, write it like 150000, 150k or 8.7B")
    return int(value)


def positive(text: str) -> int:
    """Read a count of at least 1."""
    value = count(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def nonnegative(text: str) -> float:
    """Read a finite number, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return value


def share(text: str) -> float:
    """Read a share of a whole, 0 ≤ share < 1."""
    value = nonnegative(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share, give 0 or more and less than 1")
    return value


def seed(text: str) -> int:
    """Read a count below 2³¹, which every generator takes."""
    value = count(text)
    if value >= 2 ** 31:
        raise argparse.ArgumentTypeError("must be below 2147483648")
    return value


# ------------------------------------------------------------------------------------------------------------
# The parser

def help_format(prog: str) -> argparse.HelpFormatter:
    """Lay out --help: the description as it is written, the flags in a narrow column."""
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=26, width=110)


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line and whose defaults are a table, a column a preset.

    A row of the table is a flag; the row "preset" names the columns. A star marks a value that is ours
    because the paper is silent.
    """

    def __init__(self, description: str, defaults: dict[str, tuple[str, ...]] = {}):
        notes = "Counts may be written 150k, 30M, 8.7B."
        if defaults:
            notes += ("\nIn [brackets]: defaults. One marked * is ours, where the paper is silent; "
                      "all of toy and 30m is ours.")
        module = sys.modules["__main__"].__spec__
        prog = f"-m {module.name.removesuffix('.__main__')}" if module else Path(sys.argv[0]).name
        super().__init__(prog=f"python {prog}", description=description, epilog=notes, allow_abbrev=False,
                         formatter_class=help_format)
        self.defaults = defaults
        self.kinds = {}

    def flag(self, name: str, kind: Callable, help: str, **more: object) -> None:
        """Add --name with a value of a kind; what its defaults are is shown behind its help."""
        if row := self.defaults.get(name):
            by_preset = ", ".join(f"{preset} {value}" for preset, value in zip(self.defaults["preset"], row))
            shown = row[0] if len(set(row)) == 1 else by_preset
            help += f" [{shown}]"
        self.kinds[name] = kind
        self.add_argument(f"--{name}", type=kind, help=help, **{"metavar": name[0].upper()} | more)

    def fill(self, given: Namespace, preset: str) -> Namespace:
        """The arguments with the preset's default wherever a flag was not given; `given` is left as it is.

        Raises UserError if there is no such preset.
        """
        if preset not in self.defaults["preset"]:
            raise UserError(f"no preset {preset!r}, the checkpoint is of another version of this program")
        column = self.defaults["preset"].index(preset)
        filled = vars(given) | {"preset": preset}
        for name, row in self.defaults.items():
            key = name.replace("-", "_")
            if filled[key] is None:
                filled[key] = self.kinds[name](row[column].rstrip("*"))
        return Namespace(**filled)

    def error(self, message: str) -> NoReturn:
        """Raise UserError, where argparse would print a page and exit."""
        raise UserError(f"{message.removeprefix('argument ')}, see {self.prog} --help")


def add_device_flags(parser: Parser) -> None:
    """Add --device and --dtype."""
    parser.flag("device", str, "cpu, cuda, cuda:1, mps [a GPU if there is one: cuda, else mps]")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"),
                        help="of autocast [bfloat16 where CUDA has it, else float32]")


def add_stage_flags(parser: Parser, out: str, init: str | None = None) -> None:
    """Add the flags of every stage; `init` is where those after the first find the stage before them."""
    # How it trains.
    flag = parser.flag
    flag("batch", positive, "sequences a step, over all ranks and accumulation")
    flag("micro-batch", positive, "sequences a forward pass on one rank [those of up to 8192 tokens]")
    flag("lr", nonnegative, "peak learning rate")
    flag("min-lr", nonnegative, "learning rate at the last step; a lower peak stays flat")
    flag("warmup", count, "steps of linear warm-up, at most half of all")
    flag("decay", share, "fall linearly over the last share D of the steps, not before [a cosine instead]")
    flag("weight-decay", nonnegative, "AdamW's, on matrices only")
    parser.add_argument("--loss-on", choices=("all", "completion"), default="all",
                        help="tokens of D_post (in Stage 3 of D_ft) whose loss counts, in training and held "
                             "out: all, as in the paper, or only those of completions [all]")

    # --leave and --go-on are flags of some stages only; a run reads both in every stage.
    parser.set_defaults(leave=0, go_on=False)

    # What is drawn at random, and how often a run looks at itself.
    flag("seed", seed, "of initial weights, order of the data, dropout")
    flag("eval-every", positive, "steps between held-out losses")
    flag("save-every", positive, "steps between saves of last.pt, from which --resume continues")

    # Where it is and on what, and who watches.
    add_folder_flags(parser, out, init)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="torch.compile [on CUDA]")
    tracker = parser.add_mutually_exclusive_group()
    tracker.add_argument("--wandb", dest="tracker", action="store_const", const="wandb",
                         help="log to Weights & Biases too (pip install wandb)")
    tracker.add_argument("--trackio", dest="tracker", action="store_const", const="trackio",
                         help="log to Trackio, on this machine, too (pip install trackio)")


def add_folder_flags(parser: Parser, out: str, init: str | None = None) -> None:
    """Add where a run starts from and where it goes, and on what device."""
    if init:
        parser.flag("init", Path, f"run to start from [{init}]", default=Path(init), metavar="DIR")
    parser.flag("out", Path, f"folder of the run [{out}]", default=Path(out), metavar="DIR")
    add_device_flags(parser)

    # A folder that holds a run already is touched only if one of these says how.
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue an unfinished run, or start it")
    again.add_argument("--overwrite", action="store_true", help="discard what --out holds of an earlier run")


# ------------------------------------------------------------------------------------------------------------
# How a process ends

def launch(main: Callable[[], None]) -> None:
    """Run a script's main: user errors and interruptions end it with one line and their exit status."""
    # What is closed takes anything, though tqdm does not expect it to be.
    sys.stdout = sys.stdout or open(os.devnull, "w")
    sys.stderr = sys.stderr or open(os.devnull, "w")

    # λ and α are said on any console and in any pipe; a notebook's streams take them as they are.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")

    # SIGTERM as an exception, so that every `finally` is obeyed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    status = status_of(main)
    ranks.end(status)
    if status:
        sys.exit(status)


def status_of(main: Callable[[], None]) -> int:
    """Run a script's main; returns the exit status, after a line on standard error where it is not 0."""
    # The ranks end together: one that is gone would have torchrun end the others.
    try:
        main()
        print(end="", flush=True)          # what cannot be printed is found here, not when Python ends
        ranks.wait()
        return 0

    # Somebody wanted it to end.
    except SystemExit as end:
        return end.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:                # whoever read the output has enough of it, as head(1) does
        print_no_more()
        return 141

    # Something went wrong: what the user can mend is one line, a fault of the program keeps its traceback.
    except Exception as error:
        if ranks.rank() > 0:
            time.sleep(5)                  # rank 0 most likely says the same, and torchrun then ends this one
        told = as_user_error(error)
        if not told and not ranks.launched():
            raise
        if not told:
            traceback.print_exc()          # and not raised: see ranks.end
            return 1
        if isinstance(error, OSError) and not error.filename:          # it comes from printing
            print_no_more()
        print(f"error: {told}", file=sys.stderr)
        return 2


def as_user_error(error: Exception) -> UserError | None:
    """Say of an error what the user can mend; None if it is a fault of the program."""
    compiling = is_of_the_compiler(error)
    error = getattr(error, "inner_exception", error)       # what was wrong when torch.compile failed
    if isinstance(error, UserError):
        return error
    if isinstance(error, MemoryError):
        return UserError("memory is short, free some or give shorter documents")
    if is_out_of_memory(error):
        return UserError("the device is out of memory, lower --micro-batch")
    if ranks.another_has_gone(error):
        reason = str(error).splitlines()[0]
        return UserError(f"another rank has gone or is out of reach ({reason}), see what it said; "
                         "--resume continues")

    # --no-compile helps where a compiler is missing or fails, not where the disk is full.
    if compiling and (isinstance(error, FileNotFoundError) or not isinstance(error, OSError)):
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return UserError(f"torch.compile fails ({reason}), mend that or use --no-compile")

    if isinstance(error, OSError) and error.errno:
        return cannot_write(error.filename or "what is printed or a file", error, tried="read or write")
    return None


def print_no_more() -> None:
    """Let what is still to be printed go nowhere, so that it is not tried again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error is that memory is short, a GPU's or the machine's."""
    said = ("DefaultCPUAllocator: can't allocate", "MPS backend out of memory", "CUDA error: out of memory",
            "CUBLAS_STATUS_ALLOC_FAILED")
    error = getattr(error, "inner_exception", error)       # as above
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in said)


def is_of_the_compiler(error: Exception) -> bool:
    """Tell whether torch.compile, or what it compiles with, raised an error."""
    homes = ("torch._dynamo.", "torch._inductor.", "triton.")
    said = ("torch.compile", "Dynamo is not supported")      # of a release of Python, by no kind of its own
    of_its_kind = any(kind.__module__.startswith(homes) for kind in type(error).__mro__)
    return of_its_kind or isinstance(error, RuntimeError) and any(words in str(error) for words in said)


@contextmanager
def noting_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C in a list instead of obeying them, until the block ends."""
    received = []
    handlers = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        handlers[number] = signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
