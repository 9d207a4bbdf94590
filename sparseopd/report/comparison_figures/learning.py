"""Learning curves: the logged loss of every arm's first seed."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sparseopd.report import words
from sparseopd.report.comparison_arms import full, look
from sparseopd.report.comparison_figures.panels import Panel, draw_panels
from sparseopd.report.curves import is_finite, running_median
from sparseopd.report.svg import plain_log, spans_decades
from sparseopd.results import ArmResult, Study

TITLE = "Loss while training"
MOST = 60
"""Points of a drawn curve; all are in the CSV."""


def caption(study: Study) -> str:
    """Say what is drawn, and that losses of other objectives are other figures."""
    text = "As logged in each arm’s first seed: running median over a fifteenth of the run."
    arms, whole = _arms(study), full(study)
    if whole in arms:
        text += " Grey: full training."
    if len({arm.method for arm in arms}) > 1:
        text += " Objectives differ between arms, and so do the meanings of their losses."
    return text


def draw_learning(study: Study) -> Figure | None:
    """Draw a panel an arm that logged a loss; None if none did."""
    arms = _arms(study)
    if not arms:
        return None
    whole = full(study)
    panels = [Panel(arm.name, _thinned(_smooth(arm)), look(arm)) for arm in arms]
    behind = _thinned(_smooth(whole)) if whole in arms and whole else None
    losses = np.concatenate([panel.points[:, 1] for panel in panels])
    return draw_panels(panels, behind, lambda axes: _finish(axes, losses), "step")


def describe_learning(study: Study) -> str:
    """Say where every curve begins and ends."""
    told = []
    for arm in _arms(study):
        points = _smooth(arm)
        ends = [f"{words.scientific(y)} at step {x:.0f}" for x, y in points[[0, -1]]]
        span = ends[0] if len(points) == 1 else " to ".join(ends)
        told.append(f"{words.clean(arm.name)} {span}")
    return f"Loss while training: {'; '.join(told)}."


def _arms(study: Study) -> list[ArmResult]:
    return [arm for arm in study.arms if len(_smooth(arm))]


def _smooth(arm: ArmResult) -> np.ndarray:
    rows = [(row.get("step"), row.get("loss")) for row in arm.curve]
    known = [(step, loss) for step, loss in rows if is_finite(step) and is_finite(loss)]
    points = np.array(known, dtype=float).reshape(-1, 2)
    points[:, 1] = running_median(points[:, 1])
    return points


def _thinned(points: np.ndarray) -> np.ndarray:
    if len(points) <= MOST:
        return points
    return points[np.unique(np.linspace(0, len(points) - 1, MOST).round().astype(int))]


def _finish(axes: Axes, losses: np.ndarray) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    if spans_decades(losses):
        plain_log(axes.set_yscale, axes.yaxis)
        return
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
