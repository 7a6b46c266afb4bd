"""`python -m theory`: the theorems at one setting, two sides and a verdict each, and figures of the rest.

    python -m theory                           all of it
    python -m theory theorems --alpha 0.5      Section 5 alone, at a setting of your own
    python -m theory substitutes forecast      other networks, which have settings of their own
"""

import argparse
import contextlib
import math
import os
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from . import forecast, overtraining, replay, substitutes
from .dynamics import Run, Setting, violations
from .figures import (EDGE_WORDS, LAMBDAS, Departures, EdgeErrors, Frontier, both_departures, both_frontiers,
                      draw_alpha, draw_departures, draw_frontier, draw_matched, draw_stages, draw_times,
                      draw_window, edge_errors, matched_runs, runs_over_alpha)
from .lemmas import errata, lemmas
from .theorems import LONGEST, Check, theorems
from .window import clock, clock_edges, default_T, edges, latest_post

NETWORKS = {module.__name__.rpartition(".")[2]: module
            for module in (substitutes, overtraining, replay, forecast)}
HELP = {
    "alpha": "α, share of D_post in Stage 1 of the mixed run",
    "beta": "β, singular value of the specialized block",
    "invariant": "singular value of the invariant block",
    "pre": "of the inconsistent block under D_pre",
    "post": "under D_post",
    "ft": "under D_ft",
    "c_mis": "by how much these are at least apart",
    "T": "factors start at singular values e^(−T); by default 10, at other depths what makes the same clock",
    "t_pre": "learning rate × steps of Stage 1",
    "t_post": "of Stage 2",
    "t_ft": "of Stage 3",
    "reg": "λ_reg of Stage 2",
    "replay": "share of D_pre in Stage 2",
    "n": "directions in all",
    "k": "directions of the inconsistent, and of the specialized, block",
    "depth": "factors, at least 2",
}


def main() -> None:
    """Check, print and draw the theory at the setting that the command line gives."""
    # Greek letters are printed on any console and in any pipe; a notebook's streams take them as they are.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    s, args = parse()
    try:
        tell(s, args)
        print(end="", flush=True)

    # What is left to print goes nowhere: whoever should get it has enough of it, as head(1), or no space.
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(141)
        fail(f"cannot print ({error.strerror}), send the output elsewhere")


def tell(s: Setting, args: argparse.Namespace) -> None:
    """Print and draw the topics that were asked for."""
    make_folder(args.out)
    if "theorems" in args.topics:
        tell_theorems(s, args)

    # What is printed of a network is what was drawn of it.
    for name, network in NETWORKS.items():
        if name in args.topics:
            print(f"\n---- {name}", flush=True)
            seen = network.compute(np.random.default_rng(args.seed))
            network.tell(seen)
            save(network.draw(seen), args.out / f"{name}.png")
    print(f"\nfigures: {args.out}/ {' '.join(sorted(path.name for path in args.out.glob('*.png')))}")


def tell_theorems(s: Setting, args: argparse.Namespace) -> None:
    """Print what of Section 5 is checked, and draw the rest of it."""
    # A figure is saved before anything is printed: a folder that takes none is known at once.
    save(draw_stages(s, args.eta), args.out / "stages.png")

    # The theorems, what their Δ hides, and the window that they hold in.
    print_theorems(s, args.eta)
    frontiers = both_frontiers(s, args.eta)
    print_frontier(frontiers)
    save(draw_frontier(frontiers), args.out / "frontier.png")
    print_edges(s)
    print_edge_errors(edge_errors(s, args.eta), args.eta)
    save(draw_window(s, args.eta), args.out / "window.png")

    # What is printed of a figure is what was drawn.
    over_alpha = runs_over_alpha(s, args.eta)
    print_over_alpha(over_alpha)
    save(draw_alpha(s, over_alpha), args.out / "alpha.png")
    matched = matched_runs(s)
    print_matched(matched)
    save(draw_matched(matched), args.out / "matched.png")

    # Chance is in these two only, and the second goes on where the first left the generator.
    rng = np.random.default_rng(args.seed)
    save(draw_times(rng), args.out / "times.png")
    found = both_departures(s, args.eta, rng)
    print_departures(found["mixed"])
    save(draw_departures(s, found), args.out / "departures.png")


# ---- files

def make_folder(path: Path) -> None:
    """Make the folder of the figures, or end the process with one line."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"cannot make the folder --out {path} ({error.strerror}), choose another")


def save(figure: Figure, path: Path) -> None:
    """Write a picture whole or not at all, then ending the process with one line."""
    partial = path.with_name(path.name + ".partial")
    try:
        figure.savefig(partial, dpi=90, format="png")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        fail(f"cannot write {path} ({error.strerror or error}), free some space or choose another --out")


# ---- what is printed

def print_theorems(s: Setting, eta: float) -> None:
    """Print the assumptions that are violated, both sides and the verdict of every claim, and errata."""
    broken = [f"violated: {condition}" for condition in violations(s)]
    print("assumptions: " + ("; ".join(broken) or "all hold"))
    print(f"\n{'theorem':<9}  {'claim':<64}  {'left':>9}   {'right':>9}  holds  at exact rank")
    for check, at_exact_rank in zip(theorems(s, eta), theorems(s, eta, ideal=True)):
        print(f"{sides(check)}  {verdict(check):<5}  {verdict(at_exact_rank)}")
    if s.depth > 2:
        print("C.9, C.13 to C.17: not checked, they speak of two factors")
    for check in lemmas(s, eta):
        print(f"{sides(check)}  {verdict(check)}")

    # A word stands where no number is printed.
    print(f"\n{'where':<9}  {'number':<64}  {'printed':>9}   {'derived':>9}  {'measured':>9}")
    for erratum in errata(s, eta):
        printed = erratum.printed
        if not isinstance(printed, str):
            printed = f"{printed:.3g}"
        numbers = f"{printed:>9}   {erratum.derived:9.3g}  {erratum.measured:9.3g}"
        print(f"{erratum.place:<9}  {erratum.quantity:<64}  {numbers}")


def sides(check: Check) -> str:
    """Write a claim and its two sides in columns."""
    numbers = f"{check.left:9.3g} {check.relation} {check.right:9.3g}"
    return f"{check.theorem:<9}  {check.claim:<64}  {numbers}"


def verdict(check: Check) -> str:
    """Say whether a claim holds."""
    return "yes" if check.holds else "NO"


def print_frontier(found: list[Frontier]) -> None:
    """Print how far the runs are apart in L_ret at equal L_ft, and where their Stage 3 ends."""
    for one in found:
        s = one.setting
        print(f"\nStage 2 for {s.t_post:g}; at L_ft of  " + " ".join(f"{level:7.3g}" for level in one.levels))
        print("L_ret, unmixed − mixed:  " + " ".join(f"{apart:7.3f}" for apart in one.apart))
        print(f"of L_im, on the specialized block: {one.expected:.3f} (kβ² = {s.k * s.beta ** 2:g})")
        for name, run in (("unmixed", one.unmixed), ("mixed", one.mixed)):
            ends = [losses[run.end] for losses in (run.L_ret, run.L_ft, run.L_pre)]
            losses = "L_im {:.2f}; L_ret {:.2f}, L_ft {:.2f}, L_pre {:.2f}".format(run.L_ret[0], *ends)
            print(f"{name}, Stage 3 for {s.t_ft:g}: {losses}")


def print_edges(s: Setting) -> None:
    """Print the times of Stages 1 and 2 at which something changes, by flow and by the clock."""
    heading = f"stopping time of Stage 1, here {s.t_pre:g}, from which"
    print(f"\n{heading:<60}  {'by flow':>9}   {'by clock':>9}")
    for words, by_flow, by_clock in zip(EDGE_WORDS, edges(s), clock_edges(s)):
        print(f"{words:<60}  {by_flow:9.3g}   {by_clock:9.3g}")
    by_clock = clock(s.T, s.depth) / ((1 - s.replay) * s.beta)
    print(f"time of Stage 2, here {s.t_post:g}, from which")
    print(f"{'unmixed: specialized learned in Stage 2':<60}  {latest_post(s):9.3g}   {by_clock:9.3g}\n")


def print_edge_errors(errors: EdgeErrors, eta: float) -> None:
    """Print how far the predicted edges are from the measured ones."""
    if not errors.measured:
        print("window: none of its edges is in the map")
        return
    print(f"window: {errors.measured} of {errors.predicted} edges over α found, within {errors.flow:.1%} of "
          f"where flow has them at --eta {eta:g},\n{errors.clock:.0%} of where the clock has them")


def print_over_alpha(runs: dict[str, Run]) -> None:
    """Print each variant's losses at α = 0, and by how much it lowers and raises L_ret over α."""
    for name, run in runs.items():
        line = f"{name}: L_im {run.L_im[0]:.2f} and L_ret {run.L_ret[0]:.2f} at α = 0"
        above = run.L_ret - runs["as set"].L_ret
        if above.any():
            line += f"; over α L_ret up to {-above.min():.2f} below and {above.max():.2f} above"
        print(line)


def print_matched(runs: dict[float, Run]) -> None:
    """Print the λ of the lowest L_ret, for each λ_reg."""
    best = [f"{LAMBDAS[run.L_ret.argmin()]:.2f} (λ_reg = {reg:g})" for reg, run in runs.items()]
    print(f"compute-matched: L_ret is lowest at λ = {', '.join(best)}")


def print_departures(mixed: Departures) -> None:
    """Print how far descent is from flow, at the learning rate and at half of it."""
    eta = mixed.rates[0]
    apart, apart_at_half = mixed.by_rate[:2]
    print(f"descent − flow, mixed: {apart:.2g} at --eta {eta:g}, {apart_at_half:.2g} at half of it")


# ---- command line

def fail(message: str) -> None:
    """End the process with one line and status 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def parse(argv: list[str] | None = None) -> tuple[Setting, argparse.Namespace]:
    """Read the command line: the setting, with times in whole steps, and all of it. Refuses what is bad."""
    # Every number of a setting is a flag.
    parser = argparse.ArgumentParser("python -m theory", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = fail
    topics = ("theorems", *NETWORKS)
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help=f"of {' '.join(topics)} (all)")
    for field in fields(Setting):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=type(field.default), default=field.default,
                            help=f"{HELP[field.name]} ({field.default})")
    parser.set_defaults(T=None)
    parser.add_argument("--eta", type=float, default=0.005,
                        help="learning rate of gradient descent (%(default)s)")
    parser.add_argument("--steps", type=int,
                        help="of Stage 1, in place of --t-pre")
    parser.add_argument("--seed", type=int, default=1,
                        help="of rotations, random weights and samples (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/theory"),
                        help="folder of the figures (%(default)s)")
    args = parser.parse_args(argv)

    # argparse has no choices for a list that may be empty.
    args.topics = args.topics or topics
    if unknown := set(args.topics) - set(topics):
        fail(f"no topic {unknown.pop()}, there are {' '.join(topics)}")

    # T and t_pre may follow from other flags.
    if args.depth < 2:
        fail("--depth must be at least 2")
    if args.seed < 0:
        fail("--seed must be 0 or more")
    if args.steps is not None:
        args.t_pre = args.steps * args.eta
    if args.T is None:
        args.T = default_T(args.depth)
    s = Setting(**{field.name: getattr(args, field.name) for field in fields(Setting)})
    refuse_bad(s, args.eta)

    # Flow takes any time and descent whole steps: both are to train equally long.
    whole = {name: round(getattr(s, name) / args.eta) * args.eta for name in ("t_pre", "t_post", "t_ft")}
    return replace(s, **whole), args


def refuse_bad(s: Setting, eta: float) -> None:
    """End the process where numbers mean nothing, or where descent would diverge or take too long."""
    # The theory speaks of positive singular values and small starts.
    sigmas = (s.invariant, s.pre, s.post, s.ft, s.beta)
    if not all(map(math.isfinite, [*vars(s).values(), eta])):
        fail("every number must be finite")
    if s.k < 1 or s.n < 2 * s.k:
        fail("--k must be at least 1 and --n at least twice that")

    # Shares are of a stream, rates and times are above 0.
    if not 0 < s.alpha <= 1:
        fail(f"--alpha {s.alpha:g} is not above 0 and at most 1; the unmixed run, with 0, is there besides")
    if not 0 <= s.replay < 1:
        fail(f"--replay {s.replay:g} is not a share, from 0 to below 1")
    if min(*sigmas, s.c_mis) <= 0 or max(sigmas) > 1e100:
        fail("singular values must be above 0, and at most 1e100")
    if s.reg < 0:
        fail("--reg must be 0 or more")
    if s.T <= 0 or s.depth * s.T > 300:
        fail("--T must be above 0, and --depth times --T at most 300")
    if eta <= 0:
        fail("--eta must be above 0")

    # A step larger than the inverse curvature, which is that of the largest singular value, overshoots.
    largest = max(sigmas)
    converges = 0.5 / ((1 + s.reg) * s.depth * largest ** (2 - 2 / s.depth))
    if eta > converges:
        fail(f"--eta {eta:g} is too large for a singular value of {largest:g}, use at most {converges:.2g}")

    # A stage of no step trains nothing, and one of very many keeps its reader waiting.
    times = (s.t_pre, s.t_post, s.t_ft)
    if min(times) < eta:
        fail("every stage must last at least one step of --eta")
    if max(times) > LONGEST * eta:
        fail(f"a stage has more than {LONGEST:,} steps, raise --eta")


if __name__ == "__main__":
    main()
