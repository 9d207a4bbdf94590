"""Figures as files of their own: on white, with a title, as SVG, PNG or PDF."""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from sparseopd.artifacts import written_whole
from sparseopd.errors import RequestError
from sparseopd.report.svg import house_style

UNDATED = {
    ".svg": {"Date": None},
    ".png": {},
    ".pdf": {"CreationDate": None},
}
"""Suffixes a figure may have, and what keeps the time of writing out of such a file."""


def require_figure_suffix(path: Path) -> None:
    """Raise `RequestError` unless `path` ends in a suffix of a figure; call it before the work."""
    if path.suffix.lower() not in UNDATED:
        raise RequestError(f"cannot draw to {path}: name a file that ends in .svg, .png or .pdf")


def save_figure(figure: Figure, path: Path, alt: str) -> None:
    """Write `figure` to `path`, whole or not at all; the same figure gives the same bytes.

    `alt` says in words what is drawn; it becomes the file's title. Raises `RequestError` for another
    suffix, `RunFolderError` if the file cannot be written.
    """
    require_figure_suffix(path)
    suffix = path.suffix.lower()
    with house_style(), warnings.catch_warnings(), written_whole(path) as temporary:
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcParams["svg.hashsalt"] = "sparseopd"
        figure.savefig(
            temporary,
            format=suffix[1:],
            dpi=200,
            facecolor="white",
            metadata={"Title": alt, **UNDATED[suffix]},
        )
