"""Singular values and vectors of large matrices, from Gram matrices in float64 or randomized.

Squaring a matrix squares its condition, so a Gram matrix in float64 resolves singular values down to
about 3e-8 of the largest. Weights and updates, held in float32 or less, have nothing to say below that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

EXACT = 4096
"""Largest min(d) whose spectrum is computed exactly, as in the paper's scripts."""
ROWS = 2048
"""Rows worked on at once in float64: an embedding is much taller than wide."""
COLUMNS = 256
"""Columns of a Gram matrix computed at once."""
POWERS = 2
"""Power iterations of the randomized range finder (Halko et al. 2011, algorithm 4.4)."""
OVERSAMPLING = 16


@dataclass(frozen=True)
class Singular:
    """The leading singular values of a matrix (m, n), and vectors where they were asked for."""

    values: Tensor
    """float64 (r,), descending; r = min(m, n), or fewer where `error` is given."""
    left: Tensor | None = None
    """float64 (m, k)."""
    right: Tensor | None = None
    """float64 (n, k)."""
    error: float | None = None
    """Of randomized values: the largest residual ‖Av − σu‖ of one that was asked for, over the largest
    σ. Within it of every value lies a singular value. None where the values are exact."""


def is_matrix(shape: torch.Size) -> bool:
    """Whether a tensor has singular vectors: two dimensions or more, none of size 0 or 1."""
    return len(shape) >= 2 and min(as_matrices(shape)[1:]) > 1


def as_matrices(shape: torch.Size) -> tuple[int, int, int]:
    """Return (matrices, rows, columns): experts (e, m, n) are e matrices, a convolution is one."""
    if len(shape) == 3 and min(shape[1:]) > 8:
        return shape[0], shape[1], shape[2]
    return 1, shape[0], shape[1:].numel()


def decompose(matrix: Tensor, count: int = 0, seed: int = 0) -> Singular:
    """Return the spectrum of a matrix (m, n) and, if `count` > 0, its leading `count` vectors.

    Exact for min(m, n) ≤ `EXACT`; beyond, the leading max(count, 64) values, randomized by `seed`.
    """
    if matrix.shape[0] < matrix.shape[1]:
        turned = decompose(matrix.T, count, seed)
        return Singular(turned.values, turned.right, turned.left, turned.error)
    if matrix.shape[1] > EXACT:
        return _randomized(matrix, count, seed)
    if not count:
        return Singular(_roots(torch.linalg.eigvalsh(gram(matrix))))
    squares, vectors = torch.linalg.eigh(gram(matrix))
    values, right = _roots(squares), vectors[:, -count:].flip(1)
    return Singular(values, _carried(matrix, right), right)


def gram(matrix: Tensor) -> Tensor:
    """Return AᵀA of a matrix (m, n): float64 (n, n), summed over blocks of rows."""
    size = matrix.shape[1]
    total = torch.zeros(size, size, dtype=torch.float64, device=matrix.device)
    for rows in row_blocks(matrix):
        block = matrix[rows].double()
        for start in range(0, size, COLUMNS):  # what is below the diagonal need not be computed
            stop = start + COLUMNS
            total[start:stop, start:] += block[:, start:stop].T @ block[:, start:]
    return total.triu() + total.triu(1).T


def row_blocks(matrix: Tensor) -> Iterator[slice]:
    """Yield slices over the rows of a matrix, `ROWS` at a time."""
    for start in range(0, matrix.shape[0], ROWS):
        yield slice(start, start + ROWS)


def product(matrix: Tensor, right: Tensor) -> Tensor:
    """Return the product of a matrix of any dtype with a float64 one: float64, by blocks of rows."""
    return torch.cat([matrix[rows].double() @ right for rows in row_blocks(matrix)])


def _roots(squares: Tensor) -> Tensor:
    """Ascending eigenvalues, of which rounding makes some negative, as descending singular values."""
    return squares.clamp_min(0).sqrt().flip(0)


def _carried(matrix: Tensor, right: Tensor) -> Tensor:
    """The left vectors Av/σ, whose columns are orthogonal; QR fills in others where σ is nothing."""
    left, upper = torch.linalg.qr(product(matrix, right))
    return left * torch.where(upper.diagonal() < 0, -1.0, 1.0)


def _randomized(matrix: Tensor, count: int, seed: int) -> Singular:
    """Sample the range, sharpen it by power iterations, and decompose the small projection."""
    wanted = max(count, 64)
    size = min(wanted + OVERSAMPLING, matrix.shape[1])
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(matrix.shape[1], size, generator=generator)
    basis = torch.linalg.qr(_narrow(matrix, start.to(matrix.device)))[0]
    for _ in range(POWERS):
        basis = torch.linalg.qr(_narrow_back(matrix, basis))[0]
        basis = torch.linalg.qr(_narrow(matrix, basis))[0]
    small = _narrow_back(matrix, basis).double()  # Aᵀ Q, (n, size)
    right, values, inner = torch.linalg.svd(small, full_matrices=False)
    left = basis.double() @ inner.T
    # A v = σ u need not hold for randomized vectors, while Aᵀ u = σ v does: measure the other side.
    residual = product(matrix, right[:, :wanted]) - left[:, :wanted] * values[:wanted]
    error = float(residual.norm(dim=0).max() / values[0]) if values[0] else 0.0
    if not count:
        return Singular(values[:wanted], error=error)
    return Singular(values[:wanted], left[:, :count], right[:, :count], error)


def _narrow(matrix: Tensor, right: Tensor) -> Tensor:
    """A X in float32, by blocks of rows."""
    return torch.cat([matrix[rows].float() @ right for rows in row_blocks(matrix)])


def _narrow_back(matrix: Tensor, left: Tensor) -> Tensor:
    """Aᵀ X in float32, by blocks of rows."""
    total = torch.zeros(matrix.shape[1], left.shape[1], device=matrix.device)
    for rows in row_blocks(matrix):
        total += matrix[rows].float().T @ left[rows]
    return total
