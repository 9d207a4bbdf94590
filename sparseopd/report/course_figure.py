"""A run over time: what it left unchanged, its spectrum and its support, each against the step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sparseopd.report import words
from sparseopd.report.curves import is_finite
from sparseopd.report.drawings import Drawing
from sparseopd.report.svg import WIDTH, house_style, to_svg

Rows = Sequence[Mapping[str, Any]]
"""What `analysis.course.course` returns."""

COLUMNS, TALL, FOOT = 2, 1.5, 0.2
"""Panels beside each other, inches of a row of them, and of the axis beneath the last."""
APART = 0.15
"""The least distance between names of lines, as a share of a panel's height."""
# Okabe and Ito's colours, as in arms.py.
BLUE, ORANGE, GREEN, PLAIN = "#0072b2", "#d55e00", "#009e73", "#8c8c8c"


@dataclass(frozen=True)
class _Line:
    """A figure of the rows, and how it is called and drawn."""

    key: str
    name: str = ""
    """Stands at the line's end, where a panel has several."""
    color: str = BLUE
    marker: str = "o"
    is_null: bool = False
    """Whether it is what a null gives, for the line of its colour."""

    def points(self, rows: Rows) -> np.ndarray:
        """Return steps and values: (rows, 2), NaN where there is none."""
        values = [row.get(self.key) for row in rows]
        return np.array(
            [
                (row["step"], value if is_finite(value) else np.nan)
                for row, value in zip(rows, values, strict=True)
            ],
            dtype=float,
        ).reshape(-1, 2)

    def is_known(self, rows: Rows) -> bool:
        """Whether any row has it."""
        return bool(np.isfinite(self.points(rows)[:, 1]).any())


@dataclass(frozen=True)
class _Panel:
    """Lines that share an axis."""

    title: str
    lines: tuple[_Line, ...]
    form: words.Form = words.density
    """Of values, in words: by default shares, in percent."""
    unit: str = " %"
    whole: bool = False
    """Whether the axis goes from quarter to quarter, around all values; else it begins at 0."""
    chance: float | None = None
    """Where a dotted line stands."""

    @property
    def scale(self) -> float:
        """What a value is multiplied by on the axis: 100 where it is a share in percent."""
        return 100.0 if self.unit else 1.0


@dataclass(frozen=True)
class _Kind:
    """A figure: how it is named and told, and its panels."""

    key: str
    title: str
    caption: str
    panels: tuple[_Panel, ...]


_FIGURES = (
    _Kind(
        "sparsity",
        "What the update left unchanged, over time",
        "Left: share of all coordinates with |Δ| within a threshold. Right: the update's norm, in percent "
        "of the source's.",
        (
            _Panel(
                "unchanged coordinates",
                (
                    _Line("share_zero", "Δ = 0"),
                    _Line("share_le_1e-5", "≤ 1e-5", GREEN, "^"),
                    _Line("share_le_1e-4", "≤ 1e-4", ORANGE, "D"),
                ),
                whole=True,
            ),
            _Panel("‖Δ‖ / ‖W‖", (_Line("relative_norm"),)),
        ),
    ),
    _Kind(
        "spectra",
        "The update's spectrum over time",
        "Medians over matrices: the share of Σσ² in the 16 largest singular values of Δ, its stable rank "
        "‖Δ‖²/σ₁² and entropy effective rank, and the share of ‖Δ‖² in the top tenth of W's singular "
        "subspaces.",
        (
            _Panel("energy in the top 16 σ", (_Line("median_svd_energy_top16"),)),
            _Panel("stable rank", (_Line("median_stable_rank"),), words.scientific, ""),
            _Panel(
                "effective rank", (_Line("median_entropy_effective_rank"),), words.scientific, ""
            ),
            _Panel("energy in W's top 10 %", (_Line("median_projection_energy_10pct"),)),
        ),
    ),
    _Kind(
        "support",
        "The update's support over time",
        "The support is {|Δ| > 1e-5}. The Jaccard index is |A∩B| / |A∪B|, with the support of the snapshot "
        "before and with the last; 1 means the same coordinates, and dashes what coordinates drawn anew "
        "within every |W| quantile of every tensor would give. Energy: the share of ΣΔ² in the largest "
        "hundredth of every tensor. Coverage: the share of the moved coordinates (Δ ≠ 0) that lies "
        "in the most principal tenth of W, and in the tenth with the smallest |W|; dotted: chance.",
        (
            _Panel("density of the support", (_Line("support_density"),)),
            _Panel(
                "Jaccard index",
                (
                    _Line("support_jaccard_before", "with before", BLUE, "o"),
                    _Line("support_jaccard_last", "with last", ORANGE, "D"),
                    _Line("support_jaccard_before_null", "null, before", BLUE, is_null=True),
                    _Line("support_jaccard_last_null", "null, last", ORANGE, is_null=True),
                ),
                words.scientific,
                "",
                whole=True,
            ),
            _Panel("energy in the top 1 %", (_Line("coordinate_energy_top_1pct_pooled"),)),
            _Panel(
                "coverage of a tenth of W",
                (
                    _Line("median_coverage_low_magnitude_10pct_alpha_0", "smallest", ORANGE, "D"),
                    _Line("median_coverage_principal_10pct_alpha_0", "principal", GREEN, "^"),
                ),
                chance=0.1,
            ),
        ),
    ),
)


def draw_course(rows: Rows, key: str) -> list[Drawing]:
    """Draw every figure of a course that has anything to show, ready for the page.

    `key` begins every SVG id and is unique in its page.
    """
    drawn = course_figures(rows)
    return [
        Drawing(kind.title, _caption(kind, rows), to_svg(figure, f"{key}-{name}", alt))
        for kind in _FIGURES
        for name, (figure, alt) in drawn.items()
        if name == kind.key
    ]


def course_figures(rows: Rows) -> dict[str, tuple[Figure, str]]:
    """Return the figures by name, each with its alternative text: "sparsity", "spectra", "support".

    A panel, or a figure, of which no row has anything is left out.
    """
    found = {}
    for kind in _FIGURES:
        panels = [panel for panel in kind.panels if _known(panel, rows)]
        if panels:
            found[kind.key] = _figure(panels, rows), _describe(kind, panels, rows)
    return found


def _known(panel: _Panel, rows: Rows) -> list[_Line]:
    return [line for line in panel.lines if line.is_known(rows)]


def _caption(kind: _Kind, rows: Rows) -> str:
    compared = ", ".join(dict.fromkeys(str(row["compared"]) for row in rows))
    return f"{kind.caption} Compared in {compared}. CSV: course.csv."


def _describe(kind: _Kind, panels: Sequence[_Panel], rows: Rows) -> str:
    """Say where every line begins and ends, for those who cannot see the drawing."""
    told = []
    for panel in panels:
        lines = [f"{line.name} {_span(panel, line, rows)}".strip() for line in _known(panel, rows)]
        told.append(f"{panel.title}: {', '.join(lines)}")
    return f"{kind.title}. {'; '.join(told)}."


def _span(panel: _Panel, line: _Line, rows: Rows) -> str:
    points = line.points(rows)
    points = points[np.isfinite(points[:, 1])]
    ends = [
        f"{panel.form(value)}{panel.unit} at step {step:.0f}" for step, value in points[[0, -1]]
    ]
    return ends[0] if len(points) == 1 else " to ".join(ends)


def _figure(panels: Sequence[_Panel], rows: Rows) -> Figure:
    down = -(-len(panels) // COLUMNS)
    with house_style():
        figure = Figure(figsize=(WIDTH, TALL * down + FOOT), layout="constrained")
        places = figure.subplots(down, COLUMNS, squeeze=False).flatten()
        for place, axes in enumerate(places):
            if place < len(panels):
                _draw(axes, panels[place], rows)
                if place + COLUMNS >= len(panels):
                    axes.set_xlabel("step")
            else:
                axes.set_axis_off()
    return figure


def _draw(axes: Axes, panel: _Panel, rows: Rows) -> None:
    drawn = {line: line.points(rows) * (1, panel.scale) for line in _known(panel, rows)}
    own = [line for line in drawn if not line.is_null]
    for line, points in drawn.items():
        if line.is_null:
            axes.plot(*points.T, "--", color=line.color, linewidth=1)
            continue
        # The first of several has the largest marks, which show around those of a line that covers it.
        size = 3 + len(own) - own.index(line)
        look = {"marker": line.marker, "markersize": size, "linewidth": 1.4, "clip_on": False}
        axes.plot(*points.T, color=line.color, markevery=-(-len(points) // 12), **look)
    if panel.chance is not None:
        axes.axhline(panel.scale * panel.chance, color=PLAIN, linewidth=1.2, linestyle=":")
    axes.set_title(panel.title)
    steps = next(iter(drawn.values()))[:, 0]
    axes.set(ylim=_range(panel, list(drawn.values())), xlim=_ends(steps))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{panel.unit}"))
    axes.tick_params(labelsize=8.5)
    if len(own) > 1:
        _name_ends(axes, {line: drawn[line] for line in own})


def _range(panel: _Panel, drawn: Sequence[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate([points[:, 1] for points in drawn]) / panel.scale
    least, most = float(np.nanmin(values)), float(np.nanmax(values))
    if panel.whole:
        low = min(0.75, math.floor(4 * least) / 4)
        return panel.scale * low, panel.scale * max(low + 0.25, math.ceil(4 * most) / 4)
    most = 1.12 * max(most, panel.chance or 0) or 1 / panel.scale
    return 0.0, panel.scale * (min(most, 1.0) if panel.unit and least <= 1 else most)


def _ends(steps: np.ndarray) -> tuple[float, float]:
    """Return 0, where training began, and the last step with a little room."""
    return 0.0, 1.02 * float(steps.max())


def _name_ends(axes: Axes, drawn: Mapping[_Line, np.ndarray]) -> None:
    """Write the name of every line where it ends, far enough apart to be read."""
    low, high = axes.get_ylim()
    heights = {
        line: float(points[np.isfinite(points[:, 1]), 1][-1] - low) / (high - low)
        for line, points in drawn.items()
    }
    lines = sorted(heights, key=heights.__getitem__)
    places = _spread([heights[line] for line in lines])
    for line, place in zip(lines, places, strict=True):
        axes.annotate(
            line.name, (1, place), (5, 0), "axes fraction", textcoords="offset points",
            color=line.color, size=8.5, va="center",
        )  # fmt: skip


def _spread(heights: Sequence[float]) -> list[float]:
    """Move ascending heights, 0…1, until none is nearer to the next than `APART`, nor above 1."""
    places: list[float] = []
    for height in heights:
        places.append(max(height, places[-1] + APART) if places else height)
    ceiling = 1.0
    for index in reversed(range(len(places))):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - APART
    return places
