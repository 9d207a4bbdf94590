"""Figures of an analysis, one small module each: what is missing leaves its figure out.

draw_analysis(analysis, "a1")  → every figure that the analysis has, ready for the page
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from sparseopd.analysis import Analysis
from sparseopd.report.analysis_figures import coverage, density, layers, shares, spectra
from sparseopd.report.figures import Drawing
from sparseopd.report.svg import to_svg

__all__ = ["draw_analysis"]


@dataclass(frozen=True)
class _Kind:
    """A figure that an analysis may have: how it is named, told and drawn."""

    key: str
    title: str
    caption: str | Callable[[Analysis], str]
    draw: Callable[[Analysis], Figure | None]
    describe: Callable[[Analysis], str]
    csv: str
    """The file that holds what is drawn."""


_FIGURES = (
    _Kind(
        "sparsity",
        layers.TITLE,
        layers.caption,
        layers.draw_sparsity,
        layers.describe_sparsity,
        "tensors.csv",
    ),
    _Kind(
        "margin",
        layers.MARGIN_TITLE,
        layers.MARGIN_CAPTION,
        layers.draw_margin,
        layers.describe_margin,
        "tensors.csv",
    ),
    _Kind(
        "spectra",
        spectra.TITLE,
        spectra.caption,
        spectra.draw_spectra,
        spectra.describe_spectra,
        "spectra.csv",
    ),
    _Kind(
        "coverage",
        coverage.TITLE,
        coverage.caption,
        coverage.draw_coverage,
        coverage.describe_coverage,
        "whole.csv",
    ),
    _Kind(
        "density",
        density.TITLE,
        density.caption,
        density.draw_density,
        density.describe_density,
        "joint.csv",
    ),
    _Kind(
        "shares",
        shares.TITLE,
        shares.caption,
        shares.draw_shares,
        shares.describe_shares,
        "groups.csv",
    ),
)


def draw_analysis(analysis: Analysis, key: str, folder: str = "") -> list[Drawing]:
    """Draw what there is to draw; `key` begins every SVG id and is unique in its page.

    Captions name the CSV behind a figure; `folder` stands before its name.
    """
    return [
        _drawing(kind, analysis, figure, key, folder)
        for kind in _FIGURES
        if (figure := kind.draw(analysis)) is not None
    ]


def _drawing(kind: _Kind, analysis: Analysis, figure: Figure, key: str, folder: str) -> Drawing:
    caption = kind.caption if isinstance(kind.caption, str) else kind.caption(analysis)
    svg = to_svg(figure, f"{key}-{kind.key}", kind.describe(analysis))
    return Drawing(kind.title, f"{caption} CSV: {folder}{kind.csv}.", svg)
