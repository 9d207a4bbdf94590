"""Ways to turn one order of coordinates into another, exactly."""

from __future__ import annotations

import torch
from torch import Tensor

INFINITY = 0x7F800000
"""The bit pattern of float32 infinity."""


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
    upper, low = bits >> 15, bits & 0x7FFF
    counts = torch.bincount(upper, minlength=1 << 16).double()
    below = torch.cumsum(counts, 0) - counts
    share = (below[upper] + counts[upper] * (low.double() / 0x8000)) / max(1, len(values))
    return share.float()
