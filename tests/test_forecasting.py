"""What Stage 3 will take, forecast from finished runs: ranks, the law, the study's figure, the command."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments import early_exposure, forecast
from experiments.cost import tokens, value
from experiments.forecast.calibration import Law, Rises, fit
from experiments.forecast.claims import COMBINED, dropped, share_of_drop, standardized, with_combination
from experiments.forecast.command import read_table
from experiments.forecast.known import QUARTER, Task, describe, tasks_of
from experiments.forecast.plan import PLAN, SETTINGS
from experiments.statistics import ranks, spearman, student_t
from experiments.sweep import plan
from model import PRESETS
from tests.conftest import log_of, report
from tests.finished_runs import draw, finish, lineage_of

CORPORA = forecast.CORPORA["toy"]
OF_FIGURE = [plan(PLAN, preset, SETTINGS[preset], forecast.CORPORA[preset], 1, Path("out"))
             for preset in forecast.CORPORA]


# ---- ranks

def test_rank_correlation_by_hand():
    assert ranks(np.array([3.0, 1.0, 2.0, 2.0])).tolist() == [3, 0, 1.5, 1.5]
    x = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4], [1, 2, 2, 4], [5, 5, 5, 5]])
    y = np.array([[1.0, 10, 100, 1000], [4, 3, 2, 1], [1, 2, 3, 4], [1, 2, 3, 4]])
    # with ties: ranks (0, 1.5, 1.5, 3) and (0, 1, 2, 3) have covariance 4.5, variances 4.5 and 5
    assert spearman(x, y) == pytest.approx([1, -1, 4.5 / np.sqrt(4.5 * 5), np.nan], nan_ok=True)


# ---- the law

def task(a, b, rng, n=12, scatter=0.0):
    """A task whose runs forget e^a times the probe's rise to the power b."""
    probe = np.exp(rng.uniform(-3, 0, n))
    return Rises(probe, np.exp(a + b * np.log(probe) + scatter * rng.standard_normal(n)))


def test_a_law_without_scatter_is_found_and_forecasts_exactly():
    rng = np.random.default_rng(0)
    law = fit([task(0.7, 0.8, rng) for _ in range(3)])
    assert law[:4] == pytest.approx((0.7, 0.8, 0, 0), abs=1e-9)
    assert law.forecast(1.0, 1.2) == pytest.approx(1 + np.exp(0.7) * 0.2 ** 0.8 * np.ones(3))


def test_the_interval_of_an_unseen_task_by_hand():
    law = Law(a=np.log(2), b=1, between=0.09, within=0.04, tasks=4)
    half = student_t(3) * np.sqrt(0.09 * 5 / 4 + 0.04)
    value, low, high = law.forecast(np.array([1.0]), np.array([1.3]))
    assert [*value, *low, *high] == pytest.approx([1.6, 1 + 0.6 * np.exp(-half), 1 + 0.6 * np.exp(half)])
    assert np.isnan(law._replace(tasks=1).forecast(1.0, 1.3)[1:]).all()
    # what is not told from nothing counts as the least that is
    assert law.forecast(1.0, 0.9)[0] == law.forecast(1.0, 1.01)[0] == pytest.approx(1.02)


def test_intervals_cover_what_they_say_on_tasks_not_seen():
    """Tasks differ by more than their runs do, as where D_ft differs."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(400):
        *seen, unseen = (task(rng.normal(0.5, 0.4), 0.9, rng, scatter=0.15) for _ in range(6))
        _, low, high = fit(seen).forecast(0.0, unseen.probe)
        inside += [(low <= unseen.measured) & (unseen.measured <= high)]
    assert 0.93 < np.mean(inside) < 0.985


# ---- the study

@pytest.mark.parametrize("runs", OF_FIGURE, ids=list(forecast.CORPORA))
def test_courses_have_what_is_asked_of_them(runs):
    """An evaluation within a tenth of an eighth and of a quarter of every probe's steps."""
    preset = dict(runs[0].settings)["--preset"]
    pre = forecast.CORPORA[preset]["pre"]
    probes = [run for run in runs if run.stage == "finetune" and dict(run.settings)["--ft"] == pre]
    assert probes
    for run in probes:
        every = int(dict(run.settings)["--eval-every"])
        steps = tokens(run) / PRESETS[preset]["context"] / value(run, "--batch")
        for share in (1 / 8, 1 / 4):
            assert abs(round(share * steps / every) * every - share * steps) <= share * steps / 10


@pytest.mark.parametrize("runs", OF_FIGURE, ids=list(forecast.CORPORA))
def test_every_theta_post_of_a_plan_has_a_name_of_its_own(runs):
    tuned = [run for run in runs if run.stage == "finetune"]
    earlier = {"L_im": 1.0, "L_post": 1.0, "L_pre": 1.0}
    points = [describe(lineage_of(run, {}, earlier)) for run in tuned]
    assert len({(point["pipeline"], point["recipe"]) for point in points}) == len({run.parent for run in tuned})


@pytest.mark.parametrize("gone", ["*back0.5*/noise", "*chem-lr1e-3/finetune", "*web-lr1e-4*/finetune"])
def test_a_seed_that_lacks_a_run_is_left_out_of_every_task(stage, gone):
    write_study(seeds=3)
    next(Path("runs").glob(f"music-lam0-seed2/*/{gone}/run.json")).unlink()
    draw(stage, "forecast")
    assert {task.seeds == ["1", "3"] for task in tasks_of(read_table(Path("figures/forecast.csv")))} == {True}


def test_stage_3_runs_are_the_papers_as_far_as_it_has_them():
    lines = [line for figure in ("fig2", "fig4", "fig6", "fig7") for line in early_exposure.PLANS[figure]]
    of_paper = plan(lines, "toy", early_exposure.SETTINGS["toy"], CORPORA, 1, Path("out"))
    ours = {run.out: run for run in OF_FIGURE[0]}
    assert all(ours[run.out] == run for run in of_paper)


def write_study(seeds=3, of_probe=1.0, corpora=CORPORA):
    """Finished runs of the plan: Stage 3 forgets twice what a quarter of the probe does, or at 0 anything.

    The lower L_im is, the more is forgotten.
    """
    rng = np.random.default_rng(0)
    for seed in range(1, seeds + 1):
        forgotten = {}
        for run in plan(PLAN, "toy", SETTINGS["toy"], corpora, seed, Path("runs")):
            if run.seed != seed or run.stage in ("pretrain", "posttrain"):
                continue
            rise = forgotten.setdefault(run.parent.out, rng.uniform(0.1, 0.5))
            L_im = 1.1 - 0.2 * rise
            flags = dict(run.settings)
            earlier = {"L_im": L_im, "L_post": rng.uniform(2, 3), "L_pre": rng.uniform(1, 2)}
            if run.stage == "noise":
                finish(run, {"L_post": rng.uniform(1, 2)}, earlier)
                continue
            rise *= {"1e-4": 0.5, "3e-4": 1, "1e-3": 2}[flags["--lr"]]
            if flags["--ft"] == corpora["pre"]:
                finish(run, {"L_ret": L_im + 2 * rise}, earlier)
                record = json.loads((run.out / "run.json").read_text())
                record["lineage"][-1]["steps"] = 98
                (run.out / "run.json").write_text(json.dumps(record))
                lines = [{"step": step, "L_ret": L_im + rise * step / 24} for step in (12, 24, 36)]
                (run.out / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            else:
                forgets = of_probe * 2 * rise + (1 - of_probe) * rng.uniform(0.1, 2)
                finish(run, {"L_ret": 1 + forgets, "L_im": L_im}, earlier)


def verdict_of(claim):
    """The verdicts on a claim in the figure's .md."""
    lines = Path("figures/forecast.md").read_text().splitlines()
    return [line.split("|")[-2].strip() for line in lines if line.startswith(f"| {claim}")]


def test_a_probe_that_tells_all_is_seen_to(stage):
    write_study()
    draw(stage, "forecast")
    for claim in ("the forecast ranks θ_post", "it ranks those of one λ", "it ranks better than L_im",
                  "choosing by it lowers L_ret"):
        assert verdict_of(claim) == ["seen (3 seeds)"] * 2, claim           # half of the tasks is judged
    assert verdict_of("95% intervals cover 90%") == ["seen (3 seeds)"] * 4
    text = Path("figures/forecast.md").read_text()
    assert text.count(", 100% of what is possible |") == 2
    assert "| web → chat → chem | Stage 3 on another D_ft | 1.00 [1.00, 1.00] |" in text


def test_a_probe_that_tells_nothing_is_not_seen_to(stage):
    write_study(of_probe=0.0)
    draw(stage, "forecast")
    for claim in ("the forecast ranks θ_post", "it ranks better than L_im", "choosing by it lowers L_ret"):
        assert set(verdict_of(claim)) == {"not seen (3 seeds)"}, claim


def test_the_combination_is_fitted_to_other_tasks_only():
    """Of two kinds in one task and a third in the other, each is weighted as the other task has it."""
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 1, 9))
    kinds = {"noise of γ = 0.2": a, "0.5 of the way back to θ_pre": b, "an eighth of Stage 3 on D_pre": c}
    tasks = [Task("web → music", ft, 1e-3, ["1"], ["r"] * 9, np.zeros(9), kinds, L_ret)
             for ft, L_ret in (("chem", standardized(a)), ("chat", standardized(b)))]
    chem, chat = with_combination(tasks)
    assert spearman(chem.known[COMBINED], b) == pytest.approx([1])
    assert spearman(chat.known[COMBINED], a) == pytest.approx([1])
    assert with_combination(tasks[:1]) == tasks[:1]


def test_the_drop_is_what_choosing_gains_over_choosing_by_L_im(stage):
    write_study(seeds=1)
    draw(stage, "forecast")
    one, *_ = tasks_of(read_table(Path("figures/forecast.csv")))
    by_hand = one.L_ret[0, one.known["L_im"][0].argmin()] - one.L_ret[0, one.known[QUARTER][0].argmin()]
    assert dropped(one, QUARTER).tolist() == [by_hand]
    assert share_of_drop([one], "L_im") == "0%" and share_of_drop([one], QUARTER) == "100%"


# ---- the command

@pytest.fixture
def forecast_of(stage, monkeypatch):
    """Run `python -m experiments forecast` and give status and output; nothing is measured for its cost."""
    monkeypatch.setattr("experiments.cost.tokens_per_second", lambda preset, threads: 10_000)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return lambda words: stage("experiments.__main__", settings=f"forecast {words}")


def test_runs_are_ranked_and_forecast_by_the_first_quarter_of_stage_3(stage, forecast_of):
    write_study(seeds=1)
    draw(stage, "forecast")
    stage("pretrain", "--lam 1")
    for name, flags in (("a", ""), ("b", "--lr 1e-2")):
        stage("posttrain", f"{flags} --out out/{name}")
    words = "out/a out/b --tokens 4k --calibration figures/forecast.csv"
    assert "2 runs, 0 of them finished" in forecast_of(f"{words} --cost").out
    assert not Path("out/forecast").exists()

    # The probe is the beginning of a Stage 3 on D_pre, and the ranks are its losses'.
    told = forecast_of(words)
    assert (told.status, told.err) == (0, "")
    losses = {}
    for name in "ab":
        flags = f"--init out/{name} --ft pre.jsonl --eval-every 4 --out out/whole-{name}"
        stage("finetune", flags, "--tokens 4k")
        losses[name] = {line["step"]: line for line in log_of(f"whole-{name}") if "L_ret" in line}[4]["L_ret"]
    shown = [line.split() for line in told.out.splitlines() if line.startswith("out/") and "[" in line]
    assert [words[0] for words in shown] == [f"out/{name}" for name in sorted(losses, key=losses.get)]
    for run, L_im, L_probe, value, low, high in shown:
        assert L_im == f"{report(run[4:])['losses']['L_im']['mean']:.3f}"
        assert L_probe == f"{losses[run[4:]]:.3f}"
        assert float(low.strip("[,")) <= float(value) <= float(high.strip("]"))

    # A probe of what a run was before is not taken for one of what it is now.
    stage("posttrain", "--lr 1e-4 --out out/b --overwrite")
    stale = forecast_of("out/a out/b --tokens 4k")
    assert stale.status == 2 and "is of what out/b was before" in stale.err
    stage("posttrain", "--lr 1e-2 --out out/b --overwrite")

    # What is there is not made again, nor twice, and without a calibration there is no number.
    again = forecast_of("out/a out/b out/a --tokens 4k")
    assert "2 of them finished" in again.out and "This ranks the runs. A number takes" in again.out


@pytest.mark.parametrize("words, says", [
    ("out/none", "no finished run out/none, give the folder of one"),
    ("out/pretrain", "out/pretrain is a run of pretrain, give one of posttrain"),
    ("out/pretrain --share 0", "--share 0 is no probe"),
    ("out/pretrain --calibration pre.jsonl", "pre.jsonl is no forecast.csv of the figure"),
    ("out/pretrain --calibration a.csv --share 0.5", "--calibration is of a quarter of Stage 3 on D_pre"),
])
def test_what_cannot_be_forecast_is_one_line(stage, forecast_of, words, says):
    stage("pretrain", "--tokens 1k")
    run = forecast_of(words)
    assert run.status == 2 and says in run.err and run.err.count("\n") == 1
    assert not Path("out/forecast").exists()
