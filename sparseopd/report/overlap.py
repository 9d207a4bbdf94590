"""How much of one mask lies in another, drawn by layer and by block beside null and chance.

A single pair has its two panels one above the other; of several, each has a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparseopd.masks.overlap import Overlap, TensorOverlap, by_block, by_layer, together
from sparseopd.report import words
from sparseopd.report.file import require_figure_suffix, save_figure
from sparseopd.report.overlap_panels import CHANCE, FOUND, NULL, draw_blocks, draw_layers
from sparseopd.report.overlap_table import Rows
from sparseopd.report.svg import WIDTH, house_style

MOST_PAIRS = 6
HEAD, NAME, FOOT = 0.62, 0.28, 0.52
"""Inches above all panels, above those of a pair, and below a panel for its axis."""
LEFT, BLOCKS, RIGHT = 0.6, 0.9, 0.25
"""Inches beside panels: left for figures in percent, left for names of blocks, and right."""


Place = tuple[float, float, float, float]
"""Inches: from the left, below a pair's top, width, height."""


def draw_overlap(names: Sequence[str], rows: Rows, path: Path) -> None:
    """Draw the overlap of pairs of masks to a file: .svg, .png or .pdf; of six pairs at most.

    `names` are the masks', `rows` what `masks.overlap.overlaps` returns for them. Raises
    `RequestError` for another suffix.
    """
    require_figure_suffix(path)
    save_figure(overlap_figure(names, rows), path, describe_overlap(names, rows))


def overlap_figure(names: Sequence[str], rows: Rows) -> Figure:
    """Draw every pair, the first `MOST_PAIRS` of them."""
    shown = dict(list(rows.items())[:MOST_PAIRS])
    places = [_places(parts, alone=len(rows) == 1) for parts in shown.values()]
    left_out = len(rows) - len(shown)
    down = HEAD + (0.2 if left_out else 0)
    with house_style():
        figure = Figure(figsize=(WIDTH, down + sum(height for *_, height in places)))
        _write_head(figure, left_out, list(shown.values()))
        for (pair, parts), (layers, blocks, height) in zip(shown.items(), places, strict=True):
            _write(figure, down + 0.05, _name(names, pair, together(parts)))
            if by_layer(parts):
                draw_layers(_axes(figure, layers, down), by_layer(parts))
            draw_blocks(_axes(figure, blocks, down), by_block(parts))
            down += height
    return figure


def describe_overlap(names: Sequence[str], rows: Rows) -> str:
    """Say how much of the first mask of every pair lies in the second."""
    told = []
    for pair, parts in rows.items():
        overlap = together(parts)
        null = f"null {words.percent(overlap.null)} %, " if overlap.null is not None else ""
        chance = words.show(overlap.chance, words.percent, " %")
        told.append(f"{_name(names, pair, overlap)} ({null}chance {chance})")
    return f"Share of the first mask that lies in the second: {'; '.join(told)}."


def _name(names: Sequence[str], pair: tuple[int, int], overlap: Overlap) -> str:
    first, second = (words.shorten(names[place], 24) for place in pair)
    return f"{first} in {second}: {words.show(overlap.coverage, words.percent, ' %')}"


def _places(parts: Sequence[TensorOverlap], *, alone: bool) -> tuple[Place, Place, float]:
    """Lay out a pair: its panels of layers and of blocks, and the height of both."""
    count = max(1, len(by_block(parts)))
    if not alone:
        tall, wide = max(1.2, 0.2 * count), 2.3
        start = LEFT + wide + BLOCKS + 0.05
        blocks = (start, NAME, WIDTH - RIGHT - start, tall)
        return (LEFT, NAME, wide, tall), blocks, NAME + tall + FOOT
    tall = 1.9 if by_layer(parts) else 0.0
    above = NAME + tall + (FOOT if tall else 0)
    blocks = (BLOCKS, above, WIDTH - RIGHT - BLOCKS, 0.26 * count)
    return (LEFT, NAME, WIDTH - RIGHT - LEFT, tall), blocks, above + blocks[3] + 0.35


def _axes(figure: Figure, place: Place, down: float) -> Axes:
    """Make axes at a place below a pair's top, which is `down` inches below the figure's."""
    left, below, width, height = place
    tall = figure.get_figheight()
    bottom = tall - down - below - height
    return figure.add_axes((left / WIDTH, bottom / tall, width / WIDTH, height / tall))


def _write(figure: Figure, down: float, text: str) -> None:
    figure.text(0.1 / WIDTH, 1 - down / figure.get_figheight(), text, va="top")


def _write_head(figure: Figure, left_out: int, pairs: Sequence[Sequence[TensorOverlap]]) -> None:
    title = "Share of the first mask that lies in the second"
    if left_out:
        title += f"\n{left_out} more pairs are not drawn."
    _write(figure, 0.1, title)
    series = [FOUND, NULL, CHANCE]
    if all(together(parts).null is None for parts in pairs):
        series.remove(NULL)
    lines = [Line2D([], [], color=one.color, linestyle=one.dashes, **one.mark) for one in series]
    down = 0.3 + (0.2 if left_out else 0)
    figure.legend(
        lines,
        [one.label for one in series],
        loc="upper left",
        bbox_to_anchor=(0.08 / WIDTH, 1 - down / figure.get_figheight()),
        ncols=3,
        columnspacing=1.5,
        borderaxespad=0,
    )
