"""Where an update lies against the size of the weights: coordinates by |W| and |Δ|, beside dense noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from sparseopd.analysis import Analysis
from sparseopd.report import words
from sparseopd.report.analysis_figures.bins import Joint, joint_of
from sparseopd.report.analysis_figures.looks import GAUSSIAN, OBSERVED
from sparseopd.report.cells import LEFT, Scale, color_scale
from sparseopd.report.svg import INK, WIDTH, house_style

DECADES = 5
"""Of the colour scale, at most."""
LEVELS = 16
"""Colours; cells of one colour are one shape, which keeps the page small."""
LOST = {"bfloat16": 8, "float16": 11}
"""By compared dtype, b: a weight w next to which no other number lies nearer than |w|/2ᵇ."""
PANEL = (2.0, 2.0)
GAP = 0.28
BOTTOM, TOP = 0.98, 0.25
"""Inches."""

LABELS = {look.side: look.label for look in (OBSERVED, GAUSSIAN)}
TITLE = "|Δ| against |W|"


def caption(analysis: Analysis) -> str:
    """Say what the axes are, what the row of zeros is, and what rounding takes away."""
    text = (
        "How many coordinates have a weight and a change of that size; the row at the foot holds "
        "those that did not move. Sizes beyond the axes are 0.1 % of what moved, or less."
    )
    bits = _bits(analysis)
    if bits:
        dtype = analysis.dtypes["compared"][0]
        text += f" Below the dashed line, |Δ| < |W|/{2**bits:,}, {dtype} cannot hold a change."
    joint = joint_of(analysis)
    if joint is not None and joint.empty > 1e-3:
        text += f" Weights of 0, {words.percent(joint.empty)} % of all, are not drawn."
    return text


def draw_density(analysis: Analysis) -> Figure | None:
    """Draw the observed counts and those of the first draw of dense noise; None if nothing moved."""
    joint = joint_of(analysis)
    if joint is None:
        return None
    scale = _scale(joint)
    height = BOTTOM + PANEL[1] + TOP
    with house_style():
        figure = Figure(figsize=(WIDTH, height))
        for number, side in enumerate(joint.shares):
            left = LEFT + 0.12 + number * (PANEL[0] + GAP)
            box = (left / WIDTH, BOTTOM / height, PANEL[0] / WIDTH, PANEL[1] / height)
            axes = figure.add_axes(box)
            axes.set_title(f"{LABELS[side]}: {words.percent(joint.unmoved[side])} % at Δ = 0")
            _draw(axes, joint, side, scale)
            _finish(axes, joint, first=number == 0)
            _mark_lost(axes, joint, _bits(analysis))
        color_scale(figure, scale)
    return figure


def describe_density(analysis: Analysis) -> str:
    """Say where most of what moved lies, on each side."""
    joint = joint_of(analysis)
    if joint is None:
        return ""
    told = []
    for side, shares in joint.shares.items():
        x, y = np.unravel_index(int(shares.argmax()), shares.shape)
        told.append(
            f"{LABELS[side]}: {words.percent(joint.unmoved[side])} % did not move; changes are most often about "
            f"{2 ** joint.change[y]:.1e}, where |W| is about {2 ** joint.weight[x]:.1e}"
        )
    return f"Density of |Δ| against |W|. {'; '.join(told)}."


def _scale(joint: Joint) -> Scale:
    drawn = np.concatenate(
        [table.ravel() for table in (*joint.shares.values(), *joint.still.values())]
    )
    most = float(drawn.max())
    least = max(float(drawn[drawn > 0].min()), most / 10**DECADES)
    low = math.floor(math.log10(least))
    return Scale(
        low=float(low),
        high=math.log10(most) if math.log10(most) > low else low + 1.0,
        ends=(f"{words.density(10.0**low)} %", f"{words.density(most)} %"),
        legend="of all coordinates in a cell",
        form=words.density,
    )


def _draw(axes: Axes, joint: Joint, side: str, scale: Scale) -> None:
    """Draw the cells, those of a colour as one shape; the row of zeros hangs beneath the axis."""
    strip = _strip(joint)
    shapes: dict[int, list[tuple[float, float, float, float]]] = {}
    for place, share in np.ndenumerate(joint.shares[side]):
        _add(shapes, scale, share, *joint.weight[place[0] :][:2], *joint.change[place[1] :][:2])
    for place, share in enumerate(joint.still[side]):
        _add(shapes, scale, share, *joint.weight[place:][:2], *strip)
    for level, boxes in shapes.items():
        color = scale.color(scale.low + (scale.high - scale.low) * (level + 0.5) / LEVELS)
        # The thin edge covers the seams that show between neighbouring shapes.
        axes.add_patch(PathPatch(_path(boxes), facecolor=color, edgecolor=color, linewidth=0.25))


def _add(shapes: dict[int, list[Any]], scale: Scale, share: float, *box: float) -> None:
    if share > 0:
        level = min(LEVELS - 1, int(LEVELS * scale.place(math.log10(share))))
        shapes.setdefault(level, []).append(box)


def _path(boxes: list[tuple[float, float, float, float]]) -> Path:
    corners = [
        corner
        for left, right, low, high in boxes
        for corner in ((left, low), (right, low), (right, high), (left, high), (left, low))
    ]
    box = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(np.array(corners), box * len(boxes))


def _strip(joint: Joint) -> tuple[float, float]:
    """Where the row of zeros lies: below the axis, a twentieth of it high."""
    reach = float(joint.change[-1] - joint.change[0])
    return joint.change[0] - 0.13 * reach, joint.change[0] - 0.06 * reach


def _finish(axes: Axes, joint: Joint, *, first: bool) -> None:
    low, high = _strip(joint)
    axes.set(xlim=(joint.weight[0], joint.weight[-1]), ylim=(low, joint.change[-1]))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=2, pad=2, labelsize=8.5, labelleft=first)
    across, upward = _decades(joint.weight), _decades(joint.change)
    axes.set_xticks(list(across), list(across.values()))
    axes.set_yticks([(low + high) / 2, *upward], ["0", *upward.values()])
    axes.set_xlabel("|W|", labelpad=1)
    if first:
        axes.set_ylabel("|Δ|", labelpad=1)


def _decades(edges: np.ndarray) -> dict[float, str]:
    """Powers of ten between the edges, by log₂: every one, or every so many that five remain."""
    first, last = (math.log10(2) * float(edge) for edge in (edges[0], edges[-1]))
    powers = list(range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1))
    kept = powers[:: -(-len(powers) // 5)] if powers else []
    return {power / math.log10(2): _power(power) for power in kept}


def _power(power: int) -> str:
    return f"{10.0**power:g}" if -3 < power < 3 else f"1e{power}"


def _mark_lost(axes: Axes, joint: Joint, bits: int | None) -> None:
    if bits is not None:
        ends = joint.weight[[0, -1]]
        (line,) = axes.plot(ends, ends - bits, "--", color=INK, linewidth=0.9)
        # It would run on through the row of zeros, where it means nothing.
        line.set_clip_path(_above(axes, joint))


def _above(axes: Axes, joint: Joint) -> PathPatch:
    box = (joint.weight[0], joint.weight[-1], joint.change[0], joint.change[-1])
    return PathPatch(_path([box]), transform=axes.transData)


def _bits(analysis: Analysis) -> int | None:
    compared = analysis.dtypes["compared"]
    return LOST.get(compared[0]) if len(compared) == 1 else None
