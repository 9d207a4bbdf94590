"""Which coordinates of W an update prefers: the principal ones, the small ones (PAPER.md §3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparseopd.analysis.sparsity import parted
from sparseopd.analysis.values import Values
from sparseopd.pairs.tensors import PIECE
from sparseopd.singular import Singular, row_blocks

RANKS = (1, 5, 10, 20)
"""Percent: of min(d) for subspaces, of the coordinates for masks."""
ALPHAS = ("0", "1e-5")
"""A coordinate moved if |Δ| > α."""
CODES = 256
"""What `regions` can say of a coordinate."""
TIES_OF_TORCH = 1 << 24
"""Up to so many coordinates, equal ones are chosen as `torch.topk` does, as the paper's scripts do; beyond,
where it would take 16 bytes a coordinate, the first of them in order."""


def regions(weight: Tensor, singular: Singular) -> Tensor:
    """Return, for every coordinate of W (m, n), the masks it lies in: uint8 (m·n,).

    Bit i: among the top `RANKS[i]` percent of |U_kΣ_kV_kᵀ|; bit 4 + i: among the smallest of |W|.
    """
    code = torch.zeros(weight.numel(), dtype=torch.uint8, device=weight.device)
    assert singular.left is not None and singular.right is not None
    small = weight.abs().flatten().neg_()
    for place, rank in enumerate(RANKS):
        count = math.ceil(rank / 100 * weight.numel())
        subspace = subspace_size(weight.shape, rank)
        code |= largest(_principal(weight, singular, subspace), count).byte() << place
        code |= largest(small, count).byte() << (4 + place)
    return code


def coverage(values: Values, code: Tensor) -> dict[str, float | None]:
    """Return |A ∩ M| / |A| for every mask of `regions`; None where A is empty.

    `nonprincipal_or_low` is the union of the coordinates off the principal mask and the small ones.
    """
    figures: dict[str, float | None] = {}
    codes = torch.arange(CODES)
    for alpha, counts in _moved(values, code).items():
        moved = int(counts.sum())
        for place, rank in enumerate(RANKS):
            principal, low = codes >> place & 1 == 1, codes >> (4 + place) & 1 == 1
            for kind, chosen in (
                ("principal", principal),
                ("low_magnitude", low),
                ("nonprincipal_or_low", ~principal | low),
            ):
                share = int(counts[chosen].sum()) / moved if moved else None
                figures[f"coverage_{kind}_{rank}pct_alpha_{alpha}"] = share
    return figures


def _moved(values: Values, code: Tensor) -> dict[str, Tensor]:
    """For every α, how many coordinates with |Δ| > α have each code: int64 (CODES,)."""
    passed = torch.zeros((len(ALPHAS) + 1) * CODES, dtype=torch.int64, device=code.device)
    for size, codes in zip(values.size.flatten().split(PIECE), code.split(PIECE), strict=True):
        place = codes.int()
        for alpha in ALPHAS:  # ascending: a coordinate is counted by how many it is above
            place.add_(size > float(alpha), alpha=CODES)
        passed += torch.bincount(place, minlength=len(passed))
    above = passed.view(-1, CODES).flip(0).cumsum(0).flip(0).cpu()
    return {alpha: above[place] for place, alpha in enumerate(ALPHAS, 1)}


def subspace_size(shape: torch.Size, rank: float) -> int:
    """Return k = max(1, ⌊ρ·min(d)⌋) for a rank in percent."""
    return max(1, int(rank / 100 * min(shape)))


def largest(values: Tensor, count: int) -> Tensor:
    """Return which of values (n,) are the `count` largest: bool (n,), exactly so many."""
    edge = parted(values, [count])[-count]
    chosen = values >= edge
    if int(torch.count_nonzero(chosen)) == count:
        return chosen
    if values.numel() <= TIES_OF_TORCH:
        return torch.zeros_like(chosen).scatter_(0, values.topk(count, sorted=False).indices, True)
    above = values > edge
    equal = torch.nonzero(chosen & ~above).flatten()
    above[equal[: count - int(torch.count_nonzero(above))]] = True
    return above


def _principal(weight: Tensor, singular: Singular, count: int) -> Tensor:
    """|U_kΣ_kV_kᵀ|, flattened: float32 (m·n,)."""
    assert singular.left is not None and singular.right is not None
    left = (singular.left[:, :count] * singular.values[:count]).float()
    right = singular.right[:, :count].float().T
    size = torch.empty(weight.shape, device=weight.device)
    for rows in row_blocks(weight):
        torch.mm(left[rows], right, out=size[rows])
    return size.abs_().flatten()
