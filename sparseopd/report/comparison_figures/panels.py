"""A panel an arm, all on the same axes, with full training faintly behind each."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparseopd.report import words
from sparseopd.report.comparison_arms import Look
from sparseopd.report.svg import WIDTH, house_style

ACROSS = 3
"""Panels beside each other."""
TALL, HEAD, FOOT, LEFT, APART = 0.74, 0.44, 0.42, 0.5, 0.22
"""Inches of a panel, of the title above, of the axis beneath the last, beside the first, between."""
LETTERS = 23
"""Of a line of a panel's title, of which there are two at most."""
FAINT = 0.45


@dataclass(frozen=True)
class Panel:
    """A curve with its title."""

    title: str
    points: np.ndarray
    """(points, 2), finite."""
    look: Look
    best: float | None = None
    """Where a ring marks the curve."""
    settled: bool = True
    """Whether worse values stand on both sides of the best; a sign in the title says if not."""


def draw_panels(
    panels: Sequence[Panel],
    behind: np.ndarray | None,
    finish: Callable[[Axes], None],
    label: str,
) -> Figure:
    """Draw the panels on shared axes, `behind` (points, 2) in grey in each; `finish` sets the scales."""
    down = -(-len(panels) // ACROSS)
    across = min(ACROSS, len(panels))
    with house_style():
        height = FOOT + (HEAD + TALL) * down
        figure = Figure(figsize=(WIDTH, height))
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten()
        # Placed by hand: a constrained layout of thirty panels takes a second.
        figure.subplots_adjust(
            left=LEFT / WIDTH,
            right=1 - 0.06 / WIDTH,
            top=1 - HEAD / height,
            bottom=FOOT / height,
            hspace=HEAD / TALL,
            wspace=APART * across / (WIDTH - LEFT),
        )
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for place, (axes, panel) in enumerate(zip(grid, panels, strict=False)):
            _draw(axes, panel, behind)
            last_of_column = place + across >= len(panels)
            axes.tick_params(labelsize=8, labelbottom=last_of_column)
            if last_of_column:
                axes.set_xlabel(label, size=8.5)
        finish(grid[0])
        grid[0].margins(y=0.14)  # room for a ring at the top
    return figure


def _draw(axes: Axes, panel: Panel, behind: np.ndarray | None) -> None:
    if behind is not None:
        axes.plot(*behind.T, color="#8c8c8c", alpha=FAINT, linewidth=2.5)
    marks = {**panel.look.mark, "markersize": 3.5} if len(panel.points) <= 12 else {}
    axes.plot(*panel.points.T, color=panel.look.color, linewidth=1.3, **marks)
    at = panel.points[panel.points[:, 0] == panel.best] if panel.best is not None else []
    for x, y in at:
        axes.plot([x], [y], "o", color=panel.look.color, markersize=9, markerfacecolor="none")
    axes.set_title(_title(panel), size=8, linespacing=1.15)


def _title(panel: Panel) -> str:
    text = words.shorten(panel.title, 2 * LETTERS - 4) + ("" if panel.settled else " ‡")
    lines = textwrap.wrap(text, LETTERS, max_lines=2, placeholder="…")
    return "\n".join(lines)
