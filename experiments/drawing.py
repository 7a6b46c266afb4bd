"""A figure of finished runs: its picture, the .csv of every run, the .md of what is said of them."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from numpy import ndarray

from experiments.points import Point, distinct, read_points
from run.files import UserError, atomic, make_folder

VERDICTS = ["claim", "where", "measured", "p", "verdict"]
NOTE = ("Losses in nats per token. "
        "[95% interval over seeds, Student's t]; "
        "± standard deviation over seeds; "
        "p: one-sided paired test over seeds, at least 1/2ⁿ for n seeds; "
        "of frontiers, p of the gap and of the ratio. "
        "A gap is – where the frontiers of a seed have no range in common; "
        "such a seed is better if every point of the one is dominated by the other, "
        "and for *seen* all must be. "
        "Definitions: `statistics.py` and `compare` in `frontiers.py`.\n")


class Kind(Protocol):
    """What draws, judges and tabulates points: `Curves`, `Courses`, `Frontiers`, or a paper's own."""
    losses: Sequence[str]                                               # those in the .csv

    def select(self, points: list[Point]) -> list[Point]: ...           # those that the figure is of
    def verdicts(self, points: list[Point]) -> list[list[str]]: ...     # rows of VERDICTS
    def table(self, points: list[Point]) -> list[list[str]]: ...        # a header and rows
    def shape(self, points: list[Point]) -> tuple[int, int]: ...        # rows and columns of panels
    def draw(self, points: list[Point], axes: ndarray) -> None: ...


class Figure(NamedTuple):
    """What a paper hands to the machinery: the runs of a figure, and what is drawn and said of them."""
    title: str
    plan: Sequence[str] | dict[str, Sequence[str]]   # lines of chains, as `sweep` reads them, or by grid
    kind: Kind
    chains: Sequence[tuple[str, ...]]        # stages of each kind of chain; the losses of the last are drawn
    describe: Callable[[list[dict]], dict]   # a lineage → the settings that set its run apart
    panel: tuple[float, float] = (3.4, 3.0)  # width and height in inches: as in a paper's column

    def lines(self, grid: str) -> Sequence[str]:
        """Give the lines of the plan for a grid: a preset, or "toy quick"."""
        return self.plan[grid] if isinstance(self.plan, dict) else self.plan


def draw(name: str, figure: Figure, runs: Sequence[Path], picture: Path) -> list[list[str]]:
    """Write a figure of the runs to `picture`, every run to .csv and the verdicts to .md beside it.

    Returns the verdicts, a row of VERDICTS each. Raises UserError where the runs do not make the figure.
    """
    # One figure is of one preset; of others among the runs it takes what it can use.
    if picture.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--picture {picture} is not a .png, .pdf or .svg")
    there = read_points(runs, figure.chains, figure.kind.losses, figure.describe)
    presets = distinct(there, "preset")
    if len(presets) > 1:
        raise UserError(f"runs of presets {', '.join(presets)} do not go into one figure")
    points = figure.kind.select(there)
    if not points:
        # A kind that needs certain runs together may say which.
        required = getattr(figure.kind, "required", lambda: "")
        raise UserError(f"none of these runs is of {name}{required()}")
    if len(points) < len(there):
        print(f"{len(there) - len(points)} of {len(there)} runs are not of {name}, left out")

    # What cannot be judged is found before anything is written.
    verdicts = figure.kind.verdicts(points)
    header, *values = figure.kind.table(points)
    text = (f"# {figure.title}\n\n![{figure.title}]({picture.name})\n\n"
            f"{markdown(VERDICTS, verdicts)}\n{markdown(header, values)}\n{NOTE}")
    make_folder(picture.parent)
    write_picture(figure, points, picture)
    write_points(points, picture.with_suffix(".csv"))
    with atomic(picture.with_suffix(".md")) as file:
        file.write(text.encode())
    return verdicts


def write_picture(figure: Figure, points: list[Point], picture: Path) -> None:
    """Draw a figure's panels under its title and over one legend."""
    # Imported here, so that what only plans need not wait for it.
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    # Print is as large as in a paper's column.
    matplotlib.rcParams.update({"font.size": 9, "axes.titlesize": 9, "legend.fontsize": 7,
                                "axes.spines.top": False, "axes.spines.right": False,
                                "axes.grid": True, "grid.alpha": 0.25})
    rows, columns = figure.kind.shape(points)
    width, height = figure.panel
    width *= columns
    canvas = Canvas(figsize=(width, height * rows), dpi=min(110, 1200 / width), layout="constrained")
    axes = canvas.subplots(rows, columns, squeeze=False)
    figure.kind.draw(points, axes)
    canvas.suptitle(figure.title, fontsize=10)

    # What several panels share stands in the legend once.
    labelled = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            labelled[label] = handle
    if labelled:
        across = max(1, int(width / 2.2))
        canvas.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=min(4, across))

    # savefig draws everything once more where there is a layout left to be made.
    canvas.get_layout_engine().execute(canvas)
    canvas.set_layout_engine(None)
    with atomic(picture) as file:
        canvas.savefig(file, format=picture.suffix[1:])


def write_points(points: list[Point], path: Path) -> None:
    """Write every point as a row."""
    lines = io.StringIO()
    writer = csv.DictWriter(lines, points[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(points)
    with atomic(path) as file:
        file.write(lines.getvalue().encode())


def markdown(header: Sequence[str], rows: list[list[str]]) -> str:
    """Write a table of Markdown."""
    lines = []
    for cells in (header, ["---"] * len(header), *rows):
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(lines)
