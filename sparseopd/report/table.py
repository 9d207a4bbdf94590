"""Scores, and a mask's layout, as tables for the terminal, within 80 columns."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from sparseopd.artifacts import ArmScores, Scores
from sparseopd.report.columns import Column, filled_columns
from sparseopd.report.words import MISSING, clean, density, show

SHOWN = {
    "Trained": "Trained\n%",
    "lr": "lr",
    "Accuracy": "Accuracy\n%",
    "Gain kept": "Gain kept\n% of full",
    "KL to teacher": "KL\nnats",
}
"""Columns of the page that fit a terminal, under the headings they have there."""


def scores_table(scores: Scores) -> Table:
    """Make a table of every arm: share trained, lr, accuracy and gain kept with intervals, KL.

    It fits 80 columns whatever the figures; a long name wraps. Columns that no arm fills are left
    out. Names are shown as they are: markup and control codes in them do nothing.
    """
    columns = [column for column in filled_columns(scores) if column.title in SHOWN]
    table = _bare_table("Arm")
    for column in columns:
        table.add_column(SHOWN[column.title], justify="right", no_wrap=True)
    for arm in scores.arms:
        table.add_row(Text(clean(arm.name)), *(_figure(column, arm) for column in columns))
    return table


def mask_table(rows: list[dict[str, Any]]) -> Table:
    """Make a table of a mask's layout (`ArmScores.layout`): a row a module, densities over layers.

    Layers are summed up as their thinnest and densest, so that sixty of them fit a screen.
    """
    table = _bare_table("Module")
    for heading in ("Layers", "Weights", "In mask", "%", "thinnest", "densest"):
        table.add_column(heading, justify="right", no_wrap=True)
    for module in dict.fromkeys(row["module"] for row in rows):
        same = [row for row in rows if row["module"] == module]
        table.add_row(Text(clean(module)), *_module(same))
    table.add_section()
    table.add_row("all", *_module(rows))
    return table


def _bare_table(names: str) -> Table:
    """Make a table whose first column wraps, so that the others need not."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(names, overflow="fold", min_width=10)
    return table


def _module(rows: list[dict[str, Any]]) -> list[str]:
    layers = {row["layer"] for row in rows} - {None}
    count, numel = sum(row["count"] for row in rows), sum(row["numel"] for row in rows)
    shares = [row["count"] / row["numel"] for row in rows if row["numel"]]
    ends = (min(shares), max(shares)) if len(shares) > 1 else (None, None)
    share = count / numel if numel else None
    figures = [show(value, density) for value in (share, *ends)]
    return [str(len(layers)) if layers else MISSING, f"{numel:,}", f"{count:,}", *figures]


def _figure(column: Column, arm: ArmScores) -> Text:
    cell = column.cell(arm)
    text = Text(cell.main)
    if cell.interval and column.title != "KL to teacher":  # its interval would not fit 80 columns
        text.append(f" {cell.interval}", style="dim")
    return text
