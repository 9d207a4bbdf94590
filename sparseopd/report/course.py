"""A training run as a table for the terminal: where its logged figures began and ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from sparseopd.report.table import bare_table
from sparseopd.report.words import Form, accuracy, scientific

SUMMARIES: dict[str, Callable[[list[float]], float]] = {
    "First": lambda values: values[0],
    "Last": lambda values: values[-1],
    "Mean": lambda values: math.fsum(values) / len(values),
    "Lowest": min,
    "Highest": max,
}
"""The columns: how each sums up the logged values of a figure, in the order of steps."""


@dataclass(frozen=True)
class _Figure:
    """A figure that a row of `metrics.jsonl` may hold, how it is called and written here."""

    key: str
    title: str
    form: Form = scientific
    columns: Sequence[str] = tuple(SUMMARIES)


FIGURES = (
    _Figure("loss", "loss"),
    _Figure("kl", "KL, nats/token"),
    _Figure("reward", "reward"),
    _Figure("entropy", "entropy, nats/token"),
    _Figure("truncated", "truncated, %", accuracy),
    _Figure("grad_norm", "gradient norm"),
    _Figure("tokens_per_second", "tokens/s", "{:,.0f}".format),
    _Figure("memory_gib", "memory, GiB", "{:.2f}".format, ("Highest",)),
)


def run_table(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """Make a table of the logged steps of a run (`RunDir.read_metrics`); None where none was logged.

    It fits 80 columns. Figures that were not logged, and values that are not finite, are left out.
    """
    if not rows:
        return None
    table = bare_table("")
    for title in SUMMARIES:
        table.add_column(title, justify="right", no_wrap=True)
    for figure in FIGURES:
        values = [row[figure.key] for row in rows if _is_finite(row.get(figure.key))]
        if values:
            table.add_row(figure.title, *_cells(figure, values))
    return table


def _cells(figure: _Figure, values: list[float]) -> list[str]:
    return [
        figure.form(summary(values)) if title in figure.columns else ""
        for title, summary in SUMMARIES.items()
    ]


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
