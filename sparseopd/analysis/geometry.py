"""Where an update lies beside the singular subspaces of W (PAPER.md §3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparseopd.analysis.coverage import RANKS, coverage, regions, subspace_size
from sparseopd.analysis.values import Values
from sparseopd.singular import Singular, decompose, product


@dataclass(frozen=True)
class Landmarks:
    """What of W every update of it is measured against."""

    singular: Singular
    """With the vectors of the largest of `RANKS`."""
    code: Tensor
    """coverage.regions."""


def landmarks(weight: Tensor, seed: int = 0) -> Landmarks:
    """Decompose a matrix (m, n) once, for all that is compared with it."""
    singular = decompose(weight, subspace_size(weight.shape, RANKS[-1]), seed)
    return Landmarks(singular, regions(weight, singular))


def geometry(values: Values, marks: Landmarks, seed: int = 0) -> dict[str, float | None]:
    """Return projection energy, rotation, drift and coverage; None throughout where nothing moved.

    The projection energy is ‖U_kᵀΔV_k‖²/‖Δ‖². The rotation is the mean sine of the principal angles
    between the leading left subspaces of W and W + Δ; sines, since √(1 - cos²) has no digits left
    below 1e-8, or 3e-4 in float32. The drift is ‖σ(W+Δ) - σ(W)‖/‖σ(W)‖; None
    where spectra are randomized; `landmarks_error` then is Singular.error of W's vectors.
    """
    shape = values.change.shape
    before = marks.singular
    counts = {rank: subspace_size(shape, rank) for rank in RANKS}
    names = [
        f"{kind}_{rank}pct" for rank in RANKS for kind in ("projection_energy", "subspace_rotation")
    ]
    figures: dict[str, float | None] = dict.fromkeys([*names, "spectral_drift"])
    if before.error is not None:
        figures["landmarks_error"] = before.error
    if values.energy:
        after = decompose(values.after, counts[RANKS[-1]], seed)
        for rank, count in counts.items():
            figures[f"subspace_rotation_{rank}pct"] = _rotation(before.left, after.left, count)
        figures |= _projections(values, before, counts)
        whole = float(before.values.norm())
        if before.error is None and whole:
            figures["spectral_drift"] = float((after.values - before.values).norm()) / whole
    return figures | coverage(values, marks.code)


def _projections(values: Values, before: Singular, counts: dict[int, int]) -> dict[str, float]:
    """Every U_k is the beginning of the largest, so one product holds them all."""
    assert before.left is not None and before.right is not None
    inner = before.left.T @ product(values.change, before.right) / values.largest
    energies = {rank: float(inner[:count, :count].square().sum()) for rank, count in counts.items()}
    return {
        f"projection_energy_{rank}pct": energy / values.energy for rank, energy in energies.items()
    }


def _rotation(before: Tensor | None, after: Tensor | None, count: int) -> float:
    """The mean sine of the principal angles between the first `count` of two orthonormal bases (d, k)."""
    assert before is not None and after is not None
    one, other = before[:, :count], after[:, :count]
    outside = other - one @ (one.T @ other)
    return float(torch.linalg.eigvalsh(outside.T @ outside).clamp(0, 1).sqrt().mean())
