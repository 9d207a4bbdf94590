"""How masks overlap, as tables for the terminal, within 80 columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from sparseopd.masks.overlap import Overlap, TensorOverlap, by_block, by_layer, together
from sparseopd.report import words
from sparseopd.report.table import bare_table
from sparseopd.report.words import show

Rows = Mapping[tuple[int, int], Sequence[TensorOverlap]]
"""What `masks.overlap.overlaps` returns: rows a tensor, by the places of two masks."""
Column = tuple[str, Callable[[Overlap], str]]

JACCARD: Column = ("Jaccard", lambda one: show(one.jaccard, "{:.4f}".format))
COVERAGE: Column = ("A in B\n%", lambda one: show(one.coverage, words.percent))
BACK: Column = ("B in A\n%", lambda one: show(one.coverage_back, words.percent))
CHANCE: Column = ("Chance\n%", lambda one: show(one.chance, words.percent))
NULL: tuple[Column, ...] = (
    ("Null\n%", lambda one: show(one.null, words.percent)),
    ("Margin\npoints", lambda one: show(one.margin, lambda x: words.signed(100 * x, ".2f"))),
    ("", lambda one: show(one.deviations, deviations)),
)
"""What is known only beside the base's weights."""
SIZES: tuple[Column, ...] = (
    ("A\n%", lambda one: show(one.first / one.numel if one.numel else None, words.percent)),
    # The share of a part that B holds is also what chance would give of A in B there.
    ("B, chance\n%", CHANCE[1]),
)


def overlap_tables(names: Sequence[str], rows: Rows) -> list[Table]:
    """Make a table of every pair of masks, A and B; of a single pair also by block and by layer.

    `names` are the masks', in their order. Figures that need the base's weights (the |W|-matched null,
    the margin of A in B above it, and that in standard deviations) are left out where none has them.
    """
    tables = [_pair_table(names, rows)]
    if len(rows) == 1:
        (only,) = rows.values()
        layers = by_layer(only)
        tables.append(_part_table("Block", by_block(only).items()))
        if layers:
            tables.append(_part_table("Layer", layers.items()))
    return tables


def deviations(count: float) -> str:
    """+12 sd, −0.3 sd; what is beyond all doubt ends at ±999."""
    if abs(count) >= 999.5:
        return ">999 sd" if count > 0 else "<−999 sd"
    return words.signed(count, ".1f" if abs(count) < 9.95 else ".0f") + " sd"


def _pair_table(names: Sequence[str], rows: Rows) -> Table:
    pairs = {pair: together(parts) for pair, parts in rows.items()}
    columns = [JACCARD, COVERAGE, BACK, CHANCE, *_null(pairs.values())]
    room = 11 if len(columns) > 4 else 20
    table = bare_table("A", min_width=8)
    table.add_column("B", overflow="fold")
    _add_columns(table, columns)
    for (first, second), overlap in pairs.items():
        table.add_row(
            _name(names[first], room),
            _name(names[second], room),
            *(cell(overlap) for _, cell in columns),
        )
    return table


def _name(name: str, room: int) -> Text:
    """Break a name at its hyphens and the like, into lines that have room beside the figures."""
    lines = [""]
    for piece in re.findall(r"[^-_./ ]*[-_./ ]*", words.shorten(name, 3 * room)):
        if lines[-1] and len(lines[-1]) + len(piece) > room:
            lines.append("")
        lines[-1] += piece
    return Text("\n".join(lines))


def _part_table(kind: str, parts: Iterable[tuple[str | int, Overlap]]) -> Table:
    listed = list(parts)
    columns = [*SIZES, COVERAGE, *_null(overlap for _, overlap in listed)]
    table = bare_table(kind)
    _add_columns(table, columns)
    for part, overlap in listed:
        table.add_row(str(part), *(cell(overlap) for _, cell in columns))
    return table


def _add_columns(table: Table, columns: Sequence[Column]) -> None:
    for heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)


def _null(overlaps: Iterable[Overlap]) -> tuple[Column, ...]:
    return NULL if any(one.expected is not None for one in overlaps) else ()
