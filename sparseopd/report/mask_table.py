"""A mask as coloured tables for the terminal: density by layer and module, within 80 columns.

The figures say all of it; colours, from dark blue to yellow as on the page, only guide the eye. Each
cell brings its own ground, so that it reads the same on dark and on light terminals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from sparseopd.report.layout import Grid, Rows, grids, rank, scale_top
from sparseopd.report.table import WIDTH, bare_table
from sparseopd.report.words import clean, percent, shorten, show

LAYER = "layer "
"""Heading of the layers' numbers, and the room they take."""
SHADES = np.array(
    [
        (0x08, 0x33, 0x70),
        (0x43, 0x4E, 0x6C),
        (0x66, 0x69, 0x70),
        (0x88, 0x85, 0x78),
        (0xAE, 0xA3, 0x71),
        (0xD6, 0xC3, 0x5D),
        (0xFE, 0xE8, 0x38),
    ]
)
"""The colours of heatmap.py, evenly spaced: importing matplotlib for them would take longer than the
rest of the command."""
SHORT = {"layernorm": "norm", "attention": "attn", "feedforward": "ffn", "embedding": "embed"}
"""Long words of modules' names, as headings have them."""


@dataclass(frozen=True)
class _Column:
    """A module: its heading, broken into lines, and each layer's density with the text for it."""

    heading: list[str]
    shares: list[float]
    figures: list[str]

    @property
    def width(self) -> int:
        return max(map(cell_len, [*self.heading, *self.figures])) + 1


def mask_tables(rows: Rows) -> list[Table]:
    """Make tables of a mask's layout (`masks.layout`), in percent of each cell's coordinates.

    One row a layer and one column a module; a vision tower apart, and as many tables as the modules
    need to fit 80 columns. The last table holds what is in no layer, and the sum of everything.
    """
    most, (layers, _) = scale_top(rows), grids(rows)
    vision = [module for module in layers.modules if module.startswith("vision.")]
    text = [module for module in layers.modules if module not in vision]
    tables = _layer_tables("Text layers" if vision else "Layers", layers, text, most)
    return [*tables, *_layer_tables("Vision layers", layers, vision, most), _rest(rows, most)]


def _layer_tables(name: str, layers: Grid, modules: list[str], most: float) -> list[Table]:
    """Make the tables of some modules, with the layers that have any of them."""
    shares = layers.density[:, [layers.modules.index(module) for module in modules]]
    held = np.flatnonzero(np.isfinite(shares).any(axis=1))
    numbers = [layers.layers[row] for row in held]
    columns = [
        _Column(
            _heading(module),
            column,
            [percent(share) if math.isfinite(share) else "" for share in column],
        )
        for module, column in zip(modules, shares[held].T.tolist(), strict=True)
    ]
    tables = []
    for group in _groups(columns):
        title = f"{name}, % in the mask{', continued' if tables else ''}"
        tables.append(_layer_table(title, numbers, group, most))
    return tables


def _layer_table(title: str, numbers: list[int], columns: list[_Column], most: float) -> Table:
    table = Table(title=Text(title), title_justify="left", box=None, padding=0)
    table.add_column(LAYER, vertical="bottom", no_wrap=True)
    widths = _spread([column.width for column in columns])
    for column, width in zip(columns, widths, strict=True):
        lines = [_right(line, width) for line in column.heading]
        table.add_column(Text("\n".join(lines)), vertical="bottom", no_wrap=True)
    for row, number in enumerate(numbers):
        cells = [
            _cell(column.figures[row], column.shares[row], width, most)
            for column, width in zip(columns, widths, strict=True)
        ]
        table.add_row(_right(str(number), len(LAYER)), *cells)
    return table


def _spread(widths: list[int]) -> list[int]:
    """Give every column another space, where the terminal has room for that."""
    spare = sum(widths) + len(widths) <= WIDTH - len(LAYER)
    return [width + spare for width in widths]


def _groups(columns: list[_Column]) -> list[list[_Column]]:
    """Split columns into as few tables as fit the terminal, of about as many columns each."""
    for tables in range(1, len(columns) + 1):
        size = -(-len(columns) // tables)
        groups = [columns[start : start + size] for start in range(0, len(columns), size)]
        wide = max(sum(column.width for column in group) for group in groups)
        if size == 1 or wide <= WIDTH - len(LAYER):
            return groups
    return []


def _rest(rows: Rows, most: float) -> Table:
    """Make the table of modules outside any layer, and of all there is."""
    other = sorted(
        (row for row in rows if row["layer"] is None), key=lambda row: rank(row["module"])
    )
    table = bare_table("Outside layers" if other else "")
    for heading in ("Weights", "In mask", "%"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in other:
        table.add_row(Text(clean(row["module"])), *_sums([row], most))
    if other:
        table.add_section()
    table.add_row("all", *_sums(rows, None))
    return table


def _sums(rows: Rows, most: float | None) -> list[str | Text]:
    """Write weights, coordinates in the mask and their share, on its ground if a scale is given."""
    count, numel = sum(row["count"] for row in rows), sum(row["numel"] for row in rows)
    share = count / numel if numel else None
    figure = show(share, percent)
    cell = Text(f"{figure} ") if share is None or most is None else _cell(figure, share, 8, most)
    return [f"{numel:,}", f"{count:,}", cell]


def _heading(module: str) -> list[str]:
    """Break a module's name at its underscores: post_attention_layernorm is post, attn, norm.

    Short parts stay together (q_a, kv_b) where they are no wider than five letters.
    """
    lines = [""]
    for part in module.removeprefix("vision.").split("_"):
        word = shorten(SHORT.get(part, part), 10)
        joined = f"{lines[-1]}_{word}" if lines[-1] else word
        if len(joined) > 5 and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = joined
    return lines


def _right(text: str, width: int) -> str:
    """Align to the right, one space from the end: rich would drop that space."""
    return " " * (width - 1 - cell_len(text)) + text + " "


def _cell(figure: str, share: float, width: int, most: float) -> Text:
    """Put a figure on the ground its density has; a module that the layer lacks has none."""
    if not figure:
        return Text("")
    place = min(1.0, share / most) if most else 0.0
    ground = [np.interp(place, np.linspace(0, 1, len(SHADES)), shade) for shade in SHADES.T]
    ink = "#000000" if np.dot(ground, (0.299, 0.587, 0.114)) > 118 else "#ffffff"
    red, green, blue = (round(float(part)) for part in ground)
    return Text(_right(figure, width), f"{ink} on #{red:02x}{green:02x}{blue:02x}")
