"""Figures of an analysis, one small module each: what is missing leaves its figure out.

draw_analysis(analysis, "a1")  → every figure that the analysis has, ready for the page
"""

from __future__ import annotations

from sparseopd.analysis import Analysis
from sparseopd.report.analysis_figures import coverage, density, layers, shares, spectra
from sparseopd.report.drawings import Drawing, Kind, draw_all

__all__ = ["draw_analysis"]


_FIGURES = (
    Kind(
        "sparsity",
        layers.TITLE,
        layers.caption,
        layers.draw_sparsity,
        layers.describe_sparsity,
        "tensors.csv",
    ),
    Kind(
        "margin",
        layers.MARGIN_TITLE,
        layers.MARGIN_CAPTION,
        layers.draw_margin,
        layers.describe_margin,
        "tensors.csv",
    ),
    Kind(
        "spectra",
        spectra.TITLE,
        spectra.caption,
        spectra.draw_spectra,
        spectra.describe_spectra,
        "spectra.csv",
    ),
    Kind(
        "coverage",
        coverage.TITLE,
        coverage.caption,
        coverage.draw_coverage,
        coverage.describe_coverage,
        "whole.csv",
    ),
    Kind(
        "density",
        density.TITLE,
        density.caption,
        density.draw_density,
        density.describe_density,
        "joint.csv",
    ),
    Kind(
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
    return draw_all(_FIGURES, analysis, key, folder)
