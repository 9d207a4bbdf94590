"""The columns of the scores table, as cells of text: a figure, and its interval beneath it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sparseopd.artifacts import ArmScores, Interval, Scores
from sparseopd.report import words
from sparseopd.report.arms import trained_share
from sparseopd.report.words import MISSING, show


@dataclass(frozen=True)
class Cell:
    """A figure and, where it has one, its interval."""

    main: str
    interval: str = ""


@dataclass(frozen=True)
class Column:
    """A heading with its unit, and how an arm fills it."""

    title: str
    unit: str
    cell: Callable[[ArmScores], Cell]


def _with_interval(value: Interval | None, form: words.Form) -> Cell:
    if value is None:
        return Cell(MISSING)
    return Cell(show(value.mean, form), words.bracket(value, form))


def _agreement(tolerance: str) -> Callable[[ArmScores], Cell]:
    return lambda arm: Cell(show((arm.agreement or {}).get(tolerance), words.accuracy))


def _truncated(arm: ArmScores) -> Cell:
    """An arm that only ran benchmarks has no completions to cut."""
    sampled = arm.mean_tokens or arm.truncated or arm.accuracy or arm.kl
    return Cell(show(arm.truncated if sampled else None, words.accuracy))


COLUMNS = (
    Column("Trained", "%", lambda arm: Cell(show(trained_share(arm), words.density))),
    Column("lr", "", lambda arm: Cell(show(arm.lr, words.rate))),
    Column("Steps", "", lambda arm: Cell(show(arm.steps, "{:,.0f}".format))),
    Column("Accuracy", "%", lambda arm: _with_interval(arm.accuracy, words.accuracy)),
    Column("Gain", "points", lambda arm: _with_interval(arm.gain, words.points)),
    Column("Gain kept", "% of full's", lambda arm: _with_interval(arm.gain_kept, words.kept)),
    Column("KL to teacher", "nats/token", lambda arm: _with_interval(arm.kl, words.scientific)),
    Column("Agree 1e-4", "% with full", _agreement("1e-04")),
    Column("Agree 1e-5", "% with full", _agreement("1e-05")),
    Column("Truncated", "%", _truncated),
    Column("Time", "", lambda arm: Cell(show(arm.seconds, words.duration))),
)


def filled_columns(scores: Scores) -> list[Column]:
    """Return the columns that say something of at least one arm."""
    return [
        column for column in COLUMNS if any(column.cell(arm).main != MISSING for arm in scores.arms)
    ]
