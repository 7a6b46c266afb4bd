"""A stage that gets SIGTERM after its first step, on its last rank only:

    torchrun --standalone --nproc_per_node=2 -m tests.torture.stopping posttrain --replay 0.1 --resume
"""

import importlib
import signal
import sys

from run import ranks
from run.flags import launch
from run.loop import Run

update = Run.update


def update_and_stop(run: Run) -> None:
    update(run)
    if ranks.rank() == ranks.world() - 1:
        signal.raise_signal(signal.SIGTERM)


Run.update = update_and_stop
stage = importlib.import_module(sys.argv.pop(1))
launch(stage.main)
