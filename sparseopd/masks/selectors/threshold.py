"""The paper's mask: every coordinate that moved more than τ (PAPER.md §4, τ = 1e-5)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sparseopd.masks.comparison import Comparison
from sparseopd.masks.stream import Piece
from sparseopd.selection import Selection


def threshold(comparison: Comparison, selection: Selection) -> Callable[[Piece], Tensor]:
    """Choose where |Δ| > threshold, in float32."""
    limit = selection.threshold
    return lambda piece: comparison.magnitude(piece) > limit  # pyright: ignore[reportOperatorIssue]
