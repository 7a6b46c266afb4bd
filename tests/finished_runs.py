"""The run.json of stages that never ran, for figures to be drawn from, and what was drawn."""

import json
from argparse import ArgumentTypeError
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
from matplotlib.axes import Axes

from experiments.sweep import STAGES, Planned, number

BASE = {"L_im": 1.0, "L_ret": 2.0, "L_ft": 1.5, "L_pre": 1.4}


# ---- runs of the paper's three stages, as figures read them

def write_run(folder, losses={}, preset="toy", corpora=("web", "music", "chem"), lam=1.0, seed=1,
              stage3_lr=3e-4, post_tokens=150_000, mix=None, steps=1, **post):
    """Write what finetune.py would leave; `lam` is the λ that Stage 1 came to."""
    pre, music, ft = corpora
    post = {"seed": seed, "lr": 5e-4, "batch": 32, "dropout": 0.0, "replay": 0.0, "lora": False,
            "compute_matched": False} | post
    lineage = [{"args": {"preset": preset, "pre": pre, "post": music, "lam": None if mix else lam, "mix": mix,
                         "seed": seed, "post_tokens": post_tokens}, "lam": lam, "losses": {}},
               {"args": post, "losses": {}},
               {"args": {"ft": ft, "seed": seed, "lr": stage3_lr}, "steps": steps,
                "losses": measured(BASE | losses)}]
    write_record(Path(folder, "finetune"), "finetune", lineage)


def sweep_of_shares(root, seeds=3, **settings):
    """Write runs at five values of λ: L_ret falls by 0.4 and wavers with the seed, L_im falls by 0.01."""
    for seed in range(1, seeds + 1):
        for k, lam in enumerate((0, 0.25, 0.5, 0.75, 1)):
            losses = {"L_im": 1 + 0.001 * seed - 0.01 * lam, "L_ret": 2 - 0.4 * lam + 0.01 * ((seed * k) % 3)}
            write_run(Path(root, f"lam{lam}-seed{seed}"), losses, lam=lam, seed=seed, **settings)


def frontier_of(root, recipe, saved, pipeline=("web", "music", "chem"), seeds=2, preset="toy",
                post_tokens=150_000, **more):
    """Write runs of a recipe at three Stage-3 rates, its L_ret lower by `saved` at each."""
    settings = {"lam": 0.0 if recipe.startswith("unmixed") else 1.0, "lora": "LoRA" in recipe,
                "dropout": 0.05 * ("dropout" in recipe), "replay": 0.05 * ("replay" in recipe)}
    for seed in range(1, seeds + 1):
        for k, lr in enumerate((1e-4, 3e-4, 1e-3)):
            name = f"{recipe}-{pipeline[2]}-{seed}-{lr}".replace(" ", "")
            kept = 1.5 + 0.3 * k - saved + 0.01 * seed
            write_run(Path(root, name), {"L_ft": 2 - 0.2 * k, "L_ret": kept, "L_pre": 1.5 - 0.1 * k},
                      stage3_lr=lr, seed=seed, preset=preset, corpora=pipeline, post_tokens=post_tokens,
                      **settings, **more)


# ---- runs of a plan, whatever its chains

def finish(run: Planned, losses={}, earlier={}, steps=1, course={}) -> None:
    """Write what a planned run would leave; `earlier` are the losses of each run before it, `course` its L_ret."""
    lineage = lineage_of(run, losses, earlier, steps)
    write_record(run.out, run.stage, lineage)
    if course:
        lines = (json.dumps({"step": step, "L_ret": loss}) + "\n" for step, loss in course.items())
        (run.out / "log.jsonl").write_text("".join(lines))


def lineage_of(run: Planned, losses={}, earlier={}, steps=1) -> list[dict]:
    """What a planned run, of some steps, and those before it would say of themselves: settings over toy defaults."""
    lineage = []
    for one in [run, *run.ancestors()][::-1]:
        args = {"lam": 0.0, "mix": None, "decay": None,
                "lora": False, "compute_matched": False, "go_on": False}
        for name, row in STAGES[one.stage].DEFAULTS.items():
            args[name.replace("-", "_")] = typed(row[0])
        for flag, word in one.settings:
            args[flag.removeprefix("--").replace("-", "_")] = True if word is None else typed(word)
        args["seed"] = one.seed
        lineage.append({"stage": one.stage, "args": args, "lam": args["lam"],
                        "losses": measured(earlier)})
    lineage[-1] |= {"losses": measured(BASE | losses), "steps": steps}
    return lineage


@cache
def typed(word: str) -> str | float:
    """A number where the word is one."""
    try:
        return number(word)
    except (ValueError, ArgumentTypeError):
        return word


def measured(losses: dict[str, float]) -> dict[str, dict]:
    return {name: {"mean": mean, "se": 0.02} for name, mean in losses.items()}


def write_record(folder: Path, stage: str, lineage: list[dict]) -> None:
    folder.mkdir(parents=True)
    for name, entry in zip(STAGES, lineage):
        entry |= {"stage": name, "steps": 1, "tokens": {}, "corpora": {}} | entry
    last = lineage[-1]
    record = {"stage": stage, "args": last["args"], "lineage": lineage, "losses": last["losses"]}
    (folder / "run.json").write_text(json.dumps(record))


# ---- what was drawn

def draw(stage, figure, *roots):
    """Draw a figure of the runs in the folders, [runs]; returns what was printed.

    Its panels stay where they fall: to lay them out takes as long as all else that is done to draw.
    """
    with patch("matplotlib.layout_engine.ConstrainedLayoutEngine.execute"):
        run = stage("experiments.__main__", settings=f"{figure} --runs {' '.join(roots or ['runs'])} "
                                                     f"--picture figures/{figure}.png")
    assert (run.status, run.err) == (0, "")
    assert Path(f"figures/{figure}.png").read_bytes().startswith(b"\x89PNG")
    return run.out


@pytest.fixture
def drawn(monkeypatch):
    """Every call of Axes.plot: the panel, the arguments by position, those by name."""
    calls, plot = [], Axes.plot

    def noting(axis, *args, **more):
        calls.append((axis, args, more))
        return plot(axis, *args, **more)
    monkeypatch.setattr(Axes, "plot", noting)
    return calls
