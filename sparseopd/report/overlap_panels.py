"""The panels of the overlap's figure: shares of A by layer and by block, in percent from 0."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sparseopd.masks.overlap import Overlap


@dataclass(frozen=True)
class Series:
    """One of the three shares of A that each panel holds, and how it looks."""

    label: str
    read: Callable[[Overlap], float | None]
    color: str
    marker: str
    size: float
    dashes: Literal["-", "--", ":"]

    def values(self, overlaps: Iterable[Overlap]) -> np.ndarray:
        """Return the shares in percent, NaN where there is none."""
        shares = [self.read(one) for one in overlaps]
        return np.array([np.nan if share is None else 100 * share for share in shares])

    @property
    def mark(self) -> dict[str, Any]:
        """Return the look of its marks."""
        filled = self.color if self is FOUND else "none"
        return {"marker": self.marker, "markersize": self.size, "markerfacecolor": filled}


CHANCE = Series("chance", lambda one: one.chance, "#8c8c8c", "|", 9, ":")
NULL = Series("|W|-matched null ± 2 sd", lambda one: one.null, "#d55e00", "D", 6.5, "--")
FOUND = Series("observed", lambda one: one.coverage, "#0072b2", "o", 4.5, "-")


def draw_layers(axes: Axes, parts: dict[int, Overlap]) -> None:
    """Draw the three shares by layer as lines; what is missing leaves a gap."""
    layers, overlaps = list(parts), list(parts.values())
    null, spread = NULL.values(overlaps), _spread(overlaps)
    axes.fill_between(layers, null - spread, null + spread, color=NULL.color, alpha=0.25, lw=0)
    for one in (CHANCE, NULL, FOUND):
        (line,) = axes.plot(layers, one.values(overlaps), one.dashes, color=one.color)
        if one is FOUND or len(layers) == 1:  # a line of one point is invisible
            line.set(clip_on=False, **one.mark)
    axes.set(xlabel="layer", xlim=(layers[0] - 0.5, layers[-1] + 0.5), ylim=(0, _top(overlaps)))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    _in_percent(axes.yaxis, 5)


def draw_blocks(axes: Axes, parts: dict[str, Overlap]) -> None:
    """Draw the three shares by block, a row each."""
    overlaps, rows = list(parts.values()), np.arange(len(parts))
    axes.hlines(
        rows,
        NULL.values(overlaps) - _spread(overlaps),
        NULL.values(overlaps) + _spread(overlaps),
        color=NULL.color,
        alpha=0.5,
        linewidth=3,
    )
    for one in (CHANCE, NULL, FOUND):
        axes.plot(
            one.values(overlaps), rows, color=one.color, linestyle="", clip_on=False, **one.mark
        )
    axes.set_yticks(rows, list(parts))
    axes.set(ylim=(max(1, len(rows)) - 0.5, -0.5), xlim=(0, _top(overlaps)))
    _in_percent(axes.xaxis, 5 if axes.get_position().width > 0.5 else 2)


def _spread(overlaps: Sequence[Overlap]) -> np.ndarray:
    """Return two standard deviations of the null, in percent of A."""
    return np.array(
        [
            np.nan if one.variance is None or not one.first else 200 * one.variance**0.5 / one.first
            for one in overlaps
        ]
    )


def _top(overlaps: Sequence[Overlap]) -> float:
    """Return the end of an axis in percent that starts at 0."""
    drawn = [one.values(overlaps) for one in (CHANCE, NULL, FOUND)]
    drawn.append(drawn[1] + _spread(overlaps))
    return 1.08 * float(np.nanmax([0, *np.concatenate(drawn)])) or 1.0


def _in_percent(axis: Axis, parts: int) -> None:
    axis.set_major_locator(MaxNLocator(parts, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
