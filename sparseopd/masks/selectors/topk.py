"""The coordinates that moved most."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sparseopd.masks.comparison import Comparison
from sparseopd.masks.stream import Piece
from sparseopd.selection import Selection


def topk(comparison: Comparison, selection: Selection) -> Callable[[Piece], Tensor]:
    """Score by |Δ| in float32; topk-per-tensor differs in its budget alone."""
    return comparison.magnitude
