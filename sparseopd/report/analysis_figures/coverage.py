"""Whether an update prefers principal or small weights: coverage of their masks against chance."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparseopd.analysis import Analysis
from sparseopd.analysis.coverage import RANKS
from sparseopd.report import words
from sparseopd.report.analysis_figures.looks import PLAIN, Look, in_percent, looks, value
from sparseopd.report.svg import WIDTH, house_style

KINDS = {"principal": "principal weights", "low_magnitude": "smallest weights"}

TITLE = "What moved: principal and small weights, against chance"


def caption(analysis: Analysis) -> str:
    """Say what is counted, what chance is, and what rounding does to both masks."""
    shown = ", as the nulls show" if analysis.whole.get("gaussian") else ""
    return (
        "Share of the moved coordinates (|Δ| > 0) that lie among the top ρ of |UₖΣₖVₖᵀ|, and among the "
        f"ρ smallest |W|: medians over matrices. Chance is ρ; rounding alone pulls both away from it{shown}."
    )


def draw_coverage(analysis: Analysis) -> Figure | None:
    """Draw coverage against ρ, a panel a mask; None where there is no matrix or nothing moved."""
    if not _known(analysis):
        return None
    sides = looks(analysis)
    with house_style():
        figure = Figure(figsize=(WIDTH, 2.75), layout="constrained")
        panels = figure.subplots(1, 2, squeeze=False)[0]
        for axes, (kind, title) in zip(panels, KINDS.items(), strict=True):
            axes.set_title(title)
            shares = np.array(RANKS) / 100
            axes.plot(shares, shares, color=PLAIN, linewidth=1.2)
            for look in sides:
                _draw(axes, look, coverages(analysis, look.side, kind))
            axes.set(xlabel="ρ", xlim=(0, 0.21), ylim=(0, None), xticks=shares)
            in_percent(axes.xaxis)
            in_percent(axes.yaxis)
            axes.tick_params(labelsize=8.5)
            axes.xaxis.get_major_ticks()[0].label1.set_ha("right")
        lines = [_key(look) for look in sides] + [Line2D([], [], color=PLAIN, linewidth=1.2)]
        names = [*(look.label for look in sides), "chance"]
        figure.legend(lines, names, loc="outside lower left", ncols=3)
    return figure


def coverages(analysis: Analysis, side: str, kind: str) -> np.ndarray:
    """Return the coverage 0…1 of a mask at each of `RANKS`; NaN where there is none."""
    names = [f"median_coverage_{kind}_{percent}pct_alpha_0" for percent in RANKS]
    values = [value(analysis, side, name) for name in names]
    return np.array([np.nan if one is None else one for one in values])


def describe_coverage(analysis: Analysis) -> str:
    """Say the coverage at 10 % of every side."""
    told = []
    at = RANKS.index(10)
    for kind, title in KINDS.items():
        values = {look.label: coverages(analysis, look.side, kind)[at] for look in looks(analysis)}
        figures = (
            f"{label} {words.show(float(share), words.percent, ' %')}"
            for label, share in values.items()
        )
        told.append(f"{title}: {', '.join(figures)}")
    return f"Coverage of masks of 10 % of the weights. {'; '.join(told)}; chance 10 %."


def _known(analysis: Analysis) -> bool:
    return bool(np.isfinite(coverages(analysis, "observed", "principal")).any())


def _draw(axes: Axes, look: Look, shares: np.ndarray) -> None:
    place = np.array(RANKS) / 100
    axes.plot(place, shares, look.dashes, color=look.color, clip_on=False, **look.mark)


def _key(look: Look) -> Line2D:
    return Line2D([], [], color=look.color, linestyle=look.dashes, **look.mark)
