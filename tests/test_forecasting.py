"""What Stage 3 will take, forecast from finished runs: ranks, the law, the study's figure, the command."""

import copy
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments import early_exposure, forecast
from experiments.cost import model_of, tokens, value
from experiments.early_exposure.claims import PURPLE
from experiments.forecast.calibration import RATE, SCALE, Forecast, Law, Rises, fit
from experiments.forecast.claims import (CHAINS, COMBINED, FIGURES, choose, chosen_elsewhere, correlation,
                                         draw_task, each_lam, everything, judge_choice, judge_ranks, lam_told,
                                         saved_by_choosing, standardized, with_combination, without_dropout)
from experiments.forecast.command import d_pre_of, is_plain, parse, probes_of
from experiments.forecast.intervals import covered, forecasts_of, judge_intervals, left_out, missed
from experiments.forecast.known import ON_LIKE, PROBES, QUARTER, describe, is_like, known_of
from experiments.forecast.plan import PLAN, SETTINGS
from experiments.forecast.tables import RESULTS, published, read_table
from experiments.forecast.tasks import Task, of_seeds, rises, tasks_of
from experiments.points import read_points
from experiments.statistics import ranks, spearman, student_t
from experiments.sweep import Sweep, plan
from model import PRESETS
from run.files import UserError
from tests.conftest import log_of, report
from tests.finished_runs import draw, finish, lineage_of
from tests.processes import popen

CORPORA = forecast.CORPORA["toy"]
OF_FIGURE = [plan(PLAN[preset], preset, SETTINGS[preset], forecast.CORPORA[preset], 1, Path("out"))
             for preset in forecast.CORPORA]


# ---- ranks

@pytest.fixture(autouse=True)
def nothing_published(monkeypatch):
    """What results/ has is of no concern here."""
    monkeypatch.setattr("experiments.forecast.tables.RESULTS", Path("nothing"))


def test_rank_correlation_by_hand():
    assert ranks(np.array([3.0, 1.0, 2.0, 2.0])).tolist() == [3, 0, 1.5, 1.5]
    x = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4], [1, 2, 2, 4], [5, 5, 5, 5]])
    y = np.array([[1.0, 10, 100, 1000], [4, 3, 2, 1], [1, 2, 3, 4], [1, 2, 3, 4]])
    # with ties: ranks (0, 1.5, 1.5, 3) and (0, 1, 2, 3) have covariance 4.5, variances 4.5 and 5
    assert spearman(x, y) == pytest.approx([1, -1, 4.5 / np.sqrt(4.5 * 5), np.nan], nan_ok=True)


# ---- the law

def some_rises(number, a, b, rng, n=12, scatter=0.0, ft=None, slope=1):
    """Runs of one pipeline and D_ft: the law's a and b, with another slope one that is not the law."""
    probe, rate = np.exp(rng.uniform(-3, 0, n)), RATE * np.exp(rng.uniform(-1, 1, n))
    g = a + b * np.log(rate / RATE) + slope * np.arcsinh(probe / SCALE) + scatter * rng.standard_normal(n)
    words = (f"web → {number}", f"ft {number}" if ft is None else ft)
    return Rises(probe, SCALE * np.sinh(g), *(np.full(n, word) for word in words), rate,
                 *(np.full(n, word) for word in ("1", "recipe")))


def joined(parts):
    return Rises(*(np.concatenate(columns) for columns in zip(*parts)))


def test_a_law_without_scatter_is_found_and_forecasts_exactly():
    rng = np.random.default_rng(0)
    law = fit(joined([some_rises(number, 0.7, -0.4, rng) for number in range(3)]))
    assert law == pytest.approx((0.7, -0.4, 0, 3), abs=1e-9)
    for rate, factor in ((3e-4, 0.7), (1e-3, 0.7 - 0.4 * np.log(10 / 3))):
        expected = 1 + SCALE * np.sinh(factor + np.arcsinh(0.2 / SCALE))
        assert law.forecast(1.0, 1.2, rate) == pytest.approx(expected * np.ones(3))


def test_runs_of_one_rate_tell_the_factor_at_that_rate():
    rng = np.random.default_rng(0)
    alike = [some_rises(number, 0.7, 0, rng)._replace(rate=np.full(12, 1e-3)) for number in range(3)]
    expected = SCALE * np.sinh(0.7 + np.arcsinh(1 / SCALE))
    assert fit(joined(alike)).forecast(0.0, 1.0, 1e-3).value == pytest.approx(expected)


def test_the_error_is_of_pipelines_that_were_left_out_by_hand():
    """Three whose factors are exp(0), exp(0) and exp(0.3): left out, they are missed by −0.15, −0.15 and 0.3."""
    one, other, third = (some_rises(number, a, 0.2, np.random.default_rng(0))
                         for number, a in enumerate((0, 0, 0.3)))
    law = fit(joined([one, other, third, third]))                    # weighs no more for having more runs
    assert law == pytest.approx((0.1, 0.2, np.sqrt((2 * 0.15 ** 2 + 0.3 ** 2) / 3), 3))
    value, low, high = law.forecast(np.array([1.0]), np.array([1.3]), RATE)
    half = student_t(2) * law.error
    ends = [1 + SCALE * np.sinh(0.1 + np.arcsinh(10) + shift) for shift in (0, -half, half)]
    assert [*value, *low, *high] == pytest.approx(ends)


def test_a_D_ft_that_was_seen_after_another_D_post_is_left_out_too():
    """What lies off the line is a D_ft: only where both are left out does the error tell."""
    rng = np.random.default_rng(0)
    parts = [some_rises(number, a, 0, rng, ft=ft)
             for number in range(3) for ft, a in (("chem", 0), ("chat", 0), ("poems", 0.6))]
    law = fit(joined(parts))
    assert law.kinds == 3 and law.error == pytest.approx(np.sqrt((2 * 0.3 ** 2 + 0.6 ** 2) / 3), rel=0.05)


def test_a_pipeline_that_was_seen_before_another_D_ft_is_left_out_too():
    """The second has something in common with both others; those have not, and miss each other by 0.3."""
    parts = [some_rises(number, a, 0, np.random.default_rng(0), ft=ft)
             for number, ft, a in ((0, "chem", 0), (1, "chem", 0.4), (1, "chat", 0.3))]
    assert fit(joined(parts)).error == pytest.approx(0.3)


@pytest.mark.parametrize("parts", [[(0, "chem")], [(0, "chem"), (1, "chat")],
                                   [(number, ft) for number in range(5) for ft in ("chem", "chat")]])
def test_of_fewer_than_three_pipelines_or_D_ft_there_is_no_interval(parts):
    rng = np.random.default_rng(0)
    law = fit(joined([some_rises(number, 0, 0, rng, ft=ft) for number, ft in parts]))
    value, low, high = law.forecast(1.0, 1.3, 1e-3)
    assert value == pytest.approx(1.3) and np.isnan(low) and np.isnan(high)


def test_intervals_reach_below_L_im_where_the_probe_takes_nothing():
    law = Law(a=0, b=0, error=0.5, kinds=4)
    value, low, high = law.forecast(1.0, 1.0, 1e-3)
    assert value == 1 and low < 1 < high and high - 1 == pytest.approx(1 - low)


@pytest.mark.parametrize("kinds", [3, 5])
def test_intervals_cover_what_they_say_after_a_D_post_and_before_a_D_ft_unseen(kinds):
    """Pipelines differ, and D_ft differ, by more than their runs do, and in the slope."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(200):
        posts, fts, slopes = (rng.normal(mean, deviation, kinds + 1)
                              for mean, deviation in ((0.5, 0.4), (0, 0.3), (1, 0.1)))
        seen = [some_rises(i, posts[i] + fts[j], -0.3, rng, scatter=0.15, ft=f"ft {j}", slope=slopes[i])
                for i in range(kinds) for j in range(kinds) if i != j]
        unseen = some_rises(kinds, posts[-1] + fts[-1], -0.3, rng, scatter=0.15, slope=slopes[-1])
        _, low, high = fit(joined(seen)).forecast(0.0, unseen.probe, unseen.rate)
        inside += [(low <= unseen.measured) & (unseen.measured <= high)]
    assert 0.94 < np.mean(inside) < 0.999                            # of three the intervals are wide


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
    named = {(point["pipeline"], point["recipe"]) for point in points}
    assert len(named) == len({run.parent for run in tuned})


def test_what_is_known_is_of_the_stage_that_it_is_named_after():
    lineage = lineage_of(next(run for run in OF_FIGURE[0] if run.stage == "noise"))
    for number, entry in enumerate(lineage, start=1):
        entry["losses"] = {name: {"mean": f"{name} of Stage {number}"} for name in ("L_im", "L_post", "L_pre")}
    point = describe(lineage)
    assert point["L_im"] == "L_im of Stage 2" and point["D_post after"] == "L_post of Stage 3"
    assert point["L_post of θ_pre"] == "L_post of Stage 1" and point["L_pre of θ_post"] == "L_pre of Stage 2"

    # How long a Stage 3 was is told with its rate; a change of the weights has neither.
    tuned = next(run for run in OF_FIGURE[0] if "--leave" in dict(run.settings))
    told = describe(lineage_of(tuned, {}, {"L_im": 1.0, "L_post": 1.0, "L_pre": 1.0}))
    assert (told["rate"], told["tokens"]) == (value(tuned, "--lr"), 24576) and (point["rate"], point["tokens"]) == (0, 0)

    # Nor are runs alike whose Stage 2 is not.
    lineage[1]["args"]["compute_matched"] = True
    assert describe(lineage)["stage_2"] == point["stage_2"] + ", compute-matched"


def test_what_another_Stage_3_did_is_of_other_D_ft_alone():
    known = {"L_im": 1.0, "L_post of θ_pre": 1.7, "L_pre of θ_post": 1.9}
    point = known | {"pipeline": "web → music", "rate": 1e-3, "eighth": "1.1", "quarter": "1.2"}
    case = [point | {"done": done, "D_post after": after}
            for done, after in (("chem", 3.0), ("web", 1.4), ("chat", 2.0), ("poems", 2.5))]
    case.append(point | {"done": "noise", "rate": 0.0, "D_post after": 1.5})
    probe = {"an eighth of Stage 3 on D_pre": 1.1, QUARTER: 1.2, "Stage 3 on D_pre": 1.4}
    others = {"Stage 3 on another D_ft": (2.0 + 2.5) / 2}
    assert known_of(case, "chem") == known | probe | others | {"noise": 1.5, "L_ret": 3.0}


@pytest.mark.parametrize("gone", ["*back0.5*/noise", "*chem-lr1e-3/finetune", "*web-lr1e-4*/finetune"])
def test_a_seed_that_lacks_a_run_is_left_out_of_every_task(folder, gone):
    write_study(seeds=3)
    next(Path("runs").glob(f"music-lam0-seed2/*/{gone}/run.json")).unlink()
    points = FIGURES["forecast"].kind.select(read_points([Path("runs")], CHAINS, (), describe))
    assert {task.seeds == ["1", "3"] for task in tasks_of(points)} == {True}


def test_text_like_D_ft_may_be_missing(folder):
    """Then no task has it, and none loses a seed."""
    write_study(seeds=2)
    read = lambda: tasks_of(FIGURES["forecast"].kind.select(read_points([Path("runs")], CHAINS, (), describe)))
    assert all(ON_LIKE in task.known for task in read())
    next(Path("runs").glob("music-lam0-seed2/*/web0chem100-*/finetune/run.json")).unlink()
    tasks = read()
    assert all(task.seeds == ["1", "2"] and ON_LIKE not in task.known for task in tasks)
    assert len(judge_intervals(tasks, [])) == 1


def test_without_a_probe_at_one_rate_there_is_nothing_to_forecast(stage):
    write_study(seeds=1)
    for path in Path("runs").glob("music-*/*/web-lr1e-4-*/finetune/run.json"):
        path.unlink()
    run = stage("experiments.__main__", settings="forecast --runs runs")
    assert run.status == 2 and "no seed has every run of web → music → chat at rate 0.0001, finish its" in run.err


@pytest.mark.parametrize("done, ft, expected", [
    ("24% of Stage 3 on web0music100", "music", True),
    ("25% of Stage 3 on like-poems", "poems", True),
    ("24% of Stage 3 on web0music100", "chem", False),
    ("24% of Stage 3 on music", "music", False),                         # no other text, D_ft itself
    ("24% of Stage 3 on web50music50", "music", False),
    ("24% of Stage 3 on poems", "like-poems", False),
    ("12% of Stage 3 on like-poems", "poems", False),                    # no quarter
    ("50% of Stage 3 on like-poems", "poems", False),
    ("like-poems", "poems", False),                                      # the whole of it
])
def test_text_is_like_a_D_ft_by_name(done, ft, expected):
    assert is_like({"done": done, "rate": 1e-4}, ft) == expected


def test_a_probe_on_text_like_D_ft_is_known_of_that_D_ft():
    point = {"pipeline": "web → music", "rate": 1e-3, "eighth": "1.1", "quarter": "1.2"}
    point |= {"L_im": 1.0, "L_post of θ_pre": 1.7, "L_pre of θ_post": 1.9}
    case = [point | {"done": done, "D_post after": after, "run": "out"}
            for done, after in (("chem", 3.0), ("poems", 2.0), ("web", 1.4), ("24% of Stage 3 on web0chem100", 1.8),
                                ("24% of Stage 3 on like-poems", 1.6), ("24% of Stage 3 on web", 5.0))]
    for ft, expected in (("chem", 1.8), ("poems", 1.6)):
        known = known_of(case, ft)
        assert known[ON_LIKE] == expected and not [name for name in known if name.startswith("24%")]
    with pytest.raises(UserError, match="are of one θ_post and alike"):
        known_of([*case, case[3]], "chem")
    task = Task("web → music", "chem", 1e-3, 100e3, ["1"], ["r"], np.zeros(1), np.zeros(1), ["s"],
                {name: np.array([[value]]) for name, value in known_of(case, "chem").items()}, np.array([[3.0]]))
    assert rises([task], ON_LIKE).probe == pytest.approx([0.8]) and rises([task], QUARTER).probe == pytest.approx([0.2])


def test_a_probe_on_text_like_D_ft_is_a_quarter_of_the_stage_3_that_is_forecast():
    """24 of 98 steps of 8 · 128 tokens, after every D_post on text like each D_ft that comes after it."""
    probes, whole = [], set()
    for run in OF_FIGURE[0]:
        flags = dict(run.settings)
        if "--leave" in flags:
            probes.append((dict(run.ancestors()[-1].settings)["--post"], flags["--ft"]))
            assert (tokens(run), flags["--leave"]) == (24 * 8 * 128, "74")
        elif run.stage == "finetune":
            whole.add(-(-tokens(run) // (8 * 128)))
    assert whole == {24 + 74} and len(probes) == 2 * 2 * 3 * 20
    assert not any("--leave" in dict(run.settings) for runs in OF_FIGURE[1:] for run in runs)
    assert set(probes) == {("music", "web0chem100"), ("music", "web0chat100"),
                           ("chat", "web0chem100"), ("chat", "web0music100")}


def test_stage_3_runs_are_the_papers_as_far_as_it_has_them():
    lines = [line for figure in ("fig2", "fig4", "fig6", "fig7") for line in early_exposure.PLANS[figure]]
    of_paper = plan(lines, "toy", early_exposure.SETTINGS["toy"], CORPORA, 1, Path("out"))
    ours = {run.out: run for run in OF_FIGURE[0]}
    assert all(ours[run.out] == run for run in of_paper)


def write_study(seeds=3, of_probe=1.0, corpora=CORPORA, runs=Path("runs")):
    """Finished runs of the plan: Stage 3 forgets twice what a quarter of the probe does, or at 0 anything.

    The lower L_im is, the more is forgotten, and the less after an eighth of the probe; a probe on text like
    D_ft takes half of what Stage 3 does.
    """
    rng = np.random.default_rng(0)
    for seed in range(1, seeds + 1):
        forgotten = {}
        for run in plan(PLAN["toy"], "toy", SETTINGS["toy"], corpora, seed, runs):
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
            if "--leave" in flags:
                finish(run, {"L_ret": 1 + rise, "L_im": L_im}, earlier, steps=24)
            elif flags["--ft"] == corpora["pre"]:
                course = {step: L_im + after for step, after in ((12, 1 - rise), (24, rise), (36, 1))}
                finish(run, {"L_ret": L_im + 2 * rise}, earlier, steps=98, course=course)
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
    for claim in ("the probe ranks θ_post", "it ranks those of one λ and one size of D_post", "it ranks better than L_im",
                  "choosing by the probe lowers L_ret"):
        for probe in PROBES.values():
            assert set(verdict_of(probe + claim)) == {"seen (3 seeds)"}, probe + claim
    text = Path("figures/forecast.md").read_text()
    gained, possible = re.search(r"chosen by L_im: ([\d.]+) .*, of ([\d.]+) that are possible", text).groups()
    assert gained == possible and float(gained) > 0
    assert "| web → chat → chem | Stage 3 on another D_ft |" + " 1.00 [1.00, 1.00] |" * 4 in text

    # Of two pipelines one is left to fit a law to, which has no interval.
    for probe in PROBES.values():
        assert verdict_of(f"{probe}90% of L_ret lie in their 95% intervals") == ["not judged"]


def test_intervals_are_judged_by_what_is_published_of_other_pipelines(stage, monkeypatch):
    other = CORPORA | {"pre": "pre.jsonl", "post": "post.jsonl", "ft": "ft.jsonl"}
    other |= {"like_post": "like-post.jsonl", "like_ft": "like-ft.jsonl"}
    monkeypatch.setattr("experiments.forecast.tables.RESULTS", Path("results"))
    write_study(seeds=1, corpora=other, runs=Path("others"))
    draw(stage, "forecast", "others")
    Path("results/others").mkdir(parents=True)
    shutil.copy("figures/forecast.csv", "results/others")
    write_study(seeds=1)
    draw(stage, "forecast", "runs")
    for probe in PROBES.values():
        assert verdict_of(f"{probe}90% of L_ret lie in their 95% intervals") == ["not judged"]      # all four, by chance maybe
        assert verdict_of(f"{probe}the probe brings forecasts nearer to L_ret") == ["seen (4 pipelines)"]
    assert "| the forecast |" in Path("figures/forecast.md").read_text()


@pytest.mark.parametrize("best", [QUARTER, ON_LIKE])
def test_the_forecast_is_by_text_like_D_ft_where_that_is(best):
    rng = np.random.default_rng(0)
    tasks = []
    for number in range(4):
        rise = rng.uniform(0.5, 1, (1, 3))
        known = {"L_im": np.ones((1, 3)), QUARTER: np.ones((1, 3))} | {best: 1 + rise}
        tasks.append(Task(f"web → {number}", f"ft {number}", 1e-3, 100e3, ["1"], [f"{number}{name}" for name in "abc"],
                          np.zeros(3), np.zeros(3), [], known, L_ret=1 + 2 * rise))
    for task, forecast in zip(tasks, forecasts_of(tasks, "toy")):
        assert forecast.value == pytest.approx(task.L_ret, rel=0.01)


def test_a_forecast_is_of_a_law_that_saw_nothing_of_the_run():
    """All that a law may not see is wild; the rest lies on one line."""
    rng = np.random.default_rng(0)
    probe, recipes, L_im = rng.uniform(0.1, 1, (2, 3)), ["a", "b", "c"], np.ones((2, 3))
    tasks = []
    for number in range(4):
        known = {"L_im": L_im, QUARTER: 1 + probe}
        tasks.append(Task(f"web → {number}", f"ft {number}", 1e-3, 100e3, ["1", "2"], recipes, np.zeros(3), np.zeros(3), recipes,
                          known, L_ret=1 + 2 * probe))
    tasks += [tasks[-1]._replace(ft="ft 0"), tasks[0]._replace(ft="ft 1")]
    wild = [task._replace(L_ret=task.L_ret.copy()) for task in tasks]
    for task in (wild[0], *wild[-2:]):
        task.L_ret[:] += rng.uniform(1, 9, (2, 3))
    for task in wild[1:]:
        task.L_ret[0] += 5
        task.L_ret[:, 2] += 7
    of_wild, of_tame = (left_out(some, [], QUARTER)[0] for some in (wild, tasks))
    assert np.array(of_wild)[:, 0, 2] == pytest.approx(np.array(of_tame)[:, 0, 2])
    assert of_wild.value[1, 2] != pytest.approx(of_tame.value[1, 2], rel=0.1)

    # What lies off the line of the others is outside of their intervals, and counts as such.
    only_one = [wild[0], *tasks[1:4]]
    assert covered(wild[0], left_out(only_one, [], QUARTER)[0]).tolist() == [0, 0]

    # A pipeline's only seed is not left out, or nothing would be; but where nothing is, nothing is forecast.
    single = [of_seeds(task, {"1"}, set(task.known)) for task in tasks[:4]]
    assert left_out(single, [], QUARTER)[0].value == pytest.approx(tasks[0].L_ret[:1], rel=0.01)
    alike = [task._replace(recipes=["a", "a", "a"]) for task in tasks]
    assert np.isnan(left_out(alike, [], QUARTER)[0]).all()
    assert judge_intervals(alike, [])[0][-1] == "not judged"


def test_a_probe_that_tells_nothing_is_not_seen_to(stage):
    write_study(of_probe=0.0)
    draw(stage, "forecast")
    for claim in ("the probe ranks θ_post", "it ranks better than L_im", "choosing by the probe lowers L_ret"):
        assert set(verdict_of(f"on D_pre: {claim}")) == {"not seen (3 seeds)"}, claim


def test_ranks_within_a_share_are_of_each_share_apart():
    """λ 1 keeps more throughout, and within each λ the order is turned round."""
    known, L_ret = np.array([[1.0, 2, 3, 7, 8, 9]]), np.array([[3.0, 2, 1, 9, 8, 7]])
    lams = np.array([1, 1, 1, 0, 0, 0])
    one = Task("web → music", "chem", 1e-3, 100e3, ["1"], ["r"] * 6, lams, np.zeros(6), list("abcabc"), {"L_im": known}, L_ret)
    assert correlation(one, "L_im", each_lam) == pytest.approx([-1])
    assert correlation(one, "L_im", everything) > 0.5

    # What comes of less of D_post than most, or of more, is apart from both.
    sizes = np.array([2, 2, 1, 2, 2, 3])
    few = one._replace(sizes=sizes, L_ret=np.array([[3.0, 2, 9, 9, 8, 10]]))
    assert correlation(few, "L_im", each_lam) == pytest.approx([-1])

    # Of recipes a, b and c, λ 1 is told to keep more in all three, and of the wrong one in none.
    assert lam_told(one, "L_im").tolist() == [1]
    turned = one._replace(known={"L_im": np.array([[1.0, 8, 9, 7, 2, 3]])})
    assert lam_told(turned, "L_im") == pytest.approx([1 / 3])
    assert np.isnan(lam_told(one._replace(stages_2=list("abcdef")), "L_im")).all()
    assert lam_told(one._replace(known={"L_im": np.ones((1, 6))}), "L_im") == 0.5        # a tie tells nothing

    # One that has dropout is left out of the rank without it.
    spared = one._replace(recipes=["mixed + dropout", *"rrrrr"])
    assert correlation(spared, "L_im", without_dropout) == pytest.approx([spearman(known[:, 1:], L_ret[:, 1:])[0]])

    # A λ of which there is one recipe has no rank.
    assert correlation(one._replace(lams=np.array([1, 1, 1, 1, 1, 0])), "L_im", each_lam) == pytest.approx([0.5])


def test_intervals_that_hold_most_but_not_nine_of_ten_are_not_seen_to(monkeypatch):
    """Each pipeline is one number, however many runs it has."""
    L_ret, known = np.arange(10.0)[None], {"L_im": np.zeros((1, 10)), QUARTER: np.ones((1, 10))}
    tasks = [Task(f"web → {number}", "chem", 1e-3, 100e3, ["1"], ["r"] * 10, np.zeros(10), np.zeros(10), [], known, L_ret)
             for number in range(36)]
    for low, high, share, told in ((-1, 9.5, "1.00", "seen"), (-1, 7.5, "0.80", "not seen"), (1.5, 9.5, "0.80", "not seen")):
        forecast = Forecast(L_ret + 1, np.full((1, 10), low), np.full((1, 10), high))
        monkeypatch.setattr("experiments.forecast.intervals.left_out",
                            lambda some, others, probe: [forecast for _ in some])
        cover, few = judge_intervals(tasks, [])[0], judge_intervals(tasks[:3], [])[0]
        assert cover[-1] == f"{told} (36 pipelines)"
        assert few[-1] == ("not judged" if told == "seen" else "not seen (3 pipelines)")
        shares = ", ".join(f"web → {number} {share}" for number in range(3))
        assert few[2].endswith(f"inside: {shares}, median width {high - low:.2f} nats")

    # Of a probe that the figure lacks nothing is said, though what is published has it.
    on_like = [task._replace(known=task.known | {ON_LIKE: task.known[QUARTER]}) for task in tasks[3:]]
    assert len(judge_intervals(tasks[:3], on_like)) == 2 < len(judge_intervals(on_like[:3], tasks[:3]))


def test_how_much_nearer_forecasts_come_by_the_probe_by_hand(monkeypatch):
    """On g's scale it misses by 1 and by 0; without it by 2 and 0 in one pipeline, 8 and 0 in the other: √(2 · 8) = 4."""
    def at(*rises: float) -> np.ndarray:
        return 1 + SCALE * np.sinh([rises])

    L_ret = at(3, 0)
    known = {"L_im": np.ones((1, 2)), QUARTER: np.ones((1, 2))}
    tasks = [Task(f"web → {post}", "chem", 1e-3, 100e3, ["1"], ["r", "s"], np.zeros(2), np.zeros(2), [], known, L_ret)
             for post in ("music", "chat")]
    expected = {QUARTER: [at(2, 0), at(4, 0)], "L_im": [at(1, 0), at(-5, 0)]}
    monkeypatch.setattr("experiments.forecast.intervals.left_out",
                        lambda some, others, probe: [Forecast(value, value - 1, value + 1) for value in expected[probe]])
    assert missed(tasks[0], Forecast(at(2, 0), None, None)) == pytest.approx(np.array([[1, 0]]))
    _, nearer = judge_intervals(tasks, [])
    assert nearer[2].startswith("without it they miss it by 4.0 ")


def test_a_probe_that_knows_the_rate_only_brings_nothing_nearer():
    rng = np.random.default_rng(0)
    tasks = []
    for number in range(4):
        for rate, rise in ((1e-4, 0.1), (1e-3, 1.0)):
            known = {"L_im": np.ones((1, 6)), QUARTER: np.full((1, 6), 1 + rise)}
            L_ret = 1 + rise * np.exp(0.3 * rng.standard_normal((1, 6)))
            tasks.append(Task(f"web → {number}", f"ft {number}", rate, 100e3, ["1"], list("abcdef"), np.zeros(6), np.zeros(6),
                              [], known, L_ret))
    _, nearer = judge_intervals(tasks, [])
    assert nearer[-1].startswith("not seen")


def test_what_is_chosen_on_one_half_is_judged_on_the_other():
    """Each pipeline has a kind that tells all, and it is judged where it tells nothing."""
    rng = np.random.default_rng(0)
    tasks = []
    for pipeline, best in (("web → chat", "L_im"), ("web → music", "noise of γ = 0.2")):
        L_ret = rng.normal(size=(1, 9))
        names = ("L_im", "noise of γ = 0.2", "0.5 of the way back to θ_pre", "an eighth of Stage 3 on D_pre")
        known = {"Stage 3 on another D_ft": L_ret, "L_post of θ_pre": np.ones((1, 9))}      # which are no choice
        known |= {name: rng.normal(size=(1, 9)) for name in names} | {best: L_ret}
        tasks.append(Task(pipeline, "chem", 1e-3, 100e3, ["1"], ["r"] * 9, np.zeros(9), np.zeros(9), [], known, L_ret))
    (one, judged_one), (other, judged_other) = chosen_elsewhere(tasks)
    assert (one, other) == ("L_im", "noise of γ = 0.2")
    assert [str(task) for task in judged_one + judged_other] == ["web → music → chem", "web → chat → chem"]
    assert chosen_elsewhere(tasks[:1]) == []


def test_in_a_tie_the_probe_is_chosen():
    L_ret = np.array([[1.0, 2, 3]])
    task = Task("web → chat", "chem", 1e-3, 100e3, ["1"], list("abc"), np.zeros(3), np.zeros(3), [],
                {"an eighth of Stage 3 on D_pre": L_ret, QUARTER: L_ret, "L_im": -L_ret}, L_ret)
    assert choose([task]) == QUARTER


def test_the_combination_is_fitted_to_other_tasks_only():
    """Each kind is weighted as the other pipeline has it: half b and half c, however far L_ret spreads of either."""
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 1, 9))
    kinds = {"noise of γ = 0.2": a, "0.5 of the way back to θ_pre": b, "an eighth of Stage 3 on D_pre": c}
    tasks = [Task(pipeline, ft, 1e-3, 100e3, ["1"], ["r"] * 9, np.zeros(9), np.zeros(9), [], kinds, L_ret)
             for pipeline, ft, L_ret in (("web → music", "chem", a), ("web → chat", "chem", 2 + 5 * b),
                                         ("web → chat", "music", c))]
    music, chat, _ = with_combination(tasks)
    assert music.known[COMBINED] == pytest.approx((standardized(b) + standardized(c)) / 2)
    assert spearman(chat.known[COMBINED], a) == pytest.approx([1])
    assert with_combination(tasks[:1]) == tasks[:1]
    assert standardized(np.array([[1.0, 3], [0, 20]])).tolist() == [[-1, 1], [-1, 1]]


def test_a_probe_on_text_like_D_ft_is_judged_beside_L_im_and_that_on_D_pre():
    L_ret = np.array([[1.0, 2, 3, 4]])
    known = {"L_im": np.array([[2.0, 1, 3, 4]]), QUARTER: -L_ret, ON_LIKE: L_ret}
    task = Task("web → music", "chem", 1e-3, 100e3, ["1"], ["r"] * 4, np.arange(4), np.zeros(4), list("abcd"), known, L_ret)
    on_like = [row for row in judge_ranks("there", [task]) if row[0].startswith("on text like D_ft: ")]
    assert [row[2] for row in on_like] == ["Spearman: 1.00", "Spearman within λ: –", "Spearman − that of L_im: 0.20",
                                           "Spearman − that on D_pre: 2.00"]


def test_the_probe_is_judged_beside_L_im_by_hand():
    """Of four that the probe ranks right L_im turns two round: 1 − 6 · 2 / (4 · 15) = 0.8. No two are of one λ."""
    L_ret = np.array([[1.0, 2, 3, 4]])
    known = {"L_im": np.array([[2.0, 1, 3, 4]]), "L_post of θ_pre": -L_ret, QUARTER: L_ret}
    task = Task("web → music", "chem", 1e-3, 100e3, ["1"], ["r"] * 4, np.arange(4), np.zeros(4), list("abcd"), known, L_ret)
    told = [row[2:] for row in judge_ranks("there", [task])]
    assert told == [["Spearman: 1.00", "–", "seen (1 seed)"], ["Spearman within λ: –", "–", "not judged"],
                    ["Spearman − that of L_im: 0.20", "–", "seen (1 seed)"]]


def test_what_ranks_better_than_the_probe_elsewhere_is_seen_to(monkeypatch):
    """Noise ranks all four right, the probe turns two round: 1 − 0.8."""
    L_ret, probe = np.array([[1.0, 2, 3, 4]]), np.array([[2.0, 1, 3, 4]])
    known = {"L_im": -L_ret, "noise of γ = 0.2": L_ret, QUARTER: probe}
    tasks = [Task(pipeline, "chem", 1e-3, 100e3, ["1"], list("abcd"), np.zeros(4), np.zeros(4), list("abcd"), known, L_ret)
             for pipeline in ("web → music", "web → chat")]
    monkeypatch.setattr("experiments.forecast.claims.tasks_of", lambda points: tasks)
    rows = FIGURES["forecast"].kind.verdicts([{"preset": "toy"}])
    told = [row[2:] for row in rows if row[0].startswith("what ranks best")]
    assert told == 2 * [["Spearman of noise of γ = 0.2 − that on D_pre: 0.20", "–", "seen (1 seed)"]]


def test_the_table_has_all_that_is_known_by_hand(monkeypatch):
    """Ranks of L_ret are 2 3 0 1, of L_im 0 1 2 3: 1 − 6 · 16 / 60 over λ, 1 within; of the probe 3 2 1 0."""
    known = {"L_im": np.array([[1.0, 2, 3, 4]]), QUARTER: np.array([[4.0, 3, 2, 1]])}
    task = Task("web → music", "chem", 1e-3, 100e3, ["1"], ["r"] * 4, np.array([0, 0, 1, 1]), np.zeros(4), list("abab"), known,
                L_ret=np.array([[3.0, 4, 1, 2]]))
    monkeypatch.setattr("experiments.forecast.claims.tasks_of", lambda points: [task])
    _, *rows = FIGURES["forecast"].kind.table([{"preset": "toy"}])
    assert rows == [["web → music → chem", "L_im", "-0.60", "-0.60", "1.00", "-0.60", "0.00", "0.000"],
                    ["web → music → chem", QUARTER, "0.60", "0.60", "-1.00", "0.60", "1.00", "1.000"]]


def test_a_run_is_drawn_where_its_forecast_and_its_L_ret_are():
    recipes, L_ret = ["unmixed, λ 0", "mixed, λ 1"], np.array([[5.0, 6]])
    task = Task("web → music", "chem", 1e-3, 100e3, ["1"], recipes, np.zeros(2), np.zeros(2), [], {}, L_ret)
    axis = Figure().subplots()
    draw_task(axis, task, Forecast(*(np.array([[value, value]]) for value in (3.0, 2.0, 4.0))), "o")
    assert [line.get_xydata().tolist() for line in axis.lines] == [[[3, 5]], [[3, 6]]]
    assert [line.get_markerfacecolor() for line in axis.lines] == ["none", PURPLE]
    intervals = [bars.get_segments()[0].tolist() for bars in axis.collections]
    assert intervals == [[[2, 5], [4, 5]], [[2, 6], [4, 6]]]


def test_what_choosing_lowers_by_hand():
    """By L_im the second of four is chosen, by the probe the last two, which are alike."""
    known = {"L_im": np.array([[2.0, 1, 2, 2]]), QUARTER: np.array([[3.0, 4, 2, 2]])}
    task = Task("web → music", "chem", 1e-3, 100e3, ["1"], list("abcd"), np.zeros(4), np.zeros(4), list("abcd"), known,
                L_ret=np.array([[1.0, 1.8, 1.2, 1.6]]))
    assert saved_by_choosing(task, QUARTER) == pytest.approx([0.4]) and saved_by_choosing(task, "L_im") == [0]
    worse = task._replace(L_ret=np.array([[1.0, 1.0, 1.2, 1.6]]))
    assert "chosen by L_im: 0.000, of 0.400 that are possible" in judge_choice([task, worse], QUARTER)[2]


# ---- the command

@pytest.fixture
def forecast_of(stage, monkeypatch):
    """Run `python -m experiments forecast` and give status and output; nothing is measured for its cost."""
    monkeypatch.setattr("experiments.cost.tokens_per_second", lambda model, threads, compiled: 10_000)
    monkeypatch.setattr("experiments.sweep.subprocess.Popen", popen)
    return lambda words: stage("experiments.__main__", settings=f"forecast {words}")


def test_runs_are_ranked_and_forecast_by_the_first_quarter_of_stage_3(stage, forecast_of):
    write_study(seeds=1)
    draw(stage, "forecast")
    table = Path("figures/forecast.csv")
    table.write_text(table.read_text().replace(",100000.0,", ",4000.0,"))          # as long as what is feared below
    stage("pretrain", "--lam 1")
    for name, flags in (("a", ""), ("b", "--lr 1e-2")):
        stage("posttrain", f"{flags} --out out/{name}")
    words = "out/a out/b --tokens 4k --probe ft.jsonl --calibration figures/forecast.csv"
    cost = forecast_of(f"{words} --cost").out
    assert "2 runs, 0 of them finished" in cost and "Stage 3 of all these runs takes 8,000 tokens" in cost
    assert not Path("out/forecast").exists()

    # The probe is the beginning of a Stage 3, and the runs are in the order of their forecasts.
    told = forecast_of(words)
    assert (told.status, told.err) == (0, "") and "like ft.jsonl, learned from 2 pipelines (or D_ft, if those" in told.out
    law = fit(rises(tasks_of(read_table(table)), ON_LIKE))
    expected = {}
    for name in "ab":
        flags = f"--init out/{name} --ft ft.jsonl --eval-every 4 --out out/whole-{name}"
        stage("finetune", flags, "--tokens 4k")
        L_probe = {line["step"]: line for line in log_of(f"whole-{name}") if "L_ret" in line}[4]["L_ret"]
        L_im = report(name)["losses"]["L_im"]["mean"]
        expected[f"out/{name}"] = [L_im, L_probe, law.forecast(L_im, L_probe, 3e-4).value]
    shown = [line.split() for line in told.out.splitlines() if line.startswith("out/") and "→" not in line]
    ordered = sorted(expected, key=lambda run: expected[run][-1])
    assert shown == [[run, *(f"{number:.3f}" for number in expected[run])] for run in ordered]

    # A probe of what a run was before is not taken for one of what it is now.
    stage("posttrain", "--lr 1e-4 --out out/b --overwrite")
    stale = forecast_of(words)
    assert stale.status == 2 and "is of what out/b was before" in stale.err
    stage("posttrain", "--lr 1e-2 --out out/b --overwrite")

    # What is there is not made again, nor twice, and without a calibration there is no number.
    again = forecast_of("out/a out/b out/a --tokens 4k --probe ft.jsonl")
    assert "2 of them finished" in again.out and "This ranks the runs. A number takes" in again.out

    # The figure does not take such a probe for a whole Stage 3.
    told = stage("experiments.__main__", settings="forecast --runs runs out/forecast --picture figures/f.png")
    assert told.status == 0 and "2 of 682 runs are not of forecast, left out" in told.out


@pytest.fixture
def planned(stage):
    """The Probed of out/posttrain by what is said on the command line, and each probe's settings."""
    def of(words="", run="out/posttrain"):
        state = probes_of(Path(run), parse([run, *words.split()]))
        return state, [dict(probe.settings) for probe in state.probes]

    stage("pretrain", "--tokens 1k --text-field text")
    stage("posttrain", "--max-tokens 1k")
    return of


def test_a_probe_is_the_share_of_the_stage_3_that_is_feared(planned):
    """Steps are of 8 sequences of 32 tokens: 256."""
    state, (probe,) = planned("--tokens 10240 --lr 1e-3")
    assert state.feared_tokens == 10240 and state.L_im == report("posttrain")["losses"]["L_im"]["mean"]
    assert probe == {"--ft": str(Path("pre.jsonl").absolute()), "--lr": "0.001", "--tokens": "2560",
                     "--leave": "30", "--text-field": "text"}
    _, (probe,) = planned("--tokens 10240 --share 0.5")
    assert (probe["--tokens"], probe["--leave"]) == ("5120", "20")
    _, (probe,) = planned("--tokens 256")                                # one step has no quarter
    assert (probe["--tokens"], probe["--leave"]) == ("256", "0")
    _, (probe,) = planned()                                              # the preset's 100k
    assert (probe["--tokens"], probe["--leave"]) == (str(98 * 256), str(391 - 98))


def test_a_probe_is_priced_as_the_model_that_the_run_has(planned):
    sizes = {"--layers": "2", "--width": "32", "--mlp": "48", "--heads": "2", "--kv-heads": "1", "--context": "32"}
    state, _ = planned()
    assert dict(model_of(state.probes[0])) == {"--preset": "toy"} | sizes


def test_a_number_can_be_learned_from_what_is_published(monkeypatch):
    monkeypatch.setattr("experiments.forecast.tables.RESULTS", RESULTS)
    tasks = published("toy")
    assert {task.tokens for task in tasks} == {100e3} and ON_LIKE in tasks[0].known
    assert fit(rises(tasks, ON_LIKE)).kinds >= 4


def test_a_number_is_of_the_probe_that_its_law_was_fitted_to(forecast_of, planned, monkeypatch):
    rng = np.random.default_rng(0)
    tasks = []
    for number, factor in enumerate((1, 2, 4)):
        known = {"L_im": np.ones((1, 5)), ON_LIKE: 1 + rng.uniform(0.1, 1, (1, 5))}
        tasks.append(Task(f"web → {number}", f"ft {number}", 1e-4 * 10 ** number, 4e3, ["1"], list("abcde"), np.zeros(5),
                          np.zeros(5), [], known, L_ret=1 + factor * (known[ON_LIKE] - 1)))
    monkeypatch.setattr("experiments.forecast.command.published", {"toy": tasks}.get)

    # The probe is made to end at 1.5 in 100 s; after 4 of 16 steps of 256 tokens.
    words = "--tokens 4k --probe ft.jsonl"
    state, _ = planned(words)
    assert forecast_of(f"out/posttrain {words}").status == 0
    path = state.probes[0].out / "run.json"
    record = json.loads(path.read_text())
    record["losses"]["L_ret"]["mean"], record["seconds"]["total"] = 1.5, 100
    path.write_text(json.dumps(record))
    told = forecast_of(f"out/posttrain {words}").out
    value, low, high = fit(rises(tasks, ON_LIKE)).forecast(state.L_im, 1.5, 3e-4)
    assert f"1.500  {value:.3f} [{low:.3f}, {high:.3f}]\n" in told
    assert "1 probes took 1,024 tokens and 100 s" in told and "about 391 s a D_ft" in told      # 100 · 4000 / 1024

    # Tables without such probes are refused, before anything runs.
    without = [task._replace(known={QUARTER: task.known[ON_LIKE]}) for task in tasks]
    monkeypatch.setattr("experiments.forecast.command.published", {"toy": [*without, *tasks]}.get)
    assert f"{value:.3f} [{low:.3f}, {high:.3f}]\n" in forecast_of(f"out/posttrain {words}").out
    monkeypatch.setattr("experiments.forecast.command.read_table", lambda path: [{"preset": "toy"}])
    for found, flags in ((without, words), (tasks, f"{words} --lr 2e-2"), (tasks, f"{words} --tokens 8k")):
        monkeypatch.setattr("experiments.forecast.command.tasks_in", lambda path, points: found)
        run = forecast_of(f"out/posttrain {flags} --calibration a.csv")
        assert run.status == 2 and "a.csv has no quarter of a Stage 3 as long, on text like D_ft, at rates" in run.err

    # Of half of Stage 3, one longer by more than a tenth, at other rates, on D_pre or on several texts, there is none;
    # several count with their mean.
    assert "trust the order more" in forecast_of("out/posttrain --tokens 4352 --probe ft.jsonl").out
    for words in ("--tokens 4k --probe ft.jsonl --share 0.5", "--tokens 4k --probe ft.jsonl --lr 2e-2",
                  "--tokens 4k --probe ft.jsonl --lr 9e-5", "--tokens 4608 --probe ft.jsonl", "--tokens 4k",
                  "--tokens 4k --probe ft.jsonl post.jsonl"):
        told = forecast_of(f"out/posttrain {words}").out
        assert "This ranks the runs" in told and "[" not in told.partition("the best first")[2]
    plain = state.probes[0].parent.out / "run.json"
    lineage = json.loads(plain.read_text())["lineage"]
    assert is_plain(lineage)
    for number, name, other in ((0, "tokenizer", "gpt2"), (0, "weights", "hub"), (-1, "loss_on", "completion")):
        of_another_kind = copy.deepcopy(lineage)
        of_another_kind[number]["args"][name] = other
        assert not is_plain(of_another_kind)
    monkeypatch.setattr("experiments.forecast.command.is_plain", lambda lineage: False)
    assert "This ranks the runs" in forecast_of("out/posttrain --tokens 4352 --probe ft.jsonl").out
    probes = planned(words)[0].probes
    ends = [json.loads((probe.out / "run.json").read_text())["losses"]["L_ret"]["mean"] for probe in probes]
    row = next(line.split() for line in told.splitlines() if line.startswith("out/posttrain "))
    assert len(ends) == 2 and row[2:] == [f"{np.mean(ends):.3f}", "–"]


def test_what_is_said_of_compiling_is_passed_on(planned, stage, monkeypatch):
    told = []
    monkeypatch.setattr("experiments.cost.tokens_per_second", lambda *step: told.append(step[-1]) or 10_000)
    monkeypatch.setattr(Sweep, "execute", lambda sweep: told.append(sweep.compiled) or {"probe": "as it ended"})
    run = stage("experiments.__main__", settings="forecast out/posttrain --no-compile")
    assert told == [False, False] and "FAILED as it ended\nerror: 1 probes failed" in run.err


def test_several_texts_are_probes_beside_each_other(planned):
    state, probes = planned("--probe ft.jsonl post.jsonl")
    assert [probe["--ft"] for probe in probes] == ["ft.jsonl", "post.jsonl"]
    assert len({probe.out for probe in state.probes}) == 2 and "--text-field" not in probes[0]
    Path("more").mkdir()
    shutil.copy("ft.jsonl", "more")
    with pytest.raises(UserError, match="two of the --probe corpora have one name"):
        planned("--probe ft.jsonl more/ft.jsonl")


def test_D_pre_is_found_from_another_folder(planned, monkeypatch):
    home = Path.cwd()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    state, (probe,) = planned(run="../out/posttrain")
    assert probe["--ft"] == str(home / "pre.jsonl")

    # Runs whose paths are the same once they are joined have probes of their own.
    for folder in ("a/b-c", "a-b/c"):
        shutil.copytree(home / "out/posttrain", folder)
    homes = {planned(run=folder)[0].probes[0].out for folder in ("a/b-c", "a-b/c")}
    assert len(homes) == 2


@pytest.mark.parametrize("name, expected", [
    ("corpora/web", "HOME/corpora/web"),                                 # no embedded corpus
    ("web", "web"),                                                      # which that is
    ("c4", "c4"),
    ("hub:local:en", "hub:HOME/local:en"),
    ("hub:else/where@1", "hub:else/where@1"),
    ("HOME/pre.jsonl", "HOME/pre.jsonl"),
])
def test_every_kind_of_D_pre_keeps_its_meaning(folder, monkeypatch, name, expected):
    home = str(folder)
    for path in ("corpora/web", "local"):
        Path(path).mkdir(parents=True)
        shutil.copy("pre.jsonl", path)
    first = {"args": {"pre": name.replace("HOME", home)}, "folder": home}
    monkeypatch.chdir("corpora")                                         # where there is a folder web
    assert d_pre_of(first, folder / "out/posttrain") == expected.replace("HOME", home)


def test_a_law_of_another_size_is_refused(stage, forecast_of, planned):
    write_study(seeds=1)
    draw(stage, "forecast")
    table = Path("figures/forecast.csv")
    Path("large.csv").write_text(table.read_text().replace(",toy,", ",1b,"))
    run = forecast_of("out/posttrain --probe ft.jsonl --calibration large.csv")
    assert run.status == 2 and "large.csv is of --preset 1b, the runs are of toy" in run.err

    # A table that lacks a column, a number or its end is no traceback.
    first = table.read_text().splitlines()[1].split(",")
    blank = table.read_text().replace(",".join(first), ",".join([*first[:-3], "", *first[-2:]]), 1)
    for torn in (table.read_text().replace("L_im", "L_in", 1), table.read_text().replace("1.0", "nan"),
                 table.read_text()[:-40], "a" * 200_000, blank.replace(first[7], "")):
        Path("torn.csv").write_text(torn)
        run = forecast_of("out/posttrain --probe ft.jsonl --calibration torn.csv")
        assert run.status == 2 and run.err.startswith("error: torn.csv") and run.err.count("\n") == 1, run.err


def test_a_finished_probe_of_other_settings_is_not_taken(stage, forecast_of, planned):
    assert forecast_of("out/posttrain --tokens 4k --lr 1e-3").status == 0
    (record,) = Path("out/forecast").rglob("run.json")
    record.write_text(record.read_text().replace('"lr": 0.001', '"lr": 0.002'))
    run = forecast_of("out/posttrain --tokens 4k --lr 1e-3")
    assert run.status == 2 and "is finished with --lr 0.002, not 0.001" in run.err


def test_a_run_whose_probe_fails_has_no_place(forecast_of, planned):
    state, _ = planned("--tokens 4k")
    state.probes[0].out.mkdir(parents=True)
    (state.probes[0].out / "last.pt").write_text("torn")
    run = forecast_of("out/posttrain --tokens 4k")
    assert run.status == 2 and "1 probes failed, mend the cause" in run.err


def test_help_is_of_the_command(stage):
    told = stage("experiments.__main__", settings="forecast --help").out
    assert "--probe CORPUS" in told and "is the figure that judges this" in told


def test_a_probe_without_the_evaluations_is_named(stage):
    write_study(seeds=1)
    log = next(Path("runs").glob("music-lam0-seed1/*/web-lr1e-4*/finetune/log.jsonl"))
    log.write_text(log.read_text().splitlines()[1] + "\n")              # its quarter, not its eighth
    run = stage("experiments.__main__", settings="forecast --runs runs")
    assert run.status == 2 and f"{log.parent} has no evaluation close to step 12" in run.err


def test_runs_are_ranked_on_one_D_post_and_a_lost_D_pre_has_a_substitute(stage, forecast_of):
    Path("other").mkdir()
    shutil.copy("ft.jsonl", "other/post.jsonl")                          # another text of the same name
    checksums = {}
    for name, post in (("a", "post.jsonl"), ("b", "other/post.jsonl")):
        stage("pretrain", f"--tokens 1k --post {post} --out out/pre-{name}")
        checksums[name] = report(f"pre-{name}")["lineage"][0]["corpora"]["post"]["checksum"]
        stage("posttrain", f"--max-tokens 1k --init out/pre-{name} --out out/{name}")
    run = forecast_of("out/a out/b")
    assert run.status == 2 and run.err == (
        f"error: out/a is measured on post ({checksums['a'][:8]}), bytes, context 32, "
        f"out/b on post ({checksums['b'][:8]}), bytes, context 32: forecast each for itself\n")

    # Nor does the loss on completions compare with that on every token.
    record = report("a")
    record["args"]["loss_on"] = record["lineage"][-1]["args"]["loss_on"] = "completion"
    Path("out/c").mkdir()
    Path("out/c/run.json").write_text(json.dumps(record))
    run = forecast_of("out/a out/c")
    assert run.status == 2 and "context 32, completions only: forecast each for itself" in run.err

    # Two folders with one tokenizer do, as their fingerprint tells.
    for name in ("d", "e"):
        record["lineage"][0]["args"]["tokenizer"], record["lineage"][0]["tokenizer"] = f"hub/{name}", "70c6eafce7fd"
        Path("out", name).mkdir()
        Path("out", name, "run.json").write_text(json.dumps(record))
    assert forecast_of("out/d out/e --cost").status == 0
    assert "tokenizer 70c6eafce7fd" in forecast_of("out/a out/d").err

    # A lost D_pre has a substitute.
    Path("pre.jsonl").unlink()
    run = forecast_of("out/a")
    assert run.status == 2 and "pre.jsonl" in run.err and "or go on with text like D_ft, --probe" in run.err
    assert forecast_of("out/a --probe ft.jsonl --cost").status == 0


@pytest.mark.parametrize("words, says", [
    ("out/none", "no finished run out/none, give the folder of one"),
    ("out/pretrain", "out/pretrain is a run of pretrain, give one of posttrain"),
    ("out/pretrain --share 0", "--share 0 is no probe"),
    ("out/pretrain --calibration pre.jsonl --probe ft.jsonl", "pre.jsonl is no forecast.csv of the figure"),
    ("out/pretrain --lr 0", "--lr 0 is no probe"),
    ("out/pretrain --calibration a.csv", "--calibration is of a quarter of Stage 3 on text like D_ft"),
    ("out/pretrain --calibration a.csv --probe a b", "give one --probe and no --share"),
    ("out/pretrain --calibration a.csv --probe a --share 0.5", "give one --probe and no --share"),
])
def test_what_cannot_be_forecast_is_one_line(stage, forecast_of, words, says):
    stage("pretrain", "--tokens 1k")
    run = forecast_of(words)
    assert run.status == 2 and says in run.err and run.err.count("\n") == 1
    assert not Path("out/forecast").exists()
