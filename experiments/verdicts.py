"""The verdicts of drawn figures as tables of Markdown, for READMEs: a row a claim, then a row a panel.

    python -m experiments.verdicts experiments/early_exposure/results/{embedded,real}

Each folder becomes a column; the figures in it are those that `python -m experiments` has drawn.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.drawing import VERDICTS, markdown
from run.files import UserError
from run.flags import Parser, launch

VERDICTS_HEADER = markdown(VERDICTS, []).splitlines()[0]


class Row(NamedTuple):
    """A claim at one panel, as a figure's .md says it."""
    figure: str
    claim: str
    where: str
    measured: str
    p: str
    verdict: str

    def is_seen(self) -> bool:
        """Say whether the claim is seen here."""
        return self.verdict.startswith("seen")

    def is_of_one(self) -> bool:
        """Say whether it rests on one seed, which is mostly chance."""
        return self.verdict.endswith("(1 seed)")

    def place(self) -> str:
        """Name its panel, without |D_post|."""
        return self.where.partition(", |")[0]

    def short(self) -> str:
        """Write what was measured, without the words that the claim's definition has, and the verdict."""
        numbers = self.measured.partition(": ")[2] or self.measured
        numbers = numbers.replace("gap in L_ret ", "").replace("hypervolume ratio ", "×")
        word = self.verdict if self.is_of_one() else self.verdict.partition(" (")[0]
        return f"{numbers}: {word if self.is_seen() else f'**{word}**'}"


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER",
                        help="with the .md of drawn figures")
    folders = parser.parse_args().folders
    rows = {}
    for path, folder in {folder.resolve(): folder for folder in folders}.items():
        if path.name in rows:
            raise UserError(f"two folders are called {path.name}, as a column would be, tell each for itself")
        rows[path.name] = list(read_rows(folder))
    print(by_claim(rows))
    print(by_panel(rows), end="")


def read_rows(folder: Path) -> Iterator[Row]:
    """Read the verdicts of every figure in a folder; raises UserError if there is none."""
    texts = {path: path.read_text("utf-8", errors="replace") for path in sorted(folder.glob("*.md"))}
    drawn = {path: text for path, text in texts.items() if VERDICTS_HEADER in text}
    if not drawn:
        raise UserError(f"no figures in {folder}, draw them first with python -m experiments")

    # The verdicts are the first table of the file; a cell's own | is escaped.
    for path, text in drawn.items():
        lines = text.replace("\\|", "\0").splitlines()
        first = lines.index(VERDICTS_HEADER) + 2
        for line in itertools.takewhile(bool, lines[first:]):
            cells = [cell.strip().replace("\0", "|") for cell in line.strip("|").split("|")]
            if len(cells) != len(VERDICTS):
                raise UserError(f"{path} is not as it was drawn, draw it again")
            yield Row(path.stem.removeprefix("fig"), *cells)


def by_claim(rows: dict[str, list[Row]]) -> str:
    """Tabulate, a row a claim, in how many of its panels it is seen."""
    table = []
    for figure, claim in claims_of(rows):
        panels = [about(of_folder, figure, claim) for of_folder in rows.values()]
        table.append([figure, claim, *(seen_in(some) for some in panels)])
    return markdown(["figure", "claim", *rows], table)


def seen_in(rows: list[Row]) -> str:
    """Say in how many panels a claim is seen, and is not judged; bold where it is not seen in all.

    Where a panel rests on one seed, that is told.
    """
    seen = [row.is_seen() for row in rows if row.verdict != "not judged"]
    open_ones = len(rows) - len(seen)
    if not seen:
        return "**not judged**" if rows else "–"
    told = f"seen in **{sum(seen)} of {len(seen)}**"
    if all(seen):
        told = "seen"
    if not any(seen):
        told = "**not seen**"
    if any(row.is_of_one() for row in rows):
        told += " (1 seed)"
    return told + (f", **{open_ones} not judged**" if open_ones else "")


def by_panel(rows: dict[str, list[Row]]) -> str:
    """Tabulate, a row a claim and panel, what was measured; panels are called as in the first folder.

    Where folders differ in how many panels a claim has, nothing tells which belong together: each folder's
    have rows of their own.
    """
    table = []
    for figure, claim in claims_of(rows):
        panels = [about(of_folder, figure, claim) for of_folder in rows.values()]
        differ = len({len(some) for some in panels if some}) > 1
        for places in each_alone(panels) if differ else itertools.zip_longest(*panels):
            name = next(row.place() for row in places if row)
            cells = [row.short() if row else "–" for row in places]
            table.append([figure, claim, name, *cells])
    return markdown(["figure", "claim", "pipeline, view", *rows], table)


def each_alone(panels: list[list[Row]]) -> Iterator[list[Row | None]]:
    """Go through the rows of all folders, each with nothing in the other folders' columns."""
    for column, some in enumerate(panels):
        for row in some:
            places = [None] * len(panels)
            places[column] = row
            yield places


def claims_of(rows: dict[str, list[Row]]) -> list[tuple[str, str]]:
    """List (figure, claim) of all folders, each once."""
    everywhere = itertools.chain(*rows.values())
    return list(dict.fromkeys((row.figure, row.claim) for row in everywhere))


def about(rows: list[Row], figure: str, claim: str) -> list[Row]:
    """Keep the rows about a claim of a figure."""
    return [row for row in rows if row.figure == figure and row.claim == claim]


if __name__ == "__main__":
    launch(main)
