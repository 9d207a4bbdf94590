"""Several updates beside each other: matrices of how far their supports overlap, and results agree.

Everything is placed in inches. Two matrices stand side by side, or one above the other where there are
so many updates that their cells would have no room for figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sparseopd.analysis.comparison import Comparisons
from sparseopd.report import words
from sparseopd.report.cells import CELL, LETTER, SCALE, Scale, color_scale
from sparseopd.report.drawings import Drawing
from sparseopd.report.heatmap import two_digits
from sparseopd.report.svg import INK, WIDTH, house_style, to_svg

BESIDE = 6
"""The most updates whose matrices stand side by side."""
GAP, RIGHT = 0.3, 0.08
"""Room between two matrices, and at the end."""
HEAD, STRIP, BELOW = 0.46, 0.1, 0.12
"""Room above a matrix for its title and the numbers of columns, above the row of chance, and beneath."""
NUMBERED = 0.13
"""Width of cells from which on they carry their figures."""
TOLD = 12
"""The most pairs that the alternative text tells one by one."""
NAME = 16
"""Letters of a name that have room."""

Read = Callable[[str, str], float | None]
"""From the names of a row's and of a column's update to a share, 0…1."""


@dataclass(frozen=True)
class _Matrix:
    """Shares of every two updates, and the row of what chance gives."""

    title: str
    cells: np.ndarray
    """(n, n), NaN where there is none and on the diagonal."""
    chance: np.ndarray | None = None
    """(n,), one a column."""


def draw_supports(comparisons: Comparisons, key: str) -> list[Drawing]:
    """Draw the overlap of every two supports beside null and chance, and how far results agree.

    `key` begins every SVG id and is unique in its page.
    """
    compared = ", ".join(comparisons.compared)
    caption = (
        f"The support is {{|Δ| > {comparisons.threshold:g}}}, compared in {compared}. A cell is the share of "
        "the row's support that lies in the column's. Null: the column's drawn anew within every |W| "
        "quantile of every tensor, so what both owe to the size of weights alone. Chance: the column's "
        "density. Figures are in percent. All pairs by block and layer: comparison.json."
    )
    return [
        Drawing(
            "How far the supports overlap",
            caption,
            to_svg(overlap_figure(comparisons), f"{key}-overlap", describe_overlaps(comparisons)),
        ),
        Drawing(
            "How far the checkpoints agree",
            "Share of all coordinates of two tuned checkpoints that are no further apart than this, in "
            "percent.",
            to_svg(
                agreement_figure(comparisons), f"{key}-agreement", describe_agreement(comparisons)
            ),
        ),
    ]


def overlap_figure(comparisons: Comparisons) -> Figure:
    """Draw |A∩B| / |A| of every two supports, A in rows, beside its |W|-matched null, over chance."""
    chance = np.array([one.density for one in comparisons.supports])
    matrices = [
        _Matrix("observed", _cells(comparisons, _coverage(comparisons)), chance),
        _Matrix("|W|-matched null", _cells(comparisons, _null(comparisons)), chance),
    ]
    known = [np.nan_to_num(matrix.cells).max() for matrix in matrices]
    high = _to_one_digit(float(max(*known, chance.max())))
    ends = ("0 %", f"{words.density(high)} %")
    legend = "of the row's support lies in the column's"
    return _draw(
        comparisons, matrices, Scale(low=0.0, high=high, ends=ends, legend=legend, form=two_digits)
    )


def agreement_figure(comparisons: Comparisons) -> Figure:
    """Draw the share of coordinates of every two checkpoints within 1e-5 and 1e-4 of each other."""
    matrices = [
        _Matrix(f"|a - b| ≤ {name}", _cells(comparisons, _agreement(comparisons, key)))
        for key, name in (("1e-05", "1e-5"), ("1e-04", "1e-4"))
    ]
    least = min(min(pair.agreement.values()) for pair in comparisons.pairs)
    low = min(0.9, math.floor(10 * least) / 10)
    ends = (f"{words.density(low)} %", "100 %")
    legend = "of all coordinates agree"
    return _draw(
        comparisons, matrices, Scale(low=low, high=1.0, ends=ends, legend=legend, form=two_digits)
    )


def describe_overlaps(comparisons: Comparisons) -> str:
    """Say the share of every support in every other, with null and chance; of many, the extremes."""
    told = []
    for one, two in _ordered(comparisons):
        overlap = comparisons.overlap(one, two)
        shares = (overlap.coverage, overlap.null, overlap.chance)
        found, null, chance = (words.show(share, words.percent, " %") for share in shares)
        text = f"{one} in {two}: {found} (null {null}, chance {chance})"
        told.append((overlap.coverage or 0.0, text))
    return words.clean(f"Share of one support that lies in another. {_few(told)}.")


def describe_agreement(comparisons: Comparisons) -> str:
    """Say how far every two checkpoints agree; of many, the extremes."""
    told = []
    for pair in comparisons.pairs:
        near, far = (words.accuracy(share) for share in pair.agreement.values())
        told.append(
            (min(pair.agreement.values()), f"{pair.first} and {pair.second}: {near} %, {far} %")
        )
    return words.clean(f"Share of coordinates within 1e-5, and 1e-4. {_few(told)}.")


def _few(told: Sequence[tuple[float, str]]) -> str:
    """Join sentences, or the ones of the lowest and of the highest share where there are many."""
    if len(told) <= TOLD:
        return "; ".join(text for _, text in told)
    (_, low), (_, high) = min(told), max(told)
    return f"{len(told)} pairs, from {low}, to {high}"


def _ordered(comparisons: Comparisons) -> list[tuple[str, str]]:
    labels = [one.label for one in comparisons.supports]
    return [(one, two) for one in labels for two in labels if one != two]


def _coverage(comparisons: Comparisons) -> Read:
    return lambda one, two: comparisons.overlap(one, two).coverage


def _null(comparisons: Comparisons) -> Read:
    return lambda one, two: comparisons.overlap(one, two).null


def _agreement(comparisons: Comparisons, tolerance: str) -> Read:
    return lambda one, two: comparisons.agreement(one, two)[tolerance]


def _cells(comparisons: Comparisons, read: Read) -> np.ndarray:
    count = len(comparisons.supports)
    places = {support.label: place for place, support in enumerate(comparisons.supports)}
    cells = np.full((count, count), np.nan)
    for one, two in _ordered(comparisons):
        share = read(one, two)
        cells[places[one], places[two]] = np.nan if share is None else share
    return cells


@dataclass(frozen=True)
class _Grid:
    """Where the cells of both matrices go, in inches."""

    names: list[str]
    """Of updates, as rows are called; columns have their numbers."""
    left: float
    """Room for names."""
    cell: tuple[float, float]
    """Width and height."""
    strip: float
    """Height of the row of chance, with the room above it; 0 where there is none."""

    @property
    def beside(self) -> bool:
        """Whether the second matrix stands beside the first, rather than beneath."""
        return len(self.names) <= BESIDE

    @property
    def width(self) -> float:
        """Return the width of a matrix."""
        return self.cell[0] * len(self.names)

    @property
    def height(self) -> float:
        """Return the height of a matrix with its title and chance."""
        return HEAD + self.cell[1] * len(self.names) + self.strip + BELOW

    def corner(self, place: int) -> tuple[float, float]:
        """Return the lower left corner of a matrix's row of chance, or of the matrix without one."""
        if self.beside:
            return self.left + place * (self.width + GAP), SCALE + BELOW
        return self.left, SCALE + BELOW + (1 - place) * self.height


def _grid(comparisons: Comparisons, chance: bool) -> _Grid:
    short = [words.shorten(one.label, NAME) for one in comparisons.supports]
    names = [f"{name}  {number}" for number, name in enumerate(short, 1)]
    left = 0.1 + LETTER * max(map(len, names))
    room = WIDTH - left - RIGHT
    width = (room - GAP) / 2 if len(names) <= BESIDE else room
    cell = min(CELL[0], width / len(names))
    tall = min(CELL[1], max(cell, 0.15))
    return _Grid(names, left, (cell, tall), STRIP + tall if chance else 0.0)


def _draw(comparisons: Comparisons, matrices: Sequence[_Matrix], scale: Scale) -> Figure:
    chances = [matrix.chance for matrix in matrices if matrix.chance is not None]
    grid = _grid(comparisons, bool(chances))
    down = 1 if grid.beside else len(matrices)
    with house_style():
        figure = Figure(figsize=(WIDTH, SCALE + down * grid.height))
        for place, matrix in enumerate(matrices):
            named = place == 0 or not grid.beside
            left, bottom = grid.corner(place)
            _draw_matrix(figure, grid, (left, bottom + grid.strip), matrix, scale, named)
            if matrix.chance is not None:
                axes = _axes(figure, (left, bottom, grid.width, grid.cell[1]), (1, len(grid.names)))
                _fill(axes, matrix.chance[None], scale, grid.cell[0])
                axes.set_xticks([])
                axes.set_yticks([0.5], ["chance"] if named else [""])
        color_scale(figure, scale)
    return figure


def _draw_matrix(
    figure: Figure,
    grid: _Grid,
    corner: tuple[float, float],
    matrix: _Matrix,
    scale: Scale,
    named: bool,
) -> None:
    count = len(grid.names)
    box = (*corner, grid.width, grid.cell[1] * count)
    axes = _axes(figure, box, (count, count))
    axes.set_title(matrix.title, pad=18)
    _fill(axes, matrix.cells, scale, grid.cell[0])
    places = np.arange(count) + 0.5
    axes.set_xticks(places, [str(number + 1) for number in range(count)])
    axes.set_yticks(places, grid.names if named else [""] * count)
    axes.tick_params(axis="x", labelsize=min(9.0, 45 * grid.cell[0]))


def _to_one_digit(share: float) -> float:
    """Round a share up to one digit, never beyond 1: where a scale ends."""
    if share <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(share))
    return min(1.0, math.ceil(round(share / unit, 6)) * unit)


def _axes(figure: Figure, box: tuple[float, float, float, float], shape: tuple[int, int]) -> Axes:
    """Make axes without lines, a unit a cell; `box`: left, bottom, width and height in inches."""
    left, bottom, width, height = box
    tall = figure.get_figheight()
    axes = figure.add_axes((left / WIDTH, bottom / tall, width / WIDTH, height / tall))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set(xlim=(0, shape[1]), ylim=(shape[0], 0))
    axes.tick_params(length=0, pad=3, top=True, bottom=False, labeltop=True, labelbottom=False)
    return axes


def _fill(axes: Axes, cells: np.ndarray, scale: Scale, width: float) -> None:
    """Draw a cell a share, with its figure where cells of this width have room; a dash for none."""
    middle = {"ha": "center", "va": "center", "size": min(8.5, 40 * width)}
    for (row, column), share in np.ndenumerate(cells):
        if np.isfinite(share):
            color = scale.color(share)
            axes.add_patch(Rectangle((column + 0.03, row + 0.05), 0.94, 0.9, color=color, lw=0))
            if width >= NUMBERED:
                figure = scale.form(share)
                axes.text(column + 0.5, row + 0.52, figure, color=scale.ink(share), **middle)
        elif row != column or len(cells) == 1:
            axes.text(column + 0.5, row + 0.52, words.MISSING, color=INK, **middle)
