"""Files that are whole or absent, folders that one process writes at a time, and errors that are one line."""

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout


class UserError(Exception):
    """Something the user can mend: one line, `error: what is wrong, what to do`, and exit status 2."""


@contextmanager
def refusing(*kinds: type[Exception]) -> Iterator[None]:
    """Turn exceptions of these kinds, raised in the block, into a UserError of their first line."""
    try:
        yield
    except kinds as error:
        raise UserError(str(error).splitlines()[0]) from error


def cannot_write(path: Path | str, error: OSError, tried: str = "write") -> UserError:
    """Say what the user can do where a file cannot be written, or what else was `tried` with it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UserError(f"no space left to write {path}, free some and run again, a stage with --resume")
    return UserError(f"cannot {tried} {path} ({error.strerror or error}), "
                     "check that its folder is there and what may be done in it")


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open `path` for writing under a temporary name; it takes its own when complete, and is removed if not.

    Raises UserError where that cannot be written.
    """
    # The name is random because several machines may write the same file at once.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):                 # where nothing can be written, nothing can be removed
            temporary.unlink(missing_ok=True)


def as_json(value: object) -> bytes:
    """Write out a value as a file has it."""
    return (json.dumps(value, indent=1) + "\n").encode()


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON, atomically."""
    with atomic(path) as file:
        file.write(as_json(value))


def make_folder(folder: Path) -> None:
    """Make a folder where there is none yet; raises UserError if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Hold the file `path` in the block, once nobody else does, here or on a machine sharing the disk."""
    make_folder(path.parent)
    try:
        held = FileLock(path).acquire()
    except OSError as error:
        raise cannot_write(path, error) from error
    with held:
        yield


def lock(folder: Path) -> FileLock:
    """Hold a folder until the process ends or the lock is released.

    Raises UserError if another process holds it, here or on a machine sharing the disk.
    """
    held = FileLock(folder / ".lock")
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder} is being written by another run, wait until that has ended") from None
    return held
