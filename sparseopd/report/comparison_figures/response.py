"""How every arm answers to its learning rate, on the validation split."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from sparseopd.report import words
from sparseopd.report.comparison_arms import full, look
from sparseopd.report.comparison_figures.panels import Panel, draw_panels
from sparseopd.results import ArmResult, Study

TITLE = "Every arm’s answer to its learning rate"


def caption(study: Study) -> str:
    """Say what is drawn, what the ring and the sign mean."""
    what = "Validation accuracy" if _graded(study) else "KL to the teacher, nats a token,"
    text = f"{what} over the learning rates tried; a ring: the best, at which the arm is tested."
    if full(study) in _arms(study):
        text += " Grey: full training."
    if any(not arm.bracketed for arm in _arms(study)):
        text += " ‡: the best lies at the end of those tried."
    return text


def draw_response(study: Study) -> Figure | None:
    """Draw a panel an arm with several learning rates; None without one."""
    arms = _arms(study)
    if not arms:
        return None
    graded, whole = _graded(study), full(study)
    panels = [
        Panel(arm.name, _points(arm, graded=graded), look(arm), arm.lr, arm.bracketed)
        for arm in arms
    ]
    behind = _points(whole, graded=graded) if whole in arms and whole else None
    return draw_panels(panels, behind, lambda axes: _finish(axes, graded=graded), "lr")


def describe_response(study: Study) -> str:
    """Say each arm's best learning rate, and how it does at both ends."""
    graded, told = _graded(study), []
    for arm in _arms(study):
        points = _points(arm, graded=graded)
        figures = ", ".join(f"{_form(y, graded)} at {words.rate(x)}" for x, y in points)
        best = "" if arm.lr is None else f" best at {words.rate(arm.lr)}"
        edge = "" if arm.bracketed else ", an end of those tried"
        told.append(f"{words.clean(arm.name)}{best}{edge} ({figures})")
    what = "Validation accuracy" if graded else "KL to the teacher"
    return f"{what} over the learning rate: {'; '.join(told)}."


def _graded(study: Study) -> bool:
    return any(one.accuracy is not None for arm in study.arms for one in arm.trials)


def _arms(study: Study) -> list[ArmResult]:
    graded = _graded(study)
    return [arm for arm in study.arms if len(_points(arm, graded=graded)) > 1]


def _points(arm: ArmResult, *, graded: bool) -> np.ndarray:
    rows = [(one.lr, one.accuracy if graded else one.kl) for one in arm.trials]
    known = [(x, y) for x, y in rows if x > 0 and y is not None and math.isfinite(y)]
    return np.array(sorted(known), dtype=float).reshape(-1, 2)


def _form(value: float, graded: bool) -> str:
    return f"{words.accuracy(value)} %" if graded else words.scientific(value)


def _finish(axes: Axes, *, graded: bool) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=4))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: words.rate(x)))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    form = (lambda y, _: f"{100 * y:.6g} %") if graded else (lambda y, _: f"{y:g}")
    axes.yaxis.set_major_formatter(FuncFormatter(form))
