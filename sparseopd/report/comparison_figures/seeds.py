"""Accuracy of every arm: the mean, its interval, and each seed by itself."""

from __future__ import annotations

from matplotlib.figure import Figure

from sparseopd.report import words
from sparseopd.report.comparison_arms import full, look, source
from sparseopd.report.comparison_figures.rows import Row, draw_rows
from sparseopd.results import Study

TITLE = "Accuracy on the test prompts"


def caption(study: Study) -> str:
    """Say what marks, bars and lines are."""
    text = "Marks are means, bars their intervals."
    if any(len(row.singles) > 1 for row in _rows(study)):
        text += " Upright ticks beneath: the single seeds (seeds.csv)."
    reach = _reach(study, _rows(study)) if _rows(study) else None
    if reach and any(row.value.mean < reach[0] for row in _rows(study)):
        text += " An arrow: further than the axis goes."
    names = [
        name for name, arm in (("source", source(study)), ("full training", full(study))) if arm
    ]
    return f"{text} Thin lines: {' and '.join(names)}." if names else text


def draw_seeds(study: Study) -> Figure | None:
    """Draw a row an arm that was graded; None if none was."""
    rows = _rows(study)
    if not rows:
        return None
    lines = [
        (arm.accuracy.mean, look(arm).color)
        for arm in (source(study), full(study))
        if arm and arm.accuracy
    ]
    return draw_rows(rows, unit=" %", lines=lines, reach=_reach(study, rows))


def _reach(study: Study, rows: list[Row]) -> tuple[float, float] | None:
    """Return the ends of the axis where an arm fell far below the source, else None.

    A collapsed arm must not flatten the rest: it becomes an arrow.
    """
    start = source(study)
    if start is None or start.accuracy is None:
        return None
    highest = max(row.value.high for row in rows)
    low = start.accuracy.low - 0.15 * (highest - start.accuracy.low)
    if low <= min(row.value.low for row in rows):
        return None
    return low, highest + 0.03 * (highest - low)


def describe_seeds(study: Study) -> str:
    """Say every arm's accuracy, and the range over its seeds."""
    return f"Accuracy: {'; '.join(_told(row) for row in _rows(study))}."


def _rows(study: Study) -> list[Row]:
    return [
        Row(
            arm,
            arm.accuracy,
            words.with_interval(arm.accuracy, words.accuracy, " %"),
            [one.accuracy for one in arm.seeds if one.accuracy is not None],
        )
        for arm in study.arms
        if arm.accuracy
    ]


def _told(row: Row) -> str:
    text = f"{words.clean(row.arm.name)} {row.text}"
    if len(row.singles) < 2:
        return text
    ends = (words.accuracy(min(row.singles)), words.accuracy(max(row.singles)))
    return f"{text}, seeds {' to '.join(ends)}"
