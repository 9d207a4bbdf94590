"""From what was found to figures ready for a page: a list of kinds, of which each draws what it can.

Kind(key, title, caption, draw, describe, csv)
draw_all(kinds, subject, "a1")    every figure that the subject has
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from matplotlib.figure import Figure

from sparseopd.report.svg import to_svg

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Drawing:
    """A figure ready for the page."""

    title: str
    caption: str
    svg: str
    """An `<svg>` element; its alternative text is its aria-label."""


@dataclass(frozen=True)
class Kind(Generic[Subject]):
    """A figure that a subject may have: how it is named, told and drawn."""

    key: str
    title: str
    caption: str | Callable[[Subject], str]
    """What stands beneath it, or what writes that."""
    draw: Callable[[Subject], Figure | None]
    """Returns None where there is nothing to draw."""
    describe: Callable[[Subject], str]
    """Writes the alternative text."""
    csv: str = ""
    """The file that holds what is drawn."""


def draw_all(
    kinds: Sequence[Kind[Subject]], subject: Subject, key: str, folder: str = ""
) -> list[Drawing]:
    """Draw what there is to draw; `key` begins every SVG id and is unique in its page.

    Captions name the CSV behind a figure; `folder` stands before its name.
    """
    return [
        _drawing(kind, subject, figure, key, folder)
        for kind in kinds
        if (figure := kind.draw(subject)) is not None
    ]


def _drawing(
    kind: Kind[Subject], subject: Subject, figure: Figure, key: str, folder: str
) -> Drawing:
    svg = to_svg(figure, f"{key}-{kind.key}", kind.describe(subject))
    caption = kind.caption if isinstance(kind.caption, str) else kind.caption(subject)
    return Drawing(kind.title, f"{caption} CSV: {folder}{kind.csv}." if kind.csv else caption, svg)
