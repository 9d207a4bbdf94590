"""How far a selection has come, in bytes read."""

from __future__ import annotations

from sparseopd.artifacts import Progress
from sparseopd.masks.comparison import Comparison
from sparseopd.masks.ranking import LARGE, SAMPLED
from sparseopd.selection import Selection


class Reading:
    """Counts the bytes read, for a progress bar that knows when it will end."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._done = self._total = 0

    def expect(self, comparison: Comparison, selection: Selection) -> None:
        """Reckon how much will be read: passes over what is in scope, and the base once, to hash it."""
        small = sum(comparison.numels.values()) < LARGE
        passes = 2 if selection.ranks and small else 1 + 1 / SAMPLED
        passes += 3 if selection.match == "magnitude" else 0
        whole = sum(
            shape.numel() * comparison.base.dtype(name).itemsize
            for name, shape in comparison.shapes.items()
        )
        self._total = int(passes * comparison.bytes_of(comparison.names)) + whole

    def __call__(self, size: int) -> None:
        """Count a piece of `size` bytes."""
        self._done = min(self._done + size, self._total - 1)
        self._report(self._done)

    def finish(self) -> None:
        """Report that all is done."""
        self._report(self._total)

    def _report(self, done: int) -> None:
        if self._progress is not None and self._total:
            self._progress("mask", done, self._total, "bytes")
