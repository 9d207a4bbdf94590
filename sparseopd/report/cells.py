"""Grids of coloured cells: layers by modules, and a row of what has no layer.

Everything is placed in inches: sixty layers make a taller figure, not thinner text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sparseopd.report import words
from sparseopd.report.layout import Grid
from sparseopd.report.svg import WIDTH, house_style

LEFT = 0.45
"""Room for the numbers of layers, and for "other"."""
CELL = (0.55, 0.27)
"""Width and height of the largest cell."""
LETTER = 0.078
"""Width of a letter of a module's name, on the wide side."""
SCALE = 0.42
"""Height of the colour scale with its figures."""
TITLE = 0.2
"""Height of a line of the title, which files have; in the page a heading stands above the figure."""
NUMBERED = (9, 16)
"""Columns and rows up to which each cell also carries its figure."""
APART = LinearSegmentedColormap.from_list("apart", ["#0072b2", "#d8d8d4", "#d55e00"])
"""From less to more, with a middle that shows on white and on black."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """From a cell's value to its colour and its figure, and what the legend says of both."""

    low: float
    high: float
    ends: tuple[str, str]
    """The two ends, as written."""
    legend: str
    form: words.Form
    """A cell's figure, of about three letters: more has no room."""
    around_zero: bool = False
    """Whether the middle is nothing, and colours tell less from more."""

    def place(self, value: float) -> float:
        """Return where a value stands on the scale, 0…1."""
        reach = self.high - self.low
        return min(1.0, max(0.0, (value - self.low) / reach)) if reach else 0.0

    def color(self, value: float) -> tuple[float, ...]:
        """Return a value's colour."""
        if self.around_zero:
            return APART(self.place(value))
        colors: Colormap = colormaps["cividis"]
        # The darkest tenth of cividis would vanish on a dark page.
        return colors(0.1 + 0.9 * self.place(value))

    def ink(self, value: float) -> str:
        """Return the colour of a figure on that colour."""
        place = self.place(value)
        dark = abs(place - 0.5) > 0.36 if self.around_zero else place <= 0.45
        return "white" if dark else "black"


def draw_grids(layers: Grid, other: Grid, scale: Scale, title: str = "") -> Figure:
    """Draw the grid of layers and, beneath it, the row of modules that belong to none."""
    above, below = _room(layers.modules), _room(other.modules)
    row = min(CELL[1], max(0.085, 5.5 / max(1, len(layers.layers))))
    body, strip = row * len(layers.layers), CELL[1] * len(other.layers)
    bottom = SCALE + below
    height = bottom + strip + 0.1 + body + above + TITLE * len(title.splitlines())
    with house_style():
        figure = Figure(figsize=(WIDTH, height))
        if layers.modules:
            axes = _grid_axes(figure, layers, bottom + strip + 0.1, body)
            _fill(axes, layers, scale)
            _name_layers(axes, layers)
            _name_modules(axes, layers, above=True)
        if other.modules:
            axes = _grid_axes(figure, other, bottom, strip)
            _fill(axes, other, scale)
            axes.set_yticks([0.5], ["other"])
            _name_modules(axes, other, above=False)
        color_scale(figure, scale)
        figure.text(0.1 / WIDTH, 1 - 0.12 / height, title, va="top", linespacing=1.4)
    return figure


def color_scale(figure: Figure, scale: Scale) -> None:
    """Draw the scale with its legend at the foot of a figure."""
    axes = _bare_axes(figure, 0.22, 1.6, 0.1)
    axes.set(xlim=(0, 24), ylim=(0, 1), yticks=[])
    for step in range(24):
        # Each step runs to the end, under those that follow: side by side they would show seams.
        color = scale.color(scale.low + (scale.high - scale.low) * (step + 0.5) / 24)
        axes.add_patch(Rectangle((step, 0), 24 - step, 1, color=color, lw=0))
    axes.set_xticks([0, 24], scale.ends)
    figure.text((LEFT + 1.72) / WIDTH, 0.22 / figure.get_figheight(), scale.legend, size=9)


def _bare_axes(figure: Figure, bottom: float, width: float, height: float) -> Axes:
    """Make axes without lines; `bottom`, `width` and `height` in inches."""
    tall = figure.get_figheight()
    axes = figure.add_axes((LEFT / WIDTH, bottom / tall, width / WIDTH, height / tall))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=3)
    return axes


def _grid_axes(figure: Figure, grid: Grid, bottom: float, height: float) -> Axes:
    width = min(CELL[0] * len(grid.modules), WIDTH - LEFT - _overhang(grid.modules))
    axes = _bare_axes(figure, bottom, width, height)
    axes.set(xlim=(0, len(grid.modules)), ylim=(len(grid.layers), 0))
    return axes


def _fill(axes: Axes, grid: Grid, scale: Scale) -> None:
    """Draw a rectangle a cell, numbered where there is room, with the page showing between them."""
    numbered = len(grid.modules) <= NUMBERED[0] and len(grid.layers) <= NUMBERED[1]
    for row, column in np.argwhere(np.isfinite(grid.density)):
        value = float(grid.density[row, column])
        color = scale.color(value)
        axes.add_patch(Rectangle((column + 0.03, row + 0.05), 0.94, 0.9, color=color, lw=0))
        if numbered:
            place = {"ha": "center", "va": "center", "color": scale.ink(value), "size": 8.5}
            axes.text(column + 0.5, row + 0.52, scale.form(value), **place)


def _name_layers(axes: Axes, grid: Grid) -> None:
    step = -(-len(grid.layers) // 24)
    ticks = np.arange(0, len(grid.layers), step) + 0.5
    axes.set_yticks(ticks, [str(layer) for layer in grid.layers[::step]])


def _name_modules(axes: Axes, grid: Grid, *, above: bool) -> None:
    axes.tick_params(axis="x", top=above, bottom=not above, labeltop=above, labelbottom=not above)
    names = axes.set_xticks(np.arange(len(grid.modules)) + 0.5, _short(grid.modules))
    angle = math.degrees(_angle(grid.modules))
    pitch = axes.get_position().width * WIDTH / len(grid.modules) * math.sin(_angle(grid.modules))
    axes.tick_params(axis="x", labelsize=min(9.0, 65 * pitch))
    for name in names:
        text = name.label2 if above else name.label1
        text.set(rotation=angle if above else -angle, ha="left", va="bottom" if above else "top")
        text.set_rotation_mode("anchor")  # lets SVG anchor the text, whatever font the page has


def _short(modules: list[str]) -> list[str]:
    return [words.shorten(name, 26) for name in modules]


def _angle(modules: list[str]) -> float:
    """Return the slant of names in radians: steeper where columns are narrow."""
    return math.radians(40 if len(modules) <= 12 else 65)


def _room(modules: list[str]) -> float:
    """Return the height of the slanted names."""
    longest = max(map(len, _short(modules)), default=0)
    return 0.16 + LETTER * longest * math.sin(_angle(modules))


def _overhang(modules: list[str]) -> float:
    """Return how far slanted names reach beyond the last column."""
    cell = min(CELL[0], (WIDTH - LEFT) / len(modules))
    reach = LETTER * math.cos(_angle(modules))
    return max(
        reach * len(name) - cell * (0.5 + after)
        for after, name in enumerate(reversed(["", *_short(modules)]))
    )
