"""The figure of `train_step.py`: memory and time of a step against the share of weights trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from train_step_arms import EIGHT_BIT, FLOOR, FULL, SAMPLED
from train_step_report import measured, value

from sparseopd.report.file import require_figure_suffix, save_figure
from sparseopd.report.svg import INK, house_style, plain_log

SIZE = (9.4, 3.6)
"""Inches, both panels with their labels."""
LINE = 0.075
"""Height of a label, in heights of the axes."""
PANELS = (
    ("peak", 1e-6, "Peak memory of a step above the loaded model", "MB"),
    ("step", 1e3, "Time of a training step", "ms"),
)


@dataclass(frozen=True)
class Series:
    """A method: its label, its arms, and how it is drawn; the colours are Okabe and Ito's."""

    label: str
    arms: tuple[str, ...]
    color: str
    marker: str = ""
    face: str | None = None


SHARES = ("0.1", "1", "5", "10", "20")
OWN = tuple(f"sparseopd {share} %" for share in SHARES)
SERIES = (
    Series("sparseopd", OWN, "#d55e00", "D"),
    Series("sparseopd, 8-bit", (EIGHT_BIT,), "#d55e00", "D", "white"),
    Series("sparseopd, sampled", tuple(f"{SAMPLED} {s} %" for s in SHARES[:-1]), "#56b4e9", "o"),
    Series("SHiRA", ("SHiRA 1 %", "SHiRA 10 %"), "#009e73", "s"),
    Series("SUPERTUNING", ("SUPERTUNING 1 %", "SUPERTUNING 10 %"), "#cc79a7", "^"),
    Series("LoRA", ("LoRA 1 %", "LoRA r=32", "LoRA 10 %"), "#e69f00", "v"),
    Series("full AdamW", (FULL,), "#0072b2"),
    Series(FLOOR, (FLOOR,), "#6b6b6b"),
)
"""Those without a marker train no share of their own: they are horizontal lines."""


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw both panels to a file: .svg, .png or .pdf."""
    require_figure_suffix(path)
    with house_style():
        figure = Figure(figsize=SIZE)
        for left, (measure, scale, title, unit) in zip((0.055, 0.55), PANELS, strict=True):
            axes = figure.add_axes((left, 0.15, 0.255, 0.74))
            axes.set_title(f"{title}, {unit}")
            _panel(axes, results, measure, scale)
    save_figure(figure, path, _describe(results))


def _points(
    results: dict[str, Any], measure: str
) -> Iterator[tuple[Series, list[float], list[float]]]:
    """Yield every series that was measured: shares trained in percent, and what was measured."""
    arms, adapted = measured(results, measure), results["model"]["adapted"]
    part = "time" if measure == "step" else "memory"
    for series in SERIES:
        names = [name for name in series.arms if name in arms]
        if names:
            shares = [100 * results[part]["arms"][name]["trained"] / adapted for name in names]
            yield series, shares, [value(results, measure, name) for name in names]


def _panel(axes: Axes, results: dict[str, Any], measure: str, scale: float) -> None:
    axes.set_xlabel("trained share of the adapted weights, %")
    plain_log(axes.set_xscale, axes.xaxis)
    axes.set_xlim(0.07, 30)
    ends: dict[str, tuple[float, float]] = {}
    for series, shares, figures in _points(results, measure):
        heights = [scale * figure for figure in figures]
        if series.marker:
            look = {"marker": series.marker, "markersize": 5.5, "mfc": series.face or series.color}
            axes.plot(shares, heights, color=series.color, linewidth=1.4, clip_on=False, **look)
            ends[series.label] = shares[-1], heights[-1]
        else:
            axes.axhline(heights[0], color=series.color, linewidth=1.2, linestyle=(0, (4, 2)))
            ends[series.label] = axes.get_xlim()[1], heights[0]
    axes.set_ylim(0, 1.08 * max((height for _, height in ends.values()), default=1))
    _label(axes, ends)


def _label(axes: Axes, ends: dict[str, tuple[float, float]]) -> None:
    """Write the labels beside the axes, apart from each other, each led to where its series ends."""
    colors = {series.label: series.color for series in SERIES}
    top = axes.get_ylim()[1]
    labels = sorted(ends, key=lambda label: ends[label][1])
    heights = _spread([ends[label][1] / top for label in labels])
    for label, height in zip(labels, heights, strict=True):
        axes.annotate(
            label,
            ends[label],
            (1.1, height),
            textcoords="axes fraction",
            va="center",
            color=INK,
            arrowprops={
                "arrowstyle": "-",
                "color": colors[label],
                "linewidth": 0.8,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 2,
            },
        )


def _spread(heights: list[float]) -> list[float]:
    """Move ascending heights apart by `LINE` at least, as little as it takes."""
    moved = list(heights)
    for _ in range(100):
        for lower, upper in pairwise(range(len(moved))):
            lack = LINE - (moved[upper] - moved[lower])
            if lack > 0:
                moved[lower] -= lack / 2
                moved[upper] += lack / 2
    return moved


def _describe(results: dict[str, Any]) -> str:
    """List the figures, for those who cannot see the drawing."""
    parts = []
    for measure, scale, title, unit in PANELS:
        listed = [
            f"{series.label} "
            + ", ".join(
                f"{scale * figure:.0f}" + (f" at {share:.2g} %" if series.marker else "")
                for share, figure in zip(shares, figures, strict=True)
            )
            for series, shares, figures in _points(results, measure)
        ]
        parts.append(f"{title}, {unit}: {'; '.join(listed)}.")
    return " ".join(parts)
