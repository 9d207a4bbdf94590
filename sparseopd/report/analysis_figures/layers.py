"""How many coordinates did not move, by layer and module; and how that differs from dense noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sparseopd.analysis import Analysis
from sparseopd.report import words
from sparseopd.report.cells import Scale, draw_grids
from sparseopd.report.heatmap import two_digits
from sparseopd.report.layout import Grid, grids

SHARE = "share_le_1e-5"
Grids = tuple[Grid, Grid]

TITLE = "Unchanged coordinates (|Δ| ≤ 1e-5) by layer and module"
MARGIN_TITLE = "More or less unchanged than dense noise leaves"
MARGIN_CAPTION = (
    "Observed share minus that of dense noise of the same norm, rounded alike: percentage points of each "
    "cell's coordinates. What is near 0 tells nothing beyond rounding."
)


def caption(analysis: Analysis) -> str:
    """Say what a cell is, and where what rounding does to it is shown."""
    text = "Share of each cell's coordinates, in percent."
    if _margins(analysis) is None:
        return f"{text} What rounding alone leaves unchanged is in here too."
    return f"{text} What rounding alone leaves unchanged is in here too: compare the next figure."


def draw_sparsity(analysis: Analysis) -> Figure | None:
    """Draw the observed shares, coloured between the 1st and the 99th percentile of the weights.

    None where nothing moved, or there are not two cells to compare.
    """
    if not analysis.whole["observed"]["delta_fro"]:
        return None
    shown = _grids(analysis.tensors, lambda row: row["observed"][SHARE])
    cells = _cells(shown)
    if len(cells) < 2:
        return None
    low, high = _reach(analysis.tensors, lambda row: row["observed"][SHARE])
    if high - low < 1e-3:
        low = 0.0
    below, above = "≤ " if min(cells) < low - 1e-9 else "", "≥ " if max(cells) > high + 1e-9 else ""
    ends = (f"{below}{_digits(low)} %", f"{above}{_digits(high)} %")
    legend = "of the coordinates are unchanged"
    return draw_grids(*shown, Scale(low=low, high=high, ends=ends, legend=legend, form=two_digits))


def draw_margin(analysis: Analysis) -> Figure | None:
    """Draw observed minus dense noise, on a scale that is even on both sides of 0.

    None without nulls, where nothing moved, or where there are not two cells to compare.
    """
    shown = _margins(analysis)
    if shown is None or len(_cells(shown)) < 2:
        return None
    low, high = _reach(analysis.tensors, _margin)
    # Below a point, all is of one colour: what looks like a pattern there is chance.
    most = max(abs(low), abs(high), 0.01)
    passed = "≥ " if max(map(abs, _cells(shown))) > most + 1e-9 else ""
    ends = (f"−{_digits(most)}", f"{passed}+{_digits(most)}")
    legend = "points more than dense noise leaves"
    scale = Scale(low=-most, high=most, ends=ends, legend=legend, form=_points, around_zero=True)
    return draw_grids(*shown, scale)


def describe_sparsity(analysis: Analysis) -> str:
    """Say how sparse the whole is, and which cells are most and least so."""
    whole = words.percent(analysis.whole["observed"][SHARE])
    ranked = _ranked(_grids(analysis.tensors, lambda row: row["observed"][SHARE]))
    (least, where_least), (most, where_most) = ranked[0], ranked[-1]
    return (
        f"Heat map of unchanged coordinates: {whole} % overall; least in {where_least} "
        f"({words.percent(least)} %), most in {where_most} ({words.percent(most)} %)."
    )


def describe_margin(analysis: Analysis) -> str:
    """Say where the observed share is furthest above and below that of dense noise."""
    shown = _margins(analysis)
    if shown is None:
        return ""
    ranked = _ranked(shown)
    (least, where_least), (most, where_most) = ranked[0], ranked[-1]
    return (
        "Heat map of unchanged coordinates, observed minus dense noise: from "
        f"{_points(least)} points in {where_least} to {_points(most)} points in {where_most}."
    )


def _margins(analysis: Analysis) -> Grids | None:
    moved = analysis.whole["observed"]["delta_fro"]
    if not moved or not analysis.whole.get("gaussian"):
        return None
    return _grids(analysis.tensors, _margin)


def _margin(row: dict[str, Any]) -> float:
    return row["observed"][SHARE] - float(np.mean(row["gaussian"][SHARE]))


def _grids(rows: Sequence[dict[str, Any]], read: Callable[[dict[str, Any]], float]) -> Grids:
    """Average a share over the coordinates of each cell."""
    return grids(
        [
            {
                "layer": row["layer"],
                "module": row["module"],
                "count": read(row) * row["numel"],
                "numel": row["numel"],
            }
            for row in rows
        ]
    )


def _cells(shown: Grids) -> list[float]:
    return [float(value) for grid in shown for value in grid.density[np.isfinite(grid.density)]]


def _reach(
    rows: Sequence[dict[str, Any]], read: Callable[[dict[str, Any]], float]
) -> tuple[float, float]:
    """The ends that all but 1 % of the weights on either side keep to: norms would stretch the scale."""
    values = np.array([read(row) for row in rows])
    numel = np.array([row["numel"] for row in rows], dtype=float)
    order = np.argsort(values, kind="stable")
    passed = numel[order].cumsum() / numel.sum()
    low, high = np.searchsorted(passed, [0.01, 0.99])
    return float(values[order[low]]), float(values[order[min(high, len(order) - 1)]])


def _ranked(shown: Grids) -> list[tuple[float, str]]:
    found = []
    for grid, layered in zip(shown, (True, False), strict=True):
        for row, column in np.argwhere(np.isfinite(grid.density)):
            layer = f" of layer {grid.layers[row]}" if layered else ""
            name = f"{words.clean(grid.modules[column])}{layer}"
            found.append((float(grid.density[row, column]), name))
    return sorted(found)


def _digits(share: float) -> str:
    return f"{100 * share:.3g}"


def _points(share: float) -> str:
    """+12, −3.4, 0: what a cell has room for."""
    points = 100 * share
    return words.signed(points, ".0f" if abs(points) >= 9.95 else ".1f")
