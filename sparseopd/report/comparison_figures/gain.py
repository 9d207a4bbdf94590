"""The share of full training's gain that masks keep: against density, and against discovery steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from sparseopd.report import words
from sparseopd.report.arms import LOOKS
from sparseopd.report.comparison_arms import CHOSEN_LOOKS, Look, by_density, by_steps, look
from sparseopd.report.svg import INK, WIDTH, house_style
from sparseopd.results import ArmResult, Study

DENSITY_TITLE = "How small: gain kept against density"
STEPS_TITLE = "How short: gain kept against discovery steps"
REACH = (-0.6, 1.8)
"""Ends beyond which the axis does not go: shares of a small gain run away."""
APART = 0.018
"""By how much of an axis lines are moved apart, so that their whiskers do not hide each other."""
_COLOR = CHOSEN_LOOKS["discovered"].color
STEP_LOOKS = (
    Look(_COLOR, "D", "-"),
    Look(_COLOR, "o", "--"),
    Look(_COLOR, "s", "-."),
    Look(_COLOR, "^", ":"),
)


@dataclass(frozen=True)
class Line:
    """Arms that differ in one thing: where each stands, and how they are called and drawn."""

    name: str
    look: Look
    arms: Sequence[ArmResult]
    places: np.ndarray
    """(arms,), positive."""

    @property
    def kept(self) -> np.ndarray:
        """Return the gain kept, 0…1, with its interval: (arms, 3)."""
        return np.array(
            [(one.kept.mean, one.kept.low, one.kept.high) for one in self.arms if one.kept]
        )


def density_caption(study: Study) -> str:
    """Say what is drawn, and which discovered masks."""
    lengths = {arm.discovery_steps for arm in by_density(study).get("discovered", [])} - {None}
    steps = f" Discovered masks: those of {lengths.pop()} steps." if len(lengths) == 1 else ""
    return f"Share of full training’s gain, each arm at its own best lr.{steps}{_ends(_densities(study))}"


def steps_caption(study: Study) -> str:
    """Say what is drawn."""
    return (
        "Masks found in so many steps, then trained from the start: share of full training’s gain."
        f"{_ends(_steps(study))}"
    )


def draw_density(study: Study) -> Figure | None:
    """Draw a line for each way to choose; None where no way has two densities with a share."""
    lines = _densities(study)
    if not any(len(line.arms) > 1 for line in lines):
        return None
    return _draw(lines, "trained coordinates, %", words.scientific)


def draw_steps(study: Study) -> Figure | None:
    """Draw a line for each density that has several discovery lengths; None without any."""
    lines = _steps(study)
    return _draw(lines, "steps of discovery", words.scientific) if lines else None


def describe_density(study: Study) -> str:
    """Say the share that each arm keeps."""
    return _describe(_densities(study), "Share of full training's gain kept, by density", " %")


def describe_steps(study: Study) -> str:
    """Say the share that each arm keeps."""
    return _describe(_steps(study), "Share of full training's gain kept, by discovery", " steps")


def _densities(study: Study) -> list[Line]:
    lines = []
    for chosen, arms in by_density(study).items():
        known = [arm for arm in arms if arm.kept]
        if known:
            places = np.array([100 * (arm.density or 0) for arm in known])
            lines.append(Line(chosen, look(known[0]), known, places))
    return lines


def _steps(study: Study) -> list[Line]:
    lines = []
    for (density, arms), style in zip(by_steps(study).items(), cycle(STEP_LOOKS), strict=False):
        known = [arm for arm in arms if arm.kept and arm.discovery_steps]
        if len(known) > 1:
            places = np.array([float(arm.discovery_steps or 0) for arm in known])
            lines.append(Line(f"{words.density(density)} % of the weights", style, known, places))
    return lines


def _draw(lines: Sequence[Line], label: str, form: Callable[[float], str]) -> Figure:
    with house_style():
        height = 3.0 + 0.17 * (-(-len(lines) // 2))
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot(xlabel=label, ylabel="gain kept", xscale="log")
        axes.axhline(1, color=LOOKS["full"].color, linewidth=1.2)
        if _lowest(lines) <= 0:
            axes.axhline(0, color=INK, linewidth=0.8, linestyle=":")
        places = np.unique(np.concatenate([line.places for line in lines]))
        span = max(np.log(places[-1] / places[0]), np.log(2))
        drawn = [
            _plot(axes, line, np.exp(span * APART * (place - (len(lines) - 1) / 2)))
            for place, line in enumerate(lines)
        ]
        _scale(axes, places, form, lines)
        figure.legend(
            drawn,
            [words.shorten(line.name or "masked", 30) for line in lines],
            loc="outside lower left",
            ncols=2,
        )
    return figure


def _plot(axes: Axes, line: Line, moved: float) -> Artist:
    kept = line.kept
    bars = axes.errorbar(
        line.places * moved,
        kept[:, 0],
        np.abs(kept[:, 1:].T - kept[:, 0]),
        color=line.look.color,
        linestyle=line.look.dashes,
        linewidth=1.4,
        elinewidth=1.0,
        markersize=5.5,
        **line.look.mark,
    )
    return bars.lines[0]


def _scale(
    axes: Axes, places: np.ndarray, form: Callable[[float], str], lines: Sequence[Line]
) -> None:
    axes.xaxis.set_major_locator(FixedLocator(_spaced(places).tolist()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: form(x)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(places[0] / 1.25, places[-1] * 1.25)
    low, high = _lowest(lines), max(1.0, *(float(line.kept.max()) for line in lines))
    low, high = max(low, REACH[0]), min(high, REACH[1])
    axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.6g} %"))


def _lowest(lines: Sequence[Line]) -> float:
    return min(1.0, *(float(line.kept.min()) for line in lines))


def _spaced(places: np.ndarray) -> np.ndarray:
    """Leave out ticks whose figures would touch the one before."""
    span = max(np.log(places[-1] / places[0]), 1e-9)
    kept = [places[0]]
    for place in places[1:]:
        if np.log(place / kept[-1]) > 0.07 * span:
            kept.append(place)
    return np.array(kept)


def _ends(lines: Sequence[Line]) -> str:
    text = " Blue: all of it."
    if lines:
        text = " Blue: all of it; dotted: none." if _lowest(lines) <= 0 else text
        kept = np.concatenate([line.kept for line in lines])
        if kept.min() < REACH[0] or kept.max() > REACH[1]:
            text += f" Cut off at {words.kept(REACH[0])} and {words.kept(REACH[1])} %."
    return text


def _describe(lines: Sequence[Line], title: str, unit: str) -> str:
    told = []
    for line in lines:
        arms = ", ".join(
            f"{words.with_interval(arm.kept, words.kept, ' %')} at {words.scientific(place)}{unit}"
            for arm, place in zip(line.arms, line.places, strict=True)
        )
        told.append(f"{words.clean(line.name or 'masked')}: {arms}")
    return f"{title}. {'; '.join(told)}."
