"""What the optimizers saw: cos(m, g) and CV(√v) over the run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sparseopd.report import words
from sparseopd.report.comparison_arms import Dashes
from sparseopd.report.curves import is_finite
from sparseopd.report.svg import INK, WIDTH, house_style
from sparseopd.results import Study, TelemetryRow

TITLE = "What the optimizers saw"
LOOKS: tuple[tuple[str, Dashes], ...] = (
    ("#0072b2", "-"),
    ("#d55e00", "--"),
    ("#009e73", "-."),
    ("#cc79a7", ":"),
    ("#e69f00", "--"),
    ("#56b4e9", "-."),
)
PANELS = {"cosine": "cos(m, g)", "variation": "CV(√v)"}


def caption(study: Study) -> str:
    """Say what the figures are, and how many runs are not drawn."""
    runs = _runs(study)
    text = (
        "Means over seeds. cos(m, g): how far the momentum points along the gradient. CV(√v): spread of the "
        "second moments over coordinates; 0 would be one step size for all."
    )
    left = len(runs) - len(LOOKS)
    return f"{text} {left} more runs are in the CSV." if left > 0 else text


def draw_telemetry(study: Study) -> Figure | None:
    """Draw a line an optimizer and learning rate; None where nothing was seen."""
    runs = list(_runs(study).items())[: len(LOOKS)]
    fields = [field for field in PANELS if any(len(_mean(rows, field)) for _, rows in runs)]
    if not fields:
        return None
    with house_style():
        figure = Figure(figsize=(WIDTH, 2.5 + 0.17 * len(runs)), layout="constrained")
        for axes, field in zip(
            figure.subplots(1, len(fields), squeeze=False)[0], fields, strict=True
        ):
            for (color, dashes), (_, rows) in zip(LOOKS, runs, strict=False):
                axes.plot(*_mean(rows, field).T, color=color, linestyle=dashes, linewidth=1.3)
            _finish(axes, field)
        keys = [
            Line2D([], [], color=color, linestyle=dashes) for color, dashes in LOOKS[: len(runs)]
        ]
        names = [_name(optimizer, lr) for (optimizer, lr), _ in runs]
        figure.legend(keys, names, loc="outside lower left", ncols=2)
    return figure


def describe_telemetry(study: Study) -> str:
    """Say where every line begins, its mean, and where it ends."""
    told = []
    for (optimizer, lr), rows in list(_runs(study).items())[: len(LOOKS)]:
        parts = []
        for field, title in PANELS.items():
            points = _mean(rows, field)
            if len(points):
                first, last = (words.signed(y, ".2f") for y in points[[0, -1], 1])
                mean = words.signed(float(points[:, 1].mean()), ".2f")
                parts.append(f"{title} {first} at the start, mean {mean}, {last} at the end")
        if parts:
            told.append(f"{_name(optimizer, lr)}: {', '.join(parts)}")
    return f"What the optimizers saw. {'; '.join(told)}."


def _runs(study: Study) -> dict[tuple[str, float], list[TelemetryRow]]:
    """Return the rows of every optimizer and learning rate; those that arms ended at come first."""
    used = {(arm.optimizer, arm.lr) for arm in study.arms}
    runs = dict.fromkeys((row.optimizer, row.lr) for row in study.telemetry)
    return {
        run: [row for row in study.telemetry if (row.optimizer, row.lr) == run]
        for run in sorted(runs, key=lambda run: run not in used)
    }


def _name(optimizer: str, lr: float) -> str:
    return f"{words.shorten(optimizer, 24)}, lr {words.rate(lr)}"


def _mean(rows: Sequence[TelemetryRow], field: str) -> np.ndarray:
    """Return steps and means over the seeds that have the figure: (steps, 2)."""
    at: dict[int, list[float]] = {}
    for row in rows:
        for step, value in zip(row.steps, getattr(row, field), strict=False):
            if is_finite(value):
                at.setdefault(step, []).append(value)
    points = [(step, sum(values) / len(values)) for step, values in sorted(at.items())]
    return np.array(points, dtype=float).reshape(-1, 2)


def _finish(axes: Axes, field: str) -> None:
    axes.set(title=PANELS[field], xlabel="step")
    if field == "cosine":
        axes.axhline(0, color=INK, linewidth=0.8)
    else:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
