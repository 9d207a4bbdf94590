"""New values over some coordinates of one weight, and the bits that were there before.

Nothing is ever subtracted: what a value replaced is kept while it is applied, and put back.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import torch
from torch import Tensor

from sparseopd.masks.places import Places
from sparseopd.overlays.versions import State, Versions

_serials = count()


class Overlay:
    """What one adapter writes to one weight."""

    def __init__(self, places: Places, values: Tensor) -> None:
        """Args: `values`, (k,), cast to the weight's dtype when they are written."""
        self._places, self._values = places, values
        self.serial = next(_serials)
        """Tells it from every other, and from itself before it was given other values."""
        self.written: int | None = None
        """The count of changes its values had when they were last written; None if they were not."""
        self.saved: Tensor | None = None
        """The bits it replaced, (k,), while it is applied."""

    @property
    def places(self) -> Places:
        """The coordinates."""
        return self._places

    @property
    def values(self) -> Tensor:
        """The values, (k,)."""
        return self._values

    @values.setter
    def values(self, values: Tensor) -> None:
        if values.data_ptr() != self._values.data_ptr() or values.dtype != self._values.dtype:
            self.serial, self.written = next(_serials), None
        self._values = values

    @property
    def is_written(self) -> bool:
        """Whether the weight has been given the values as they are now."""
        return self.written == self._values._version

    def take(self, dense: Tensor) -> Tensor:
        """Return the weight's values at the coordinates, (k,): a copy."""
        taken = self._beside(dense).take(dense)
        return taken.clone() if self.places.index is None else taken

    def write(self, dense: Tensor) -> None:
        """Write the values to the coordinates."""
        version = self._values._version
        self._beside(dense).put(dense, self._values)
        self.written = version

    def put_back(self, dense: Tensor) -> None:
        """Write the bits that the values replaced."""
        assert self.saved is not None
        self._beside(dense).put(dense, self.saved)

    def _beside(self, dense: Tensor) -> Places:
        index = self._places.index
        if index is not None and index.device != dense.device:  # the model has been moved
            self._places = self._places.to(dense.device)
        return self._places


class Stack:
    """The overlays applied to one weight, the last one on top.

    Whatever interrupts `switch`, calling it again ends where that call says: a bit is kept before it is
    overwritten, and forgotten only after it has been put back.
    """

    def __init__(self) -> None:
        self.applied: list[Overlay] = []
        self._versions = Versions()

    @torch.no_grad()
    def switch(self, weight: Tensor, wanted: Sequence[Overlay]) -> None:
        """Apply exactly `wanted`, each once and in this order, to a weight that is contiguous."""
        keep = 0
        for held, asked in zip(self.applied, wanted, strict=False):
            if held is not asked or not held.is_written:
                break
            keep += 1
        if keep == len(self.applied) == len(wanted):
            return
        dense = weight.detach()
        with self._versions.of(weight, self._state):
            while len(self.applied) > keep:
                self.applied[-1].put_back(dense)
                self.applied.pop().saved = None
            for overlay in wanted[keep:]:
                overlay.saved = overlay.take(dense)
                self.applied.append(overlay)
                overlay.write(dense)

    @torch.no_grad()
    def rewrite(self, weight: Tensor) -> None:
        """Write the values of the topmost overlay again, after they have changed."""
        with self._versions.of(weight, self._state):
            self.applied[-1].write(weight.detach())

    def _state(self) -> State:
        return tuple((overlay.serial, overlay.written) for overlay in self.applied)
