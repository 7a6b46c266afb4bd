"""Stages in processes of their own, which need not import torch again: a server that has it forks them."""

import os
import runpy
import signal
import sys
import tempfile
import traceback
from multiprocessing import get_context
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parent.parent
SERVER = get_context("forkserver")
SERVER.set_forkserver_preload(["tests.processes", "torch._dynamo", "pretrain", "posttrain", "finetune"])


class Forked:
    """What `subprocess.Popen` offers of a process that runs a script with words, forked by a server."""

    def __init__(self, words: list[str], environment: dict[str, str], log: str = "", group: bool = False):
        # What it prints goes to files, as a pipe that nobody reads may fill up.
        self.printed = [tempfile.NamedTemporaryFile("r") for _ in range(2)]
        names = [log or file.name for file in self.printed]
        with patch.dict(os.environ, {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}):
            ensure_running()
        self.process = SERVER.Process(target=serve, args=(words, environment, os.getcwd(), names, group))
        self.process.start()
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> None:
        self.process.join()

    def communicate(self) -> tuple[str, str]:
        self.wait()
        return tuple(file.read() for file in self.printed)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def popen(words: list[str], stdout, stderr, env: dict[str, str]) -> Forked:
    """Do what a sweep asks of `subprocess.Popen`."""
    return Forked(words[1:], env, log=stdout.name)


class Child:
    """The same, of a stage that is forked from the sweep's own process and is in its group."""

    def __init__(self, words: list[str], stdout, stderr, env: dict[str, str]):
        self.status = None
        self.pid = os.fork()
        if self.pid == 0:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            become(words[1:], env, os.getcwd(), [stdout.fileno(), stderr.fileno()])

    def poll(self, options: int = os.WNOHANG) -> int | None:
        if self.status is None:
            gone, status = os.waitpid(self.pid, options)
            self.status = os.waitstatus_to_exitcode(status) if gone else None
        return self.status

    def wait(self) -> int:
        return self.poll(options=0)

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


def serve(words: list[str], environment: dict[str, str], folder: str, names: list[str], group: bool) -> None:
    """Be a process that the server forks, in a group of its own if asked."""
    if group:
        os.setpgrp()
    become(words, environment, folder, [os.open(name, os.O_WRONLY | os.O_APPEND) for name in names])


def become(words: list[str], environment: dict[str, str], folder: str, printed: list[int]) -> None:
    """Do as `python SCRIPT WORDS…` would in a folder, printing to two open files, and end with its status."""
    status = 1
    try:
        for stream, file in enumerate(printed, start=1):
            os.dup2(file, stream)
        sys.stdout, sys.stderr = (open(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
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
