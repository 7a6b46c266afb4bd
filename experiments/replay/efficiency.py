"""The figure of target-data efficiency: reference runs with more of the target, and recipes read off."""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from experiments.curves import mean_over_seeds
from experiments.points import Point, distinct, having
from experiments.replay.laws import LAWS, leave_one_out, multiplier
from experiments.statistics import Estimate, at_best_of_others, estimate, verdict
from run.files import UserError

RECIPES = {"fine-tuning", "mid-training", "tied", "reference"}
COLOURS = {"fine-tuning": "#15808a", "mid-training": "#e87b14", "tied": "#7b2cbf"}
Losses = dict["Arm", ndarray]                # of every arm, over seeds (seeds,)


class Arm(NamedTuple):
    """A recipe with its dials, as one arm of a comparison."""
    recipe: str
    alpha: float
    rho: float
    pools: float             # of the target: in the smallest reference's; in tokens where there is none

    def __str__(self) -> str:
        if self.recipe == "reference":
            return f"reference, pool ×{self.pools:g}"
        if self.recipe == "tied":
            return "tied mixture"
        alpha = f", α = {self.alpha:g}" if self.recipe == "mid-training" else ""
        return f"{self.recipe}{alpha}, ρ = {self.rho:.3g}"


class Claim(NamedTuple):
    """That the best of some arms has a lower target loss than the best of others."""
    words: str
    better: list[Arm]
    worse: list[Arm]


class Efficiency(NamedTuple):
    """A figure of the target loss against the pool, a panel a pipeline."""
    losses: Sequence[str]                        # those in the table, the target's first

    def select(self, points: list[Point]) -> list[Point]:
        """Keep the reference runs, and recipes on the pool of the smallest."""
        least = min((point["pool_tokens"] for point in having(points, recipe="reference")), default=None)
        return [point for point in points if point["recipe"] == "reference" or point["pool_tokens"] == least]

    def shape(self, points: list[Point]) -> tuple[int, int]:
        """Count the rows and columns of panels."""
        return 1, len(distinct(points, "pipeline"))

    def verdicts(self, points: list[Point]) -> list[list[str]]:
        """Judge every claim in every pipeline: rows of `drawing.VERDICTS`. Raises UserError as `line_up`."""
        rows = []
        for pipeline in distinct(points, "pipeline"):
            losses = line_up(having(points, pipeline=pipeline), self.losses[0], RECIPES)
            for claim in claims(losses):
                gain = estimate(best(losses, claim.worse) - best(losses, claim.better))
                measured = f"loss lower by: {gain:.3f}, {shown_multiplier(losses, claim)}"
                rows.append([claim.words, pipeline, measured, gain.shown_p(), verdict(gain)])

            # A difference of two gains is no loss: no law gives it a multiplier.
            less = estimate(gained_by_replay(losses, late=True) - gained_by_replay(losses, late=False))
            measured = f"gain at the highest α − at the lowest: {less:.3f}"
            rows.append(["replay gains less where Stage 1 has the target", pipeline, measured, less.shown_p(),
                         verdict(less)])
        return rows

    def table(self, points: list[Point]) -> list[list[str]]:
        """Tabulate losses, and pools that the reference recipe needs for the target's, under a header."""
        rows = [["where", "recipe", *self.losses, "pool by the power law", "by the log law",
                 "within the references"]]
        for pipeline in distinct(points, "pipeline"):
            there = having(points, pipeline=pipeline)
            by_loss = [line_up(there, loss, RECIPES) for loss in self.losses]
            x, references = reference_of(by_loss[0])
            fitted = [fit(x, references.mean(axis=0)) for fit in LAWS.values()]
            for arm, target in by_loss[0].items():
                inside = references.mean(axis=0).min() <= target.mean() <= references.mean(axis=0).max()
                means = [mean_over_seeds(losses[arm]) for losses in by_loss]
                pools = [f"{law.pools(target.mean()):.2f}" for law in fitted]
                rows.append([pipeline, str(arm), *means, *pools, "yes" if inside else "no"])
        return rows

    def draw(self, points: list[Point], axes: ndarray) -> None:
        """Draw the references and their laws, and a level for each recipe compared, dashed without replay."""
        for pipeline, axis in zip(distinct(points, "pipeline"), axes.flat):
            losses = line_up(having(points, pipeline=pipeline), self.losses[0], RECIPES)
            x, references = reference_of(losses)
            axis.plot(x, references.T, ".", color="grey", markersize=4)
            axis.plot(x, references.mean(axis=0), "o", color="black", markersize=5, label="reference runs")
            axis.set(title=pipeline, xscale="log", xlabel="target data of the reference recipe, in pools",
                     ylabel=f"{self.losses[0]} (nats per token)")

            # Laws reach as far as the recipes do, fainter beyond what they were fitted to.
            arms = compared(losses)
            fitted = {name: fit(x, references.mean(axis=0)) for name, fit in LAWS.items()}
            least = min(fitted["log"].pools(losses[arm].mean()) for arm in arms)
            least = 2 ** np.floor(min(0, np.log2(least)))
            for (name, law), style in zip(fitted.items(), ("-", ":")):
                within, beyond = np.geomspace(x[0], x[-1], 50), np.geomspace(least, x[0], 50)
                axis.plot(within, law.loss(within), style, color="black", linewidth=1, label=f"{name} law")
                axis.plot(beyond, law.loss(beyond), style, color="black", linewidth=1, alpha=0.4)

            # A recipe's effective pool lies where its level meets a law.
            for arm in arms:
                level, colour = losses[arm].mean(), COLOURS[arm.recipe]
                style = "-" if arm.rho else "--"
                axis.axhline(level, color=colour, linestyle=style, linewidth=1.2, label=str(arm))
                axis.plot(fitted["power"].pools(level), level, "o", color=colour, markersize=5)
            ticks = 2.0 ** np.arange(np.log2(least), np.log2(x[-1]) + 1)
            axis.set_xticks(ticks, [str(Fraction(tick)) for tick in ticks], minor=False)
            axis.set_xticks([], minor=True)


# ------------------------------------------------------------------------------------------------------------
# Arms

def line_up(points: list[Point], loss: str, recipes: set[str]) -> Losses:
    """Collect a loss by arm, over the seeds that have all arms that any seed has.

    Raises UserError if no seed has, or one of the recipes is not there.
    """
    # Pools are counted in that of the smallest reference run; prediction.py has none, and counts tokens.
    unit = min(distinct(having(points, recipe="reference"), "pool_tokens"), default=1)
    by_seed = {}
    for point in points:
        arm = Arm(point["recipe"], round(point["alpha"], 3), point["rho"], point["pool_tokens"] / unit)
        of_seed = by_seed.setdefault(point["seed"], {})
        if arm in of_seed:
            raise UserError(f"two runs of seed {point['seed']} are {arm}, name those of one sweep")
        of_seed[arm] = point[loss]
    arms = sorted(set().union(*by_seed.values()))
    whole = [of_seed for of_seed in by_seed.values() if len(of_seed) == len(arms)]
    lacking = recipes - {arm.recipe for arm in arms}
    if not whole or lacking:
        raise UserError(f"no seed has all runs of {' and '.join(sorted(lacking or recipes))}, "
                        "finish its sweep first")
    return {arm: np.array([of_seed[arm] for of_seed in whole]) for arm in arms}


def reference_of(losses: Losses) -> tuple[ndarray, ndarray]:
    """Collect the reference runs: pools (n,) and losses (seeds, n)."""
    arms = arms_of(losses, "reference")
    pools = np.array([arm.pools for arm in arms])
    return pools, np.stack([losses[arm] for arm in arms], axis=1)


def arms_of(losses: Losses, recipe: str) -> list[Arm]:
    """List the arms of a recipe."""
    return [arm for arm in losses if arm.recipe == recipe]


def best(losses: Losses, arms: list[Arm]) -> ndarray:
    """Take each seed's loss (seeds,) in the arm best for the other seeds; raises UserError of none."""
    if not arms:
        raise UserError("a recipe lacks its run without replay, or all with it, finish its sweep first")
    return at_best_of_others(np.stack([losses[arm] for arm in arms], axis=1))


# ------------------------------------------------------------------------------------------------------------
# Claims

def claims(losses: Losses) -> list[Claim]:
    """List what is compared: the paper's three, mid-training itself, and the tied mixture, not in it."""
    tuning, middle = arms_of(losses, "fine-tuning"), arms_of(losses, "mid-training")
    late = [arm for arm in middle if arm.alpha == 1]
    early = [arm for arm in middle if arm.alpha < 1]
    return [
        Claim("replay lowers the target loss, fine-tuning", with_replay(tuning), without_replay(tuning)),
        Claim("replay lowers the target loss, mid-training", with_replay(late), without_replay(late)),
        Claim("early exposure lowers the target loss", early, late),
        Claim("mid-training beats fine-tuning, without replay", without_replay(late), without_replay(tuning)),
        Claim("two stages beat the tied mixture", middle, arms_of(losses, "tied"))]


def with_replay(arms: list[Arm]) -> list[Arm]:
    """Keep those that replay."""
    return [arm for arm in arms if arm.rho > 0]


def without_replay(arms: list[Arm]) -> list[Arm]:
    """Keep those that do not replay."""
    return [arm for arm in arms if arm.rho == 0]


def gained_by_replay(losses: Losses, late: bool) -> ndarray:
    """Measure what replay gains in mid-training, (seeds,), at the highest α or at the lowest."""
    middle = arms_of(losses, "mid-training")
    alphas = sorted({arm.alpha for arm in middle})
    there = [arm for arm in middle if arm.alpha == alphas[-1 if late else 0]]
    return best(losses, without_replay(there)) - best(losses, with_replay(there))


def compared(losses: Losses) -> list[Arm]:
    """List what the picture shows: of each kind the one without replay, all late, and the best."""
    shown = []
    for arms in (arms_of(losses, "fine-tuning"), arms_of(losses, "mid-training"), arms_of(losses, "tied")):
        plain = max(without_replay(arms), key=lambda arm: arm.alpha)
        shown += [plain, min(arms, key=lambda arm: losses[arm].mean())]
    return list(dict.fromkeys(shown))


def shown_multiplier(losses: Losses, claim: Claim) -> str:
    """Write a claim's multipliers of the target data by both laws, each seed on its own references.

    In brackets the interval over seeds; after it the range when one reference is left out of the mean.
    """
    x, references = reference_of(losses)
    better, worse = best(losses, claim.better), best(losses, claim.worse)
    told = []
    for law in LAWS:
        by_seed = [multiplier(x, reference, law, recipe, baseline)
                   for reference, recipe, baseline in zip(references, better, worse)]
        with np.errstate(divide="ignore", invalid="ignore"):
            over_seeds = estimate(np.log(by_seed))
        low, high = leave_one_out(x, references.mean(axis=0), law, better.mean(), worse.mean())
        told.append(f"×{shown_ratio(over_seeds)} by the {law} law ({low:.2f} to {high:.2f})")
    return ", ".join(told)


def shown_ratio(log_ratio: Estimate) -> str:
    """Write a ratio, of its logarithm; a dash where a loss is below all that the law reaches."""
    return f"{log_ratio.exponential():.2f}" if np.isfinite(log_ratio.value) else "–"
