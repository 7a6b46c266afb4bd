"""Two sweeps on one folder, that are killed alone or with their runs, and started again."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from run.checkpoint import read_checkpoint
from tests.conftest import assert_same, write_corpora
from tests.test_sweep import DRIVER, GRID

PLAN = [line.replace("--lam 1 ", "--lam {0,1} ") for line in GRID]
COMMAND = DRIVER.replace(repr(GRID), repr(PLAN))


def start(out: str) -> subprocess.Popen:
    """Start a sweep of eight small runs, a process group of its own."""
    words = f"fig3a --jobs 2 --out {out} --corpora pre.jsonl post.jsonl ft.jsonl other.jsonl".split()
    return subprocess.Popen([sys.executable, "-c", COMMAND, *words], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, start_new_session=True,
                            env=os.environ | {"OMP_NUM_THREADS": "1"})


def shared_and_killed(random: Random, count: int) -> Iterator[str]:
    """Kill one of two sweeps again and again, until `count` kills are survived."""
    write_corpora()
    Path("other.jsonl").write_text("".join(sorted(Path("ft.jsonl").read_text().splitlines(keepends=True))))
    _, errors = start("whole").communicate()
    runs = sorted(path.parent.relative_to("whole") for path in Path("whole").rglob("run.json"))
    assert len(runs) == 8, errors

    survived = 0
    for trial in itertools.count():
        if survived >= count:
            break
        out = f"shared{trial}"
        sweeps = [start(out), start(out)]
        kills = []
        for _ in range(6):
            time.sleep(random.uniform(0, 8))
            which = random.randrange(2)
            if sweeps[which].poll() is not None:
                break
            alone = random.random() < 0.5
            (os.kill if alone else os.killpg)(sweeps[which].pid, signal.SIGKILL)
            kills.append("sweep killed alone" if alone else "sweep killed with its runs")
            sweeps[which] = start(out)

        answer = ""
        for sweep in sweeps:
            _, errors = sweep.communicate()
            if sweep.returncode:
                answer = f"status {sweep.returncode}, {errors[-500:]}"
        answer = answer or difference(runs, Path(out))
        for one in kills:
            yield f"WRONG after {one}: {answer}" if answer else f"{one}: every run made once, bit-equal"
        survived += len(kills)


def difference(runs: list[Path], out: Path) -> str:
    """Say which run is not as in the undisturbed sweep, or was made twice; nothing if none."""
    for run in runs:
        try:
            assert_same(read_checkpoint(out / run / "ckpt.pt").model,
                        read_checkpoint("whole" / run / "ckpt.pt").model)
        except AssertionError:
            return f"{out / run} differs"
        log = (out / run).with_name(f"{run.name}.log").read_text()
        if log.count(f"{run.name} finished: ") > 1:
            return f"{out / run} was made twice"
    return ""
