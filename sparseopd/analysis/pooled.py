"""Counts over all coordinates of a model at once, added up part by part.

|Δ|          its upper 16 bits as float32: the energy of the largest coordinates, whichever part
             they lie in. Exact for bfloat16; in wider dtypes the last bin, 1/128 wide, is shared.
|W| and |Δ|  in half octaves: where the update lies against the size of the weights
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparseopd.analysis.sparsity import TOP
from sparseopd.analysis.values import Values
from sparseopd.pairs.tensors import PIECE

SIZES = 1 << 15
HALF_OCTAVES = 512
_HALF_OCTAVE_BITS = 22


@dataclass(frozen=True)
class Pooled:
    """Of one update: counts and energies by |Δ|."""

    counts: Tensor
    """int64 (SIZES,): coordinates in each bin of |Δ|."""
    energies: Tensor
    """float64 (SIZES,): their ΣΔ²."""

    def __add__(self, other: Pooled) -> Pooled:
        return Pooled(self.counts + other.counts, self.energies + other.energies)

    def top_energy(self) -> dict[str, float | None]:
        """Return the share of ΣΔ² in the top ⌈p·n⌉ coordinates of all: `coordinate_energy_top_p_together`."""
        total, numel = float(self.energies.sum()), int(self.counts.sum())
        names = {percent: f"coordinate_energy_top_{percent}pct_together" for percent in TOP}
        if not total:
            return dict.fromkeys(names.values())
        counts, energies = self.counts.flip(0), self.energies.flip(0)
        passed, held = counts.cumsum(0), energies.cumsum(0)
        found: dict[str, float | None] = {}
        for percent, name in names.items():
            wanted = math.ceil(percent / 100 * numel)
            edge = int(torch.searchsorted(passed, wanted))
            over = int(passed[edge]) - wanted
            share = over / int(counts[edge])
            found[name] = float(held[edge] - share * energies[edge]) / total
        return found


def pool(values: Values) -> Pooled:
    """Count the coordinates of one part."""
    counts = torch.zeros(SIZES, dtype=torch.int64, device=values.size.device)
    energies = torch.zeros(SIZES, dtype=torch.float64, device=values.size.device)
    for size in values.size.flatten().split(PIECE):
        places = size.view(torch.int32) >> 16
        counts += torch.bincount(places, minlength=SIZES)
        energies += torch.bincount(places, weights=size.double().square_(), minlength=SIZES)
    return Pooled(counts.cpu(), energies.cpu())


def joint(values: Values) -> Tensor:
    """Count coordinates by half octaves of |W| and |Δ|: int64 (HALF_OCTAVES, HALF_OCTAVES)."""
    counts = torch.zeros(HALF_OCTAVES**2, dtype=torch.int64, device=values.size.device)
    sides = values.before.flatten().split(PIECE), values.size.flatten().split(PIECE)
    for weight, size in zip(*sides, strict=True):
        row = weight.abs().view(torch.int32) >> _HALF_OCTAVE_BITS
        column = size.view(torch.int32) >> _HALF_OCTAVE_BITS
        counts += torch.bincount(row * HALF_OCTAVES + column, minlength=HALF_OCTAVES**2)
    return counts.view(HALF_OCTAVES, HALF_OCTAVES).cpu()


def half_octave(place: int) -> float:
    """Return the lower edge of a half octave; 0 for the first, which holds zeros."""
    return float(torch.tensor(place << _HALF_OCTAVE_BITS, dtype=torch.int32).view(torch.float32))
