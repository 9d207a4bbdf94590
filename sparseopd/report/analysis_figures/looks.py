"""The sides of an update as figures tell them apart: by colour, by dashes and by marks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter

from sparseopd.analysis import Analysis


@dataclass(frozen=True)
class Look:
    """How a side is called and drawn."""

    side: str
    """What `Analysis` calls it."""
    label: str
    color: str
    dashes: Literal["-", "--", "-.", ":"]
    marker: str

    @property
    def filled(self) -> bool:
        """Whether marks are filled: those of nulls are hollow, and drawn over what they equal."""
        return self.side in ("observed", "master")

    @property
    def mark(self) -> dict[str, Any]:
        """Return the look of its marks."""
        if self.filled:
            return {"marker": self.marker, "markersize": 4.5}
        return {"marker": self.marker, "markersize": 6.5, "markerfacecolor": "none"}


# Okabe and Ito's colours, as in arms.py.
GAUSSIAN = Look("gaussian", "dense noise", "#d55e00", ":", "D")
SHUFFLED = Look("shuffled", "shuffled", "#cc79a7", "--", "s")
MASTER = Look("master", "before rounding", "#009e73", "-.", "^")
OBSERVED = Look("observed", "observed", "#0072b2", "-", "o")
LOOKS = (OBSERVED, MASTER, SHUFFLED, GAUSSIAN)
PLAIN = "#8c8c8c"
"""What is compared with and is no side: chance, a share of size."""


def looks(analysis: Analysis) -> list[Look]:
    """Return the sides that an analysis has, the observed first."""
    return [look for look in LOOKS if analysis.whole.get(look.side)]


def value(analysis: Analysis, side: str, figure: str) -> float | None:
    """Return a figure of the whole model: of nulls, the mean over the draws."""
    found = (analysis.whole.get(side) or {}).get(figure)
    return found["mean"] if isinstance(found, dict) else found


def in_percent(axis: Axis) -> None:
    """Write an axis of shares in percent."""
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.6g} %"))
