"""Linear networks that forget: what theory says of them beside what training does, printed and drawn.

    python -m theory                           every topic
    python -m theory theorems --alpha 0.5      Section 5 alone, at a setting of your own
    python -m theory substitutes forecast      other networks, which have settings of their own
"""

import argparse
import contextlib
import math
import os
import sys
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Iterator

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy import ndarray

from . import forecast, overtraining, replay, substitutes
from .dynamics import Run, Setting, violations
from .figures import (ALPHAS, EDGE_WORDS, LAMBDAS, SAMPLES, STARTS, Departures, EdgeErrors, Frontier,
                      both_departures, both_frontiers, draw_alpha, draw_departures, draw_frontier,
                      draw_matched, draw_stages, draw_times, draw_window, edge_errors, matched_runs,
                      runs_over_alpha)
from .lemmas import errata, lemmas
from .theorems import LONGEST, Check, theorems
from .window import clock, clock_edges, default_T, edges, latest_post

NETWORKS = {module.__name__.rpartition(".")[2]: module
            for module in (substitutes, overtraining, replay, forecast)}
TOPICS = {
    "theorems": "Section 5 and Appendix C: both sides of every claim, where it holds, where print is wrong.",
    **{name: network.__doc__.splitlines()[0] for name, network in NETWORKS.items()},
}
HELP = {
    "alpha": "α, share of D_post in Stage 1 of the mixed run",
    "beta": "β, singular value of the specialized block under D_post",
    "invariant": "singular value of the invariant block in all stages",
    "pre": "σ_pre, singular value of the inconsistent block under D_pre",
    "post": "σ_post, singular value of the inconsistent block under D_post",
    "ft": "σ_ft, singular value of the inconsistent block under D_ft",
    "c_mis": "c_mis, by how much σ_post is at least apart from σ_pre and from σ_ft",
    "T": "factors start at singular values e^(−T); at other depths by default what makes the same clock",
    "t_pre": "time of Stage 1, learning rate × steps",
    "t_post": "time of Stage 2, learning rate × steps",
    "t_ft": "time of Stage 3, learning rate × steps",
    "reg": "λ_reg, how much Stage 2 holds θ to θ_pre",
    "replay": "ρ, share of D_pre in Stage 2",
    "n": "n, directions in all, at most 32",
    "k": "k, directions of the inconsistent block, and of the specialized one",
    "depth": "L, number of factors, from 2 to 10",
}
WIDEST, DEEPEST = 32, 10                 # n and L that do not keep their reader waiting
ETA = 0.005


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
    """Print and draw the topics that were asked for, then name the figures."""
    make_folder(args.out)
    names = []
    for name, figure in tell_topics(s, args):
        save(figure, args.out / f"{name}.png")
        names.append(f"{name}.png")
    print(f"\nfigures: {args.out}/ {' '.join(sorted(names))}")


def tell_topics(s: Setting, args: argparse.Namespace) -> Iterator[tuple[str, Figure]]:
    """Print the topics that were asked for, and yield each figure with its name as soon as it is drawn."""
    if "theorems" in args.topics:
        yield from tell_theorems(s, args)

    # What is printed of a network is what was drawn of it.
    for name, network in NETWORKS.items():
        if name in args.topics:
            print(f"\n---- {name}", flush=True)
            seen = network.compute(np.random.default_rng(args.seed))
            network.tell(seen)
            yield name, network.draw(seen)


def tell_theorems(s: Setting, args: argparse.Namespace) -> Iterator[tuple[str, Figure]]:
    """Print what of Section 5 is checked, and yield the figures of the rest of it."""
    # A figure comes before anything is printed: a folder that takes none is known at once.
    yield "stages", draw_stages(s, args.eta)

    # The theorems, what their Δ hides, and the window that they hold in.
    print("---- theorems")
    print_theorems(s, args.eta)
    frontiers = both_frontiers(s, args.eta)
    print_frontier(frontiers)
    yield "frontier", draw_frontier(frontiers)
    print_edges(s)
    print_edge_errors(edge_errors(s, args.eta), args.eta)
    yield "window", draw_window(s, args.eta)

    # What is printed of a figure is what was drawn.
    over_alpha = runs_over_alpha(s, args.eta)
    print_over_alpha(over_alpha)
    yield "alpha", draw_alpha(s, over_alpha)
    matched = matched_runs(s)
    print_matched(matched)
    yield "matched", draw_matched(matched)

    # Chance is in these two only, and the second goes on where the first left the generator.
    rng = np.random.default_rng(args.seed)
    yield "times", draw_times(rng)
    found = both_departures(s, args.eta, rng)
    print_departures(found, s)
    yield "departures", draw_departures(s, found)


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
        FigureCanvasAgg(figure).print_png(partial)           # savefig would draw all twice
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
    print("trained: by gradient descent; against: by formula, or trained too where a claim compares two")
    print(f"\n{'theorem':<9}  {'claim':<64}  {'trained':>9}   {'against':>9}  {'holds':<8}  at exact rank")
    of_theorems = theorems(s, eta)
    for check, at_exact_rank in zip(of_theorems, theorems(s, eta, ideal=True)):
        print(f"{sides(check)}  {verdict(check):<8}  {verdict(at_exact_rank)}")
    if s.depth > 2:
        print("C.9, C.13 to C.17: not checked, they speak of two factors")
    of_lemmas = lemmas(s, eta)
    for check in of_lemmas:
        print(f"{sides(check)}  {verdict(check)}")
    print(in_all([*of_theorems, *of_lemmas]))

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
    """Say whether a claim holds, or why it says nothing."""
    return check.void or ("yes" if check.holds else "NO")


def in_all(checks: list[Check]) -> str:
    """Count what holds, and what does not under the names of the theorems."""
    telling = [check for check in checks if not check.void]
    failed = Counter(check.theorem for check in telling if not check.holds)
    words = f"{len(checks)} checks, {len(telling) - failed.total()} hold"
    if failed:
        names = "; ".join(f"{count} of {theorem}" for theorem, count in failed.items())
        words += f", {failed.total()} fail ({names})"
    if len(telling) < len(checks):
        words += f", {len(checks) - len(telling)} say nothing here"
    return words


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
          f"where flow has them at --eta {eta:g},\n{errors.clock:.1%} of where the clock has them")


def print_over_alpha(runs: dict[str, Run]) -> None:
    """Print each variant's losses at α = 0, and where over α it lowers and raises L_ret most."""
    for name, run in runs.items():
        line = f"over α, Stage 2 {name}: L_im {run.L_im[0]:.2f} and L_ret {run.L_ret[0]:.2f} at α = 0"
        if name != "as set":
            above = run.L_ret - runs["as set"].L_ret
            line += f"; it {most('lowers', -above)} and {most('raises', above)}"
        print(line)


def most(verb: str, change: ndarray) -> str:
    """Say by how much L_ret is lowered or raised at most, and at which of ALPHAS: change (256,)."""
    place = change.argmax()
    if change[place] < 0.005:
        return f"{verb} L_ret nowhere"
    return f"{verb} L_ret by up to {change[place]:.2f} (α = {ALPHAS[place]:.2f})"


def print_matched(runs: dict[float, Run]) -> None:
    """Print the λ of the lowest L_ret, for each λ_reg."""
    best = [f"{LAMBDAS[run.L_ret.argmin()]:.2f} (λ_reg = {reg:g})" for reg, run in runs.items()]
    print(f"compute-matched: L_ret is lowest at λ = {', '.join(best)}")


def print_departures(found: dict[str, Departures], s: Setting) -> None:
    """Print how far runs are from the theory's, in each panel at two places: by median where it has draws."""
    for name, run in found.items():
        print(f"{name}: descent − flow {run.by_rate[0]:.2g} at --eta {run.rates[0]:g}, "
              f"{run.by_rate[1]:.2g} at half of it")
        by_samples = np.median(run.by_samples, axis=1)
        print(f"{name}: samples − population {by_samples[0]:.2g} at N = {SAMPLES[0]:,}, "
              f"{by_samples[-1]:.2g} at {SAMPLES[-1]:,}")
        by_start = np.median(run.by_start, axis=1)
        print(f"{name}: random − aligned start {by_start[0]:.2g} at T = {STARTS[0] * s.T:.3g}, "
              f"{by_start[-1]:.2g} at {STARTS[-1] * s.T:.3g}")


# ---- command line

def fail(message: str) -> None:
    """End the process with one line and status 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def refuse(message: str) -> None:
    """End the process where argparse cannot read the command line, which says what but not what to do."""
    fail(f"{message}, see python -m theory --help")


def parse(argv: list[str] | None = None) -> tuple[Setting, argparse.Namespace]:
    """Read the command line: the setting, with times in whole steps, and all of it. Refuses what is bad."""
    # Every number of a setting is a flag.
    topics = "\n".join(f"    {name:<14}{sentence}" for name, sentence in TOPICS.items())
    parser = argparse.ArgumentParser("python -m theory", description=f"{__doc__}\ntopics:\n{topics}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.error = refuse
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help="what to tell of, in any number (all)")
    parser.add_argument("--seed", type=int, default=1,
                        help="seed of rotations, random weights and samples (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/theory"),
                        help="folder of the figures (%(default)s)")

    # Those of Section 5 are left out where they are not given: whoever gives one wants to see what it does.
    theorems_only = parser.add_argument_group("of the topic theorems", argument_default=argparse.SUPPRESS)
    for field in fields(Setting):
        flag = "--" + field.name.replace("_", "-")
        words = f"{HELP[field.name]} ({field.default})"
        theorems_only.add_argument(flag, type=type(field.default), help=words)
    theorems_only.add_argument("--eta", type=float, help=f"learning rate of gradient descent ({ETA})")
    theorems_only.add_argument("--steps", type=int, help="steps of Stage 1, in place of --t-pre")
    args = parser.parse_args(argv)
    given = {name: value for name, value in vars(args).items() if name not in ("topics", "seed", "out")}

    # argparse has no choices for a list that may be empty.
    args.topics = args.topics or list(TOPICS)
    if unknown := set(args.topics) - set(TOPICS):
        fail(f"no topic {unknown.pop()}, there are {' '.join(TOPICS)}")
    if given and "theorems" not in args.topics:
        flag = "--" + min(given).replace("_", "-")
        fail(f"{flag} is of the topic theorems, which was not asked for: leave it out, or add theorems")
    if args.seed < 0:
        fail("--seed must be 0 or more")

    # T and t_pre may follow from other flags.
    args.eta = given.pop("eta", ETA)
    steps = given.pop("steps", None)
    if not 2 <= given.get("depth", 2) <= DEEPEST:
        fail(f"--depth must be from 2 to {DEEPEST}")
    if steps is not None and "t_pre" in given:
        fail("--steps and --t-pre both tell the length of Stage 1, leave one out")
    if steps is not None:
        given["t_pre"] = steps * args.eta
    given.setdefault("T", default_T(given.get("depth", 2)))
    s = Setting(**given)
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
    if s.k < 1 or s.n < 2 * s.k or s.n > WIDEST:
        fail(f"--k must be at least 1 and --n at least twice that, and at most {WIDEST}")

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

    # A stage of no step trains nothing. Very many keep their reader waiting; the largest of STARTS has most.
    times = (s.t_pre, s.t_post, s.t_ft)
    if min(times) < eta:
        fail("every stage must last at least one step of --eta")
    stretch = clock(STARTS[-1] * s.T, s.depth) / clock(s.T, s.depth)
    if stretch * sum(times) > LONGEST * eta:
        fail(f"the stages have more than {LONGEST:,} steps, or would at {STARTS[-1]:g} times this T: "
             "shorten them, lower --T, or raise --eta")


if __name__ == "__main__":
    main()
