"""The verdicts of several folders of figures, told side by side."""

from pathlib import Path

import pytest

from experiments.verdicts import Row, seen_in
from tests.finished_runs import draw, frontier_of, sweep_of_shares


@pytest.fixture
def folders(stage):
    """Two folders of figures: in one dropout improves on mixing everywhere, in the other not for chat."""
    for name, chat in (("embedded", 0.3), ("real", 0.1)):
        runs = f"runs-{name}"
        frontier_of(runs, "mixed", 0.2, seeds=1)
        frontier_of(runs, "mixed + dropout", 0.3, seeds=1)
        frontier_of(runs, "mixed", 0.2, ("web", "music", "chat"), seeds=1)
        frontier_of(runs, "mixed + dropout", chat, ("web", "music", "chat"), seeds=1)
        draw(stage, "fig4", runs)
        Path("figures").rename(name)
    sweep_of_shares("shares")
    draw(stage, "fig3a", "shares")
    Path("figures/fig3a.md").rename("embedded/fig3a.md")


def test_a_claim_is_counted_over_its_panels_in_every_folder(stage, folders):
    run = stage("experiments.verdicts", settings="embedded real")
    by_claim, by_panel = run.out.split("\n\n")
    assert (run.status, run.err) == (0, "")
    assert by_claim.splitlines() == [
        "| figure | claim | embedded | real |", "| --- | --- | --- | --- |",
        "| 3a | L_ret falls in λ | seen | – |", "| 3a | L_im is flat | seen | – |",
        "| 4 | dropout improves on mixing | seen (1 seed) | seen in **1 of 2** (1 seed) |"]
    rows = by_panel.splitlines()
    assert rows[0] == "| figure | claim | pipeline, view | embedded | real |" and len(rows) == 2 + 2 + 2
    # the wavering adds 0.004, 0.008 and 0 to a slope of −0.4
    assert rows[2] == "| 3a | L_ret falls in λ | web → music → chem | 0.396 [0.386, 0.406]: seen | – |"
    chat, chem = rows[4:]
    assert chat.startswith("| 4 | dropout improves on mixing | web → music → chat, (L_ret, L_ft) | 0.100, ×")
    assert ": seen (1 seed) | -0.100, ×0." in chat and chat.endswith(": **not seen (1 seed)** |")
    assert "web → music → chem, (L_ret, L_ft) | 0.100, ×1." in chem and chem.count(": seen (1 seed) |") == 2


def test_folders_that_differ_in_their_panels_are_not_laid_side_by_side(stage, folders):
    lines = Path("real/fig4.md").read_text().splitlines()
    Path("real/fig4.md").write_text("\n".join(line for line in lines if "web → music → chat" not in line))
    rows = [line for line in stage("experiments.verdicts", settings="embedded real").out.splitlines()
            if line.startswith("| 4 |") and "→" in line]
    assert [row.count("| – |") for row in rows] == [1, 1, 1] and rows[0].endswith("| – |")
    assert "web → music → chem" in rows[2] and "view | –" not in rows[2] and not rows[2].endswith("| – |")


def test_numbers_of_two_statistics_are_kept_and_what_is_not_judged_says_so():
    row = Row("x", "a claim", "a → b", "0.25 − |M − 1|: 0.100, ρ* − 0.25: 0.200", "–", "not seen (2 seeds)")
    assert row.short() == "0.100, ρ* − 0.25: 0.200: **not seen**"
    unknown = row._replace(measured="of so few there are none", verdict="not judged")
    assert unknown.short() == "of so few there are none: **not judged**"
    assert seen_in([unknown]) == "**not judged**" and seen_in([unknown, row]) == "**not seen**, **1 not judged**"
    seen = row._replace(verdict="seen (2 seeds)")
    assert seen_in([unknown, seen]) == "seen, **1 not judged**" and seen_in([seen]) == "seen"
    assert seen_in([]) == "–"

    # One seed is mostly chance.
    one = row._replace(verdict="seen (1 seed)")
    assert one.short().endswith(": seen (1 seed)") and seen_in([one]) == seen_in([one, seen]) == "seen (1 seed)"


def test_folders_that_cannot_be_told_are_one_line(stage, folder):
    header = "| claim | where | measured | p | verdict |\n| --- | --- | --- | --- | --- |\n"
    for name, text in (("empty", None), ("torn", f"{header}| a | b | c | d |\n".encode()), ("a/real", header.encode()),
                       ("b/real", header.encode()), ("binary", header.encode() + b"| \xff | b | c | d | seen |\n")):
        Path(name).mkdir(parents=True)
        if text:
            Path(name, "fig2.md").write_bytes(text)
    for folders, message in (("empty", "error: no figures in empty, draw them first"),
                             ("torn", "error: torn/fig2.md is not as it was drawn, draw it again"),
                             ("a/real b/real", "error: two folders are called real")):
        run = stage("experiments.verdicts", settings=folders)
        assert run.status == 2 and run.err.startswith(message) and run.err.count("\n") == 1
    assert stage("experiments.verdicts", settings="binary").status == 0
    assert "| figure | claim | binary |\n" in stage("experiments.verdicts", settings="binary ./binary").out
