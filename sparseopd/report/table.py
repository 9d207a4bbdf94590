"""Scores as a table for the terminal, within 80 columns."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from sparseopd.artifacts import ArmScores, Scores
from sparseopd.report.columns import Column, filled_columns
from sparseopd.report.words import clean

WIDTH = 80
"""Columns of the narrowest terminal served."""
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
    table = bare_table("Arm")
    for column in columns:
        table.add_column(SHOWN[column.title], justify="right", no_wrap=True)
    for arm in scores.arms:
        table.add_row(Text(clean(arm.name)), *(_figure(column, arm) for column in columns))
    return table


def bare_table(names: str, min_width: int = 10) -> Table:
    """Make a table whose first column wraps, so that the others need not."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(names, overflow="fold", min_width=min_width)
    return table


def _figure(column: Column, arm: ArmScores) -> Text:
    cell = column.cell(arm)
    text = Text(cell.main)
    if cell.interval and column.title != "KL to teacher":  # its interval would not fit 80 columns
        text.append(f" {cell.interval}", style="dim")
    return text
