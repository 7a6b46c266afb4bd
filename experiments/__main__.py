"""The papers' figures, each by one command: runs what is missing, reuses what is there, then draws.

    python -m experiments fig3a --seeds 3                    the toy model on the embedded corpora
    python -m experiments fig2 --corpora prose.jsonl tunes.txt chemistry.jsonl tasks.jsonl
    python -m experiments all --preset 135m --nproc-per-node 8
    python -m experiments fig3a --preset 135m --list pretrain       the commands, for a cluster
    python -m experiments fig3a --only draw                  what is finished, without training
    python -m experiments frontier --runs out/toy/music-lam[01]-seed1    recipes, by what their lineage says
    python -m experiments forecast out/a/posttrain out/b/posttrain       which will keep more, beforehand

If it is killed or run again, or several machines share the folder, it continues with what is unfinished. If
it gets SIGKILL, the runs that it had started go on by themselves.
"""

import itertools
import shlex
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pretrain
from data.corpora import open_corpus
from data.sources import find_source
from data.tokenizers import load_tokenizer
from experiments import early_exposure, forecast, linear, overtraining, reasons, replay
from experiments.cost import cost, work
from experiments.drawing import VERDICTS, Figure, draw
from experiments.forecast.command import main as forecast_runs
from experiments.points import stem
from experiments.sweep import (STAGES, Planned, Sweep, add_flags, command, compiling, jobs_at_once, plan,
                               require_same, tell_failures, with_further_seeds)
from run.files import UserError, make_folder
from run.flags import Parser, launch, positive
from run.report import table

PAPERS = [early_exposure, reasons, overtraining, replay, linear, forecast]


def main() -> None:
    # A forecast of runs is a command of its own; without any, `forecast` is the figure that judges it.
    if sys.argv[1:2] == ["forecast"] and names_runs(sys.argv[2:]):
        forecast_runs(sys.argv[2:])
        return

    # Runs that are there need no plan.
    args = parse()
    papers = by_figure()
    if args.runs:
        draw_runs(papers[args.name], args)
        return
    names = figures_asked_for(args, papers)

    # Figures share runs: each is made once, and what is finished must be what this plan means.
    root = args.out or default_root(args)
    plans = {name: runs_of(papers[name], name, args, args.seeds, root) for name in names}
    runs = list({run.out: run for run in itertools.chain(*plans.values())}.values())
    for run in runs:
        require_same(run)

    # A list is for a cluster, and starts nothing.
    if args.list:
        print_commands(runs, args)
        return

    # What is missing is made, unless it is only to be priced.
    failed = {}
    if args.only != "draw":
        jobs = jobs_at_once(runs, args.jobs, args.nproc_per_node)
        print(cost(args.name, runs, jobs, args.nproc_per_node, args.compile), flush=True)
        if args.cost:
            return
        corpora = set()
        for name in names:
            corpora |= set(corpora_of(papers[name], args).values())
        failed = make(args, runs, corpora, jobs, root)

    # What is finished is drawn even if something failed.
    drawn = [draw_planned(papers[name], name, args, plans[name], root) for name in names]

    # Failures are told last, where they are seen.
    tell_failures(failed)
    if failed:
        missing = sum(not run.is_finished() for run in runs)
        raise UserError(f"{len(failed)} runs failed, {missing} are missing, "
                        "mend the cause and run this again")
    if not all(drawn):
        sys.exit(2)


def names_runs(words: list[str]) -> bool:
    """Tell whether words are a forecast of runs: they begin with one, or name a finished one without --runs.

    A bare --help is the forecast's, too, for the help of figures does not cover it.
    """
    if not words or "--runs" in words:
        return False
    if words in (["-h"], ["--help"]) or not words[0].startswith("-"):
        return True
    return any(Path(word, "run.json").exists() for word in words)


def by_figure() -> dict[str, ModuleType]:
    """Say which paper each figure is of."""
    papers = {}
    for paper in PAPERS:
        for name in paper.FIGURES:
            if papers.setdefault(name, paper) is not paper:
                raise ValueError(f"two papers have a figure {name}")
    return papers


def folder_of(paper: ModuleType) -> str:
    """Name a paper by its folder."""
    return paper.__name__.rpartition(".")[2]


def figures_asked_for(args: Namespace, papers: dict[str, ModuleType]) -> list[str]:
    """List the figures to be made, all that the preset has of a paper; raises UserError if there is none."""
    # One figure may have no plan at all, or none at this size.
    if args.name in papers:
        paper = papers[args.name]
        if not paper.FIGURES[args.name].plan:
            raise UserError(f"{args.name} is of runs that are there, name them with --runs")
        if grid(args) not in paper.SETTINGS:
            raise UserError(f"{args.name} has no plan for {grid(args)}, only for {', '.join(paper.SETTINGS)}")
        return [args.name]

    # Of a paper, or of all, those that have one.
    planned = sorted(name for name, paper in papers.items() if args.name in ("all", folder_of(paper))
                     and paper.FIGURES[name].plan and grid(args) in paper.SETTINGS)
    if not planned:
        raise UserError(f"{args.name} has no plan for {grid(args)}")
    return planned


def grid(args: Namespace) -> str:
    """Name the grid that is asked for, as plans do: the preset's, or that with fewer points."""
    return f"{args.preset} quick" if args.quick else args.preset


def parse(argv: list[str] | None = None) -> Namespace:
    """Read the command line; raises UserError for what does not go together."""
    parser = Parser(__doc__)
    figures = sorted(by_figure())
    papers = [folder_of(paper) for paper in PAPERS]
    parser.add_argument("name", choices=[*dict.fromkeys([*figures, *papers, "all"])],
                        help="figure, or all of a paper, or all")

    # At which size, of what, how often, and by how many at once.
    parser.add_argument("--preset", choices=pretrain.DEFAULTS["preset"], default="toy",
                        help="grid and model [toy]")
    parser.add_argument("--quick", action="store_true",
                        help="fewer points of it, a quarter of an hour a seed (replay, overtraining)")
    parser.add_argument("--corpora", nargs="+", metavar="CORPUS",
                        help="your own for the paper's: D_pre, D_post, D_ft and a second D_ft, for instance")
    parser.flag("seeds", positive, "everything N times, with seeds 1 to N [1]", metavar="N", default=1)
    add_flags(parser, of="run")

    # Where it goes.
    parser.flag("out", Path, "folder of all runs and figures [out/PRESET, and -PRE with --corpora]",
                metavar="DIR")
    parser.flag("picture", Path, "where to draw with --runs, .csv and .md beside it [NAME.png]",
                metavar="FIG.png")

    # Without one of these it trains, then draws.
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--only", choices=("draw",), help="draw what is finished, without training")
    only.add_argument("--runs", nargs="+", type=Path, metavar="RUN",
                      help="draw these finished runs, or all in these folders, without training")
    only.add_argument("--list", nargs="?", const="all", choices=("all", *STAGES), metavar="STAGE",
                      help="only print the commands: "
                           "of a stage, which can all run at once, or stage by stage")
    only.add_argument("--cost", action="store_true", help="only print the cost")

    # argparse cannot say what these need beside them.
    args = parser.parse_args(argv)
    if args.runs and args.name not in figures:
        parser.error("--runs goes with one figure")
    if args.picture and not args.runs:
        parser.error("--picture goes with --runs")
    return args


# ------------------------------------------------------------------------------------------------------------
# What is to be run

def default_root(args: Namespace) -> Path:
    """Choose out/PRESET, or out/PRESET-PRE for one's own corpora."""
    name = args.preset
    if args.corpora:
        name += f"-{stem(args.corpora[0])}"
    return Path("out", name)


def corpora_of(paper: ModuleType, args: Namespace) -> dict[str, str]:
    """Say which corpus has each role in a paper's plans; raises UserError if two are the same."""
    corpora = paper.CORPORA[args.preset]
    if args.corpora:
        if len(args.corpora) != len(corpora):
            raise UserError(f"--corpora takes {len(corpora)} for this figure: {' '.join(corpora).upper()}")
        corpora = dict(zip(corpora, args.corpora))
    if len(set(corpora.values())) < len(corpora):
        raise UserError("two of the --corpora are the same, give different ones")
    return corpora


def runs_of(paper: ModuleType, name: str, args: Namespace, seeds: int, root: Path) -> list[Planned]:
    """Plan the runs of a figure; raises UserError if a corpus that they may need is not there."""
    corpora = corpora_of(paper, args)
    if args.only != "draw":
        for corpus in corpora.values():
            find_source(corpus)                          # what is not there is said now, not at its turn
    lines = paper.FIGURES[name].lines(grid(args))
    return plan(lines, args.preset, paper.SETTINGS[grid(args)], corpora, seeds, root)


def print_commands(runs: list[Planned], args: Namespace) -> None:
    """Print the commands of a stage, or of all, stage by stage."""
    for stage in STAGES if args.list == "all" else [args.list]:
        of_stage = [run for run in runs if run.stage == stage]
        if args.list == "all" and of_stage:
            print(f"# {stage}")
        for run in of_stage:
            words = command(run, args.nproc_per_node)
            print(shlex.join([*words, *compiling(run, work(run), args.compile)]))


# ------------------------------------------------------------------------------------------------------------
# Running and drawing

def make(args: Namespace, runs: list[Planned], corpora: set[str], jobs: int,
         root: Path) -> dict[Planned, str]:
    """Run what is missing; returns the runs that failed, their commands and last lines."""
    # A corpus that cannot be read is found before hours of training, not after.
    make_folder(root)
    missing = [run for run in runs if not run.is_finished()]
    if missing:
        prepare_corpora(corpora, args.preset)
    return Sweep(missing, jobs, args.nproc_per_node, root, work, args.compile).execute()


def prepare_corpora(corpora: set[str], preset: str) -> None:
    """Tokenize those that need no download: what is wrong with one is said before anything trains."""
    sources = [find_source(corpus) for corpus in sorted(corpora)]
    local = [source for source in sources if source.is_local]
    if local:
        tokenizer = load_tokenizer(pretrain.parse(["--preset", preset]).tokenizer)
        for source in local:
            open_corpus("", source, tokenizer).held_out_sequences(1)


def draw_planned(paper: ModuleType, name: str, args: Namespace, runs: list[Planned], root: Path) -> bool:
    """Draw a figure of those of its runs that are finished; returns whether it could be drawn."""
    figure = paper.FIGURES[name]
    runs = with_further_seeds(runs, lambda seeds: runs_of(paper, name, args, seeds, root), root)
    for run in runs:
        require_same(run)
    wanted = [run for run in runs if run.chain() in figure.chains]
    there = [run.out for run in wanted if run.is_finished()]
    print(f"\n{name}: {len(there)} of {len(wanted)} runs", flush=True)
    if not there:
        return False

    # What is wrong with one figure does not keep the others from being drawn.
    try:
        draw_and_tell(name, figure, there, root / "figures" / f"{name}.png")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    return True


def draw_runs(paper: ModuleType, args: Namespace) -> None:
    """Draw a figure of whatever finished runs were named."""
    draw_and_tell(args.name, paper.FIGURES[args.name], args.runs, args.picture or Path(f"{args.name}.png"))


def draw_and_tell(name: str, figure: Figure, runs: list[Path], picture: Path) -> None:
    """Draw a figure and print its verdicts."""
    print(table(VERDICTS, draw(name, figure, runs, picture)))
    print(f"saved {picture}, {picture.with_suffix('.csv')} and {picture.with_suffix('.md')}")


if __name__ == "__main__":
    launch(main)
