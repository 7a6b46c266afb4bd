"""Files that are whole or absent, checkpoints that are what they claim to be, and errors that are one line."""

import errno
import json
import os
import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Iterator

import torch
from filelock import FileLock, Timeout


class UserError(Exception):
    """Something the user can mend: scripts print one line, `error: what is wrong, what to do`, and exit with 2."""


def write_error(path: Path, error: Exception) -> UserError:
    """What to tell the user when `path` cannot be written."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UserError(f"no space left to write {path}, free some and run again with --resume")
    return UserError(f"cannot write {path} ({error}), check that its folder is there and can be written")


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open `path` for writing under a temporary name; it takes its own name when complete and is removed on failure."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")    # several machines may write it at once
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    with atomic(path) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())


def save_checkpoint(path: Path, **parts: object) -> None:
    """Write `parts` (weights, config, lineage, …) with `torch.save`, atomically."""
    with atomic(path) as file:
        try:
            torch.save(parts, file)
        except RuntimeError as error:           # torch reports a failed write of its archive so
            if isinstance(error.__context__, OSError):
                raise error.__context__
            raise


def checkpoint_path(run: Path) -> Path:
    """The checkpoint of a run's folder; a checkpoint may be named itself."""
    return run if run.suffix == ".pt" else run / "ckpt.pt"


def load_checkpoint(path: Path, mmap: bool = True) -> dict:
    """Read what `save_checkpoint` wrote, onto the CPU; raises UserError if it is not that."""
    if not path.exists():
        unfinished = path.with_name("log.jsonl").exists()
        raise UserError(f"no checkpoint {path}, "
                        + ("its stage has not finished: run it with --resume" if unfinished else
                           "run its stage first or name another run"))
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        raise UserError(f"{path} is truncated or not a checkpoint ({type(error).__name__}), "
                        "run its stage again with --overwrite") from error
    if not isinstance(checkpoint, dict) or not {"model", "config", "lineage"} <= checkpoint.keys():
        raise UserError(f"{path} is a checkpoint of another program, name one that these scripts wrote")
    return checkpoint


def read_run(run: Path) -> dict:
    """The run.json in the folder of a finished run; raises UserError if it is damaged or another program's."""
    try:
        record = json.loads((run / "run.json").read_text())
        ours = {"stage", "args", "lineage"} <= record.keys()
    except (ValueError, AttributeError):
        ours = False
    if not ours:
        raise UserError(f"{run}/run.json is damaged or another program's, remove it or name another folder")
    return record


def make_folder(folder: Path) -> None:
    """Make a folder where there is none yet; raises UserError if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Hold the file `path` until the block ends, once nobody else does, here or on a machine sharing the disk."""
    make_folder(path.parent)
    try:
        held = FileLock(path).acquire()
    except OSError as error:
        raise write_error(path, error) from error
    with held:
        yield


def lock(folder: Path) -> FileLock:
    """Hold a folder until the process ends; raises UserError if another does, here or on a machine sharing the disk."""
    held = FileLock(folder / ".lock")
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder} is being written by another run, wait until that has ended") from None
    return held
