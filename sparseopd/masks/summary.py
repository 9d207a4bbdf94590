"""A short account of the update a mask was taken from."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparseopd.masks.comparison import Comparison
from sparseopd.masks.mask import Mask
from sparseopd.pairs.tensors import open_tensors

THRESHOLDS = (0.0, 1e-8, 1e-6, 1e-5, 1e-4)
"""τ of the paper's sparsity figures (PAPER.md §3): share of coordinates with |Δ| ≤ τ."""


def summarize_update(base: nn.Module, tuned: nn.Module, mask: Mask) -> dict[str, Any]:
    """Return the size and sparsity of Δ = tuned - base and what of it lies in the mask.

    Keys: "numel", "k", "relative_norm" ‖Δ‖/‖W‖, "energy_in_mask" Σ_mask Δ²/Σ Δ², "smallest_kept" and
    "largest_dropped" |Δ|, "share_at_most" {τ: share}; all sums in float64, Δ in float32.
    """
    opened = open_tensors(base)
    comparison = Comparison(opened, open_tensors(tuned))
    energy = kept = weight = dropped = 0.0
    smallest = float("inf")
    below = dict.fromkeys(THRESHOLDS, 0)
    for name in comparison.names:
        size, chosen = comparison.magnitude(name), mask[name].reshape(-1)
        squared = size.double().square()
        energy += float(squared.sum())
        kept += float(squared[chosen].sum())
        weight += float(opened[name].double().square().sum())
        smallest = min(smallest, float(size[chosen].min()) if chosen.any() else smallest)
        dropped = max(dropped, float(size[~chosen].max()) if not chosen.all() else dropped)
        for threshold in THRESHOLDS:
            below[threshold] += int(torch.count_nonzero(size <= threshold))
    return {
        "numel": comparison.numel,
        "k": mask.count(),
        "relative_norm": (energy / weight) ** 0.5 if weight else 0.0,
        "energy_in_mask": kept / energy if energy else 0.0,
        "smallest_kept": None if smallest == float("inf") else smallest,
        "largest_dropped": dropped,
        "share_at_most": {
            f"{threshold:g}": count / comparison.numel for threshold, count in below.items()
        },
        "dtype": "float32 masters minus source, summed in float64",
    }
