"""What the suite has no time for: attacks in great number, with real processes, on real files.

    python -m tests.torture                           all of them, some hours
    python -m tests.torture kills --count 200 --seed 1

Prints, for run/README.md, how each was answered. Ends with status 1 if one was answered wrongly: a traceback,
a finished run that differs, a run made twice. Then the folder is kept.
"""

import os
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

from run.flags import Parser, count, launch, positive
from tests.torture import data, disks, kills, sweeps

ATTACKS = {
    "kills": kills.at_any_moment,
    "steps": kills.after_every_step,
    "ranks": kills.on_other_ranks,
    "torchruns": kills.busy_torchruns,
    "sweeps": sweeps.shared_and_killed,
    "disks": disks.full_disks,
    "data": data.hard_data,
}


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"of {' '.join(ATTACKS)} [all]")
    parser.flag("count", positive, "trials of each, where their number is free [20]", default=20)
    parser.flag("seed", count, "of what is tried and when [1]", default=1)
    parser.flag("folder", Path, "where [out/torture]", default=Path("out/torture"))
    args = parser.parse_args()
    unknown = set(args.attacks) - set(ATTACKS)
    if unknown:
        parser.error(f"no attack {' '.join(unknown)}, give some of {' '.join(ATTACKS)}")

    # Each attack works in a folder of its own and yields how its trials were answered, one after another.
    wrong = False
    home = args.folder.resolve()
    print("| attack | answers | minutes |\n|---|---|---|", flush=True)
    for name in args.attacks or ATTACKS:
        folder = home / f"{name}-{args.seed}-{time.strftime('%H%M%S')}"
        folder.mkdir(parents=True)
        os.chdir(folder)
        started = time.monotonic()
        answers = Counter()
        try:
            for answer in ATTACKS[name](Random(str(args.seed)), args.count):
                answers[answer] += 1
                if answer.startswith("WRONG"):
                    wrong = True
                    print(f"{folder}: {answer}", file=sys.stderr, flush=True)

        # Interrupted, it says how far it came.
        finally:
            os.chdir(home)
            told = "; ".join(f"{number} {answer}" for answer, number in answers.most_common())
            print(f"| {name} | {told} | {(time.monotonic() - started) / 60:.0f} |", flush=True)
        if not wrong:
            shutil.rmtree(folder)
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    launch(main)
