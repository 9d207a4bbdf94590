"""New values over some coordinates of one weight, and the bits that were there before.

Nothing is ever subtracted: what a value replaced is kept while it is applied, and put back.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from sparseopd.masks.places import Places
from sparseopd.overlays.versions import State, Versions, version

_serials = itertools.count()


class Overlay:
    """What one adapter writes to one weight."""

    def __init__(self, places: Places, values: Tensor) -> None:
        """Args: `values`, (k,), cast to the weight's dtype when they are written."""
        self._places, self._values = places, values
        self.serial = next(_serials)
        """Tells it from every other, and from itself before it was given other values."""
        self.written: int | None = None
        """The count of changes its values had when they were last written; None if they are not there."""
        self.base: Tensor | None = None
        """The bits that the values replace, (k,)."""
        self.taken = -1
        """The count of the base, as `Stack` counts, when they were taken."""

    @property
    def places(self) -> Places:
        """The coordinates."""
        return self._places

    def share(self, places: Places) -> None:
        """Take equal places of another overlay, so that whoever compares the two need not read them."""
        self._places = places

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
        return self.written == version(self._values)

    def take_base(self, dense: Tensor, taken: int) -> None:
        """Keep the bits of a weight that nothing is over."""
        found = self.gather(dense)
        self.base = found.clone() if self.places.index is None else found
        self.taken = taken

    def gather(self, dense: Tensor) -> Tensor:
        """Return what a tensor of the weight's shape has at the coordinates, (k,)."""
        return self._beside(dense).take(dense)

    def write(self, dense: Tensor) -> None:
        """Write the values to the coordinates."""
        self.written = None  # half-written values are not written
        count = version(self._values)
        self._beside(dense).put(dense, self._values)
        self.written = count

    def put_back(self, dense: Tensor, *, is_foreign: bool = False) -> None:
        """Write the bits that the values replaced.

        `is_foreign` says that someone else has written to the weight since: what is not the overlay's
        any more then stays.
        """
        assert self.base is not None
        bits = self.base.to(dense)
        if is_foreign and self.is_written:
            found = self.gather(dense)
            size = found.element_size()
            own = found.view(torch.uint8) == self._values.to(found).view(torch.uint8)
            bits = torch.where(own.view(-1, size).all(1), bits, found)
        self.written = None
        self._beside(dense).put(dense, bits)

    def _beside(self, dense: Tensor) -> Places:
        index = self._places.index
        if index is not None and index.device != dense.device:  # the model has been moved
            self._places = self._places.to(dense.device)
        return self._places


class Stack:
    """The overlays applied to one weight, the last one on top.

    Each knows the base's bits at its coordinates, so the order in which they are taken off does not
    matter, and whatever interrupts `switch`, calling it again ends where that call says. What someone
    else writes to the weight stays, and the bits are taken anew then, unless it was through
    `weight.data`, which torch does not count.
    """

    def __init__(self) -> None:
        self.applied: list[Overlay] = []
        self._versions = Versions()
        self._base = 0
        """Counts how often someone else has written to the weight."""

    @torch.no_grad()
    def switch(self, weight: Tensor, wanted: Sequence[Overlay]) -> None:
        """Apply exactly `wanted`, each once and in this order, to a weight that is contiguous."""
        is_foreign = self._versions.is_foreign(weight)
        self._base += is_foreign
        known = all(overlay.taken == self._base for overlay in wanted)
        if self.applied == [*wanted] and all(overlay.is_written for overlay in wanted):
            return
        dense = weight.detach()
        with self._versions.of(weight, self._state):
            for overlay in reversed([*self.applied]):
                written_over = known and any(one.places is overlay.places for one in wanted)
                if not written_over:
                    overlay.put_back(dense, is_foreign=is_foreign)
                    self.applied.remove(overlay)
            for overlay in wanted:
                if overlay.taken != self._base:
                    overlay.take_base(dense, self._base)
            self.applied = [*wanted]
            for overlay in wanted:
                overlay.write(dense)

    @torch.no_grad()
    def rewrite(self, weight: Tensor) -> None:
        """Write the values of the topmost overlay again, after they have changed."""
        with self._versions.of(weight, self._state):
            self.applied[-1].write(weight.detach())

    def _state(self) -> State:
        return tuple((overlay.serial, overlay.written) for overlay in self.applied)
