"""The figures of Yu et al. (arXiv 2606.13657) by plain `torch.linalg.svd`: what `analyze` is timed against.

    python benchmarks/svd_pipeline.py BASE TUNED -o figures.json
    python benchmarks/svd_pipeline.py tests/analysis/reference/base tests/analysis/reference/tuned \\
        --against tests/analysis/reference/figures.json

Both state dicts are held in memory, subtracted in bfloat16, cast to float32; every matrix takes one SVD
of Δ and one each of W and W + Δ with vectors. Nothing is shared, streamed or done in float64, and there
are no nulls. `--against` prints the largest relative difference from the figures in a file, by kind: from
the authors' own, in `tests/analysis/reference`, it is one of rounding. That is large for subspace rotation
alone, since √(1 - cos²) in float32 keeps no digit of a small angle: there it hangs on the LAPACK at hand.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

Figures = dict[str, float | None]
THRESHOLDS = ("1e-8", "1e-6", "1e-5", "1e-4")
OF_RMS = ("1e-4", "1e-3", "1e-2")
TOP_PERCENT = ("0.1", "1", "5")
RANKS = (1, 2, 4, 8, 16, 32, 64)
PERCENT = (1, 5, 10, 20)
ALPHAS = ("0", "1e-5")
POOLED = ("share_zero", *(f"share_le_{threshold}" for threshold in THRESHOLDS))


@dataclass(frozen=True)
class Svd:
    """Thin decomposition of a matrix, in float32."""

    left: Tensor
    values: Tensor
    right: Tensor
    """Rows are right singular vectors."""


def main() -> None:
    """Measure two folders; print the whole model's figures, or write or compare all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("tuned", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="write all figures to this file")
    parser.add_argument("--against", type=Path, help="compare with the figures in this file")
    given = parser.parse_args()
    found = measure(given.base, given.tuned)
    if given.output:
        given.output.write_text(json.dumps(found, indent=1) + "\n")
    if given.against:
        expected = json.loads(given.against.read_text())
        for part in ("tensors", "whole_model"):
            one, other = (
                {"": of[part]} if part != "tensors" else of[part] for of in (found, expected)
            )
            print(part, json.dumps(differences(one, other), indent=1))
    else:
        print(json.dumps(found["whole_model"], indent=1))


def measure(base: Path, tuned: Path) -> dict[str, Any]:
    """Return every figure: "tensors" by name, and the "whole_model"."""
    before, after = _load(base), _load(tuned)
    tensors = {name: figures(weight, after[name]) for name, weight in before.items()}
    numel = {name: weight.numel() for name, weight in before.items()}
    return {"whole_model": whole_model(tensors, numel), "tensors": tensors}


def _load(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: weight.bfloat16() for file in files for name, weight in load_file(file).items()}


def figures(before: Tensor, after: Tensor) -> Figures:
    """Return the figures of one tensor; spectra and geometry of matrices that moved."""
    change = after - before
    weight, update = before.float(), change.float()
    found = sparsity(change, weight, update)
    if before.ndim == 2 and bool(update.any()):
        source, target = _svd(weight), _svd(after.float())
        found |= spectrum(update) | geometry(update, source, target)
        found |= coverage(update, weight, source)
    return found


def sparsity(change: Tensor, weight: Tensor, update: Tensor) -> Figures:
    """Return shares, norms and coordinate energy; `change` is Δ in bfloat16, `update` in float32."""
    size, rms = change.abs(), float(weight.square().mean().sqrt())
    norm = float(update.norm())
    found: Figures = {
        "delta_fro": norm,
        "relative_norm": norm / float(weight.norm()),
        "base_rms": rms,
        "share_zero": _share(size == 0),
    }
    # bfloat16 beside a number: torch rounds the number to bfloat16, and so do the authors' scripts.
    found |= {f"share_le_{one}": _share(size <= float(one)) for one in THRESHOLDS}
    found |= {f"share_lt_{one}_rms": _share(size < float(one) * rms) for one in OF_RMS}
    energy = update.flatten().square()
    total = float(energy.sum())
    for percent in TOP_PERCENT:
        count = math.ceil(float(percent) / 100 * len(energy))
        top = float(energy.topk(count).values.sum())
        found[f"coordinate_energy_top_{percent}pct"] = top / total if total else None
    return found


def spectrum(update: Tensor) -> Figures:
    """Return the figures of Δ's singular values."""
    values = torch.linalg.svdvals(update)
    energy = values.square()
    total, shares = float(energy.sum()), values / values.sum()
    found: Figures = {
        "spectral_norm": float(values[0]),
        "stable_rank": total / float(energy[0]),
        "entropy_effective_rank": float(torch.exp(torch.special.entr(shares).sum())),
    }
    for tau in ("1e-5", "1e-4"):
        found[f"numerical_rank_{tau}"] = float((values > float(tau) * values[0]).sum())
    return found | {f"svd_energy_top{rank}": float(energy[:rank].sum()) / total for rank in RANKS}


def geometry(update: Tensor, source: Svd, target: Svd) -> Figures:
    """Return where Δ lies to the leading subspaces of W, and how far the left ones turned."""
    drift = (target.values - source.values).norm() / source.values.norm()
    found: Figures = {"spectral_drift": float(drift)}
    total = update.norm().square()
    for percent in PERCENT:
        rank = max(1, int(percent / 100 * len(source.values)))
        left, right = source.left[:, :rank], source.right[:rank]
        projected = left.T @ update @ right.T
        found[f"projection_energy_{percent}pct"] = float(projected.norm().square() / total)
        found[f"subspace_rotation_{percent}pct"] = _sine(left.T @ target.left[:, :rank])
    return found


def coverage(update: Tensor, weight: Tensor, source: Svd) -> Figures:
    """Return the share of moved coordinates in W's principal and low-magnitude masks."""
    moved = {alpha: update.flatten().abs() > float(alpha) for alpha in ALPHAS}
    found: Figures = {}
    for percent in PERCENT:
        rank = max(1, int(percent / 100 * len(source.values)))
        leading = (source.left[:, :rank] * source.values[:rank]) @ source.right[:rank]
        count = math.ceil(percent / 100 * weight.numel())
        principal, low = _mask(leading, count, largest=True), _mask(weight, count, largest=False)
        masks = {
            "principal": principal,
            "low_magnitude": low,
            "nonprincipal_or_low": low | ~principal,
        }
        for alpha, active in moved.items():
            every = int(active.sum())
            for name, mask in masks.items():
                held = int((active & mask).sum())
                found[f"coverage_{name}_{percent}pct_alpha_{alpha}"] = (
                    held / every if every else None
                )
    return found


def whole_model(tensors: Mapping[str, Figures], numel: Mapping[str, int]) -> Figures:
    """Pool shares and energies over tensors; take medians of the figures of matrices."""
    energy = {name: _value(found, "delta_fro") ** 2 for name, found in tensors.items()}
    weights = sum(_value(found, "base_rms") ** 2 * numel[name] for name, found in tensors.items())
    whole: Figures = {"relative_norm": math.sqrt(sum(energy.values()) / weights)}
    for name in POOLED:
        held = sum(_value(found, name) * numel[tensor] for tensor, found in tensors.items())
        whole[name] = held / sum(numel.values())
    total = sum(energy.values())
    for percent in TOP_PERCENT:
        name = f"coordinate_energy_top_{percent}pct"
        held = sum((found[name] or 0) * energy[tensor] for tensor, found in tensors.items())
        whole[f"{name}_pooled"] = held / total if total else None
    matrices = [found for found in tensors.values() if "stable_rank" in found]
    if matrices:
        names = list(matrices[0])
        for name in names[names.index("spectral_norm") :]:
            values = [value for found in matrices if (value := found[name]) is not None]
            whole[f"median_{name}"] = statistics.median(values) if values else None
    return whole


def differences(
    found: Mapping[str, Mapping[str, float | None]],
    expected: Mapping[str, Mapping[str, Any]],
) -> dict[str, float]:
    """Return the largest relative difference of each kind of figure, over all tensors of `expected`.

    Raises `ValueError` where only one of the two has a figure.
    """
    worst: dict[str, float] = {}
    for tensor, row in expected.items():
        for name, value in row.items():
            own = found[tensor].get(name)
            if name == "shape" or own == value:
                continue
            if own is None or value is None:
                raise ValueError(f"{tensor}: {name} is {own} here and {value} there")
            kind = re.split(r"_?\d", name)[0]
            worst[kind] = max(worst.get(kind, 0.0), abs(own - value) / max(abs(own), abs(value)))
    return worst


def _svd(matrix: Tensor) -> Svd:
    return Svd(*torch.linalg.svd(matrix, full_matrices=False))


def _sine(products: Tensor) -> float:
    """Mean sine of the principal angles, as the authors take it: √(1 - cos²) in float32."""
    cosines = torch.linalg.svdvals(products).clamp(max=1)
    return float((1 - cosines.square()).sqrt().mean())


def _mask(values: Tensor, count: int, *, largest: bool) -> Tensor:
    mask = torch.zeros(values.numel(), dtype=torch.bool)
    mask[values.flatten().abs().topk(count, largest=largest).indices] = True
    return mask


def _share(mask: Tensor) -> float:
    return int(mask.sum()) / mask.numel()


def _value(found: Figures, name: str) -> float:
    value = found[name]
    assert value is not None, name
    return value


if __name__ == "__main__":
    main()
