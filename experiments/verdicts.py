"""The verdicts of drawn figures as tables of Markdown, for READMEs: a row a claim, then a row a panel.

    cd experiments/early_exposure/results && python -m experiments.verdicts embedded real

Each folder becomes a column; the figures in it are those that `python -m experiments` has drawn.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.drawing import VERDICTS, markdown
from run.files import UserError
from run.flags import Parser, launch


class Row(NamedTuple):
    """A claim at one panel, as a figure's .md says it."""
    figure: str
    claim: str
    where: str
    measured: str
    p: str
    verdict: str

    def is_seen(self) -> bool:
        """Whether the claim is seen here."""
        return self.verdict.startswith("seen")

    def place(self) -> str:
        """Its panel without |D_post|."""
        return self.where.partition(", |")[0]

    def short(self) -> str:
        """What was measured, without the words that the claim's definition has, and the verdict."""
        number = self.measured.rpartition(": ")[2].replace("gap in L_ret ", "").replace("hypervolume ratio ", "×")
        return f"{number}: {'seen' if self.is_seen() else '**not seen**'}"


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="with the .md of drawn figures")
    folders = parser.parse_args().folders
    rows = {folder.name: list(read_rows(folder)) for folder in folders}
    print(by_claim(rows))
    print(by_panel(rows), end="")


def read_rows(folder: Path) -> Iterator[Row]:
    """Read the verdicts of every figure in a folder; raises UserError if there is none."""
    paths = sorted(folder.glob("fig*.md"))
    if not paths:
        raise UserError(f"no figures in {folder}, draw them first with python -m experiments")
    for path in paths:
        # The first table of the file; a cell's own | is escaped.
        lines = path.read_text().replace("\\|", "\0").splitlines()
        first = lines.index("| " + " | ".join(VERDICTS) + " |") + 2
        for line in lines[first:]:
            if not line:
                break
            cells = [cell.strip().replace("\0", "|") for cell in line.strip("|").split("|")]
            yield Row(path.stem.removeprefix("fig"), *cells)


def by_claim(rows: dict[str, list[Row]]) -> str:
    """A row a claim: in how many of its panels it is seen."""
    table = []
    for figure, claim in claims_of(rows):
        cells = []
        for of_folder in rows.values():
            seen = [row.is_seen() for row in of_folder if (row.figure, row.claim) == (figure, claim)]
            cells.append(seen_in(seen))
        table.append([figure, claim, *cells])
    return markdown(["figure", "claim", *rows], table)


def seen_in(seen: list[bool]) -> str:
    """In how many panels a claim is seen; bold where it is in fewer than all."""
    if not seen:
        return "–"
    if all(seen):
        return "seen"
    if not any(seen):
        return "**not seen**"
    return f"seen in **{sum(seen)} of {len(seen)}**"


def by_panel(rows: dict[str, list[Row]]) -> str:
    """A row a claim and panel, called as in the first folder: what was measured in each."""
    table = []
    for figure, claim in claims_of(rows):
        panels = []
        for of_folder in rows.values():
            panels.append([row for row in of_folder if (row.figure, row.claim) == (figure, claim)])
        for places in itertools.zip_longest(*panels):
            name = next(row.place() for row in places if row)
            table.append([figure, claim, name, *(row.short() if row else "–" for row in places)])
    return markdown(["figure", "claim", "pipeline, view", *rows], table)


def claims_of(rows: dict[str, list[Row]]) -> list[tuple[str, str]]:
    """(figure, claim) of all folders, each once."""
    return list(dict.fromkeys((row.figure, row.claim) for of_folder in rows.values() for row in of_folder))


if __name__ == "__main__":
    launch(main)
