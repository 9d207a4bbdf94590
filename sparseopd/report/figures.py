"""Every figure of a report, with its title, caption and alternative text."""

from __future__ import annotations

from sparseopd.artifacts import Scores
from sparseopd.report.arms import listed
from sparseopd.report.curves import describe_curves, learning_curves
from sparseopd.report.drawings import Drawing, Kind, draw_all
from sparseopd.report.heatmap import draw_layout
from sparseopd.report.intervals import ACCURACY, KL, accuracy, kl_to_teacher
from sparseopd.report.layout import describe_layout, distinct_layouts, shared_top
from sparseopd.report.settling import caption_settling, describe_settling, settling
from sparseopd.report.svg import to_svg

_FIGURES = (
    Kind(
        "accuracy",
        "Accuracy on held-out prompts",
        "Dots are means, bars their intervals. Thin lines mark source and teacher, if evaluated.",
        accuracy,
        ACCURACY.describe,
    ),
    Kind(
        "kl",
        "KL to the teacher, nats per token",
        "On each arm's own completions; lower is closer. A thin line marks the source.",
        kl_to_teacher,
        KL.describe,
    ),
    Kind(
        "curves",
        "Loss per token while training",
        "Light: as logged. Strong: running median over a fifteenth of the run.",
        learning_curves,
        describe_curves,
    ),
    Kind(
        "settling",
        "How the mask settled",
        caption_settling,
        settling,
        describe_settling,
    ),
)
MOST_MASKS = 6
_LAYOUT_CAPTION = (
    "Share of each parameter's coordinates that are trained, in percent. "
    "A mask spread evenly has one colour throughout."
)


def draw_measures(scores: Scores, key: str) -> list[Drawing]:
    """Draw what was measured of the arms; `key` begins every SVG id and is unique in its page."""
    return draw_all(_FIGURES, scores, key)


def draw_masks(scores: Scores, key: str) -> list[Drawing]:
    """Draw where every distinct mask lies, all on one colour scale; `MOST_MASKS` at most."""
    most, groups, drawings = shared_top(scores), distinct_layouts(scores), []
    for number, same in enumerate(groups[:MOST_MASKS]):
        svg = to_svg(
            draw_layout(same[0].layout, most), f"{key}-mask{number}", describe_layout(same)
        )
        caption = _LAYOUT_CAPTION
        if len(groups) > MOST_MASKS and number == MOST_MASKS - 1:
            caption += f" {len(groups) - MOST_MASKS} more masks are not drawn."
        drawings.append(Drawing(f"Where the mask lies: {listed(same)}", caption, svg))
    return drawings
