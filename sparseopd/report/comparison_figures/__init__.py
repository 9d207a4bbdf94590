"""Figures of a comparison's study, one small module each: what is missing leaves its figure out.

draw_study(study, "s1")  → every figure that the study has, ready for the page
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from sparseopd.report.comparison_figures import (
    differences,
    gain,
    learning,
    overlaps,
    response,
    seeds,
    settling,
    telemetry,
)
from sparseopd.report.figures import Drawing
from sparseopd.report.svg import to_svg
from sparseopd.results import Study

__all__ = ["draw_study"]


@dataclass(frozen=True)
class _Kind:
    """A figure that a study may have: how it is named, told and drawn."""

    key: str
    title: str
    caption: Callable[[Study], str]
    draw: Callable[[Study], Figure | None]
    describe: Callable[[Study], str]
    csv: str
    """The file that holds what is drawn."""


_FIGURES = (
    _Kind(
        "density",
        gain.DENSITY_TITLE,
        gain.density_caption,
        gain.draw_density,
        gain.describe_density,
        "arms.csv",
    ),
    _Kind(
        "steps",
        gain.STEPS_TITLE,
        gain.steps_caption,
        gain.draw_steps,
        gain.describe_steps,
        "arms.csv",
    ),
    _Kind(
        "full",
        differences.FULL_TITLE,
        differences.full_caption,
        differences.draw_full,
        differences.describe_full,
        "arms.csv",
    ),
    _Kind("seeds", seeds.TITLE, seeds.caption, seeds.draw_seeds, seeds.describe_seeds, "arms.csv"),
    _Kind(
        "random",
        differences.RANDOM_TITLE,
        differences.random_caption,
        differences.draw_random,
        differences.describe_random,
        "arms.csv",
    ),
    _Kind(
        "settling",
        settling.TITLE,
        settling.caption,
        settling.draw_settling,
        settling.describe_settling,
        "settling.csv",
    ),
    _Kind(
        "overlaps",
        overlaps.TITLE,
        overlaps.caption,
        overlaps.draw_overlaps,
        overlaps.describe_overlaps,
        "overlaps.csv",
    ),
    _Kind(
        "telemetry",
        telemetry.TITLE,
        telemetry.caption,
        telemetry.draw_telemetry,
        telemetry.describe_telemetry,
        "telemetry.csv",
    ),
    _Kind(
        "response",
        response.TITLE,
        response.caption,
        response.draw_response,
        response.describe_response,
        "trials.csv",
    ),
    _Kind(
        "learning",
        learning.TITLE,
        learning.caption,
        learning.draw_learning,
        learning.describe_learning,
        "curves.csv",
    ),
)


def draw_study(study: Study, key: str, folder: str = "") -> list[Drawing]:
    """Draw what there is to draw; `key` begins every SVG id and is unique in its page.

    Captions name the CSV behind a figure; `folder` stands before its name.
    """
    return [
        _drawing(kind, study, figure, key, folder)
        for kind in _FIGURES
        if (figure := kind.draw(study)) is not None
    ]


def _drawing(kind: _Kind, study: Study, figure: Figure, key: str, folder: str) -> Drawing:
    svg = to_svg(figure, f"{key}-{kind.key}", kind.describe(study))
    return Drawing(kind.title, f"{kind.caption(study)} CSV: {folder}{kind.csv}.", svg)
