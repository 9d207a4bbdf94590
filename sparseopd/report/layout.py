"""Where a mask lies, as grids of densities by layer and module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sparseopd.artifacts import ArmScores, Scores
from sparseopd.report import words


@dataclass(frozen=True)
class Grid:
    """Densities 0…1, one row a layer, one column a module; NaN where a layer lacks the module."""

    layers: list[int]
    modules: list[str]
    density: np.ndarray


def grids(arm: ArmScores) -> tuple[Grid, Grid]:
    """Return the grid of layers, and one row of the modules that belong to no layer."""
    layered = [row for row in arm.layout if row["layer"] is not None]
    other = [{**row, "layer": 0} for row in arm.layout if row["layer"] is None]
    return _grid(layered), _grid(other)


def distinct_layouts(scores: Scores) -> list[list[ArmScores]]:
    """Return the arms that have a layout, those with the same one together."""
    groups: list[list[ArmScores]] = []
    for arm in scores.arms:
        if arm.layout:
            same = next((group for group in groups if group[0].layout == arm.layout), None)
            if same is None:
                groups.append([arm])
            else:
                same.append(arm)
    return groups


def highest_density(scores: Scores) -> float:
    """Return the densest cell over all arms, 0…1: the top of the colour scale they share."""
    cells = [grid.density[np.isfinite(grid.density)] for arm in scores.arms for grid in grids(arm)]
    return max((float(cell.max()) for cell in cells if cell.size), default=0.0)


def describe_layout(same: list[ArmScores]) -> str:
    """Say how dense the mask that these arms share is, and where it is densest and thinnest."""
    rows = [row for row in same[0].layout if row["numel"]]
    text = f"Where the mask of {', '.join(words.clean(arm.name) for arm in same)} lies"
    if not rows:
        return f"{text}: nowhere."
    count, numel = sum(row["count"] for row in rows), sum(row["numel"] for row in rows)
    ranked = sorted(rows, key=lambda row: row["count"] / row["numel"])
    overall = f"{words.density(count / numel)} % of {numel:,} coordinates"
    return f"{text}: {overall}; densest in {_place(ranked[-1])}, thinnest in {_place(ranked[0])}."


def _place(row: dict[str, Any]) -> str:
    layer = "" if row["layer"] is None else f" of layer {row['layer']}"
    return f"{words.clean(row['module'])}{layer} ({words.density(row['count'] / row['numel'])} %)"


def _grid(rows: list[dict[str, Any]]) -> Grid:
    """Add up rows of one cell; modules keep the order in which they come."""
    layers = sorted({row["layer"] for row in rows})
    modules = list(dict.fromkeys(row["module"] for row in rows))
    count, numel = np.zeros((2, len(layers), len(modules)))
    for row in rows:
        cell = layers.index(row["layer"]), modules.index(row["module"])
        count[cell] += row["count"]
        numel[cell] += row["numel"]
    nowhere = np.full_like(count, np.nan)
    return Grid(layers, modules, np.divide(count, numel, out=nowhere, where=numel > 0))
