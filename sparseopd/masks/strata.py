"""Coordinates of like size: the |W| quantiles within a tensor, for controls matched by magnitude."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sparseopd.masks.comparison import Comparison
from sparseopd.masks.stream import Piece, for_each

STRATA = 20
"""Quantiles a tensor is cut into: 5 % of its coordinates each."""
SMALLEST = 64
"""Coordinates a stratum must have on average; smaller tensors are cut into fewer."""
_LOW_BITS = 15


class Strata:
    """The |W| quantile of every coordinate of one tensor.

    Quantiles are cut at patterns of |W|'s upper 16 bits (float32), so equal weights share a stratum
    and strata may differ in size where many weights are equal, as they are in bfloat16.
    """

    def __init__(self, comparison: Comparison, name: str) -> None:
        """Count the tensor's |W|, in one pass over it."""
        self._comparison, self.name = comparison, name
        counts = np.zeros(1 << 16, dtype=np.int64)
        for _, found in for_each(comparison.pieces([name]), self._histogram):
            counts += found
        numel = int(counts.sum())
        self.number = max(1, min(STRATA, numel // SMALLEST))
        middle = np.cumsum(counts) - (counts + 1) // 2
        self._table = torch.from_numpy(
            np.clip(middle * self.number // max(1, numel), 0, self.number - 1)
        )

    def of(self, piece: Piece) -> Tensor:
        """Return the stratum of every coordinate of a piece: int64 (numel,), 0 the smallest |W|."""
        return self._table[self._upper(piece)]

    def count(self, flags: Callable[[Piece], Tensor | None]) -> np.ndarray:
        """Count, per stratum, what `flags(piece)` chooses (bool; None: all): int64 (number,)."""

        def work(piece: Piece) -> np.ndarray:
            strata, chosen = self.of(piece), flags(piece)
            strata = strata if chosen is None else strata[chosen]
            return torch.bincount(strata, minlength=self.number).numpy()

        total = np.zeros(self.number, dtype=np.int64)
        for _, found in for_each(self._comparison.pieces([self.name]), work):
            total += found
        return total

    def _upper(self, piece: Piece) -> Tensor:
        return self._comparison.weight(piece).view(torch.int32) >> _LOW_BITS

    def _histogram(self, piece: Piece) -> np.ndarray:
        return torch.bincount(self._upper(piece), minlength=1 << 16).numpy()
