"""Where a mask lies, as grids of densities by layer and module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparseopd.artifacts import ArmScores, Scores
from sparseopd.report import words

Rows = Sequence[dict[str, Any]]
"""A mask's layout (`masks.layout`): rows of "layer", "module", "count", "numel"."""

ORDER = (
    *("embed_tokens", "q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "q_norm", "k_norm"),
    *("gate_proj", "up_proj", "down_proj", "fc1", "fc2"),
    *("input_layernorm", "post_attention_layernorm", "layer_norm1", "layer_norm2"),
    *("norm", "lm_head"),
)
"""Common modules in the order in which a model computes them; files sort tensors by name."""


@dataclass(frozen=True)
class Grid:
    """Densities 0…1, one row a layer, one column a module; NaN where a layer lacks the module."""

    layers: list[int]
    modules: list[str]
    density: np.ndarray


def grids(rows: Rows) -> tuple[Grid, Grid]:
    """Return the grid of layers, and one row of the modules that belong to no layer."""
    layered = [row for row in rows if row["layer"] is not None]
    other = [{**row, "layer": 0} for row in rows if row["layer"] is None]
    return _grid(layered), _grid(other)


def rank(module: str) -> tuple[bool, int]:
    """Return where a module stands among others, as a key to sort by."""
    name = module.removeprefix("vision.")
    return name != module, ORDER.index(name) if name in ORDER else len(ORDER)


def densest(rows: Rows) -> float:
    """Return the density of the densest cell, 0…1; 0 without a cell."""
    cells = [grid.density[np.isfinite(grid.density)] for grid in grids(rows)]
    return max((float(cell.max()) for cell in cells if cell.size), default=0.0)


def scale_top(rows: Rows) -> float:
    """Return the density, 0…1, that 99 % of the weights keep to: the top of a colour scale.

    Norms hold few weights and may be in the mask whole; up to them all else would look alike.
    """
    cells = sorted((row["count"] / row["numel"], row["numel"]) for row in rows if row["numel"])
    rest = 0.99 * sum(numel for _, numel in cells)
    for share, numel in cells:
        rest -= numel
        if rest <= 0:
            return share
    return 0.0


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


def shared_top(scores: Scores) -> float:
    """Return the top of the colour scale that all arms share, 0…1."""
    return max((scale_top(arm.layout) for arm in scores.arms), default=0.0)


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


def _grid(rows: Rows) -> Grid:
    """Add up rows of one cell; modules in `ORDER`, others as they come, a vision tower's last."""
    layers = sorted({row["layer"] for row in rows})
    modules = sorted(dict.fromkeys(row["module"] for row in rows), key=rank)
    count, numel = np.zeros((2, len(layers), len(modules)))
    for row in rows:
        cell = layers.index(row["layer"]), modules.index(row["module"])
        count[cell] += row["count"]
        numel[cell] += row["numel"]
    nowhere = np.full_like(count, np.nan)
    return Grid(layers, modules, np.divide(count, numel, out=nowhere, where=numel > 0))
