"""What a run says while it goes on: a progress bar or plain lines, log.jsonl, Weights & Biases or Trackio.

Rank 0 speaks.
"""

import importlib
import json
import math
import shlex
import sys
from datetime import timedelta
from pathlib import Path

from tqdm import tqdm

from run import ranks
from run.files import UserError, cannot_write
from run.losses import Loss

SECONDS_BETWEEN_LINES = 5        # where there is no terminal to draw a bar on


def say(text: str) -> None:
    """Print a line, once for all ranks."""
    if ranks.rank() == 0:
        print(text, flush=True)


def start_tracker(package: str, out: Path, known_as: str, config: dict):
    """Start a run of wandb or trackio, or go on with the one that is known so; returns it.

    Raises UserError if the package is not there or does not start: nobody is logged in, for one.
    """
    # Trackio has wandb's words but no ids: it goes on with the run of a name.
    named = {"name": f"{out} {known_as}"}
    if package == "wandb":
        named = {"name": str(out), "id": known_as}
    try:
        tracker = importlib.import_module(package)
        return tracker.init(project="early-data-exposure", config=config, resume="allow", **named)
    except ImportError:
        raise UserError(f"--{package} needs the {package} package, pip install {package}") from None
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{package} does not start ({reason}), mend that or leave --{package} "
                        "away") from error


def table(header: list[str], rows: list[list[str]]) -> str:
    """Lay out columns as wide as they need to be, the first flush left."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = []
    for first, *others in (header, *rows):
        cells = [first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def per_second(count: float, seconds: float) -> float:
    """Say how many a second; a coarse clock may not have moved meanwhile."""
    return count / max(seconds, 1e-9)


def next_command(then: str, out: Path) -> str:
    """Write the command that comes next, on a run's folder, to be pasted into a shell."""
    return f"{then} {shlex.quote(str(out))}"


def print_summary(entry: dict, seconds: float, losses: dict[str, Loss], facts: dict, out: Path, then: str
                  ) -> None:
    """Say how a stage ended: its steps and tokens, its losses on which corpora, and what comes next."""
    tokens = sum(entry["tokens"].values())
    print(f"\n{entry['stage']} finished: {entry['steps']:,} steps, {tokens:,} tokens in "
          f"{timedelta(seconds=round(seconds))} ({per_second(tokens, seconds):,.0f} tokens/s)")
    if was_better_before(entry):
        print(f"  kept   the weights of step {entry['best_step']:,}, the best")
    for name, value in facts.items():
        if isinstance(value, float):
            print(f"  {name:<6} {value:.4g}")
    for name, loss in losses.items():
        print(f"  {name:<6} {loss}   on D_{loss.corpus}")
    print(f"  saved  {out / 'ckpt.pt'}\nnext: {then}", flush=True)


def was_better_before(entry: dict) -> bool:
    """Tell whether a stage kept the weights of an earlier step than its last, by its entry in a lineage."""
    best = entry.get("best_step")
    return best is not None and best < entry["steps"]


class Report:
    """The bar and the log of one stage of so many steps."""

    def __init__(self, stage: str, log: Path, step: int, steps: int, tracker: object):
        self.stage, self.log, self.steps, self.tracker = stage, log, steps, tracker
        self.shown = -math.inf                       # the clock may stand anywhere
        # None: tqdm looks itself whether standard error is a terminal.
        silent = None if ranks.rank() == 0 else True
        self.bar = tqdm(total=steps, initial=step, desc=stage, unit="step", dynamic_ncols=True,
                        disable=silent)

    def advance(self) -> None:
        """Move the bar on by a step."""
        self.bar.update()

    def mute(self) -> None:
        """Show nothing more; the log is kept."""
        self.bar.close()
        self.shown = math.inf

    def close(self) -> None:
        """Take the bar away; nothing more is noted."""
        self.bar.close()
        if self.tracker:
            self.tracker.finish()

    def note(self, line: dict[str, float]) -> None:
        """Add a line to log.jsonl, and to the tracker where there is one."""
        if ranks.rank() > 0:
            return
        try:
            with open(self.log, "a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise cannot_write(self.log, error) from error
        self._track(**line)

    def sum_up(self, step: int, losses: dict[str, Loss], facts: dict[str, object]) -> None:
        """Tell the tracker how a stage ended: all its losses, and the numbers among the facts, as λ."""
        means = {name: loss.mean for name, loss in losses.items()}
        numbers = {name: value for name, value in facts.items() if isinstance(value, float)}
        self._track(step, **means, **numbers)

    def held_out(self, step: int, losses: dict[str, Loss]) -> None:
        """Note held-out losses and show them."""
        means = {name: loss.mean for name, loss in losses.items()}
        self.note({"step": step} | means)
        if ranks.rank() == 0:
            shown = "  ".join(f"{name} {mean:.3f}" for name, mean in means.items())
            self.bar.write(f"{self._place(step)}  {shown}", file=sys.stdout)

    def training(self, step: int, line: dict[str, float], seconds_left: float, now: float) -> None:
        """Note a mean training loss and show it; `now` is a clock in seconds."""
        self.note({"step": step} | line)
        shown = f"loss {line['loss']:.3f}", f"{line['tokens_per_second']:,.0f} tokens/s"
        self.bar.set_postfix_str(", ".join(shown))

        # In a file or a pipe a bar would be a mess of control characters.
        if ranks.rank() == 0 and self.bar.disable and now - self.shown > SECONDS_BETWEEN_LINES:
            self.shown = now
            left = timedelta(seconds=min(round(seconds_left), 10 ** 10))       # three centuries
            say("  ".join((self._place(step), *shown, f"{left} left")))

    def _track(self, step: int, **values: float) -> None:
        if self.tracker:
            self.tracker.log(values, step=step)

    def _place(self, step: int) -> str:
        return f"{self.stage} step {step:,}/{self.steps:,}"
