"""Finished chains of runs → points: what sets each apart, and its losses. A point is a row of a .csv."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy import ndarray

from run.checkpoint import read_run
from run.files import UserError

Point = dict[str, object]


def read_points(paths: Sequence[Path], chains: Sequence[tuple[str, ...]], losses: Sequence[str],
                describe: Callable[[list[dict]], dict]) -> list[Point]:
    """Read a point for each finished chain of such stages at or below the paths.

    It has what sets the chain apart, its losses in nats per token, and their standard errors as NAME_se.
    `describe` says of a lineage what its settings are, and may tell losses of stages before the last. Raises
    UserError where a path has no such chain, or one lacks a loss.
    """
    points = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"no folder {path}, name one with finished runs in it")
        folders = [path]
        if not (path / "run.json").exists():
            folders = [file.parent for file in sorted(path.rglob("run.json"))]

        # Runs of other stages or papers may be in the same folders.
        lineages = {folder: read_run(folder)["lineage"] for folder in folders}
        there = {folder: lineage for folder, lineage in lineages.items() if stages_of(lineage) in chains}
        if not there:
            raise UserError(f"no finished {chains[0][-1]} run in {path}, make one first")
        for folder, lineage in there.items():
            point = {"run": str(folder), "preset": lineage[0]["args"]["preset"], **describe(lineage)}
            measured = lineage[-1]["losses"]
            for name in losses:
                if name in point:
                    continue
                if name not in measured:
                    raise UserError(f"{folder} has no {name}, only {', '.join(measured)}")
                point |= {name: measured[name]["mean"], f"{name}_se": measured[name]["se"]}
            points[folder] = point
    return list(points.values())


def stages_of(lineage: list[dict]) -> tuple[str, ...]:
    """Name the stages of a chain."""
    return tuple(entry["stage"] for entry in lineage)


def seed_of(lineage: list[dict]) -> str:
    """Write the seed of a chain, or the different ones of its stages."""
    return "-".join(dict.fromkeys(str(entry["args"]["seed"]) for entry in lineage))


@cache
def stem(corpus: str) -> str:
    """Name a corpus for folders and titles: a file's name up to its first dot, or the last part of an id."""
    return Path(corpus).resolve().name.strip(".").split(".")[0]


def distinct(points: Sequence[Point], key: str) -> list:
    """List the values of a key, in order of appearance."""
    return list(dict.fromkeys(point[key] for point in points))


def having(points: Sequence[Point], **values: object) -> list[Point]:
    """Keep the points that have these values."""
    return [point for point in points
            if all(point[key] == value for key, value in values.items())]


def columns(points: Sequence[Point], names: Sequence[str]) -> ndarray:
    """Collect the values of the names, (points, names)."""
    return np.array([[point[name] for name in names]
                     for point in points], dtype=float)


def at_highest(points: Sequence[Point], key: str, but_also: object = None) -> list[Point]:
    """Keep the points of each pipeline that have its highest value of a key, or `but_also`."""
    highest = {}
    for point in points:
        pipeline = point["pipeline"]
        highest[pipeline] = max(point[key], highest.get(pipeline, point[key]))
    return [point for point in points if point[key] in (highest[point["pipeline"]], but_also)]
