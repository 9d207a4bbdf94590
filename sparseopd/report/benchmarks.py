"""Public benchmarks as a table: for the terminal, within 80 columns, and for the page."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from sparseopd.artifacts import Scores
from sparseopd.benchmark_scores import BenchmarkScore, read_benchmarks
from sparseopd.report import words
from sparseopd.report.page_table import Cell, Line, PageTable
from sparseopd.report.table import bare_table
from sparseopd.report.words import MISSING, clean, show

NOTE = (
    "Figures of lm-evaluation-harness in its own units, ± its standard error. Differences are paired by "
    "document, with bootstrap intervals over documents; metrics that are no mean over them have none."
)


def benchmark_table(scores: Scores) -> Table | None:
    """Make a table of every arm in every task and metric; None where no benchmark was run."""
    rows = read_benchmarks(scores)
    if not rows:
        return None
    table = bare_table("Benchmark", 9)
    table.add_column("Arm", overflow="fold", min_width=8)
    for heading in ("n", "Score", f"Minus\n{_reference(rows)}"):
        table.add_column(heading, justify="right", no_wrap=True)
    last = ""
    for row in rows:
        name = _name(row)
        score = Text(_figure(row.value))
        score.append(_error(row), style="dim")
        difference = Text(_difference(row))
        if row.difference:
            difference.append(f" {words.bracket(row.difference, _signed)}", style="dim")
        first = Text(clean(name) if name != last else "")
        table.add_row(first, Text(clean(row.arm)), f"{row.n:,}", score, difference)
        last = name
    return table


def page_benchmarks(scores: Scores) -> PageTable | None:
    """Make the same table for the page; None where no benchmark was run."""
    rows = read_benchmarks(scores)
    if not rows:
        return None
    lines, last = [], ""
    for row in rows:
        if _name(row) != last:
            last = _name(row)
            lines.append(Line(f"{clean(last)}{_direction(row)}"))
        interval = words.bracket(row.difference, _signed) if row.difference else ""
        cells = [
            Cell(f"{row.n:,}"),
            Cell(_figure(row.value), _error(row).strip()),
            Cell(_difference(row), interval),
        ]
        lines.append(Line(clean(row.arm), cells))
    columns = [("Documents", ""), ("Score", ""), (f"Minus {clean(_reference(rows))}", "")]
    return PageTable("Public benchmarks", "Arm", columns, lines, note=NOTE)


def _name(row: BenchmarkScore) -> str:
    kind = "" if row.filter == "none" else f" ({row.filter})"
    return f"{row.task} {row.metric}{kind}"


def _direction(row: BenchmarkScore) -> str:
    return ", lower is better" if row.higher_is_better is False else ""


def _reference(rows: list[BenchmarkScore]) -> str:
    return words.shorten(rows[0].reference or "", 20)


def _figure(value: float) -> str:
    """Write a figure in the harness's unit: most are shares 0…1."""
    return f"{value:.3f}" if abs(value) < 100 else words.scientific(value)


def _error(row: BenchmarkScore) -> str:
    return "" if row.stderr is None else f" ±{_figure(row.stderr)}"


def _signed(value: float) -> str:
    return words.signed(value, ".3f")


def _difference(row: BenchmarkScore) -> str:
    return show(row.difference.mean if row.difference else None, _signed) or MISSING
