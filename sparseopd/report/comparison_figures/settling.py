"""How the mask settles: how far the one after some steps is the one after the last."""

from __future__ import annotations

from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sparseopd.report import words
from sparseopd.report.settling import MARKS
from sparseopd.report.svg import INK, WIDTH, house_style
from sparseopd.results import SettlingRow, Study

TITLE = "How the mask settles"
COLORS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def caption(study: Study) -> str:
    """Say what the two panels are, and what the dashes are."""
    seeds = len({row.seed for row in study.settling})
    mean = f"Means over {seeds} seeds, single ones faint. " if seeds > 1 else ""
    text = (
        f"{mean}The top-k mask after so many steps beside the one after the last. Jaccard: coordinates in "
        "both over coordinates in either. Coverage: the share of the early mask that the last one has."
    )
    if any(row.null is not None for row in study.settling):
        text += " Dashes: the same coverage if the last mask is drawn anew among weights of the same size."
    return text


def draw_settling(study: Study) -> Figure | None:
    """Draw Jaccard index and coverage against steps, a line a density; None where none was followed."""
    if not study.settling:
        return None
    with house_style():
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        lines = []
        for (density, rows), color, mark in zip(
            _by_density(study).items(), cycle(COLORS), cycle(MARKS), strict=False
        ):
            _plot(left, rows, "jaccard", color, mark)
            lines.append(_plot(right, rows, "coverage", color, mark))
            lines[-1].set_label(f"{words.density(density)} %")
            null = _mean(rows, "null")
            right.plot(*null.T, "--", color=color, linewidth=1.1)
        handles = [
            *lines,
            Line2D([], [], color=INK, linestyle="--", linewidth=1.1, label="|W| null"),
        ]
        for axes, title in ((left, "Jaccard index"), (right, "coverage by the last")):
            axes.set(title=title, xlabel="step of discovery", ylim=(0, 1))
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
        shown = handles if any(row.null is not None for row in study.settling) else lines
        figure.legend(handles=shown, loc="outside lower left", ncols=4)
    return figure


def describe_settling(study: Study) -> str:
    """Say where every line begins and ends, beside its null."""
    told = []
    for density, rows in _by_density(study).items():
        parts = []
        for field in ("jaccard", "coverage", "null"):
            points = _mean(rows, field)
            if len(points):
                ends = [f"{y:.2f} at step {x:.0f}" for x, y in points[[0, -1]]]
                parts.append(f"{field} {' to '.join(dict.fromkeys(ends))}")
        told.append(f"{words.density(density)} %: {', '.join(parts)}")
    return f"How far the mask after some steps is the last one, by density. {'; '.join(told)}."


def _by_density(study: Study) -> dict[float, list[SettlingRow]]:
    densities = sorted({row.density for row in study.settling})
    return {one: [row for row in study.settling if row.density == one] for one in densities}


def _points(rows: list[SettlingRow], field: str) -> np.ndarray:
    known = [(row.steps, getattr(row, field)) for row in rows if getattr(row, field) is not None]
    return np.array(sorted(known), dtype=float).reshape(-1, 2)


def _mean(rows: list[SettlingRow], field: str) -> np.ndarray:
    """Return steps and means over the seeds: (steps, 2)."""
    points = _points(rows, field)
    steps = np.unique(points[:, 0])
    return np.array(
        [(step, points[points[:, 0] == step, 1].mean()) for step in steps], dtype=float
    ).reshape(-1, 2)


def _plot(axes: Axes, rows: list[SettlingRow], field: str, color: str, mark: str) -> Line2D:
    seeds = sorted({row.seed for row in rows})
    for seed in seeds if len(seeds) > 1 else ():
        own = _points([row for row in rows if row.seed == seed], field)
        axes.plot(*own.T, color=color, linewidth=0.7, alpha=0.4)
    look = {"marker": mark, "markersize": 4.5, "linewidth": 1.4, "clip_on": False}
    (line,) = axes.plot(*_mean(rows, field).T, color=color, **look)
    return line
