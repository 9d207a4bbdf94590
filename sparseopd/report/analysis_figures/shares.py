"""Who holds the update: each block's and module's share of ΣΔ² beside its share of the coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sparseopd.analysis import Analysis
from sparseopd.report import words
from sparseopd.report.analysis_figures.looks import OBSERVED, PLAIN, in_percent
from sparseopd.report.layout import rank
from sparseopd.report.svg import WIDTH, house_style

MOST = 16
"""Modules: those with the most of ΣΔ²."""
ROW = 0.235
"""Inches a row."""

TITLE = "Shares of the update, by block and module"


def caption(analysis: Analysis) -> str:
    """Say what the marks are, and how many modules are left out."""
    left_out = len(analysis.groups["module"]) - MOST
    more = f" Modules not drawn, for their small part of it: {left_out}." if left_out > 0 else ""
    return (
        "Squares: share of the coordinates. Dots: share of ΣΔ², the update's energy. A dot right of its "
        f"square moved more than its size.{more}"
    )


def draw_shares(analysis: Analysis) -> Figure | None:
    """Draw a row a block, then a row a module; None where nothing moved or all is in one place."""
    blocks, modules = rows(analysis)
    if len(modules) < 2:
        return None
    names = [*blocks, None, *modules]
    drawn = np.array([place for place, name in enumerate(names) if name is not None])
    shown = np.array([*blocks.values(), *modules.values()])
    with house_style():
        figure = Figure(figsize=(WIDTH, 0.55 + ROW * len(names)), layout="constrained")
        axes = figure.add_subplot(ylim=(len(names) - 0.4, -0.6))
        axes.hlines(drawn, shown[:, 0], shown[:, 1], color=OBSERVED.color, linewidth=1.4, alpha=0.6)
        size, energy = (
            axes.plot(shown[:, 0], drawn, "s", color=PLAIN, markersize=5, clip_on=False),
            axes.plot(shown[:, 1], drawn, "o", color=OBSERVED.color, markersize=6, clip_on=False),
        )
        axes.set_yticks(drawn, [words.shorten(name, 24) for name in names if name is not None])
        axes.set_xlim(0, 1.04 * shown.max())
        axes.tick_params(axis="y", length=0, pad=7)
        axes.spines["left"].set_visible(False)
        in_percent(axes.xaxis)
        labels = ["of the coordinates", "of ΣΔ²"]
        figure.legend([*size, *energy], labels, loc="outside lower left", ncols=2)
    return figure


def rows(
    analysis: Analysis,
) -> tuple[dict[str, tuple[float, float]], dict[str, tuple[float, float]]]:
    """Return (share of the coordinates, share of ΣΔ²) by block and by module; empty if nothing moved."""
    blocks, modules = (_shares(analysis.groups[kind]) for kind in ("block", "module"))
    blocks = dict(sorted(blocks.items(), key=lambda item: -item[1][1]))
    largest = sorted(modules, key=lambda name: -modules[name][1])[:MOST]
    return blocks, {name: modules[name] for name in sorted(largest, key=rank)}


def describe_shares(analysis: Analysis) -> str:
    """List both shares of every row."""
    listed = (
        f"{words.clean(name)} {words.percent(size)} % of the coordinates and {words.percent(energy)} % of ΣΔ²"
        for group in rows(analysis)
        for name, (size, energy) in group.items()
    )
    return f"{TITLE}. {'; '.join(listed)}."


def _shares(groups: dict[str, dict[str, Any]]) -> dict[str, tuple[float, float]]:
    found = {}
    for name, sides in groups.items():
        observed = sides["observed"]
        if observed["share_of_energy"] is not None:
            found[name] = (observed["share_of_size"], observed["share_of_energy"])
    return found
