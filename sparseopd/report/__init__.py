"""From scores to something a person reads.

    Scores → answer        the finding, in plain sentences
    Scores → scores_table  a table for the terminal; benchmark_table for its public benchmarks
    Scores → write_report  one HTML file: answer, table, figures, completions, settings, command
    masks.layout   → mask_tables, draw_mask        where a mask lies: in the terminal, in a figure
    masks.overlap  → overlap_tables, draw_overlap  how far masks overlap: likewise
    RunDir.read_metrics → run_table                how a training run went, for the terminal
    Analysis → analysis_tables, write_analysis     where an update went: likewise, and as a page
    Results  → comparison_tables, write_comparison what a comparison of arms found: likewise

    write_report([Scores.load(run.scores)], run.report, title="Tiny pair", command="sparseopd …")

The page stands alone (no script, font, image or style from elsewhere), and the same scores give the
same bytes. Names load on first use, so terminal tables do not wait for matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparseopd.report.analysis_page import write_analysis
    from sparseopd.report.analysis_table import analysis_tables
    from sparseopd.report.benchmarks import benchmark_table
    from sparseopd.report.comparison_page import write_comparison
    from sparseopd.report.comparison_table import comparison_tables
    from sparseopd.report.course import run_table
    from sparseopd.report.finding import answer
    from sparseopd.report.heatmap import draw_mask
    from sparseopd.report.mask_table import mask_tables
    from sparseopd.report.overlap import draw_overlap
    from sparseopd.report.overlap_table import overlap_tables
    from sparseopd.report.page import write_report
    from sparseopd.report.table import scores_table

__all__ = [
    "analysis_tables",
    "answer",
    "benchmark_table",
    "comparison_tables",
    "draw_mask",
    "draw_overlap",
    "mask_tables",
    "overlap_tables",
    "run_table",
    "scores_table",
    "write_analysis",
    "write_comparison",
    "write_report",
]

_HOME = {
    "analysis_tables": "sparseopd.report.analysis_table",
    "answer": "sparseopd.report.finding",
    "benchmark_table": "sparseopd.report.benchmarks",
    "comparison_tables": "sparseopd.report.comparison_table",
    "draw_mask": "sparseopd.report.heatmap",
    "draw_overlap": "sparseopd.report.overlap",
    "mask_tables": "sparseopd.report.mask_table",
    "overlap_tables": "sparseopd.report.overlap_table",
    "run_table": "sparseopd.report.course",
    "scores_table": "sparseopd.report.table",
    "write_analysis": "sparseopd.report.analysis_page",
    "write_comparison": "sparseopd.report.comparison_page",
    "write_report": "sparseopd.report.page",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sparseopd.report' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
