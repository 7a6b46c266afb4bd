"""Springer et al.: which runs each figure needs, and what its claims say of runs by hand."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from experiments import cost, early_exposure, overtraining
from experiments.cost import checkpoint_bytes, model_of, tokens
from experiments.curves import curve_of
from experiments.overtraining.claims import (TUNED, at_best_rate, judge_at_equal_loss, judge_growth,
                                             judge_inflection, judge_noise, judge_tuned)
from experiments.sweep import Sweep, plan
from run.files import UserError
from tests.finished_runs import finish

SEEDS = 3


def runs_of(figure, preset="toy", seeds=1, paper=overtraining):
    return plan(paper.FIGURES[figure].plan, preset, paper.SETTINGS[preset], paper.CORPORA[preset], seeds,
                Path("out", preset))


def chain_of(run):
    return " | ".join(one.stage for one in [run, *run.ancestors()][::-1])


def setting(run, flag):
    return dict(run.settings)[flag]


# ---- the runs

@pytest.mark.parametrize("figure, chains", [
    ("overtrained-noise", {"pretrain": 7, "pretrain | noise": 7 * 5}),
    ("overtrained-rates", {"pretrain": 7, "pretrain | finetune": 7 * 2 * 5}),
    ("overtrained-tuned", {"pretrain": 7, "pretrain | finetune": 7 * 2 * 5}),
    ("early-noise", {"pretrain": 5, "pretrain | posttrain": 5 * 3,
                     "pretrain | posttrain | noise": 5 * 3 * 2}),
])
def test_chains_and_how_many_there_are(figure, chains):
    runs = runs_of(figure)
    assert Counter(chain_of(run) for run in runs) == chains
    assert len({run.out for run in runs}) == len(runs)


@pytest.mark.parametrize("preset", overtraining.CORPORA)
def test_a_ladder_is_of_one_model_and_rate_and_every_budget_has_its_cosine_to_zero(preset):
    noise, rates = runs_of("overtrained-noise", preset), runs_of("overtrained-rates", preset)
    ladder = [run for run in noise if run.stage == "pretrain"]
    assert ladder == [run for run in rates if run.stage == "pretrain"]            # one for both
    budgets = [tokens(run) for run in ladder]
    assert [longer / shorter for longer, shorter in zip(budgets, budgets[1:])] == [2] * (len(budgets) - 1)
    others = [dict(run.settings) | {"--tokens": None} for run in ladder]
    assert all(one == others[0] for one in others) and others[0]["--min-lr"] == "0"
    assert {setting(run, "--min-lr") for run in rates if run.stage == "finetune"} == {"0"}


def test_the_toy_ladder_overtrains_and_does_not_repeat():
    ladder = [run for run in runs_of("overtrained-noise") if run.stage == "pretrain"]
    parameters = checkpoint_bytes(model_of(ladder[0])) / 4
    # embedding 256 × 64; a layer: query, output 64 × 64, key, value 64 × 32, MLP 3 × 64 × 128, gains 2 × 64
    assert parameters == 256 * 64 + 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64) + 64
    assert tokens(ladder[0]) / parameters > 700 and {setting(run, "--pre") for run in ladder} == {"web:66M"}
    assert tokens(ladder[0]) <= 0.98 * 66e6                                        # at most 2% are held out


def test_at_the_papers_size_the_bridge_takes_up_the_models_of_figure_3a():
    of_fig3a = {run.out: run for run in runs_of("fig3a", "135m", paper=early_exposure)}
    shared = [run for run in runs_of("early-noise", "135m") if of_fig3a.get(run.out) == run]
    assert Counter(run.stage for run in shared) == {"pretrain": 5, "posttrain": 5}


def test_a_ladder_is_priced_at_its_own_model(monkeypatch):
    measured = []
    monkeypatch.setattr(cost, "tokens_per_second", lambda model, *_: measured.append(model) or 1000)
    line = cost.cost("ladder", runs_of("overtrained-noise"), jobs=1, processes=1)
    assert measured == [(("--preset", "toy"), ("--width", "64"), ("--mlp", "128"), ("--heads", "2"))]
    assert "42 runs, 0 of them finished; 127.0M tokens to go, at 1 × 1,000 tokens/s" in line
    assert line.endswith("3 MB to keep")                                        # 7 × 362 kB: noise keeps none


# ---- claims by hand

BUDGETS = np.array([1e6, 2e6, 4e6, 8e6])


def verdicts(claims):
    return [(claim, round(one.value, 6), one.low > 0) for claim, _, one in claims]


def losses(base, rise, seeds=SEEDS):
    """The same of every seed, but for a hundredth."""
    shift = 0.01 * np.arange(seeds)[:, None]
    return {"L_pre": np.add(base, rise) + shift, "ΔL_pre": np.tile(rise, (seeds, 1)) + shift}


def test_growth_and_a_minimum_inside_are_seen_where_they_are():
    overtrained = losses([2, 1.5, 1.2, 1.1], [0, 0.1, 0.2, 0.6])
    # slope over 0, 1, 2, 3 doublings: (−1.5 · 0 − 0.5 · 0.1 + 0.5 · 0.2 + 1.5 · 0.6) / 5; 1.7 − 1.4
    assert verdicts(judge_growth("noise", ("ΔL_pre",), BUDGETS, overtrained)) == [
        ("noise costs more L_pre after more pretraining", 0.19, True),
        ("with noise, the best budget is strictly inside", 0.3, True)]
    robust = losses([2, 1.5, 1.2, 1.1], [0.4, 0.3, 0.2, 0.1])
    assert [one[1:] for one in verdicts(judge_growth("noise", ("ΔL_pre",), BUDGETS, robust))] == [
        (-0.1, False), (-0.2, False)]


def test_nothing_is_claimed_of_weights_as_they_are():
    alone = {"L_pre": np.ones((SEEDS, 4)), "ΔL_pre": np.zeros((SEEDS, 4))}
    assert judge_growth("noise", ("ΔL_pre",), BUDGETS, alone) == []


def test_the_best_budget_comes_earlier_at_larger_gamma_or_not():
    late, middle, early = ([3, 2, 1.5, 1.0], [3, 2, 1.5, 1.6], [3, 2, 2.5, 3.5])
    curves = {size: (BUDGETS, {"L_pre": np.tile(curve, (SEEDS, 1))})
              for size, curve in ((0, late), (0.1, late), (0.2, middle), (0.4, early))}
    # the vertex of 3, 2, 2.5 at 0, 1, 2 doublings: 1 + (3 − 2.5)/(2 (3 − 2 · 2 + 2.5)); the other at the end
    claim = "the best budget comes earlier at larger γ"
    assert verdicts(judge_inflection("γ", curves)) == [(claim, pytest.approx(3 - 7 / 6, abs=1e-6), True)]
    swapped = curves | {0.1: curves[0.4], 0.4: curves[0.1]}
    assert verdicts(judge_inflection("γ", swapped))[0][1:] == (pytest.approx(7 / 6 - 3, abs=1e-6), False)
    same = {size: curves[0] for size in curves}
    assert verdicts(judge_inflection("γ", same))[0][1:] == (0, False)
    assert judge_inflection("γ", {0: curves[0], 0.1: curves[0.1]}) == []              # one size has no trend


def test_small_noise_costs_as_its_square_or_not():
    def curves(power):
        return {size: (BUDGETS, {"L_pre": np.ones((SEEDS, 4)), "ΔL_pre": np.full((SEEDS, 4), size ** power)})
                for size in (0, 0.025, 0.05, 0.1)}
    for power, by_how_much in ((2, 0.25), (2.5, -0.25), (1, -0.75)):
        claim, is_power, seen = verdicts(judge_noise(curves(power)))[-1]
        assert (claim, seen) == ("small noise costs as γ²", by_how_much > 0)
        assert is_power == pytest.approx(by_how_much, abs=1e-6)

    # Of larger noise, a quick grid's, nothing is said.
    large = {size: curve for size, curve in curves(2).items() if size != 0.025}
    assert "small noise costs as γ²" not in [claim for claim, *_ in verdicts(judge_noise(large))]


def run_at(seed, rate, L_ft, tokens=1e6):
    return {"run": "a", "pipeline": "a → b", "tokens": tokens, "rate": rate, "seed": seed, "L_ft": L_ft,
            "L_pre": 2.0}


def test_every_budget_is_shown_at_the_rate_that_is_best_for_the_other_seeds():
    points = []
    for budget, best in ((1e6, 3e-3), (2e6, 1e-3)):
        for seed, rate in itertools.product("123", (1e-3, 3e-3)):
            points.append(run_at(seed, rate, 1.0 if rate == best else 1.1, budget))
    points[0]["L_ft"] = 0.7                                  # one seed's whim chooses for the others only
    kept = {(point["tokens"], point["seed"]): point["rate"] for point in at_best_rate(points)}
    assert kept == {(1e6, "1"): 3e-3, (1e6, "2"): 1e-3, (1e6, "3"): 1e-3} | {(2e6, seed): 1e-3 for seed in "123"}


def test_tuning_both_rate_and_budget_makes_nothing_of_noise():
    """A seed that chose the rates of others must not choose its own budget by them."""
    rng = np.random.default_rng(0)
    worse = []
    for _ in range(300):
        points = [run_at(seed, rate, L_ft, budget) for (seed, rate, budget), L_ft
                  in zip(itertools.product("123", (1, 2, 3), (1e6, 2e6, 4e6)), rng.normal(size=27))]
        kept = TUNED.select([point | {"ft": "b"} for point in points])
        dial, by_loss = curve_of(kept, "tokens", [*TUNED.losses[:2], *TUNED.for_judge])
        worse.append(judge_tuned(dial, by_loss)[0][2].value)
    assert abs(np.mean(worse)) < 0.15                        # 0.4 if a budget is chosen after the rates


def test_rates_are_compared_over_the_seeds_that_have_them_all():
    points = [run_at("1", 1e-3, 1.0), run_at("1", 3e-3, 1.1), run_at("2", 1e-3, 1.0)]
    others = {"L_ft of the other seeds": 1.0, "L_pre of the other seeds": 2.0}           # its own: of one seed
    assert at_best_rate(points) == [points[0] | others]
    with pytest.raises(UserError, match="a and b are alike, name the runs of one sweep"):
        at_best_rate([*points, points[0] | {"run": "b"}])
    with pytest.raises(UserError, match="no seed has all rates and budgets of a → b, finish its sweep first"):
        at_best_rate(points[1:])


def test_at_equal_loss_what_only_goes_with_the_loss_is_no_effect_of_lambda():
    lams = np.array([0, 0.5, 1])
    curves, explained = {}, {}
    for rate, im in ((1e-3, 1.2), (2e-3, 1.1)):
        loss = im - 0.1 * lams + np.array([0, 0.01, 0]) + 0.01 * np.arange(SEEDS)[:, None]
        curves[rate] = lams, {"L_im": loss, "ΔL_post": 0.5 - 0.2 * lams + 2 * loss}
        explained[rate] = lams, {"L_im": loss, "ΔL_post": 0.5 + 2 * loss}
    assert [one[1:] for one in verdicts(judge_at_equal_loss(curves))] == [(0.2, True), (-2, False)]
    assert [one[1] for one in verdicts(judge_at_equal_loss(explained))] == [0, -2]

    # What bends in λ goes with no rate.
    for rate, (_, by_loss) in curves.items():
        by_loss["ΔL_post"] = np.tile(0.3 * lams ** 0.5, (SEEDS, 1))
    assert verdicts(judge_at_equal_loss(curves))[1][1] == 0
    assert judge_at_equal_loss({1e-3: curves[1e-3]}) == []


# ---- figures of runs by hand

@pytest.fixture
def experiments(stage, monkeypatch):
    monkeypatch.setattr(Sweep, "_start", lambda sweep: pytest.fail("a run was started"))
    return lambda words: stage("experiments.__main__", settings=words)


def leave_ladder(figure, flag, harm):
    """Leave the last runs of a ladder: L_pre falls by 0.1 a doubling, and harm(size, doublings) is added."""
    for run in runs_of(figure, seeds=SEEDS):
        if run.stage != "pretrain":
            doublings = np.log2(tokens(run.parent) / 1e6)
            before = 2 - 0.1 * doublings + 0.01 * run.seed
            added = harm(float(setting(run, flag)), doublings)
            rises = {f"ΔL_{role}": added for role in ("pre", "post", "ft")}
            finish(run, rises | {"L_pre": before + added, "L_post": 3, "L_ft": 1.5 + added},
                   earlier={"L_pre": before})


def seen(text):
    """Claims of a figure's .md, and of how many of their curves each is seen."""
    rows = [line.split(" | ") for line in text.split("\n\n")[2].splitlines()[2:]]
    counts = {}
    for claim, *_, verdict in rows:
        counts.setdefault(claim.strip("| "), []).append(verdict.startswith("seen"))
    return {claim: (sum(those), len(those)) for claim, those in counts.items()}


@pytest.mark.parametrize("harm, grows, inside, earlier", [
    (lambda gamma, doublings: gamma * 0.1 * doublings ** 2, 4, 2, 1),           # at γ 0.1 and 0.2 before 64M
    (lambda gamma, doublings: gamma * (7 - doublings), 0, 0, 0),
])
def test_noise_against_the_budget(experiments, harm, grows, inside, earlier):
    leave_ladder("overtrained-noise", "--gamma", harm)
    run = experiments("overtrained-noise --seeds 3 --only draw")
    assert (run.status, run.err) == (0, "")
    text = Path("out/toy/figures/overtrained-noise.md").read_text()
    claims = [f"noise costs more {loss} after more pretraining" for loss in ("L_pre", "L_post", "L_ft")]
    assert seen(text) == {claim: (grows, 4) for claim in claims} | {
        "with noise, the best budget is strictly inside": (inside, 4),
        "the best budget comes earlier at larger γ": (earlier, 1), "small noise costs as γ²": (0, 1)}
    assert "| web:66M, without noise | 64M | 1.420 ± 0.010 |" in text


def test_fine_tuning_against_the_budget_and_at_the_best_rate(experiments):
    """Harm is least at the middle rate, 0.02 a doubling: there L_ft is least at the first budget."""
    def harm(rate, doublings):
        return doublings * (0.02 + abs(np.log10(rate / 1e-3)))
    leave_ladder("overtrained-rates", "--lr", harm)
    assert experiments("overtrained-rates --seeds 3 --only draw").status == 0
    text = Path("out/toy/figures/overtrained-rates.md").read_text()
    assert seen(text)["fine-tuning costs more L_pre after more pretraining"] == (10, 10)
    assert seen(text)["with fine-tuning, the best budget is strictly inside"] == (0, 10)
    assert experiments("overtrained-tuned --seeds 3 --only draw").status == 0
    text = Path("out/toy/figures/overtrained-tuned.md").read_text()
    # L_pre, at the best rate, falls by 0.1 − 0.02 a doubling
    assert seen(text) == {"L_ft worsens with the budget, rate tuned": (2, 2),
                          "L_pre worsens with the budget, rate tuned": (0, 2)}
    assert "| web:66M → chem, fine-tuned at the best rate | 64M | 1.620 ± 0.000 | 1.540 ± 0.010 | -3.000 ± 0.000 |" in text


def test_noise_on_post_trained_models_against_lambda(experiments):
    for run in runs_of("early-noise", seeds=SEEDS):
        if run.stage == "noise":
            lam, rate = float(setting(run.parent.parent, "--lam")), float(setting(run.parent, "--lr"))
            im = 1.2 - 50 * rate - 0.05 * lam ** 2 + 0.01 * run.seed
            rise = float(setting(run, "--gamma")) * (3 - lam - im)
            finish(run, {"L_post": im + rise, "ΔL_post": rise, "ΔL_pre": rise}, earlier={"L_im": im})
    assert experiments("early-noise --seeds 3 --only draw").status == 0
    assert seen(Path("out/toy/figures/early-noise.md").read_text()) == {
        "noise costs less L_post, the higher λ": (6, 6),
        "noise costs less L_post, the higher λ, at equal L_im": (2, 2),
        "noise costs more L_post, the lower L_im, over Stage-2 rates at one λ": (2, 2)}
