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
    below 1e-8, or 3e-4 in float32. `principal_angle_largest` is the largest of them, in radians. The drift is ‖σ(W+Δ) - σ(W)‖/‖σ(W)‖; None
    where spectra are randomized; `landmarks_error` then is Singular.error of W's vectors.
    """
    shape = values.change.shape
    before = marks.singular
    counts = {rank: subspace_size(shape, rank) for rank in RANKS}
    names = [
        f"{kind}_{rank}pct"
        for rank in RANKS
        for kind in ("projection_energy", "subspace_rotation", "principal_angle_largest")
    ]
    figures: dict[str, float | None] = dict.fromkeys([*names, "spectral_drift"])
    if before.error is not None:
        figures["landmarks_error"] = before.error
    if values.energy:
        after = decompose(values.after, counts[RANKS[-1]], seed)
        for rank, count in counts.items():
            sines = _sines(before.left, after.left, count)
            figures[f"subspace_rotation_{rank}pct"] = float(sines.mean())
            figures[f"principal_angle_largest_{rank}pct"] = _largest(before.left, after.left, sines)
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


def _sines(before: Tensor | None, after: Tensor | None, count: int) -> Tensor:
    """Sines of the principal angles between the first `count` of two orthonormal bases: float64 (count,)."""
    assert before is not None and after is not None
    one, other = before[:, :count], after[:, :count]
    outside = other - one @ (one.T @ other)
    return torch.linalg.eigvalsh(outside.T @ outside).clamp(0, 1).sqrt()


def _largest(before: Tensor | None, after: Tensor | None, sines: Tensor) -> float:
    """The largest angle, from its cosine where its sine, next to 1, has few digits left."""
    assert before is not None and after is not None
    if float(sines.max()) < 0.7:
        return float(sines.max().asin())
    count = len(sines)
    cosines = torch.linalg.svdvals(before[:, :count].T @ after[:, :count])
    return float(cosines.min().clamp(0, 1).acos())
