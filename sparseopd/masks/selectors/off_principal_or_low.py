"""The coordinates off the principal part, or near zero: where RL and OPD are said to move. Data-free."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparseopd.masks.comparison import Comparison
from sparseopd.masks.selectors.order import quantiles, smallest_first
from sparseopd.masks.selectors.spectrum import principal_size, whole_tensor_scores
from sparseopd.masks.stream import Piece
from sparseopd.selection import Selection


def off_principal_or_low(comparison: Comparison, selection: Selection) -> Callable[[Piece], Tensor]:
    """Score by the smaller of two quantiles in the matrix: of |U_k Σ_k V_kᵀ| and of |W|.

    The first k are a union of an off-principal and a low-magnitude mask of the same share each, that
    share being what makes the union as large as asked (arXiv 2511.08567 unites two masks).
    """
    rank = selection.rank or 0.1

    def compute(matrix: Tensor) -> Tensor:
        principal = quantiles(principal_size(matrix, rank).reshape(-1))
        low = quantiles(matrix.float().abs().reshape(-1))
        return smallest_first(torch.minimum(principal, low)).reshape(matrix.shape)

    return whole_tensor_scores(comparison, compute)
