"""Stages as real processes on a disk that gets full, and once more when there is space again."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from resource import RLIMIT_FSIZE, prlimit

from tests.torture.kills import BUDGETS, RUNS, Case, difference, finish, start, undisturbed


def full_disks(random: Random, count: int) -> Iterator[str]:
    """Let no file of a run get larger than a random size, from a random moment on."""
    cases = undisturbed(BUDGETS, RUNS, (1,))
    for trial in range(count):
        case = random.choice(cases)
        out = f"full{trial}"
        if case.stage == "pretrain":                     # its corpora are prepared on the full disk too
            shutil.rmtree("out/tokens")
        answer, wrong = on_a_full_disk(case, out, random)
        wrong = wrong or finish(f"{case.flags} --out out/{out} --resume", case) or difference(out, case.whole)
        yield f"WRONG: {wrong}" if wrong else f"{answer}, bit-equal"


def on_a_full_disk(case: Case, out: str, random: Random) -> tuple[str, str]:
    """Run a case while its disk gets full; returns how it ended, and what is wrong with that."""
    # A limit of what a file may hold takes neither a disk nor a superuser, and fails at the same places.
    size = int(10 ** random.uniform(1, 5.7))
    process = start(case.stage, f"{case.flags} --out out/{out}")
    time.sleep(random.choice((0, random.uniform(0, case.seconds))))
    if process.poll() is None:
        prlimit(process.pid, RLIMIT_FSIZE, (size, size))
    _, errors = process.communicate()

    # What was begun is removed at once, not only at the next start.
    left = [path.name for path in Path("out").rglob(".*") if path.suffix in (".tmp", ".partial")]
    wrong = f"left {', '.join(left)}" if left else ""
    if process.returncode == 0:
        return "went on", wrong or errors
    if process.returncode != 2 or not errors.startswith("error: no space left") or errors.count("\n") > 1:
        wrong = f"status {process.returncode}, {errors[-500:]}"
    return "stopped in one line, resumed", wrong
