"""The k coordinates that moved most."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseopd.masks.comparison import Comparison
from sparseopd.masks.ranking import take_largest


def topk(comparison: Comparison, *, density: float, seed: int) -> dict[str, Tensor]:
    """Choose exactly round(density · n) coordinates by |Δ| over all tensors together.

    Returns bool (numel,) by name. Ties are broken by `seed` (ranking.py).
    """

    def scores(name: str) -> Tensor:
        return comparison.magnitude(name).view(torch.int32)

    return take_largest(scores, comparison.names, round(density * comparison.numel), seed)
