"""The coordinates that moved most for their size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparseopd.masks.comparison import Comparison
from sparseopd.masks.stream import Piece, for_each
from sparseopd.selection import Selection


def topk_relative(comparison: Comparison, selection: Selection) -> Callable[[Piece], Tensor]:
    """Score by |Δ|/|W| (relative_to weight) or |Δ|/RMS(W) of the whole tensor (rms; PAPER.md §3).

    A coordinate that moved away from 0 (or within a tensor of zeros) scores infinity, one that
    stayed there 0.
    """
    if selection.relative_to == "weight":
        return lambda piece: _ratio(comparison.magnitude(piece), comparison.weight(piece))
    scale = _root_mean_squares(comparison)
    return lambda piece: _ratio(comparison.magnitude(piece), torch.tensor(scale[piece.name]))


def _ratio(size: Tensor, scale: Tensor) -> Tensor:
    ratio = size / scale
    return torch.where(size == 0, size, ratio) if bool((scale == 0).any()) else ratio


def _root_mean_squares(comparison: Comparison) -> dict[str, float]:
    """RMS(W) of every tensor, summed in float64."""
    sums = dict.fromkeys(comparison.names, 0.0)
    pieces = comparison.pieces(comparison.names)
    for piece, total in for_each(pieces, lambda piece: float(piece.base.double().square().sum())):
        sums[piece.name] += total
    return {name: (sums[name] / max(1, numel)) ** 0.5 for name, numel in comparison.numels.items()}
