"""The paper's mask: every coordinate that moved more than τ (PAPER.md §4, τ = 1e-5)."""

from __future__ import annotations

from torch import Tensor

from sparseopd.masks.comparison import Comparison


def threshold(comparison: Comparison, *, threshold: float) -> dict[str, Tensor]:
    """Choose the coordinates with |Δ| > threshold. Returns bool (numel,) by name."""
    return {name: comparison.magnitude(name) > threshold for name in comparison.names}
