"""Learning curves: the training loss per token of every trained arm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sparseopd.artifacts import ArmScores, Scores
from sparseopd.report import arms, words
from sparseopd.report.svg import WIDTH, house_style, plain_log, spans_decades

DASHES: tuple[tuple[float, ...] | None, ...] = (None, (5, 2), (1.5, 1.5), (6, 2, 1.5, 2))
"""Arms of one kind share a colour; their lines differ."""


def learning_curves(scores: Scores) -> Figure | None:
    """Draw every curve twice, raw and light, smooth and strong. None if no arm logged a loss."""
    curves = [(arm, *curve(arm)) for arm in scores.arms]
    curves = [one for one in curves if len(one[1])]
    if not curves:
        return None
    with house_style():
        names = [arms.label(arm, 44) for arm, _, _ in curves]
        columns = 2 if max(map(len, names)) <= 22 else 1
        height = 2.8 + 0.19 * math.ceil(len(curves) / columns)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot(xlabel="step")
        lines = [_plot(axes, arm, steps, losses) for arm, steps, losses in curves]
        _set_dashes(lines, [arm for arm, _, _ in curves])
        if spans_decades(np.concatenate([losses for _, _, losses in curves])):
            plain_log(axes.set_yscale, axes.yaxis)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        figure.legend(lines, names, loc="outside lower left", ncols=columns)
    return figure


def curve(arm: ArmScores) -> tuple[np.ndarray, np.ndarray]:
    """Return the logged steps and losses (nats a token), leaving out rows without a finite loss."""
    rows = [(row.get("step"), row.get("loss")) for row in arm.curve]
    known = [(step, loss) for step, loss in rows if is_finite(step) and is_finite(loss)]
    values = np.array(known, dtype=float).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def running_median(values: np.ndarray) -> np.ndarray:
    """Smooth by the median of a centred window of a fifteenth of the curve, cut at the ends."""
    half = len(values) // 30
    return np.array(
        [np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    )


def describe_curves(scores: Scores) -> str:
    """Say where every curve begins and ends, for those who cannot see the drawing."""
    parts = []
    for arm in scores.arms:
        steps, losses = curve(arm)
        if len(losses):
            smooth = running_median(losses)
            span = f"{words.scientific(smooth[0])} at step {steps[0]:.0f}"
            if len(losses) > 1:
                span += f" to {words.scientific(smooth[-1])} at step {steps[-1]:.0f}"
            parts.append(f"{words.clean(arm.name)} {span}")
    return f"Loss per token while training: {'; '.join(parts)}."


def is_finite(value: Any) -> bool:
    """Whether a logged figure is there and can be drawn."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def _plot(axes: Axes, arm: ArmScores, steps: np.ndarray, losses: np.ndarray) -> Line2D:
    look, smooth = arms.look(arm), running_median(losses)
    if not np.array_equal(smooth, losses):
        axes.plot(steps, losses, color=look.color, alpha=0.3, linewidth=0.7)
    (line,) = axes.plot(steps, smooth, color=look.color, linewidth=1.6)
    if len(losses) == 1:  # a line of one point is invisible
        line.set_marker(look.marker)
    return line


def _set_dashes(lines: list[Line2D], drawn: list[ArmScores]) -> None:
    roles = [arms.role(arm) for arm in drawn]
    for index, line in enumerate(lines):
        dashes = DASHES[roles[:index].count(roles[index]) % len(DASHES)]
        if dashes:
            line.set_dashes(dashes)
