"""From a matplotlib Figure to SVG text that can stand inside an HTML page.

matplotlib writes a file of its own: namespaces, metadata, a global style, ids that repeat from one
figure to the next, fixed colours. Here the drawing is re-read as XML and keeps only what the page
needs, so its text follows the page's font and colour and nothing in it reaches out of the figure.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

WIDTH = 5.0
"""Inches of every figure, 360 units: readable at a phone's 360 pixels, and at twice that."""
INK = "#0a0b0c"
"""Drawn in this colour, a mark takes the colour of the page's text, in light and dark alike."""

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: selectable, small, in the page's font
    "text.parse_math": False,  # a name may hold dollar signs
    "text.usetex": False,
    "font.size": 9.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    **dict.fromkeys(
        (
            "text.color",
            "axes.labelcolor",
            "axes.edgecolor",
            "grid.color",
            "xtick.color",
            "ytick.color",
        ),
        INK,
    ),
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw figures under the report's own settings, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def spans_decades(values: np.ndarray) -> bool:
    """Whether `values` are positive and so far apart that only a logarithmic axis shows all."""
    return bool(values.min() > 0 and values.max() > 30 * values.min())


def plain_log(set_scale: Callable[..., None], axis: Axis) -> None:
    """Make an axis logarithmic, its ticks plain figures: 10⁻² is mathtext, which names forbid."""
    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def to_svg(figure: Figure, key: str, alt: str) -> str:
    """Return `figure` as an inline `<svg>` element, the same for the same figure, key and alt.

    `key` must be unique in the page (letters, digits, hyphens): every id begins with it. `alt` is
    what a screen reader says. The drawing scales to the width it is given.
    """
    buffer = io.BytesIO()
    with house_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the page's has it
        matplotlib.rcParams["svg.hashsalt"] = key
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _tidy(root, key)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": alt}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _tidy(element: ElementTree.Element, key: str) -> None:
    """Drop what belongs to a file, and make ids, references, fonts and ink the page's own."""
    element.tag = _local(element.tag)
    element.attrib = {
        _local(name): _value(_local(name), text, key) for name, text in element.items()
    }
    for child in list(element):
        if _local(child.tag) in ("metadata", "style"):
            element.remove(child)
        else:
            _tidy(child, key)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _value(name: str, text: str, key: str) -> str:
    if name == "id":
        return f"{key}-{text}"
    if name == "href":
        return f"#{key}-{text.removeprefix('#')}"
    if name == "style":
        text = re.sub(r"font-family: [^;]*;? ?", "", text).replace(INK, "currentColor")
    return text.replace("url(#", f"url(#{key}-")
