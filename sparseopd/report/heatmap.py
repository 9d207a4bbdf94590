"""Where a mask lies, drawn as a heat map: layers by modules, and a row of what has no layer."""

from __future__ import annotations

import textwrap
from pathlib import Path

from matplotlib.figure import Figure

from sparseopd.report import words
from sparseopd.report.cells import Scale, draw_grids
from sparseopd.report.file import require_figure_suffix, save_figure
from sparseopd.report.layout import Rows, densest, grids, scale_top


def draw_layout(rows: Rows, most: float | None = None, title: str = "") -> Figure:
    """Draw where a mask lies: its layout, by layer and module.

    `most` is the density, 0…1, at the top of the colour scale: by default the one that 99 % of the
    weights keep to.
    """
    most = scale_top(rows) if most is None else most
    passed = "≥ " if densest(rows) > most else ""
    scale = Scale(
        low=0.0,
        high=most,
        ends=("0 %", f"{passed}{words.density(most)} %"),
        legend="of the coordinates are in the mask",
        form=two_digits,
    )
    return draw_grids(*grids(rows), scale, title)


def draw_mask(rows: Rows, path: Path, title: str) -> None:
    """Draw a mask's layout (`masks.layout`) to a file: .svg, .png or .pdf.

    `title` stands above it, its end whole if it must be cut: the mask's name, then its density. Raises
    `RequestError` for another suffix.
    """
    require_figure_suffix(path)
    lines = textwrap.wrap(words.shorten(title.replace(" %", "\u00a0%"), 110), 60)
    figure = draw_layout(rows, title="\n".join(lines))
    save_figure(figure, path, f"Where a mask lies. {words.clean(title)}")


def two_digits(share: float) -> str:
    """Write a share in percent, with the two digits for which cells have room."""
    return "100" if share >= 0.995 else f"{100 * share:.2g}"
