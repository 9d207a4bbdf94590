"""Every figure of a report, with its title, caption and alternative text."""

from __future__ import annotations

from dataclasses import dataclass

from sparseopd.artifacts import ArmScores, Scores
from sparseopd.report.curves import describe_curves, learning_curves
from sparseopd.report.heatmap import draw_layout
from sparseopd.report.intervals import ACCURACY, KL, accuracy, kl_to_teacher
from sparseopd.report.layout import describe_layout, distinct_layouts, highest_density
from sparseopd.report.svg import to_svg
from sparseopd.report.words import shorten


@dataclass(frozen=True)
class Drawing:
    """A figure ready for the page."""

    title: str
    caption: str
    svg: str
    """An `<svg>` element; its alternative text is its aria-label."""


_FIGURES = (
    (
        "accuracy",
        "Accuracy on held-out prompts",
        "Dots are means, bars their intervals. Thin lines mark source and teacher, if evaluated.",
        accuracy,
        ACCURACY.describe,
    ),
    (
        "kl",
        "KL to the teacher, nats per token",
        "On each arm's own completions; lower is closer. A thin line marks the source.",
        kl_to_teacher,
        KL.describe,
    ),
    (
        "curves",
        "Loss per token while training",
        "Light: as logged. Strong: running median over a fifteenth of the run.",
        learning_curves,
        describe_curves,
    ),
)
MOST_MASKS = 6
_LAYOUT_CAPTION = (
    "Share of each parameter's coordinates that are trained, in percent. "
    "A mask spread evenly has one colour throughout."
)


def draw_measures(scores: Scores, key: str) -> list[Drawing]:
    """Draw what was measured of the arms; `key` begins every SVG id and is unique in its page."""
    return [
        Drawing(title, caption, to_svg(figure, f"{key}-{name}", describe(scores)))
        for name, title, caption, draw, describe in _FIGURES
        if (figure := draw(scores)) is not None
    ]


def draw_masks(scores: Scores, key: str) -> list[Drawing]:
    """Draw where every distinct mask lies, all on one colour scale; `MOST_MASKS` at most."""
    most, groups, drawings = highest_density(scores), distinct_layouts(scores), []
    for number, same in enumerate(groups[:MOST_MASKS]):
        svg = to_svg(draw_layout(same[0], most), f"{key}-mask{number}", describe_layout(same))
        caption = _LAYOUT_CAPTION
        if len(groups) > MOST_MASKS and number == MOST_MASKS - 1:
            caption += f" {len(groups) - MOST_MASKS} more masks are not drawn."
        drawings.append(Drawing(f"Where the mask lies: {_names(same)}", caption, svg))
    return drawings


def _names(same: list[ArmScores]) -> str:
    listed = ", ".join(shorten(arm.name, 40) for arm in same[:3])
    return f"{listed} and {len(same) - 3} more" if len(same) > 3 else listed
