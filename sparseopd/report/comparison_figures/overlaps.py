"""How far supports and masks overlap: chance, null and observed on one line a pair."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from sparseopd.report import words
from sparseopd.report.comparison_overlaps import mean_overlaps
from sparseopd.report.svg import INK, WIDTH, house_style
from sparseopd.results import OverlapRow, Study

TITLE = "How far supports overlap"
MOST = 24
"""Pairs that are drawn; the table has all."""
LOOKS: dict[str, tuple[str, dict[str, Any]]] = {
    "chance": ("chance", {"color": INK, "marker": "|", "markersize": 9}),
    "null": ("|W| null", {"color": "#cc79a7", "marker": "s", "markerfacecolor": "none"}),
    "coverage": ("observed", {"color": "#0072b2", "marker": "o"}),
}
"""By field of `OverlapRow`: its name, and how it is drawn."""


def caption(study: Study) -> str:
    """Say what an overlap is, and which pairs are left out."""
    text = (
        "The share of the first that lies in the second: by chance, if the second is drawn anew among "
        "weights of the same size, and as observed; means over seeds. Figures: null → observed."
    )
    left = len(_rows(study)) - MOST
    return f"{text} {left} more pairs are in the table." if left > 0 else text


def draw_overlaps(study: Study) -> Figure | None:
    """Draw a row a pair; None where none was compared."""
    rows = _rows(study)[:MOST]
    if not rows:
        return None
    with house_style():
        figure = Figure(figsize=(WIDTH, 0.85 + 0.41 * len(rows)), layout="constrained")
        axes = figure.add_subplot(ylim=(len(rows) - 0.6, -0.75), yticks=[], xlim=(0, 1))
        axes.spines["left"].set_visible(False)
        for place, row in enumerate(rows):
            _draw(axes, place, row)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.6g} %"))
        keys = [
            Line2D([], [], linestyle="none", label=name, **look) for name, look in LOOKS.values()
        ]
        figure.legend(handles=keys, loc="outside lower left", ncols=3)
    return figure


def describe_overlaps(study: Study) -> str:
    """Say chance, null and observed of every pair."""
    told = [
        f"{_name(row)}: chance {_percent(row.chance)}, |W| null {_percent(row.null)}, observed "
        f"{_percent(row.coverage)}"
        for row in _rows(study)[:MOST]
    ]
    return f"How far supports overlap. {'; '.join(told)}."


def _rows(study: Study) -> list[OverlapRow]:
    return [row for row in mean_overlaps(study.overlaps) if row.coverage is not None]


def _name(row: OverlapRow) -> str:
    return words.clean(f"{row.question}: {row.first}, {row.second} ({row.of})")


def _percent(share: float | None) -> str:
    return words.show(share, words.percent, " %")


def _draw(axes: Axes, place: int, row: OverlapRow) -> None:
    values = {field: getattr(row, field) for field in LOOKS}
    known = {field: value for field, value in values.items() if value is not None}
    axes.plot(
        [min(known.values()), max(known.values())], [place] * 2, color=INK, alpha=0.3, linewidth=1.2
    )
    for field, value in known.items():
        axes.plot([value], [place], clip_on=False, **LOOKS[field][1])
    across = axes.get_yaxis_transform()
    axes.text(0, place - 0.3, words.shorten(_name(row), 44), transform=across)
    text = f"{_percent(row.null)} → {_percent(row.coverage)}"
    axes.text(1, place - 0.3, text, transform=across, ha="right")
