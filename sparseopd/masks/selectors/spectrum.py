"""The principal part of a weight matrix: its best low-rank approximation (PAPER.md §3)."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from sparseopd.errors import MaskError
from sparseopd.masks.comparison import Comparison
from sparseopd.masks.stream import Piece
from sparseopd.singular import ROWS, as_matrices, decompose, row_blocks


def principal_size(weight: Tensor, rank: float) -> Tensor:
    """Return |U_k Σ_k V_kᵀ| of a matrix (m, n): float32, k = max(1, ⌊rank · min(m, n)⌋).

    The product is W V_k V_kᵀ; singular.py says where V_k comes from.
    """
    if weight.shape[0] < weight.shape[1]:
        return principal_size(weight.T, rank).T
    vectors = decompose(weight, max(1, int(rank * weight.shape[1]))).right
    assert vectors is not None
    vectors = vectors.float()
    size = torch.empty(weight.shape)
    for rows in row_blocks(weight):
        size[rows] = (weight[rows].float() @ vectors @ vectors.T).abs_()
    return size


def whole_tensor_scores(
    comparison: Comparison, compute: Callable[[Tensor], Tensor]
) -> Callable[[Piece], Tensor]:
    """Make a score out of a function of a whole matrix: its result is cut to the piece asked for.

    `compute` maps a matrix (m, n) to float32 (m, n). The last tensor's result is kept, so that its
    pieces share it. Raises `MaskError` where the tensor is not finite.
    """
    held: dict[str, Tensor] = {}
    lock = threading.Lock()

    def score(piece: Piece) -> Tensor:
        with lock:
            if piece.name not in held:
                scores = _scores(comparison, piece.name, compute)
                while len(held) > 1:  # the tensor before may still be worked on
                    del held[next(iter(held))]
                held[piece.name] = scores
            return held[piece.name][piece.start : piece.stop]

    return score


def _scores(comparison: Comparison, name: str, compute: Callable[[Tensor], Tensor]) -> Tensor:
    weight = comparison.base[name]
    if not all(torch.isfinite(rows.float()).all() for rows in weight.split(ROWS)):
        raise MaskError(f"{name} is not finite, so it has no singular vectors: exclude it")
    matrices = weight.reshape(as_matrices(weight.shape))
    return torch.stack([compute(matrix).contiguous() for matrix in matrices]).reshape(-1)
