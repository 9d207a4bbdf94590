"""How a mask settled while it was discovered: each check's top-k masks beside those before."""

from __future__ import annotations

import math
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sparseopd.artifacts import ArmScores, Scores
from sparseopd.report import arms, words
from sparseopd.report.curves import is_finite
from sparseopd.report.svg import INK, WIDTH, house_style

MARKS = ("o", "s", "^", "D", "v", "P", "X")
"""One a density: colours already stand for arms."""


def settling(scores: Scores) -> Figure | None:
    """Draw a line a density, for the first mask that was followed; None if none was.

    The mask's own density has its arm's colour, the others the page's, the denser the stronger.
    """
    same = _followed(scores)
    if not same:
        return None
    lines = _lines(same[0])
    with house_style():
        figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
        axes = figure.add_subplot(xlabel="step of discovery", ylabel="Jaccard index", ylim=(0, 1))
        strengths = np.linspace(0.45, 0.9, len(lines))
        drawn = [
            _plot(axes, points, mark, INK, strength)
            for points, mark, strength in zip(lines.values(), cycle(MARKS), strengths, strict=False)
        ]
        for density, line in zip(lines, drawn, strict=True):
            if _is_own(same[0], density):
                line.set(color=arms.look(same[0]).color, alpha=1, linewidth=1.8)
        axes.xaxis.set_major_locator(
            MaxNLocator(6, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
        )
        figure.legend(drawn, list(map(_label, lines)), loc="outside lower left", ncols=5)
    return figure


def caption_settling(scores: Scores) -> str:
    """Say whose mask it is, how far apart the checks lie, and what a value of 1 means."""
    same = _followed(scores)
    if not same:
        return ""
    gaps = sorted({round(row["step"] - row["since"]) for row in _rows(same[0])})
    apart = str(gaps[0]) if len(gaps) == 1 else f"{gaps[0]} to {gaps[-1]}"
    text = (
        f"While the mask of {arms.listed(same)} was discovered: the top-k mask of each density, "
        f"compared with the one {apart} step{'' if gaps == [1] else 's'} before. Coordinates in both "
        "over coordinates in either; 1 means that not one has changed."
    )
    if any(_is_own(same[0], density) for density in _lines(same[0])):
        text += " In colour: the density that was trained."
    if any(_rows(arm) and arm not in same for arm in scores.arms):
        text += " Other masks were followed as well and are not drawn."
    return text


def describe_settling(scores: Scores) -> str:
    """Say where every line begins and ends, for those who cannot see the drawing."""
    same, parts = _followed(scores), []
    for density, points in _lines(same[0]).items() if same else ():
        (first, start), (last, end) = points[0], points[-1]
        span = f"{start:.2f} at step {first:.0f}"
        if len(points) > 1:
            span += f" to {end:.2f} at step {last:.0f}"
        parts.append(f"{_label(density)} {span}")
    names = ", ".join(words.clean(arm.name) for arm in same)
    return f"How the mask of {names} settled, Jaccard index by density: {'; '.join(parts)}."


def _followed(scores: Scores) -> list[ArmScores]:
    """Return the first arm whose mask was followed, and those that have the same mask."""
    first = next((arm for arm in scores.arms if _rows(arm)), None)
    return [] if first is None else [a for a in scores.arms if a.stability == first.stability]


def _rows(arm: ArmScores) -> list[dict[str, float]]:
    fields = ("step", "since", "density", "jaccard")
    return [row for row in arm.stability if all(is_finite(row.get(name)) for name in fields)]


def _lines(arm: ArmScores) -> dict[float, np.ndarray]:
    """Return steps and indices of every density, ascending."""
    rows = _rows(arm)
    return {
        density: np.array(
            [(row["step"], row["jaccard"]) for row in rows if row["density"] == density]
        )
        for density in sorted({row["density"] for row in rows})
    }


def _label(density: float) -> str:
    return f"{words.density(density)} %"


def _is_own(arm: ArmScores, density: float) -> bool:
    """Whether a density is the one of the arm's mask, which is a share of whole coordinates."""
    return arm.density is not None and math.isclose(arm.density, density, rel_tol=0.01)


def _plot(axes: Axes, points: np.ndarray, mark: str, color: str, strength: float) -> Line2D:
    every = -(-len(points) // 12)
    look = {"marker": mark, "markersize": 4.5, "linewidth": 1.2, "clip_on": False}
    (line,) = axes.plot(*points.T, color=color, alpha=strength, markevery=every, **look)
    return line
