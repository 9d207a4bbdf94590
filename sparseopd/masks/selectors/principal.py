"""The coordinates that carry the principal part of the base. Data-free."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sparseopd.masks.comparison import Comparison
from sparseopd.masks.selectors.spectrum import principal_size, whole_tensor_scores
from sparseopd.masks.stream import Piece
from sparseopd.selection import Selection


def principal(comparison: Comparison, selection: Selection) -> Callable[[Piece], Tensor]:
    """Score by |U_k Σ_k V_kᵀ| of each matrix, k = rank · min(m, n) (PAPER.md §3; arXiv 2511.08567)."""
    rank = selection.rank or 0.1
    return whole_tensor_scores(comparison, lambda matrix: principal_size(matrix, rank))
