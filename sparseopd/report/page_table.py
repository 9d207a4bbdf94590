"""A table of the page: cells of text, filled in Python so that the template only lays them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparseopd.report.words import MISSING


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, small print beneath it, and how strongly it speaks."""

    text: str
    small: str = ""
    found: bool = False
    """Whether it says something that no null does."""

    @property
    def tone(self) -> str:
        """Return the style's class."""
        return "found" if self.found else "none" if self.text == MISSING else ""


@dataclass(frozen=True)
class Line:
    """A row; without cells, a heading of the rows that follow."""

    name: str
    cells: Sequence[Cell] = ()
    own: bool = False
    """Whether it is this page's own among others."""


@dataclass(frozen=True)
class PageTable:
    """A table with its heading."""

    title: str
    corner: str
    columns: Sequence[tuple[str, str]]
    """Headings and units."""
    lines: Sequence[Line]
    note: str = ""
    """What stands beneath it."""
    csv: str = ""
    """The file that holds its figures, and more."""
