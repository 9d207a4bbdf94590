"""The plan of a comparison, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from sparseopd.comparison.run import Expected


def plan_table(rows: Sequence[Expected], workers: int) -> Table:
    """Return what each study will take; the times are of one worker, their sum of all."""
    total = sum(row.seconds for row in rows) / workers
    table = Table(
        title=f"about {clock(total)} on {workers} worker{'s' if workers > 1 else ''}",
        title_justify="left",
        caption="Times follow from a few timed steps; a rate's own speed may differ.",
        caption_justify="left",
    )
    for heading in ("study", "arms", "trainings", "tests", "jobs done", "time"):
        table.add_column(heading, justify="left" if heading == "study" else "right")
    for row in rows:
        table.add_row(
            row.name,
            str(row.arms),
            str(row.trainings),
            str(row.measurements),
            f"{row.done} of {row.jobs}",
            clock(row.seconds),
        )
    return table


def clock(seconds: float) -> str:
    """Write 40 s, 12 min or 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
