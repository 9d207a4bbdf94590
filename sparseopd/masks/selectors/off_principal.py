"""The coordinates that carry least of the principal part of the base. Data-free."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sparseopd.masks.comparison import Comparison
from sparseopd.masks.selectors.order import smallest_first
from sparseopd.masks.selectors.spectrum import principal_size, whole_tensor_scores
from sparseopd.masks.stream import Piece
from sparseopd.selection import Selection


def off_principal(comparison: Comparison, selection: Selection) -> Callable[[Piece], Tensor]:
    """Score so that the smallest |U_k Σ_k V_kᵀ| come first.

    At density d this is the complement of `principal` at 1 - d, ties aside (arXiv 2511.08567).
    """
    rank = selection.rank or 0.1
    return whole_tensor_scores(
        comparison, lambda matrix: smallest_first(principal_size(matrix, rank).contiguous())
    )
