"""Ways to turn one order of coordinates into another, exactly."""

from __future__ import annotations

import torch
from torch import Tensor

INFINITY = 0x7F800000
"""The bit pattern of float32 infinity."""
BLOCK = 1 << 20
"""Values worked on at once, so that wide temporaries stay small."""


def smallest_first(values: Tensor) -> Tensor:
    """Return float32 scores that are largest where `values` (float32, ≥ 0) are smallest.

    Patterns are mirrored, not numbers, so no two values fall together; NaN stays not a number.
    """
    return (INFINITY - values.view(torch.int32)).view(torch.float32)


def quantiles(values: Tensor) -> Tensor:
    """Return for float32 `values` ≥ 0 (n,) the share of them that is smaller: float32 in [0, 1).

    Shares are exact at the edges of bins of the upper 16 bits of the pattern (1/256 relative), and
    linear in the lower ones within; equal values get equal shares.
    """
    bits = values.view(torch.int32)
    counts = torch.zeros(1 << 16, dtype=torch.int64)
    for block in bits.split(BLOCK):
        counts += torch.bincount(block >> 15, minlength=1 << 16)
    below = (torch.cumsum(counts, 0) - counts).double()
    shares = torch.empty(len(values))
    for block, share in zip(bits.split(BLOCK), shares.split(BLOCK), strict=True):
        upper, low = block >> 15, (block & 0x7FFF).double() / 0x8000
        share.copy_((below[upper] + counts[upper] * low) / len(values))
    return shares
