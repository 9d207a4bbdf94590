"""Where an adapter's values go, for a stretch of a tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.masks.bitmap import Bitmap, count_bits
from sparseopd.pairs.tensors import pieces


@dataclass(frozen=True)
class Stretch:
    """Consecutive coordinates of a tensor, and which of an adapter's values are for them."""

    start: int
    stop: int
    first: int
    last: int
    """The values are those from `first` up to `last`, exclusive."""
    bitmap: Bitmap

    def positions(self) -> np.ndarray:
        """Return where the values go, counted from `start`: int64 (last - first,), ascending."""
        return np.flatnonzero(self.bitmap.flat(self.start, self.stop).numpy())


def stretches(adapter: SparseAdapter, name: str, size: int) -> Iterator[Stretch]:
    """Yield the stretches of a touched tensor, `size` coordinates each, a multiple of 8.

    Raises `AdapterFileError` if its mask is damaged.
    """
    bitmap, first = adapter.mask.bitmaps[name], 0
    for start, stop in pieces(bitmap.numel, size):
        last = first + count_bits(bitmap.bits[start // 8 : (stop + 7) // 8])
        yield Stretch(start, stop, first, last, bitmap)
        first = last
