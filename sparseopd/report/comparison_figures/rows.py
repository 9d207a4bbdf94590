"""One row an arm: its name and figure on a line of text, dot and whisker beneath it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sparseopd.artifacts import Interval
from sparseopd.report import words
from sparseopd.report.comparison_arms import look
from sparseopd.report.svg import INK, WIDTH, house_style
from sparseopd.results import ArmResult

ROW, FOOT = 0.41, 0.5
"""Inches of a row, and of the axis beneath them."""
HALF = 0.17
"""Half the height of a row's drawing, as a share of the row."""
NAME = 36
"""Letters of a name."""


@dataclass(frozen=True)
class Row:
    """An arm, its interval, its figure in words, and single values beside the mean."""

    arm: ArmResult
    value: Interval
    text: str
    singles: Sequence[float] = ()


def draw_rows(
    rows: Sequence[Row],
    *,
    unit: str,
    band: float | None = None,
    lines: Sequence[tuple[float, str]] = (),
    zero: bool = False,
    reach: tuple[float, float] | None = None,
) -> Figure:
    """Draw the rows on one axis of shares, written times a hundred with their unit.

    `band` shades ±band around zero; `lines` are values that run through all rows, with a colour;
    `zero` draws the line of no difference. `reach` are the ends of the axis: what lies beyond them
    becomes an arrow at the edge.
    """
    with house_style():
        figure = Figure(figsize=(WIDTH, FOOT + ROW * len(rows)), layout="constrained")
        axes = figure.add_subplot(ylim=(len(rows) - 0.6, -0.75), yticks=[])
        axes.spines["left"].set_visible(False)
        if band is not None:
            # In pieces, as all that runs through the rows: the text between them stays free.
            for place in range(len(rows)):
                box = (-band, place - HALF), 2 * band, 2 * HALF
                axes.add_patch(Rectangle(*box, facecolor=INK, alpha=0.13, linewidth=0))
        if zero:
            _run_through(axes, 0, INK, len(rows))
        for place, row in enumerate(rows):
            _draw(axes, place, row, reach)
        for value, color in lines:
            _run_through(axes, value, color, len(rows))
        _scale(axes, rows, unit, reach)
    return figure


def _draw(axes: Axes, place: int, row: Row, reach: tuple[float, float] | None) -> None:
    style, across = look(row.arm), axes.get_yaxis_transform()
    low, high = (
        (row.value.low, row.value.high)
        if reach is None
        else np.clip((row.value.low, row.value.high), *reach)
    )
    axes.plot([low, high], [place] * 2, color=style.color, linewidth=2.2, solid_capstyle="butt")
    if reach is None or reach[0] <= row.value.mean <= reach[1]:
        axes.plot([row.value.mean], [place], color=style.color, markersize=6, **style.mark)
    else:
        edge, arrow = (reach[0], "<") if row.value.mean < reach[0] else (reach[1], ">")
        axes.plot([edge], [place], arrow, color=style.color, markersize=7, clip_on=False)
    axes.plot(
        row.singles, [place + 0.2] * len(row.singles), "|", color=INK, markersize=5, alpha=0.7
    )
    axes.text(0, place - 0.3, words.shorten(row.arm.name, NAME), transform=across)
    axes.text(1, place - 0.3, row.text, transform=across, ha="right")


def _run_through(axes: Axes, value: float, color: str, count: int) -> None:
    """Mark a value in every row, in pieces that leave the text free."""
    low, high = np.arange(count) - HALF, np.arange(count) + HALF
    axes.vlines([value] * count, low, high, color=color, linewidth=1, zorder=1)


def _scale(axes: Axes, rows: Sequence[Row], unit: str, reach: tuple[float, float] | None) -> None:
    ends = np.array(
        [end for row in rows for end in (row.value.low, row.value.high, row.value.mean)]
    )
    axes.margins(x=0.03)
    if reach is not None:
        axes.set_xlim(*reach)
    elif np.ptp(ends) < 1e-6:  # all in one point: give it room, or the ticks count its rounding
        axes.set_xlim(ends.mean() - 0.05, ends.mean() + 0.05)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{100 * x:.6g}{unit}".replace("-", "−"))
    )
