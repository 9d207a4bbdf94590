"""The paper's table row in words: its headings for narrow columns, and its figures with its digits."""

from __future__ import annotations

from sparseopd.analysis.paper import COLUMNS, PaperRow
from sparseopd.report import words
from sparseopd.report.measures import rank
from sparseopd.report.words import show

HEADINGS = (
    *("‖Δ‖/\n‖W‖", "exact\n0", "≤1e-5", "≤1e-4", "top\n1 %"),
    *("top-16\nSVD", "stable\nrank", "proj\n10 %", "princ\n10 %", "low\n10 %"),
)
"""Of `paper.COLUMNS`, in six letters or less."""
SIDES = {
    "observed": "observed",
    "master": "before rounding",
    "shuffled": "shuffled",
    "gaussian": "dense noise",
}


def figures(row: PaperRow) -> list[str]:
    """Write a row with the paper's digits: two decimals, three of the norm and of the stable rank."""
    return [
        show(value, _form(column.key)) for value, column in zip(row.values, COLUMNS, strict=True)
    ]


def _form(key: str) -> words.Form:
    if key == "stable_rank":
        return rank
    return _three if key == "relative_norm" else _two


def _two(value: float) -> str:
    return _decimals(value, 2)


def _three(value: float) -> str:
    return _decimals(value, 3)


def _decimals(value: float, count: int) -> str:
    """Write with so many decimals; what would round to 0 in scientific notation."""
    text = f"{value:.{count}f}"
    return text if value == 0 or float(text) else words.rate(float(f"{value:.0e}"))
