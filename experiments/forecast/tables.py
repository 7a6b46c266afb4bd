"""The tables that the figure wrote, read again: those in results/, or anybody's."""

import csv
from pathlib import Path

import numpy as np

from experiments.forecast.known import PARTS
from experiments.forecast.tasks import Task, tasks_of
from experiments.points import Point, distinct
from run.files import UserError

RESULTS = Path(__file__).parent / "results"


def published(preset: str) -> list[Task]:
    """Read the tables in results/ that are of a preset."""
    tables = {path: read_table(path) for path in sorted(RESULTS.glob("*/forecast.csv"))}
    return [task for path, points in tables.items() if presets_in(points) == preset
            for task in tasks_in(path, points)]


def presets_in(points: list[Point]) -> str:
    """Name the preset that points are of, or all of several."""
    return " and ".join(distinct(points, "preset"))


def read_table(path: Path) -> list[Point]:
    """Read the points that a figure wrote; raises UserError if it did not."""
    words = {"run", "preset", "pipeline", "seed", "recipe", "stage_2", "done"}
    needed = words | {"rate", "tokens", "lam", "post_tokens", "L_im", "D_post after", *PARTS}

    # What is empty in a column of numbers stays text: a change of weights has no course.
    points = []
    try:
        with open(path, newline="") as lines:
            for row in csv.DictReader(lines):
                numbers = {name: float(text) for name, text in row.items() if text and name not in words}
                points.append(row | numbers)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, csv.Error) as error:
        raise not_a_table(path, error) from error

    # A table of an older figure may lack what is asked of it now.
    missing = needed - points[0].keys() if points else needed
    if missing:
        raise UserError(f"{path} is no forecast.csv of the figure as it is now, draw it again "
                        f"(it lacks {', '.join(sorted(missing))})")
    return points


def tasks_in(path: Path, points: list[Point]) -> list[Task]:
    """Line up the points of a file; raises UserError if something in it is missing or no number."""
    try:
        tasks = tasks_of(points)
        for task in tasks:
            if not all(np.isfinite(values).all() for values in (task.L_ret, *task.known.values())):
                raise ValueError(f"{task} has a number that is not finite")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise not_a_table(path, error) from error
    return tasks


def not_a_table(path: Path, error: Exception) -> UserError:
    """Say that a file is not what the figure wrote."""
    return UserError(f"{path} is no forecast.csv of the figure ({error}), name one")
