"""The principal part of a weight matrix: its best low-rank approximation (PAPER.md §3)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sparseopd.errors import MaskError
from sparseopd.masks.comparison import Comparison
from sparseopd.masks.stream import Piece

EXACT = 4096
"""Largest min(d) whose spectrum is computed exactly, as in the paper's scripts."""

ROWS = 8192
"""Rows worked on at once: an embedding is much taller than wide."""


def is_matrix(shape: torch.Size) -> bool:
    """Whether a tensor has singular vectors: two dimensions or more, none of size 0 or 1."""
    return len(shape) >= 2 and min(as_matrices(shape)[1:]) > 1


def as_matrices(shape: torch.Size) -> tuple[int, int, int]:
    """Return (matrices, rows, columns): experts (e, m, n) are e matrices, a convolution is one."""
    if len(shape) == 3 and min(shape[1:]) > 8:
        return shape[0], shape[1], shape[2]
    return 1, shape[0], shape[1:].numel()


def principal_size(weight: Tensor, rank: float) -> Tensor:
    """Return |U_k Σ_k V_kᵀ| of a matrix (m, n): float32, k = max(1, ⌊rank · min(m, n)⌋).

    For min(m, n) ≤ 4096 the singular vectors come from the Gram matrix's eigenvectors in float64:
    W V_k V_kᵀ is that product, and a k-th share of the spectrum is far above float64's reach. Beyond,
    they are randomized (Halko et al. 2011, two power iterations, a fixed seed).
    """
    if weight.shape[0] < weight.shape[1]:
        return principal_size(weight.T, rank).T
    count = max(1, int(rank * weight.shape[1]))
    exact = weight.shape[1] <= EXACT
    vectors = _leading_vectors(weight, count) if exact else _likely_vectors(weight, count)
    size = torch.empty(weight.shape)
    for rows in _row_blocks(weight):
        size[rows] = (weight[rows].float() @ vectors @ vectors.T).abs_()
    return size


def _leading_vectors(weight: Tensor, count: int) -> Tensor:
    """The last eigenvectors of WᵀW, summed in float64 over blocks of rows: float32 (n, count)."""
    gram = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64)
    for rows in _row_blocks(weight):
        block = weight[rows].double()
        gram += block.T @ block
    return torch.linalg.eigh(gram).eigenvectors[:, -count:].float()


def _likely_vectors(weight: Tensor, count: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.svd_lowrank(weight.float(), q=count + 8, niter=2)[2][:, :count]


def _row_blocks(weight: Tensor) -> Iterator[slice]:
    for start in range(0, weight.shape[0], ROWS):
        yield slice(start, start + ROWS)


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
