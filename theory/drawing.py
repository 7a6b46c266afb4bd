"""What all topics share: colours, empty panels, numbers in a row. Unmixed runs are black, as in the paper."""

from matplotlib.figure import Figure
from numpy import ndarray

UNMIXED = "black"
MIXED = "#7b2fa8"
PALE = "#c9a6e0"
BLUE = "#2a6fbb"
RED = "#c44e00"
ORANGE = "#e87b14"
GUIDE = dict(color="grey", lw=0.8)
STAR = dict(marker="*", mec="black", mew=0.5, ms=13)
TRIANGLE = dict(marker="^", mec="black", mew=0.5, ms=7, ls="none")


def panels(rows: int, columns: int, height: float) -> tuple[Figure, ndarray]:
    """Make a figure of 11 inches by `height`, and its axes."""
    figure = Figure(figsize=(11, height), dpi=90, layout="constrained")
    return figure, figure.subplots(rows, columns)


def in_a_row(values: ndarray, form: str = "g") -> str:
    """Write numbers with commas between them."""
    return ", ".join(f"{value:{form}}" for value in values)
