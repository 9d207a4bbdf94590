"""How few coordinates moved, and how few hold the update (PAPER.md §3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sparseopd.analysis.values import Values

ABSOLUTE = ("1e-8", "1e-6", "1e-5", "1e-4")
RELATIVE = ("1e-4", "1e-3", "1e-2")
"""Of the root mean square of W."""
TOP = (0.1, 1, 5)
"""Percent of a part's coordinates whose share of ΣΔ² is taken."""
ETA = 1e-3
"""|ŵ - w| ≤ η·max(|w|, |ŵ|) counts as unchanged in Zhu et al., arXiv 2511.08567."""


def sparsity(values: Values) -> dict[str, float | None]:
    """Return shares of coordinates 0…1, norms, and the energy of the largest coordinates.

    `share_le_τ` compares in the compared dtype, τ rounded to it, as torch does when a script writes
    `delta.abs() <= 1e-5`; `share_le_τ_exact` takes τ in float32. They differ by the coordinates between
    τ and its rounding. Energies are None where nothing moved.
    """
    numel, size = values.change.numel(), values.size
    base_rms = values.base_norm / numel**0.5
    figures: dict[str, float | None] = {
        "delta_fro": values.norm,
        "relative_norm": values.norm / values.base_norm if values.base_norm else None,
        "base_rms": base_rms,
        "share_zero": _share(size == 0),
    }
    for name in ABSOLUTE:
        figures[f"share_le_{name}"] = _share(size <= _rounded(float(name), values.dtype))
        figures[f"share_le_{name}_exact"] = _share(size <= float(name))
    for name in RELATIVE:
        figures[f"share_lt_{name}_rms"] = _share(
            size < _rounded(float(name) * base_rms, values.dtype)
        )
    larger = torch.maximum(values.before.abs(), values.after.abs())
    figures["share_unchanged_eta_1e-3"] = _share(size <= larger.mul_(ETA))
    return figures | coordinate_energy(values)


def coordinate_energy(values: Values) -> dict[str, float | None]:
    """Return the share of ΣΔ² that the top ⌈p·n⌉ coordinates hold, by `coordinate_energy_top_p`."""
    names = [f"coordinate_energy_top_{percent}pct" for percent in TOP]
    if not values.energy:
        return dict.fromkeys(names)
    counts = [math.ceil(percent / 100 * values.change.numel()) for percent in TOP]
    ordered = parted(values.squares.flatten(), counts)
    return {
        name: float(ordered[-count:].sum(dtype=torch.float64)) / values.energy
        for name, count in zip(names, counts, strict=True)
    }


def parted(values: Tensor, counts: Sequence[int]) -> Tensor:
    """Return values (n,) in an order in which, for every count, the last so many are the largest."""
    if values.device.type != "cpu":
        return values.sort().values
    return torch.from_numpy(np.partition(values.numpy(), [len(values) - count for count in counts]))


def _share(flags: Tensor) -> float:
    return int(torch.count_nonzero(flags)) / flags.numel()


def _rounded(threshold: float, dtype: torch.dtype) -> float:
    return float(torch.tensor(threshold, dtype=dtype))
