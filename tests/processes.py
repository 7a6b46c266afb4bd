"""Scripts in processes of their own, which need not import torch again: the tests' own process is forked."""

import os
import runpy
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parent.parent


class Forked:
    """What `subprocess.Popen` offers of a process that runs a script with words, in a group of its own if asked.

    What it prints goes to two open files, as a pipe that nobody reads may fill up.
    """

    def __init__(self, words: list[str], environment: dict[str, str], printed: Sequence[IO] = (),
                 group: bool = False):
        # What torch imports with the first optimizer, and what draws, takes longer than a small run.
        import matplotlib.figure, torch._dynamo

        self.printed = printed or [tempfile.TemporaryFile("w+") for _ in range(2)]
        self.returncode = None
        self.pid = os.fork()
        if not self.pid:
            if group:
                os.setpgrp()
            become(words, environment, [file.fileno() for file in self.printed])

    def poll(self, options: int = os.WNOHANG) -> int | None:
        if self.returncode is None:
            gone, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if gone else None
        return self.returncode

    def wait(self) -> int:
        return self.poll(options=0)

    def communicate(self) -> tuple[str, str]:
        self.wait()
        for file in self.printed:
            file.seek(0)
        return tuple(file.read() for file in self.printed)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def popen(words: list[str], stdout: IO, stderr: IO, env: dict[str, str]) -> Forked:
    """Do what a sweep asks of `subprocess.Popen`."""
    return Forked(words[1:], env, [stdout, stderr])


def become(words: list[str], environment: dict[str, str], printed: list[int]) -> None:
    """Do as `python SCRIPT WORDS…` would, printing to two open files, and end with its status."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for stream, file in enumerate(printed, start=1):
            os.dup2(file, stream)
        sys.stdout, sys.stderr = (open(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()

    # Nothing of the process that it was forked from is run.
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
