"""Figures with intervals, one row an arm: accuracy and KL to the teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sparseopd.artifacts import ArmScores, Interval, Scores
from sparseopd.report import arms, words
from sparseopd.report.svg import WIDTH, house_style, plain_log, spans_decades


@dataclass(frozen=True)
class Measure:
    """What is drawn: how an arm gives it, how it is written, which arms run through all rows."""

    title: str
    read: Callable[[ArmScores], Interval | None]
    form: words.Form
    unit: str
    scale: float
    references: tuple[str, ...]

    def rows(self, scores: Scores) -> list[tuple[ArmScores, Interval]]:
        """Return the arms that have the measure, with it."""
        return [(arm, value) for arm in scores.arms if (value := self.read(arm)) is not None]

    def describe(self, scores: Scores) -> str:
        """List every arm's figure, for those who cannot see the drawing."""
        listed = (
            f"{words.clean(arm.name)} {words.with_interval(value, self.form, self.unit)}"
            for arm, value in self.rows(scores)
        )
        return f"{self.title}: {'; '.join(listed)}."


ACCURACY = Measure(
    "Accuracy", lambda arm: arm.accuracy, words.accuracy, " %", 100, ("source", "teacher")
)
KL = Measure("KL to the teacher", lambda arm: arm.kl, words.scientific, "", 1, ("source",))


def accuracy(scores: Scores) -> Figure | None:
    """Draw every arm's accuracy; None if nothing was graded."""
    return dots_and_whiskers(scores, ACCURACY)


def kl_to_teacher(scores: Scores) -> Figure | None:
    """Draw every arm's KL to the teacher, in nats per token; None if no arm has it."""
    return dots_and_whiskers(scores, KL)


def dots_and_whiskers(scores: Scores, measure: Measure) -> Figure | None:
    """Draw one row an arm: its name and figure on a line of text, dot and whisker beneath it.

    Names stand inside the plot, so that long ones leave the width to the data on a phone.
    """
    rows = measure.rows(scores)
    if not rows:
        return None
    with house_style():
        figure = Figure(figsize=(WIDTH, 0.5 + 0.46 * len(rows)), layout="constrained")
        axes = figure.add_subplot(ylim=(len(rows) - 0.6, -0.7), yticks=[])
        axes.spines["left"].set_visible(False)
        for row, (arm, value) in enumerate(rows):
            _row(axes, row, arm, value, words.with_interval(value, measure.form, measure.unit))
        _reference_lines(axes, rows, measure.references)
        _scale(axes, rows, measure)
    return figure


def _row(axes: Axes, row: int, arm: ArmScores, value: Interval, text: str) -> None:
    look, across = arms.look(arm), axes.get_yaxis_transform()
    axes.plot(
        [value.low, value.high], [row, row], color=look.color, linewidth=2.2, solid_capstyle="butt"
    )
    axes.plot([value.mean], [row], color=look.color, marker=look.marker, markersize=6)
    axes.text(0, row - 0.3, arms.label(arm, 34), transform=across)
    axes.text(1, row - 0.3, text, transform=across, ha="right")


def _reference_lines(
    axes: Axes, rows: list[tuple[ArmScores, Interval]], references: tuple[str, ...]
) -> None:
    """Mark source and teacher in every row, in pieces that leave the text free."""
    low, high = np.arange(len(rows)) - 0.17, np.arange(len(rows)) + 0.17
    for arm, value in rows:
        if arms.role(arm) in references:
            color = arms.look(arm).color
            axes.vlines([value.mean] * len(rows), low, high, color=color, linewidth=1, zorder=1)


def _scale(axes: Axes, rows: list[tuple[ArmScores, Interval]], measure: Measure) -> None:
    ends = np.array([end for _, value in rows for end in (value.low, value.mean, value.high)])
    axes.margins(x=0.03)
    if spans_decades(ends):
        plain_log(axes.set_xscale, axes.xaxis)
        return
    if np.ptp(ends) < 1e-6:  # all in one point: give it room, or the ticks count its rounding
        axes.set_xlim(ends.mean() - 0.05, ends.mean() + 0.05)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{measure.scale * x:.6g}{measure.unit}")
    )
