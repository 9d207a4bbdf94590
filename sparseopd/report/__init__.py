"""From scores to something a person reads.

    Scores → answer        the finding, in plain sentences
    Scores → scores_table  a table for the terminal (mask_table: one of a mask's layout)
    Scores → write_report  one HTML file: answer, table, figures, completions, settings, command

    write_report([Scores.load(run.scores)], run.report, title="Tiny pair", command="sparseopd …")

The page stands alone (no script, font, image or style from elsewhere), and the same scores give the
same bytes. Names load on first use, so the terminal table does not wait for matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparseopd.report.finding import answer
    from sparseopd.report.page import write_report
    from sparseopd.report.table import mask_table, scores_table

__all__ = ["answer", "mask_table", "scores_table", "write_report"]

_HOME = {
    "answer": "sparseopd.report.finding",
    "mask_table": "sparseopd.report.table",
    "scores_table": "sparseopd.report.table",
    "write_report": "sparseopd.report.page",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sparseopd.report' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
