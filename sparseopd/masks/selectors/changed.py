"""The coordinates whose stored value changed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparseopd.masks.comparison import Comparison
from sparseopd.masks.stream import Piece
from sparseopd.selection import Selection

_BITS = {2: torch.int16, 4: torch.int32}


def changed(comparison: Comparison, selection: Selection) -> Callable[[Piece], Tensor]:
    """Choose where base and tuned differ after both are rounded to `selection.dtype`.

    Without `eta` any bit counts (so 0.0 and -0.0 differ). With it, only |ŵ - w| > η·max(|w|, |ŵ|)
    does, on the rounded values in float32 (arXiv 2511.08567: η = 1e-3 on bfloat16).
    """
    dtype = getattr(torch, selection.dtype or "bfloat16")
    eta = selection.eta

    def rule(piece: Piece) -> Tensor:
        before, after = piece.base.to(dtype), comparison.after(piece).to(dtype)
        if eta is None:
            bits = _BITS[dtype.itemsize]
            return before.contiguous().view(bits) != after.contiguous().view(bits)
        before, after = before.float(), after.float()
        return (after - before).abs() > eta * torch.maximum(before.abs(), after.abs())

    return rule
