"""New values over some coordinates of one weight, and the bits that were there before.

Nothing is ever subtracted: what a value replaced is kept while it is applied, and put back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparseopd.masks.places import Places


@dataclass(eq=False)
class Overlay:
    """What one adapter writes to one weight."""

    places: Places
    values: Tensor
    """(k,), cast to the weight's dtype when it is written."""
    saved: Tensor | None = None
    """The bits it replaced, (k,), while it is applied."""

    def take(self, dense: Tensor) -> Tensor:
        """Return the weight's values at the coordinates, (k,): a copy."""
        taken = self._places(dense).take(dense)
        return taken.clone() if self.places.index is None else taken

    def put(self, dense: Tensor, values: Tensor) -> None:
        """Write values (k,) to the coordinates."""
        self._places(dense).put(dense, values)

    def _places(self, dense: Tensor) -> Places:
        index = self.places.index
        if index is not None and index.device != dense.device:  # the model has been moved
            self.places = self.places.to(dense.device)
        return self.places


class Stack:
    """The overlays applied to one weight, the last one on top.

    Whatever interrupts `switch`, calling it again ends where that call says: a bit is kept before it is
    overwritten, and forgotten only after it has been put back.
    """

    def __init__(self) -> None:
        self.applied: list[Overlay] = []

    @torch.no_grad()
    def switch(self, weight: Tensor, wanted: Sequence[Overlay], *, quiet: bool = False) -> None:
        """Apply exactly `wanted`, in this order, to a weight that is contiguous.

        `quiet` hides the writing from autograd, for values that will be as they were before a backward
        pass needs them.
        """
        dense = weight.data if quiet else weight.detach()
        keep = 0
        for held, asked in zip(self.applied, wanted, strict=False):
            if held is not asked:
                break
            keep += 1
        while len(self.applied) > keep:
            top = self.applied[-1]
            assert top.saved is not None
            top.put(dense, top.saved)
            self.applied.pop()
        for overlay in wanted[keep:]:
            overlay.saved = overlay.take(dense)
            self.applied.append(overlay)
            overlay.put(dense, overlay.values)

    @torch.no_grad()
    def rewrite(self, weight: Tensor) -> None:
        """Write the values of the topmost overlay again, after they have changed."""
        top = self.applied[-1]
        top.put(weight.detach(), top.values)
