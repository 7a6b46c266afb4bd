"""Forecast what somebody's Stage 3 will leave of D_post in finished runs, before anybody has run it.

Each run goes on for the first quarter of such a Stage 3, on its own D_pre or on text like D_ft. What that
does to the loss on D_post ranks the runs. If the text is like D_ft, tables of what happened to others make a
number of it. Without a RUN, `python -m experiments forecast` is the figure that judges this.

    python -m experiments forecast out/a/posttrain out/b/posttrain
    python -m experiments forecast out/*/posttrain --lr 1e-3 --tokens 200k --probe my/texts.jsonl
    python -m experiments forecast out/*/posttrain --nproc-per-node 8 --cost       what it would take
"""

import math
import os
import re
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.corpora import where, working_folders
from data.sources import find_source
from data.stream import whole_sequences
from experiments.cost import cost, preset_of, tokens, value, work
from experiments.forecast.calibration import Law, fit
from experiments.forecast.known import ON_LIKE, PARTS
from experiments.forecast.tables import presets_in, published, read_table, tasks_in
from experiments.forecast.tasks import rises
from experiments.points import Point, stem
from experiments.sweep import (Planned, Sweep, add_flags, folder_name, jobs_at_once, require_same,
                               tell_failures)
from model import PRESETS, SIZES
from run.checkpoint import read_run
from run.files import UserError, make_folder
from run.flags import Parser, nonnegative, positive, share
from run.folder import same_lineage
from run.report import say, table

QUARTER_SHARE = PARTS["quarter"]


class Probed(NamedTuple):
    """A run to be forecast, its L_im, the tokens of the feared Stage 3, and the probes in place of that."""
    run: Path
    measured_on: str         # what L_im is of: only runs of the same are ranked together
    is_plain: bool           # whether it is of the kind that the tables in results/ have
    L_im: float
    feared_tokens: float     # of the Stage 3
    probes: list[Planned]


def main(argv: list[str]) -> None:
    # A run that is named twice counts once.
    args = parse(argv)
    tables = {path: read_table(path) for path in args.calibration or ()}
    once = {run.resolve(): run for run in args.runs}
    probed = [probes_of(run, args) for run in once.values()]
    for one in probed:
        if one.measured_on != probed[0].measured_on:
            raise UserError(f"{probed[0].run} is measured on {probed[0].measured_on}, {one.run} on "
                            f"{one.measured_on}: forecast each for itself")

    # What cannot be made a number of is said before anything runs.
    law = calibrated(tables, probed) if of_law(args) else None

    # The probes are runs like any: made once, priced before, continued when they were killed.
    probes = [probe for run in probed for probe in run.probes]
    for probe in probes:
        require_same(probe)
        require_same_init(probe)
    jobs = jobs_at_once(probes, args.jobs, args.nproc_per_node)
    say(cost("forecast", probes, jobs, args.nproc_per_node, args.compile))
    whole = sum(one.feared_tokens for one in probed)
    say(f"Stage 3 of all these runs takes {whole:,.0f} tokens a D_ft")
    if args.cost:
        return

    # Without one of its probes a run has no place among the others.
    make_folder(args.out)
    missing = [probe for probe in probes if not probe.is_finished()]
    failed = Sweep(missing, jobs, args.nproc_per_node, args.out, work, args.compile).execute()
    tell_failures(failed)
    if failed:
        raise UserError(f"{len(failed)} probes failed, mend the cause and run this again")
    tell(probed, law, args)


def parse(argv: list[str]) -> Namespace:
    """Read the command line; raises UserError for what does not go together."""
    parser = Parser(__doc__)
    parser.prog = "python -m experiments forecast"

    # Of what, and which Stage 3 it is that is feared.
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="finished runs of Stage 2")
    parser.flag("lr", nonnegative, "of the Stage 3 that is feared [finetune.py's for the preset]")
    parser.flag("tokens", positive, "of the Stage 3 that is feared [likewise]")

    # The probe, and what makes a number of it.
    parser.flag("share", share, "of its steps that the probe takes [0.25]", default=QUARTER_SHARE)
    parser.add_argument("--probe", nargs="+", metavar="CORPUS",
                        help="what to go on with: text like D_ft, if there is some [each run's D_pre]")
    parser.add_argument("--calibration", nargs="+", type=Path, metavar="CSV",
                        help="figures' forecast.csv to learn numbers from, with --probe [those in results/]")

    # How it is run, as figures are.
    add_flags(parser, of="probe")
    parser.flag("out", Path, "folder of the probes [out/forecast]", metavar="DIR",
                default=Path("out/forecast"))
    parser.add_argument("--cost", action="store_true", help="only print the cost")

    # argparse cannot say what does not go together.
    args = parser.parse_args(argv)
    for flag in ("lr", "share"):
        if getattr(args, flag) == 0:
            parser.error(f"--{flag} 0 is no probe")
    if args.calibration and not of_law(args):
        parser.error("--calibration is of a quarter of Stage 3 on text like D_ft, "
                     "give one --probe and no --share")
    return args


def of_law(args: Namespace) -> bool:
    """Tell whether the probe is what the law is of: a quarter of Stage 3, on one text."""
    return args.share == QUARTER_SHARE and len(args.probe or ()) == 1


def require_same_init(probe: Planned) -> None:
    """Raise UserError if a finished probe is of what was in its run's folder before."""
    if not probe.is_finished():
        return
    if not same_lineage(read_run(probe.out)["lineage"][:-1], read_run(probe.parent.out)["lineage"]):
        raise UserError(f"{probe.out} is of what {probe.parent.out} was before, remove it or choose "
                        "another --out")


def probes_of(run: Path, args: Namespace) -> Probed:
    """Plan the probes of a run; raises UserError if it is not a finished one of Stage 2."""
    # Only a finished Stage 2 has an L_im to start from.
    if not (run / "run.json").exists():
        raise UserError(f"no finished run {run}, give the folder of one")
    lineage = read_run(run)["lineage"]
    if lineage[-1]["stage"] != "posttrain":
        raise UserError(f"{run} is a run of {lineage[-1]['stage']}, give one of posttrain")
    L_im = lineage[-1]["losses"]["L_im"]["mean"]
    pretrained = lineage[0]["args"]
    context = pretrained.get("context") or PRESETS[pretrained["preset"]]["context"]

    # The run stands for its chain: what a plan must know of it is the preset and the model's sizes.
    sizes = [(f"--{name.replace('_', '-')}", str(pretrained[name]))
             for name in SIZES if pretrained.get(name)]
    settings = (("--preset", pretrained["preset"]), *sizes)
    seed = lineage[-1]["args"]["seed"]
    parent = Planned(lineage[-1]["stage"], settings, seed, run, parent=None)

    # What is feared is a Stage 3 from here.
    feared = Planned("finetune", tuple(stage_3(args)), seed, run, parent)
    batch = int(value(feared, "--batch"))
    steps = math.ceil(whole_sequences(int(value(feared, "--tokens")), context) / batch)

    # The probe is its first steps, on its own schedule.
    taken = max(1, round(args.share * steps))
    begun = [(flag, word) for flag, word in stage_3(args) if flag != "--tokens"]
    begun += [("--tokens", str(taken * batch * context)), ("--leave", str(steps - taken))]
    if pretrained.get("text_field") and not args.probe:
        begun.append(("--text-field", pretrained["text_field"]))

    # A probe a corpus, in a folder that no other run's probes have.
    probes = []
    for corpus in args.probe or [d_pre_of(lineage[0], run)]:
        find_source(corpus)                              # what is not there is said now
        settings = (("--ft", corpus), *begun)
        home = args.out.joinpath(*run.resolve().parts[1:], folder_name(settings))
        probes.append(Planned("finetune", settings, seed, home / "finetune", parent))
    if len({probe.out for probe in probes}) < len(probes):
        raise UserError("two of the --probe corpora have one name, rename one")
    return Probed(run, measured_on(lineage, context), is_plain(lineage), L_im, value(feared, "--tokens"),
                  probes)


def measured_on(lineage: list[dict], context: int) -> str:
    """Say what a run's L_im is of: corpus, tokenizer, context, and the tokens that count."""
    # Two folders may have one tokenizer: its fingerprint tells.
    pretrained = lineage[0]["args"]
    tokenizer = pretrained["tokenizer"]
    if tokenizer not in ("bytes", "gpt2"):
        tokenizer = f"tokenizer {lineage[0]['tokenizer']}"
    checksum = lineage[0]["corpora"]["post"]["checksum"]
    said = f"{stem(pretrained['post'])} ({checksum[:8]}), {tokenizer}, context {context}"
    if lineage[-1]["args"].get("loss_on") == "completion":
        said += ", completions only"
    return said


def is_plain(lineage: list[dict]) -> bool:
    """Tell whether losses are of single bytes, of all of them, and of a model that no --weights began."""
    pretrained, posttrained = lineage[0]["args"], lineage[-1]["args"]
    kind = (pretrained["tokenizer"], pretrained.get("weights"), posttrained.get("loss_on", "all"))
    return kind == ("bytes", None, "all")


def d_pre_of(entry: dict, run: Path) -> str:
    """Name the D_pre of Stage 1, an entry of a run's lineage, as it is called from here, wherever that ran.

    Raises UserError if it is gone.
    """
    name = entry["args"]["pre"]
    is_hub = name.startswith("hub:")
    path = re.split("[:@]", name.removeprefix("hub:"))[0] if is_hub else name
    home = where(path, working_folders(entry, run))
    try:
        source = find_source(name, folder=home)
    except UserError as error:
        raise UserError(f"{error}; or go on with text like D_ft, --probe") from error
    if is_hub and (home / path).is_dir():
        return name.replace(path, os.path.abspath(home / path), 1)

    # A path from here may read like an embedded corpus or a name of the hub, a whole one does not.
    return os.path.abspath(home / path) if source.files else name


def stage_3(args: Namespace) -> list[tuple[str, str]]:
    """Write what was said of the Stage 3 that is feared, as its flags."""
    said = []
    if args.lr:
        said.append(("--lr", f"{args.lr:g}"))
    if args.tokens:
        said.append(("--tokens", str(args.tokens)))
    return said


def calibrated(tables: dict[Path, list[Point]], probed: list[Probed]) -> Law | None:
    """Fit the law to tables' tasks that have such probes, or to those in results/ of the runs' preset.

    None where results/ has none of such losses, of a Stage 3 as long, at a rate as high and as low. Raises
    UserError if tables have none, or are of another preset.
    """
    presets = {preset_of(one.probes[0]) for one in probed}
    for path, points in tables.items():
        if presets != {presets_in(points)}:
            raise UserError(f"{path} is of --preset {presets_in(points)}, the runs are of "
                            f"{' and '.join(sorted(presets))}: name a --calibration of their size")
    tasks = [task for path, points in tables.items() for task in tasks_in(path, points)]
    if not tables and len(presets) == 1 and all(one.is_plain for one in probed):
        tasks = published(*presets)

    # A law holds for the length of Stage 3, and between the rates, that it was fitted to.
    tasks = [task for task in tasks if ON_LIKE in task.known
             and all(math.isclose(task.tokens, one.feared_tokens, rel_tol=0.1) for one in probed)]
    rates = [task.rate for task in tasks]
    if tasks and all(min(rates) <= value(one.probes[0], "--lr") <= max(rates) for one in probed):
        return fit(rises(tasks, ON_LIKE))
    if tables:
        raise UserError(f"{' and '.join(map(str, tables))} has no quarter of a Stage 3 as long, on text like "
                        "D_ft, at rates as high and as low, name a --calibration that has")
    return None


def tell(probed: list[Probed], law: Law | None, args: Namespace) -> None:
    """Print the runs, the one that will keep most first, and what it took to know."""
    # Sorted by the forecast; where there is no law, by the loss on D_post after the probe.
    rows = []
    for one in probed:
        done = [read_run(probe.out) for probe in one.probes]
        L_probe = float(np.mean([run["losses"]["L_ret"]["mean"] for run in done]))
        place, told = L_probe, "–"
        if law:
            place, low, high = law.forecast(one.L_im, L_probe, rate=value(one.probes[0], "--lr"))
            told = f"{place:.3f}" if np.isnan(low) else f"{place:.3f} [{low:.3f}, {high:.3f}]"
        rows.append((place, [str(one.run), f"{one.L_im:.3f}", f"{L_probe:.3f}", told]))

    # The order is worth more than the number, which is of few pipelines.
    rows.sort(key=lambda row: row[0])
    header = ["the best first", "L_im", "D_post after the probe", "forecast L_ret"]
    say(table(header, [cells for _, cells in rows]))
    if law:
        say(f"The numbers are of a D_ft like {args.probe[0]}, learned from {law.kinds} pipelines (or D_ft, "
            "if those are fewer): trust the order more.")
    elif of_law(args):
        say("This ranks the runs. A number takes a --calibration of their preset, their kind of loss and "
            "such a Stage 3: as long, at rates about this one.")
    else:
        say("This ranks the runs. A number takes a quarter of Stage 3 on one text like D_ft, --probe.")

    # What it took, beside what it stands for.
    probes = [probe for run in probed for probe in run.probes]
    trained = sum(tokens(probe) for probe in probes)
    seconds = sum(read_run(probe.out)["seconds"]["total"] for probe in probes)
    whole = seconds * sum(one.feared_tokens for one in probed) / trained
    say(f"{len(probes)} probes took {trained:,.0f} tokens and {seconds:.0f} s; "
        f"Stage 3 of all these runs takes about {whole:.0f} s a D_ft")
