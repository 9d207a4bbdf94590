"""How fast the singular values of an update fall, beside those of its nulls: a panel a module."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from sparseopd.analysis import Analysis
from sparseopd.analysis.measure import CURVE
from sparseopd.report import words
from sparseopd.report.analysis_figures.looks import Look, looks
from sparseopd.report.layout import rank
from sparseopd.report.svg import WIDTH, house_style

MOST = 12
"""Panels: those of the modules with the most of ΣΔ²."""
ACROSS = 3
"""Panels in a row."""
PANEL, LARGE = 1.0, 1.7
"""Inches of a panel's height; where there are but one or two."""
LEFT, RIGHT, TOP, BOTTOM = 0.66, 0.2, 0.22, 0.66
GAP = (0.24, 0.3)
"""Inches beside all panels, and between them."""
FLOOR = 1e-3
"""Least σ_i/σ₁ shown, unless some module's values all lie higher."""

TITLE = "Singular spectra of the update"


def caption(analysis: Analysis) -> str:
    """Say what the axes are, what a line is, and what is left out."""
    left_out = len(_modules(analysis)) - MOST
    more = f" Modules not drawn, for their small part of ΣΔ²: {left_out}." if left_out > 0 else ""
    text = "Singular values as shares of the largest: the median over a module's matrices"
    if analysis.whole.get("gaussian"):
        text += (
            ", nulls as means of their draws. A line that soon falls below its nulls has few leading "
            "directions"
        )
    return f"{text}.{more}"


def draw_spectra(analysis: Analysis) -> Figure | None:
    """Draw a panel a module, all on the same logarithmic axes; None where no matrix moved."""
    shown = _shown(analysis)
    if not shown:
        return None
    sides = looks(analysis)
    with house_style():
        figure, panels = _panels(len(shown))
        for axes, (module, members) in zip(panels.flat, shown.items(), strict=False):
            axes.set_title(words.shorten(module, 20), fontsize=8.5, pad=3)
            for look in sides:
                _draw(axes, look, median_curve(members, look.side))
        _finish(panels, len(shown), analysis)
        panels[-1, 0].set_xlabel("i / min(d)", size=8.5)
        panels[-1, 0].set_ylabel("σᵢ/σ₁", size=8.5)
        lines = [Line2D([], [], color=one.color, linestyle=one.dashes) for one in sides]
        figure.legend(
            lines,
            [one.label for one in sides],
            loc="lower left",
            borderaxespad=0.2,
            ncols=len(sides),
            handlelength=1.7,
            columnspacing=1.2,
            fontsize=9,
        )
    return figure


def describe_spectra(analysis: Analysis) -> str:
    """Say at a tenth of min(d) how far the values have fallen, observed and under the nulls."""
    told = []
    at = CURVE.index(min(CURVE, key=lambda share: abs(share - 0.1)))
    for module, members in _shown(analysis).items():
        values = {
            look.label: float(median_curve(members, look.side)[at]) for look in looks(analysis)
        }
        figures = ", ".join(f"{label} {words.show(one, _ratio)}" for label, one in values.items())
        told.append(f"{words.clean(module)}: {figures}")
    return f"Singular values at a tenth of min(d), as shares of the largest. {'; '.join(told)}."


def median_curve(members: list[dict[str, Any]], side: str) -> np.ndarray:
    """Return the median of σ_i/σ₁ over matrices at the ranks of `CURVE`; NaN where there is none."""
    curves = [row["curve"].get(side) for row in members]
    known = np.array([curve for curve in curves if curve], dtype=float).reshape(-1, len(CURVE))
    seen = np.isfinite(known).any(0)
    middle = np.full(len(CURVE), np.nan)
    middle[seen] = np.nanmedian(known[:, seen], axis=0)
    return middle


def _panels(count: int) -> tuple[Figure, np.ndarray]:
    """Make a figure with room for so many panels, placed in inches."""
    across = min(ACROSS, count)
    rows, tall = math.ceil(count / across), PANEL if across == ACROSS else LARGE
    height = TOP + rows * tall + (rows - 1) * GAP[1] + BOTTOM
    figure = Figure(figsize=(WIDTH, height))
    panels = figure.subplots(rows, across, sharex=True, sharey=True, squeeze=False)
    wide = (WIDTH - LEFT - RIGHT - (across - 1) * GAP[0]) / across
    figure.subplots_adjust(
        left=LEFT / WIDTH,
        right=1 - RIGHT / WIDTH,
        top=1 - TOP / height,
        bottom=BOTTOM / height,
        wspace=GAP[0] / wide,
        hspace=GAP[1] / tall,
    )
    return figure, panels


def _modules(analysis: Analysis) -> dict[str, list[dict[str, Any]]]:
    """Matrices that moved, by module; the modules with the most of ΣΔ² first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in analysis.tensors:
        if any(value is not None for value in row["curve"].get("observed") or ()):
            found.setdefault(row["module"], []).append(row)
    energy = {
        module: sum(row["observed"]["delta_fro"] ** 2 for row in members)
        for module, members in found.items()
    }
    return {module: found[module] for module in sorted(found, key=lambda name: -energy[name])}


def _shown(analysis: Analysis) -> dict[str, list[dict[str, Any]]]:
    chosen = dict(list(_modules(analysis).items())[:MOST])
    return {module: chosen[module] for module in sorted(chosen, key=rank)}


def _draw(axes: Axes, look: Look, curve: np.ndarray) -> None:
    positive = np.where(curve > 0, curve, np.nan)
    strong = 2.0 if look.filled else 1.2
    axes.plot(CURVE, positive, look.dashes, color=look.color, linewidth=strong)


def _finish(panels: np.ndarray, filled: int, analysis: Analysis) -> None:
    """Set the axes that all panels share, and take away the panels that nothing fills."""
    largest = max(min(row["shape"]) for rows in _shown(analysis).values() for row in rows)
    for number, axes in enumerate(panels.flat):
        if number >= filled:
            axes.remove()
            continue
        axes.set(xscale="log", yscale="log", xlim=(max(CURVE[0], 1 / largest), 1))
        axes.set_ylim(bottom=_floor(analysis), top=1.15)
        _decades(axes)
        axes.tick_params(labelsize=8, labelbottom=number + panels.shape[1] >= filled)


def _floor(analysis: Analysis) -> float:
    values = [
        value
        for rows in _shown(analysis).values()
        for look in looks(analysis)
        for value in median_curve(rows, look.side)
        if value > 0
    ]
    return max(FLOOR, min(values) / 1.2)


def _decades(axes: Axes) -> None:
    for axis, form in ((axes.xaxis, _share), (axes.yaxis, _ratio)):
        axis.set_major_locator(LogLocator(subs=(1,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _, form=form: form(value)))
        axis.set_minor_locator(NullLocator())


def _share(value: float) -> str:
    return f"{100 * value:.4g} %"


def _ratio(value: float) -> str:
    return words.rate(value) if value < 1e-3 else f"{value:.3g}"
