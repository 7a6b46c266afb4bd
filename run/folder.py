"""A run's folder: whether it is free, unfinished or finished, and what an unfinished run left in it.

    ckpt.pt     a finished stage's weights, configuration and lineage
    run.json    a finished stage's arguments, lineage, tokens, losses, versions and times
    log.jsonl   a line every few steps and at every evaluation but the last, which is in run.json
    last.pt     an unfinished stage's state, from which --resume continues
    left.pt     the optimizer of a stage run with --leave, from which posttrain.py --go-on continues
    tracked.id  what wandb or trackio knows the run by, so that --resume goes on there, too
"""

import json
import platform
import secrets
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from filelock import FileLock

from run.checkpoint import (Checkpoint, Progress, checkpoint_path, read_checkpoint, read_progress, read_run,
                            save_checkpoint)
from run.files import UserError, as_json, atomic, cannot_write, lock

DAMAGED_LOG = "log.damaged.jsonl"
LEFT = "left.pt"
TRACKED = "tracked.id"
# Of flags that older runs had not: what they did.
OLD_DEFAULTS = {"decay": None, "leave": 0, "go_on": False, "loss_on": "all", "weights": None, "back": 0.0,
                "lora_rank": 64}
FILES = ("run.json", "ckpt.pt", "last.pt", LEFT, TRACKED, "log.jsonl", DAMAGED_LOG)    # as they are discarded
# Flags that may differ when a run is continued. --init may move: its lineage is compared instead.
IMMATERIAL = ("init", "out", "device", "micro_batch", "compile", "save_every", "resume", "overwrite",
              "tracker")


class Identity(NamedTuple):
    """What makes a run the same run again: stage, material arguments, and the lineage it starts from."""
    stage: str
    args: dict[str, object]
    lineage: list[dict]


def material(args: Namespace) -> dict[str, object]:
    """Keep the arguments that make the result what it is."""
    return {name: value for name, value in vars(args).items() if name not in IMMATERIAL}


def working_folder() -> str:
    """Name the folder that relative paths among the arguments start from."""
    return str(Path.cwd())


def take_up(args: Namespace, stage: str, after: tuple[str, ...], needs: tuple[str, ...]) -> Checkpoint:
    """Read the checkpoint of --init, which must be of one of the stages `after`.

    This stage takes over what it `needs`, arguments that its first stage must have recorded. Where this stage
    has finished and --init is gone, returns a checkpoint without weights: enough to say so. Raises UserError
    if there is no such checkpoint.
    """
    path = checkpoint_path(args.init)
    if path.parent.resolve() == args.out.resolve():
        raise UserError(f"--out {args.out} is the run that --init names, choose another --out")

    # A finished stage needs no --init, only to know whether it was the same.
    if not path.exists() and not args.overwrite and (args.out / "run.json").exists():
        run = read_run(args.out)
        if run["stage"] == stage:
            return Checkpoint({}, {}, run["lineage"][:-1])

    # Any other is of use only if it is of a stage that this one can follow.
    checkpoint = read_checkpoint(path)
    done = [entry["stage"] for entry in checkpoint.lineage]
    if done[-1] not in after:
        raise UserError(f"{path} is a checkpoint after {' and '.join(done)}, "
                        f"{stage}.py takes one after {' or '.join(after)}")
    lacking = [name for name in needs if name not in checkpoint.lineage[0]["args"]]
    if lacking:
        raise UserError(f"{path} does not say its {', '.join(lacking)}, make it again or name another")
    return checkpoint


def same_lineage(one: list[dict], other: list[dict]) -> bool:
    """Tell whether two lineages are of the same runs, wherever those were made."""
    return [entry | {"folder": ""} for entry in one] == [entry | {"folder": ""} for entry in other]


def is_finished(out: Path, wanted: Identity, resume: bool, overwrite: bool) -> bool:
    """Tell whether a folder holds just this run, finished.

    Raises UserError if it holds anything else, but for an unfinished run that is to be resumed.
    """
    held = _held(out)
    if not held or overwrite:
        return False
    if "run.json" in held:
        run = read_run(out)
        _require_same(out, "a finished", Identity(run["stage"], run["args"], run["lineage"][:-1]), wanted,
                      "choose another --out or discard it with --overwrite")
        if "ckpt.pt" in held:                        # a damaged one is found here, not by the next stage
            read_checkpoint(out / "ckpt.pt")
        with suppress(OSError):                      # left there if it was killed after run.json
            (out / "last.pt").unlink(missing_ok=True)
        return True

    # An unfinished run is continued from last.pt, which is removed only after run.json is there.
    if "ckpt.pt" in held and "last.pt" not in held:
        raise UserError(f"{out} has a finished run's ckpt.pt without its run.json, restore that or discard "
                        "both with --overwrite")
    if not resume:
        raise UserError(f"{out} holds an unfinished run, continue it with --resume or discard it with "
                        "--overwrite")
    return False


def read_unfinished(out: Path, wanted: Identity) -> tuple[Checkpoint, Progress] | None:
    """Read last.pt, None where there is none; raises UserError if it is of another run."""
    if not (out / "last.pt").exists():
        return None
    checkpoint, progress = read_progress(out / "last.pt")
    _require_same(out, "an unfinished", Identity(progress.stage, progress.args, checkpoint.lineage), wanted,
                  "give the same arguments or --overwrite")
    return checkpoint, progress


def read_left(run: Path, entry: dict) -> dict:
    """Read the optimizer's state that a finished stage left, `entry` of its lineage; raises UserError."""
    path = checkpoint_path(run).with_name(LEFT)
    if not path.exists():
        raise UserError(f"no {path}, run its stage again with --overwrite")
    _, progress = read_progress(path)
    if (progress.stage, progress.args, progress.step) != (entry["stage"], entry["args"], entry["steps"]):
        raise UserError(f"{path} is of another run than its ckpt.pt, run its stage again with --overwrite")
    return progress.optimizer


def read_tracked(out: Path, resumed: bool) -> str:
    """Read what a tracker knows a resumed run by; one that is not known yet is given digits of its own."""
    path, known = out / TRACKED, ""
    if resumed and path.exists():
        known = path.read_text(errors="replace")
    return known if known.isalnum() else secrets.token_hex(4)


def note_tracked(out: Path, name: str) -> None:
    """Keep what a tracker knows a run by."""
    with atomic(out / TRACKED) as file:
        file.write(name.encode())


def occupy(out: Path, step: int, overwrite: bool) -> FileLock:
    """Make a folder this process's, with nothing in it that a run at this step has not left.

    Step 0 is a fresh start. Raises UserError if another process has it or it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        held = lock(out)
        if (out / "run.json").exists() and not overwrite:
            raise UserError(f"{out} has just been finished by another run, there is nothing left to do")
        if step == 0 and (out / "last.pt").exists() and not overwrite:
            raise UserError(f"{out} has just been begun by another run, continue that with --resume")

        # What a killed run had half written is of no use, and a fresh start begins with nothing.
        for leftover in out.glob(".*.tmp"):
            leftover.unlink()
        if step == 0:
            for name in FILES:
                (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    _cut_log(out / "log.jsonl", step)
    return held


def save_finished(out: Path, checkpoint: Checkpoint, facts: dict[str, object]) -> None:
    """Write ckpt.pt and run.json of a stage that has ended, and drop last.pt.

    run.json says that the run is finished: it is written before the weights can take all space, and gets
    its name after them.
    """
    with atomic(out / "run.json") as file:
        file.write(as_json(record_of(checkpoint.lineage, facts)))
        file.flush()
        save_checkpoint(out / "ckpt.pt", checkpoint)
    with suppress(OSError):                          # where it cannot be, the run itself is finished
        (out / "last.pt").unlink(missing_ok=True)


def record_of(lineage: list[dict], facts: dict[str, object]) -> dict[str, object]:
    """Put together the run.json of the last run of a lineage."""
    entry = {name: lineage[-1][name] for name in ("stage", "args", "tokens", "losses")}
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}
    return {**entry, "lineage": lineage, **facts, "versions": versions}


def _held(out: Path) -> set[str]:
    """Which of a run's files a folder holds; raises UserError if it holds others and no run."""
    if not out.exists():
        return set()
    if not out.is_dir():
        raise UserError(f"{out} holds something else (a file), choose another --out")
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    held = names & set(FILES)
    if names - held and not held & {"run.json", "ckpt.pt", "last.pt"}:
        others = ", ".join(sorted(names - held))
        raise UserError(f"{out} holds something else ({others}), choose another --out")
    return held


def _require_same(out: Path, state: str, held: Identity, wanted: Identity, way_out: str) -> None:
    """Raise UserError, saying how they differ, unless a folder holds the run that is wanted."""
    # What it was made with is told by its own flags.
    differing = []
    held_args = OLD_DEFAULTS | held.args
    for name, value in wanted.args.items():
        if held_args.get(name) != value:
            differing.append(f"--{name.replace('_', '-')} {held_args.get(name)}")

    # Of many the first three are enough to see that it is another.
    if len(differing) > 3:
        differing = differing[:2] + [f"{differing[2]} and {len(differing) - 3} other flags"]

    # The first difference explains the others.
    if held.stage != wanted.stage:
        how = ""
    elif differing:
        how = f" with {', '.join(differing)}"
    elif not same_lineage(held.lineage, wanted.lineage):
        how = " from another --init"
    else:
        return
    raise UserError(f"{out} holds {state} {held.stage} run{how}, {way_out}")


def _cut_log(log: Path, step: int) -> None:
    """Drop the lines after the last save: they are about to be written again."""
    lines = log.read_bytes().splitlines(keepends=True) if log.exists() else []
    try:
        steps = [json.loads(line)["step"] for line in lines if line.endswith(b"\n")]
        kept = lines[:sum(one <= step for one in steps)]
    except (ValueError, TypeError, KeyError):
        # It is for people; the run does not need it.
        log.rename(log.with_name(DAMAGED_LOG))
        print(f"{log} is damaged, it is now {DAMAGED_LOG} and another is begun", flush=True)
        kept = []
    with atomic(log) as file:
        file.writelines(kept)
