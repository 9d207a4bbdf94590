"""Figures of a comparison's study, one small module each: what is missing leaves its figure out.

draw_study(study, "s1")  → every figure that the study has, ready for the page
"""

from __future__ import annotations

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
from sparseopd.report.drawings import Drawing, Kind, draw_all
from sparseopd.results import Study

__all__ = ["draw_study"]


_FIGURES = (
    Kind(
        "density",
        gain.DENSITY_TITLE,
        gain.density_caption,
        gain.draw_density,
        gain.describe_density,
        "arms.csv",
    ),
    Kind(
        "steps",
        gain.STEPS_TITLE,
        gain.steps_caption,
        gain.draw_steps,
        gain.describe_steps,
        "arms.csv",
    ),
    Kind(
        "full",
        differences.FULL_TITLE,
        differences.full_caption,
        differences.draw_full,
        differences.describe_full,
        "arms.csv",
    ),
    Kind("seeds", seeds.TITLE, seeds.caption, seeds.draw_seeds, seeds.describe_seeds, "arms.csv"),
    Kind(
        "random",
        differences.RANDOM_TITLE,
        differences.random_caption,
        differences.draw_random,
        differences.describe_random,
        "arms.csv",
    ),
    Kind(
        "settling",
        settling.TITLE,
        settling.caption,
        settling.draw_settling,
        settling.describe_settling,
        "settling.csv",
    ),
    Kind(
        "overlaps",
        overlaps.TITLE,
        overlaps.caption,
        overlaps.draw_overlaps,
        overlaps.describe_overlaps,
        "overlaps.csv",
    ),
    Kind(
        "telemetry",
        telemetry.TITLE,
        telemetry.caption,
        telemetry.draw_telemetry,
        telemetry.describe_telemetry,
        "telemetry.csv",
    ),
    Kind(
        "response",
        response.TITLE,
        response.caption,
        response.draw_response,
        response.describe_response,
        "trials.csv",
    ),
    Kind(
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
    return draw_all(_FIGURES, study, key, folder)
