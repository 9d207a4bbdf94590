"""Where an adapter's values go, for a stretch of a tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.errors import AdapterFileError
from sparseopd.masks.coding import positions


@dataclass(frozen=True)
class Stretch:
    """Consecutive coordinates of a tensor, and which of an adapter's values are for them."""

    label: str
    """Adapter and tensor."""
    numel: int
    first: int
    last: int
    """The values are those from `first` up to `last`, exclusive."""
    payload: np.ndarray

    def positions(self) -> np.ndarray:
        """Return where the values go, counted from its first coordinate: int64 (last - first,), ascending.

        Raises `AdapterFileError` if the mask is not what its checksum promised.
        """
        try:
            return positions(self.payload, self.numel)
        except ValueError as error:
            raise AdapterFileError(f"{self.label}: {error}") from error


def stretches(adapter: SparseAdapter, name: str, size: int) -> Iterator[Stretch]:
    """Yield the stretches of a touched tensor, `size` coordinates each, a multiple of a mask's blocks.

    Raises `AdapterFileError` if its mask is damaged.
    """
    first = 0
    for numel, count, payload in adapter.stretches(name, size):
        yield Stretch(f"{adapter.label} is damaged in {name}", numel, first, first + count, payload)
        first += count
