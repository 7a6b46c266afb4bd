"""A loss in the course of the last stage: what is read of the logs, drawn and told."""

import json
from pathlib import Path

import pytest

from experiments.courses import evaluations
from run.files import UserError
from tests.finished_runs import draw, drawn, write_run


def runs_with_logs(seeds=2):
    """Chains at λ = 0 and 1 that begin Stage 3 at 1 and end, after 20 steps, at 2 and 1.5 and 0.1 · seed."""
    for seed in range(1, seeds + 1):
        for lam, kept in ((0, 2.0), (1, 1.5)):
            folder = Path(f"runs/lam{lam}-seed{seed}")
            last = kept + 0.1 * seed
            write_run(folder, {"L_im": 1.0, "L_ret": last}, lam=lam, seed=seed, steps=20)
            lines = [{"step": 10, "loss": 9.0}, {"step": 10, "L_ret": 1.4, "L_ft": 3.0}]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / "finetune" / "log.jsonl").write_text(text)


def test_forgetting_is_drawn_from_where_stage_3_began(stage, drawn):
    runs_with_logs()
    out = draw(stage, "forgetting")
    assert "−slope of L_ret − L_im: 0.500 [0.500, 0.500]" in out and out.count("seen (2 seeds)") == 1
    lines = [(list(args[0]), args[1]) for _, args, _ in drawn]
    assert [steps for steps, _ in lines] == [[0, 10, 20]] * 2
    assert [losses for _, losses in lines] == [pytest.approx([1, 1.4, 2.15]), pytest.approx([1, 1.4, 1.65])]
    text = Path("figures/forgetting.md").read_text()
    assert "| web → music → chem | 1 | 1.000 ± 0.000 | 1.650 ± 0.071 |" in text


def test_only_steps_that_every_seed_has_are_averaged(stage, drawn):
    runs_with_logs()
    log = Path("runs/lam0-seed1/finetune/log.jsonl")
    log.write_text(log.read_text().replace("10", "11"))
    draw(stage, "forgetting")
    assert [list(args[0]) for _, args, _ in drawn] == [[0, 20], [0, 10, 20]]


@pytest.mark.parametrize("log", ["", "{", "7\n", '{"L_ret": 1.0}\n', '{"step": 1, "loss": 1.0}\n'])
def test_a_log_without_the_loss_is_refused(tmp_path, log):
    (tmp_path / "log.jsonl").write_text(log)
    with pytest.raises(UserError, match="no log.jsonl with L_ret in it"):
        evaluations(tmp_path, "L_ret")
