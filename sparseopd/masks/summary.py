"""A short account of the update a mask was taken from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from sparseopd.masks.comparison import Comparison
from sparseopd.masks.mask import Mask
from sparseopd.masks.stream import Piece, for_each
from sparseopd.pairs.tensors import Source, open_tensors

THRESHOLDS = (0.0, 1e-8, 1e-6, 1e-5, 1e-4)
"""τ of the paper's sparsity figures (PAPER.md §3): share of coordinates with |Δ| ≤ τ."""


@dataclass
class _Sums:
    """Sums over the coordinates seen so far."""

    energy: float = 0.0
    kept: float = 0.0
    weight: float = 0.0
    smallest: float = float("inf")
    dropped: float = 0.0
    below: dict[float, int] = field(default_factory=lambda: dict.fromkeys(THRESHOLDS, 0))

    def add(self, other: _Sums) -> None:
        self.energy += other.energy
        self.kept += other.kept
        self.weight += other.weight
        self.smallest = min(self.smallest, other.smallest)
        self.dropped = max(self.dropped, other.dropped)
        for threshold, count in other.below.items():
            self.below[threshold] += count


def summarize_update(base: Source, tuned: Source, mask: Mask) -> dict[str, Any]:
    """Return the size and sparsity of Δ = tuned - base and what of it lies in the mask.

    Keys: "numel", "k", "relative_norm" ‖Δ‖/‖W‖, "energy_in_mask" Σ_mask Δ²/Σ Δ², "smallest_kept" and
    "largest_dropped" |Δ|, "share_at_most" {τ: share}; all sums in float64, Δ in float32.
    """
    comparison = Comparison(open_tensors(base), open_tensors(tuned))
    sums = _Sums()
    for name in comparison.names:
        bitmap = mask.bitmaps[name]

        def work(piece: Piece, bitmap=bitmap) -> _Sums:
            return _sum(comparison, piece, bitmap.flat(piece.start, piece.stop))

        for _, found in for_each(comparison.pieces([name]), work):
            sums.add(found)
    numel = sum(comparison.numels.values())
    return {
        "numel": numel,
        "k": mask.count(),
        "relative_norm": (sums.energy / sums.weight) ** 0.5 if sums.weight else 0.0,
        "energy_in_mask": sums.kept / sums.energy if sums.energy else 0.0,
        "smallest_kept": None if sums.smallest == float("inf") else sums.smallest,
        "largest_dropped": sums.dropped,
        "share_at_most": {f"{tau:g}": count / numel for tau, count in sums.below.items()},
        "dtype": "float32 masters minus source, summed in float64",
    }


def _sum(comparison: Comparison, piece: Piece, chosen: torch.Tensor) -> _Sums:
    size = comparison.magnitude(piece)
    squared = size.double().square()
    kept, left = size[chosen], size[~chosen]
    return _Sums(
        energy=float(squared.sum()),
        kept=float(squared[chosen].sum()),
        weight=float(piece.base.double().square().sum()),
        smallest=float(kept.min()) if len(kept) else float("inf"),
        dropped=float(left.max()) if len(left) else 0.0,
        below={tau: int(torch.count_nonzero(size <= tau)) for tau in THRESHOLDS},
    )
