"""What one stage hands to the next, and what an interrupted run continues from; checked when it is read."""

import json
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from run.files import UserError, atomic


class Checkpoint(NamedTuple):
    """A finished stage's ckpt.pt: weights, the configuration that gives their shapes, how they came about."""
    model: dict[str, Tensor]
    config: dict[str, object]
    lineage: list[dict]      # of every finished stage: its name, arguments, tokens, losses, corpora


class Progress(NamedTuple):
    """What last.pt adds to the weights of an unfinished stage: all it takes to continue bit for bit."""
    stage: str
    args: dict[str, object]
    optimizer: dict
    step: int
    best: dict | None        # the lowest held-out loss so far: its weights, their step, the evaluations since
    seconds: dict[str, float]
    made_of: list[str] | None = None         # what it trains on, as its stream says; older files do not


def checkpoint_path(run: Path) -> Path:
    """Find the checkpoint of a run's folder; `run` may be a checkpoint itself."""
    return run if run.suffix == ".pt" and not run.is_dir() else run / "ckpt.pt"


def save_checkpoint(path: Path, checkpoint: Checkpoint, progress: Progress | None = None) -> None:
    """Write a checkpoint, and the progress of an unfinished stage with it, atomically."""
    parts = checkpoint._asdict() | (progress._asdict() if progress else {})
    with atomic(path) as file:
        try:
            torch.save(parts, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):     # torch reports a failed write of its archive so
                raise error.__context__
            raise


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a finished stage's checkpoint, onto the CPU.

    Raises UserError if there is none or it is not that.
    """
    parts = _read(path, mmap=True)
    if "optimizer" in parts:
        raise UserError(f"{path} is of a stage that has not finished, name the ckpt.pt of one that has")
    if not parts["lineage"]:
        raise UserError(f"{path} does not say how it came about, name a ckpt.pt that these scripts wrote")
    return Checkpoint(**{name: parts[name] for name in Checkpoint._fields})


def read_progress(path: Path) -> tuple[Checkpoint, Progress]:
    """Read an unfinished stage's last.pt, onto the CPU; raises UserError if it is not that."""
    parts = _read(path, mmap=False)             # the file will be replaced while its parts are in use
    missing = [name for name in Progress._fields if name not in parts | Progress._field_defaults]
    if missing:
        raise UserError(f"{path} is not an unfinished stage's, remove it or run again with --overwrite")
    checkpoint = Checkpoint(**{name: parts[name] for name in Checkpoint._fields})
    return checkpoint, Progress(**{name: parts[name] for name in Progress._fields if name in parts})


def _read(path: Path, mmap: bool) -> dict:
    """Read the parts of either file; raises UserError if it is neither."""
    # Why it may be missing: the stage has not finished, or the folder was packed without weights.
    if not path.exists():
        way_out = "run its stage first or name another run"
        if path.with_name("run.json").exists():
            way_out = "its run.json came without it: run its stage again with --overwrite"
        elif path.with_name("log.jsonl").exists():
            way_out = "its stage has not finished: run it with --resume"
        elif path.with_name("config.json").exists():
            way_out = f"pretrain.py --weights {path.parent} --tokens 0 makes a run of Hugging Face's folder"
        raise UserError(f"no checkpoint {path}, {way_out}")

    # The archive has a CRC of each tensor and of all else, which torch does not look at. Only tensors and
    # plain values are let in: a checkpoint cannot bring code.
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(damaged)
        parts = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except PermissionError as error:
        raise UserError(f"cannot read {path} ({error.strerror}), ask for the right to") from error
    except Exception as error:
        raise UserError(f"{path} is damaged or not a checkpoint ({type(error).__name__}), "
                        "run its stage again with --overwrite") from error

    if not _is_checkpoint(parts):
        raise UserError(f"{path} is a checkpoint of another program, name one that these scripts wrote")
    return parts


def _is_checkpoint(parts: object) -> bool:
    """Tell whether what a file holds has the parts of a checkpoint, each of its kind."""
    if not isinstance(parts, dict) or not set(Checkpoint._fields) <= parts.keys():
        return False
    weights, config, lineage = (parts[name] for name in Checkpoint._fields)
    return (isinstance(weights, dict) and all(isinstance(weight, Tensor) for weight in weights.values())
            and isinstance(config, dict) and isinstance(lineage, list)
            and all(is_entry(entry) for entry in lineage))


def is_entry(entry: object) -> bool:
    """Tell whether a value is what a lineage keeps of a finished stage."""
    parts = {"stage": str, "args": dict, "steps": int, "tokens": dict, "losses": dict, "corpora": dict}
    return isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in parts.items())


def read_run(folder: Path) -> dict:
    """Read the run.json of a finished run; raises UserError if it is damaged or another program's."""
    try:
        record = json.loads((folder / "run.json").read_text())
        lineage = record["lineage"]
        ours = bool(lineage) and all(is_entry(entry) for entry in lineage)
        ours = ours and (record["stage"], record["args"]) == (lineage[-1]["stage"], lineage[-1]["args"])
    except (ValueError, TypeError, KeyError):
        ours = False
    if not ours:
        raise UserError(f"{folder}/run.json is damaged or another program's, "
                        "run its stage again with --overwrite or name another folder")
    return record
